"""Dynamic weight average (Liu et al. 2019, arXiv 1803.10704, equation 7): weights follow from the last two epochs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from models.balancer import Balancer, TrainingRates


class DynamicWeightAverage(Balancer):
    """Weights T softmax(r / temperature), r_i = L_i(t - 1) / L_i(t - 2) of mean losses over epochs; at first 1.

    Args:
        tasks: their number T.
        temperature: the higher, the more even the weights (the paper's 2).
        rates: see :class:`models.balancer.Balancer`.
    """

    def __init__(self, tasks: int, temperature: float = 2.0, rates: TrainingRates | None = None) -> None:
        if temperature <= 0:
            raise ValueError(f"temperature: expected a number above 0, got {temperature}")
        super().__init__((1.0,) * tasks, rates)
        self._temperature = temperature
        self._sum, self._steps = torch.zeros(tasks), 0
        self._epochs: list[Tensor] = []  # mean losses (T,) of the last two

    def step(self, losses: Tensor, grad_norms: Tensor) -> None:
        super().step(losses, grad_norms)
        losses = losses.detach().float().cpu()
        if losses.isfinite().all():
            self._sum = self._sum + losses
            self._steps += 1

    def end_epoch(self) -> None:
        if not self._steps:
            return
        self._epochs = [*self._epochs[-1:], self._sum / self._steps]
        self._sum, self._steps = torch.zeros_like(self._sum), 0
        if len(self._epochs) == 2:
            before, last = self._epochs
            # a task whose loss was 0 has nothing left to learn: 0 / 0 counts as no change
            ratio = torch.where(before > 0, last / before, torch.ones_like(last))
            weights = (ratio / self._temperature).softmax(0)
            self._weights = len(ratio) * weights.clamp(min=1e-6)  # at 0 a task would not be learned at all

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "sum": self._sum, "steps": self._steps, "epochs": list(self._epochs)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._sum, self._steps = state["sum"].clone(), state["steps"]
        self._epochs = [losses.clone() for losses in state["epochs"]]
