"""How the tasks' losses are weighted against each other, and the table of the ways' names.

A balancer owns the weights and nothing else; the engine asks it for them and, after each optimizer step, shows it the
losses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

TASKS = ("det", "view")


class Balancer(Protocol):
    """What the engine needs of a balancer."""

    @property
    def weights(self) -> Tensor:
        """(T,) weights of the tasks, in the order of :data:`TASKS`."""
        ...

    def step(self, losses: Tensor) -> None:
        """See the unweighted losses (T,) of an optimizer step that was just made; may change the weights."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed training needs: tensors and numbers."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        ...


class Static:
    """Weights that stay as they are."""

    def __init__(self, weights: tuple[float, ...]) -> None:
        self._weights = torch.tensor(weights, dtype=torch.float32)

    @property
    def weights(self) -> Tensor:
        return self._weights

    def step(self, losses: Tensor) -> None:
        """Nothing changes."""

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self._weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._weights = state["weights"].clone()


BALANCERS: dict[str, Callable[[tuple[float, ...]], Balancer]] = {"static": Static}


def build_balancer(name: str, weights: tuple[float, ...]) -> Balancer:
    """A balancer by its name; ``weights`` are the tasks' weights at the start.

    Raises:
        ValueError: an unknown name.
    """
    if name not in BALANCERS:
        raise ValueError(f"balance: expected one of {', '.join(BALANCERS)}, got {name!r}")
    return BALANCERS[name](weights)
