"""GradNorm (Chen et al. 2018, arXiv 1711.02257): task weights that balance the tasks' gradient norms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from models.balancer import TASKS, Balancer, TrainingRates

FLOOR = 1e-6  # of a weight: positive, so that its task goes on learning and its norm can be measured
UPDATES = ("gradient", "direct")


class GradNorm(Balancer):
    """Weights w_i, positive, of sum T, that draw w_i n_i to mean_j(w_j n_j) r_i^alpha (algorithm 1, equations 1 and 2).

    n_i = ||dL_i/dW|| is the norm of the unweighted loss's gradient at the last shared weight W. The paper's loss
    sum_i |w_i n_i - target_i|, the target held constant, has the closed gradient sign(w_i n_i - target_i) n_i: nothing
    is differentiated twice, and nothing reaches the network. Adam moves w itself, then w is brought back to sum T.

    W stands for all that is shared, as in the paper. In the default network it is ``model.9.cv2.conv.weight``: it sees
    what passes layer 9, not what reaches detection by the skips from layers 4 and 6.

    Args:
        tasks: their names.
        alpha: how strongly slower tasks are favoured; 0 balances the norms alone. 1.5 is the paper's for NYUv2.
        lr: of Adam (the paper's .025).
        update: "gradient", or "direct": w_i <- mean norm x r_i^alpha / n_i, brought to sum T.
        weights: at the start; ones, as in the paper, if not given.
        initial_steps, initial_losses, smoothing, limits: see :class:`models.balancer.TrainingRates`.

    Attributes:
        skipped: steps whose norms were zero or not finite; they change no weight.
    """

    def __init__(
        self,
        tasks: Sequence[str] = TASKS,
        alpha: float = 1.5,
        lr: float = 0.025,
        update: str = "gradient",
        weights: Sequence[float] | None = None,
        initial_steps: int = 10,
        initial_losses: Sequence[float | None] | None = None,
        smoothing: float = 0.9,
        limits: tuple[float, float] = (0.1, 10.0),
    ) -> None:
        if update not in UPDATES:
            raise ValueError(f"update: expected one of {', '.join(UPDATES)}, got {update!r}")
        if not 0 <= alpha < math.inf or not 0 < lr < math.inf:
            raise ValueError(f"expected alpha >= 0 and lr > 0, got {alpha} and {lr}")
        start = torch.ones(len(tasks)) if weights is None else torch.tensor(tuple(weights))
        if len(start) != len(tasks) or not ((start > 0) & start.isfinite()).all():
            raise ValueError(f"weights: expected {len(tasks)} positive numbers, got {weights}")
        rates = TrainingRates(len(tasks), initial_steps, initial_losses, smoothing, limits)
        super().__init__(_to_sum(start).tolist(), rates)
        self.alpha, self.update = alpha, update
        self._adam = torch.optim.Adam([self._weights], lr=lr)
        self._targets = torch.full_like(self._weights, math.nan)

    @property
    def targets(self) -> Tensor:
        return self._targets

    def weight_gradient(self, grad_norms: Tensor) -> Tensor:
        """(T,) gradient of sum |w_i n_i - target_i| with respect to w, for unweighted norms and the present targets."""
        return (self._weights * grad_norms - self._targets).sign() * grad_norms

    def step(self, losses: Tensor, grad_norms: Tensor) -> None:
        norms = grad_norms.detach().float().cpu()
        if not norms.isfinite().all() or (norms <= 0).any() or not losses.isfinite().all():
            self.skipped += 1
            self._targets = torch.full_like(self._weights, math.nan)
            return
        super().step(losses, norms)
        self._targets = (self._weights * norms).mean() * self.rates.float() ** self.alpha
        if self.update == "direct":
            moved = _to_sum(norms.double().mean() * self.rates**self.alpha / norms.double())
        else:
            self._weights.grad = self.weight_gradient(norms)
            self._adam.step()
            moved = self._weights
        self._weights.copy_(_to_sum(moved.clamp(min=FLOOR)))  # in place: Adam goes on with this tensor

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "adam": self._adam.state_dict()["state"], "skipped": self.skipped}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        kept = self._weights
        super().load_state_dict(state)
        self._weights = kept.copy_(state["weights"])
        self._adam.load_state_dict({**self._adam.state_dict(), "state": deepcopy(state["adam"])})
        self.skipped = state["skipped"]


def _to_sum(weights: Tensor) -> Tensor:
    """Scaled so that the weights of T tasks sum to T."""
    return weights * (len(weights) / weights.sum())
