"""Uncertainty weighting (Kendall et al. 2018, arXiv 1705.07115): each task's noise is learned, and divides its loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from models.balancer import Balancer, TrainingRates

LIMIT = 20.0  # of log sigma^2


class Uncertainty(Balancer):
    """Weights exp(-s_i), where Adam moves s_i = log sigma_i^2 to lower exp(-s_i) L_i + s_i / 2 (equation 10).

    Both losses are taken as a classification's: the detection loss is two parts cross-entropy, and its third has no
    Gaussian noise that the form for regressions could mean. A loss that stays at L comes to the weight 1 / (2 L). The
    gradient by s_i is closed, 1/2 - exp(-s_i) L_i, and does not reach the network.

    Args:
        weights: at the start.
        lr: of Adam, by which s moves.
        rates: see :class:`models.balancer.Balancer`.
    """

    def __init__(self, weights: Sequence[float], lr: float = 0.025, rates: TrainingRates | None = None) -> None:
        if min(weights) <= 0 or lr <= 0:
            raise ValueError(f"expected weights and lr above 0, got {tuple(weights)} and {lr}")
        super().__init__(weights, rates)
        self._log_variances = -self._weights.log()
        self._adam = torch.optim.Adam([self._log_variances], lr=lr)

    def step(self, losses: Tensor, grad_norms: Tensor) -> None:
        super().step(losses, grad_norms)
        losses = losses.detach().float().cpu()
        if losses.isfinite().all():
            self._log_variances.grad = 0.5 - (-self._log_variances).exp() * losses
            self._adam.step()
            self._log_variances.clamp_(-LIMIT, LIMIT)  # a loss of 0 would draw its weight to infinity
            self._weights = (-self._log_variances).exp()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "log_variances": self._log_variances, "adam": self._adam.state_dict()["state"]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._log_variances.copy_(state["log_variances"])
        self._adam.load_state_dict({**self._adam.state_dict(), "state": deepcopy(state["adam"])})
