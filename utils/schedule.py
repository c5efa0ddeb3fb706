"""Learning rate, momentum and accumulation as pure functions of the step, and the decay of the running mean. A leaf."""

from __future__ import annotations

import math
from dataclasses import dataclass


def linear(epoch: float, epochs: int, final: float) -> float:
    """Factor on the learning rate: from 1 straight down to ``final`` after ``epochs``."""
    return (1 - epoch / epochs) * (1 - final) + final


def cosine(epoch: float, epochs: int, final: float) -> float:
    """Factor on the learning rate: half a cosine from 1 to ``final`` (arXiv 1812.01187)."""
    return (1 - math.cos(epoch * math.pi / epochs)) / 2 * (final - 1) + 1


def ema_decay(updates: int, decay: float = 0.9999, tau: float = 2000.0) -> float:
    """Share of the running mean that stays at the given update; rises from 0, so that early weights are forgotten."""
    return decay * (1 - math.exp(-updates / tau))


@dataclass(frozen=True)
class Rates:
    """What holds for one iteration (one batch).

    Attributes:
        bias_lr: learning rate of biases.
        lr: learning rate of everything else.
        momentum: of SGD, or the first beta of Adam.
        accumulate: batches whose gradients are summed before a step of the optimizer.
    """

    bias_lr: float
    lr: float
    momentum: float
    accumulate: int


@dataclass(frozen=True)
class Schedule:
    """YOLOv5's schedule: a factor that is constant within an epoch, after a warm-up that is linear in iterations.

    Attributes:
        lr0: initial learning rate.
        lrf: final learning rate as a share of ``lr0``.
        epochs: length of the training.
        cosine: half a cosine instead of a straight line.
        warmup_iterations: biases go down from ``warmup_bias_lr`` meanwhile, other rates up from 0.
        accumulate: batches a step after the warm-up, during which it grows from 1; rounded where it is used.
    """

    lr0: float
    lrf: float
    epochs: int
    cosine: bool
    warmup_iterations: int
    warmup_bias_lr: float
    warmup_momentum: float
    momentum: float
    accumulate: float

    def at(self, iteration: int, epoch: int) -> Rates:
        """Rates at the 0-based ``iteration``, counted over all epochs, which lies in the 0-based ``epoch``."""
        factor = (cosine if self.cosine else linear)(epoch, self.epochs, self.lrf)
        lr = self.lr0 * factor
        if iteration > self.warmup_iterations or not self.warmup_iterations:
            return Rates(lr, lr, self.momentum, max(1, round(self.accumulate)))
        share = iteration / self.warmup_iterations
        return Rates(
            bias_lr=self.warmup_bias_lr + share * (lr - self.warmup_bias_lr),
            lr=share * lr,
            momentum=self.warmup_momentum + share * (self.momentum - self.warmup_momentum),
            accumulate=max(1, round(1 + share * (self.accumulate - 1))),
        )


def accumulation(batch_size: int, nominal_batch: int) -> int:
    """Batches whose gradients make one step, so that a step sees about ``nominal_batch`` frames."""
    return max(round(nominal_batch / batch_size), 1)


def warmup_iterations(warmup_epochs: float, iterations_per_epoch: int) -> int:
    """Length of the warm-up: never under 100 iterations, as in YOLOv5."""
    return max(round(warmup_epochs * iterations_per_epoch), 100)
