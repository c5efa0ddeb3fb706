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
    """Unweighted losses of an epoch: of boxes the mean over its batches, of views over its frames that count.

    NaN for what is not learned, and for views where no frame is labelled.
    """

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
        sums: (5,) of :meth:`utils.loss.TaskLosses.columns` in all processes, of steps that were taken.
        counted: batches in these sums.
        skipped: steps that were not taken, because a loss or a gradient was not finite.
        in_a_row: of these the latest, without a good one between or after them; earlier epochs' included.
        bad_frames: in these, as :class:`NotFiniteError` has them.
    """

    batches: int = 0
    sums: Tensor = field(default_factory=lambda: torch.zeros(5))
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
        self._sums = torch.zeros(5, device=device)
        self._frames: list[int] = []

    def add(self, losses: Tensor, frames: Sequence[int]) -> None:
        """Take in a batch: its columns (5,), and where its frames are in the dataset."""
        self.batches += 1
        self._sums += losses
        self._frames += frames

    def settle(self, state: EpochProgress, good: bool, processes: Processes) -> Tensor:
        """Add the batches to the epoch's, as the step's outcome says; returns the sums (5,) of all processes."""
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
        return sums


def mean_losses(sums: Tensor, batches: int) -> MeanLosses:
    """Means from the sums (5,) of so many batches' columns; NaN where there is nothing."""
    box, obj, cls = (sums[:3] / batches).tolist() if batches else [math.nan] * 3
    return MeanLosses(box, obj, cls, float(sums[3] / sums[4]))  # 0 / 0 is NaN
