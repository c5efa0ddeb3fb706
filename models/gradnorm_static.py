"""The mean weights of a finished GradNorm training, held fixed (arXiv 1711.02257, sections 5.2 and 5.3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from models.balancer import Balancer, TrainingRates


class GradNormStatic(Balancer):
    """Weights that are the mean over a finished training's steps, brought to sum T.

    The paper finds this mean near the best fixed weights. A training with it separates what GradNorm's weights are
    worth from what adapting them adds.

    Args:
        history: (steps, T) the weights of that training, step by step.
        rates: see :class:`models.balancer.Balancer`.
    """

    def __init__(self, history: Sequence[Sequence[float]], rates: TrainingRates | None = None) -> None:
        mean = torch.tensor(history, dtype=torch.float64)
        if mean.ndim != 2 or not mean.numel() or not mean.isfinite().all() or (mean < 0).any() or not mean.sum() > 0:
            raise ValueError(f"history: expected a row of weights a step, got {len(history)} rows")
        mean = mean.mean(0)
        super().__init__((mean * len(mean) / mean.sum()).tolist(), rates)
