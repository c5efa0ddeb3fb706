"""How far an epoch has got: what its rest needs to know of its beginning, and what its steps have come to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from utils.processes import Processes

BAD_STEPS = 5  # in a row without a finite gradient, after which a training does not come back by itself


class MeanLosses(NamedTuple):
    """Mean over an epoch's batches of the unweighted losses; NaN for what is not learned."""

    box: float
    obj: float
    cls: float
    view: float


class NotFiniteError(Exception):
    """Several steps in a row came to nothing, because their losses or gradients were no numbers.

    Attributes:
        steps: how many.
        frames: places in the dataset of the frames of those steps that this process has seen.
    """

    def __init__(self, steps: int, frames: Sequence[int]) -> None:
        super().__init__(f"{steps} steps in a row with a loss or gradient that is not finite")
        self.steps, self.frames = steps, frames


@dataclass
class EpochProgress:
    """How far an epoch has got, after a step of the optimizer: all that its rest needs to know of its beginning.

    Attributes:
        batches: that have been trained on.
        sums: (4,) of their unweighted losses in all processes, where these were finite.
        counted: batches in these sums.
        skipped: steps that were not taken, because a loss or a gradient was not finite.
        in_a_row: of these the latest, without a good one between or after them; earlier epochs' included.
        bad_frames: in these, as :class:`NotFiniteError` has them.
    """

    batches: int = 0
    sums: Tensor = field(default_factory=lambda: torch.zeros(4))
    counted: int = 0
    skipped: int = 0
    in_a_row: int = 0
    bad_frames: list[int] = field(default_factory=list)

    @property
    def losses(self) -> MeanLosses:
        """Mean over the batches that count; NaN if none does."""
        return mean_losses(self.sums, self.counted)


class Waiting:
    """The batches since the last step of the optimizer: their losses and frames, which count once it is taken."""

    def __init__(self, device: torch.device) -> None:
        self.batches = 0
        self._sums = torch.zeros(4, device=device)
        self._frames: list[int] = []

    def add(self, losses: Tensor, frames: Sequence[int]) -> None:
        """Take in a batch: its losses (4,), unweighted, and where its frames are in the dataset."""
        self.batches += 1
        self._sums += losses
        self._frames += frames

    def settle(self, state: EpochProgress, good: bool, processes: Processes) -> None:
        """Add the batches to the epoch's, as the step's outcome says."""
        sums = processes.sum(self._sums).cpu()
        state.batches += self.batches
        if good:
            state.sums = state.sums + sums
            state.counted += self.batches
            state.in_a_row, state.bad_frames = 0, []
        else:
            state.skipped += 1
            state.in_a_row += 1
            state.bad_frames = state.bad_frames + self._frames


def mean_losses(sums: Tensor, batches: int) -> MeanLosses:
    """Means from sums (4,) over so many batches; NaN where there are none."""
    return MeanLosses(*((sums / batches).tolist() if batches else [math.nan] * 4))
