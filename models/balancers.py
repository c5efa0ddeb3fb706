"""How the tasks' losses are balanced against each other: the table of the ways' names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from models.balancer import TASKS, Balancer, TrainingRates
from models.controls import Detached, Single
from models.dwa import DynamicWeightAverage
from models.equal import Equal
from models.gradnorm import GradNorm
from models.gradnorm_static import GradNormStatic
from models.surgery import METHODS, Surgery
from models.uncertainty import Uncertainty


@dataclass(frozen=True)
class BalanceSettings:
    """What the balancers may need; each takes what is its own.

    Attributes:
        weights: (T,) of the tasks, for those that keep them or start from them.
        alpha, lr, update: of GradNorm.
        initial_steps, initial_losses: of the rates, see :class:`models.balancer.TrainingRates`.
        history: (steps, T) weights of a finished training, for ``gradnorm_static``.
    """

    weights: tuple[float, ...]
    alpha: float = 1.5
    lr: float = 0.025
    update: str = "gradient"
    initial_steps: int = 10
    initial_losses: tuple[float | None, ...] | None = None
    history: Sequence[Sequence[float]] = field(default=())

    @property
    def tasks(self) -> int:
        """Their number T."""
        return len(self.weights)

    def rates(self) -> TrainingRates:
        return TrainingRates(self.tasks, self.initial_steps, self.initial_losses)


def _gradnorm(s: BalanceSettings) -> Balancer:
    return GradNorm(
        TASKS[: s.tasks], s.alpha, s.lr, s.update, initial_steps=s.initial_steps, initial_losses=s.initial_losses
    )


def _surgery(method: str) -> Callable[[BalanceSettings], Balancer]:
    return lambda s: Surgery(method, s.weights, s.rates())


BALANCERS: dict[str, Callable[[BalanceSettings], Balancer]] = {
    "static": lambda s: Balancer(s.weights, s.rates()),
    "gradnorm": _gradnorm,
    "gradnorm_static": lambda s: GradNormStatic(s.history, s.rates()),
    "equal": lambda s: Equal(s.tasks, s.rates()),
    "uncertainty": lambda s: Uncertainty((1.0,) * s.tasks, rates=s.rates()),
    "dwa": lambda s: DynamicWeightAverage(s.tasks, rates=s.rates()),
    "detached": lambda s: Detached(s.weights, s.rates()),
    "single_det": lambda s: Single(s.tasks, 0, s.rates()),
    "single_view": lambda s: Single(s.tasks, 1, s.rates()),
    **{method: _surgery(method) for method in METHODS},
}


def build_balancer(name: str, settings: BalanceSettings) -> Balancer:
    """A balancer by its name.

    Raises:
        ValueError: an unknown name, or settings out of range.
        ImportError: a package that it needs is not installed; the message says how to install it.
    """
    if name not in BALANCERS:
        raise ValueError(f"balance: expected one of {', '.join(BALANCERS)}, got {name!r}")
    return BALANCERS[name](settings)
