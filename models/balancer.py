"""What every way of balancing tasks shares: their weights, and how fast each task learns.

A balancer owns the weights and nothing else, so that each is tested without a network. The engine asks it for them
before a step of the optimizer, and shows it losses and gradient norms of that step after it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

TASKS = ("det", "view")


class TrainingRates:
    """Relative inverse training rates (GradNorm, arXiv 1711.02257, section 3.1): 1 is the tasks' mean, more is slower.

    r_i = (L_i / L_i(0)) / mean over tasks. The losses are smoothed by an exponential mean, because a batch of a few
    frames says little of a task's progress, and r is kept within ``limits``.

    Args:
        tasks: their number T.
        initial_steps: L(0) is the mean of so many first losses; until then r is 1.
        initial_losses: L(0) where it is known, a number or None a task. (A classifier's at chance is log C.)
        smoothing: share of the exponential mean that stays at a step; 0 takes each loss as it is.
        limits: lowest and highest r.
    """

    def __init__(
        self,
        tasks: int,
        initial_steps: int = 10,
        initial_losses: Sequence[float | None] | None = None,
        smoothing: float = 0.9,
        limits: tuple[float, float] = (0.1, 10.0),
    ) -> None:
        given = [math.nan if loss is None else loss for loss in initial_losses or [None] * tasks]
        if len(given) != tasks or any(loss <= 0 or loss == math.inf for loss in given):
            raise ValueError(f"initial_losses: expected {tasks} positive numbers or None, got {initial_losses}")
        if initial_steps < 1 or not 0 <= smoothing < 1:
            raise ValueError(
                f"expected initial_steps >= 1 and smoothing from 0 to below 1, got {initial_steps} and {smoothing}"
            )
        self._given = torch.tensor(given, dtype=torch.float64)
        self._initial_steps, self._smoothing, self._limits = initial_steps, smoothing, limits
        self._first = torch.zeros(tasks, dtype=torch.float64)  # sum of the first losses
        self._mean = torch.zeros(tasks, dtype=torch.float64)
        self._steps = 0
        self.values = torch.ones(tasks, dtype=torch.float64)

    @property
    def initial_losses(self) -> Tensor:
        """(T,) L(0) as far as it is known; NaN before the first step."""
        seen = min(self._steps, self._initial_steps)
        measured = self._first / seen if seen else torch.full_like(self._first, math.nan)
        return torch.where(self._given.isnan(), measured, self._given)

    def update(self, losses: Tensor) -> Tensor:
        """See the unweighted losses (T,) of a step and return r (T,); losses that are not finite change nothing."""
        losses = losses.double()
        if not losses.isfinite().all():
            return self.values
        self._steps += 1
        if self._steps <= self._initial_steps:
            self._first += losses
        self._mean = self._smoothing * self._mean + (1 - self._smoothing) * losses
        if self._steps > self._initial_steps or not self._given.isnan().any():
            smoothed = self._mean / (1 - self._smoothing**self._steps)  # the mean began at 0
            ratio = smoothed / self.initial_losses
            if ratio.isfinite().all() and ratio.mean() > 0:  # a task whose first losses are 0 has no rate
                self.values = (ratio / ratio.mean()).clamp(*self._limits)
        return self.values

    def state_dict(self) -> dict[str, Any]:
        return {"first": self._first, "mean": self._mean, "steps": self._steps, "values": self.values}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._first, self._mean = state["first"].clone(), state["mean"].clone()
        self._steps, self.values = state["steps"], state["values"].clone()


class Balancer:
    """Weights that stay as they are; the others derive from it and change them.

    Args:
        weights: (T,) at the start, in the order of the tasks.
        rates: how fast each task learns; recorded at every step, whether or not the weights follow from it.

    Attributes:
        skipped: steps that could change no weight though they should have.
    """

    skipped = 0

    def __init__(self, weights: Sequence[float], rates: TrainingRates | None = None) -> None:
        self._weights = torch.tensor(tuple(weights), dtype=torch.float32)
        self._rates = rates or TrainingRates(len(self._weights))

    @property
    def weights(self) -> Tensor:
        """(T,) float32 on the CPU; a task of weight 0 is not learned at all."""
        return self._weights

    @property
    def rates(self) -> Tensor:
        """(T,) relative inverse training rates r_i after the last step."""
        return self._rates.values

    @property
    def initial_losses(self) -> Tensor:
        """(T,) losses L_i(0) against which the rates are taken."""
        return self._rates.initial_losses

    @property
    def targets(self) -> Tensor:
        """(T,) what the weighted norms w_i n_i of the last step were drawn to; NaN where nothing draws them."""
        return torch.full_like(self._weights, math.nan)

    def at_border(self, gramian: Callable[[], Tensor]) -> Tensor:
        """(T,) factors of the tasks' weighted gradients where they enter what the tasks share; ones: their sum.

        Args:
            gramian: gives (T, T) inner products of the weighted gradients at the border; costs time when called.
        """
        return torch.ones(len(self._weights))

    def step(self, losses: Tensor, grad_norms: Tensor) -> None:
        """See a step that the optimizer has just made; may change the weights.

        Args:
            losses: (T,) unweighted losses L_i.
            grad_norms: (T,) unweighted norms n_i = ||dL_i/dW|| at the last shared weight, NaN where not known.
        """
        self._rates.update(losses.detach().cpu())

    def end_epoch(self) -> None:
        """An epoch is over."""

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed training needs: tensors, numbers, lists."""
        return {"weights": self._weights, "rates": self._rates.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        self._weights = state["weights"][: len(self._weights)].clone()
        if "rates" in state:  # earlier checkpoints had static weights alone, and two of them for one task, too
            self._rates.load_state_dict(state["rates"])
