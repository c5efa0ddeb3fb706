"""Controls: what a task reaches when the other one leaves the shared layers alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from models.balancer import Balancer, TrainingRates


class Single(Balancer):
    """One task learns, in the same network; the others' heads stay as they were made.

    Args:
        tasks: their number T.
        learned: index of the one.
    """

    def __init__(self, tasks: int, learned: int, rates: TrainingRates | None = None) -> None:
        super().__init__([float(task == learned) for task in range(tasks)], rates)


class Detached(Balancer):
    """All heads learn, but only the first task's gradient enters the shared layers.

    What the first task reaches is what it reaches alone, what the others reach is what its features hold for them; but
    for the clipping of gradients, whose norm is that of all parameters (``clip_grad_norm: 0`` leaves it out).

    Args:
        weights: (T,) of the tasks.
    """

    def __init__(self, weights: Sequence[float], rates: TrainingRates | None = None) -> None:
        super().__init__(weights, rates)

    def at_border(self, gramian: Callable[[], Tensor]) -> Tensor:
        return torch.tensor([1.0] + [0.0] * (len(self.weights) - 1))
