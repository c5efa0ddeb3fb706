"""utils.epoch: what a step's outcome adds to the epoch's."""

from __future__ import annotations

import math

import torch

from utils.epoch import EpochProgress, MeanLosses, Waiting, mean_losses
from utils.processes import ALONE

CPU = torch.device("cpu")


def settled(state: EpochProgress, good: bool, *losses: float) -> EpochProgress:
    """The epoch after a step of a batch a loss, of one frame each."""
    waiting = Waiting(CPU)
    for frame, loss in enumerate(losses):
        waiting.add(torch.tensor([loss] * 4 + [1.0]), [frame])
    assert waiting.batches == len(losses)
    waiting.settle(state, good, ALONE)
    return state


def test_losses_are_means_over_the_batches_of_good_steps() -> None:
    state = settled(EpochProgress(), True, 1.0, 2.0)
    settled(state, False, math.nan)
    settled(state, True, 6.0)
    assert state.losses == MeanLosses(3.0, 3.0, 3.0, 3.0)
    assert (state.batches, state.counted, state.skipped) == (4, 3, 1)


def test_bad_steps_are_counted_in_a_row_with_their_frames_until_a_good_one() -> None:
    state = settled(settled(EpochProgress(), False, 1.0, 1.0), False, math.inf)
    assert (state.in_a_row, state.bad_frames) == (2, [0, 1, 0])
    settled(state, True, 1.0)
    assert (state.in_a_row, state.bad_frames, state.skipped) == (0, [], 2)


def test_without_a_good_step_there_are_no_losses() -> None:
    assert all(map(math.isnan, EpochProgress().losses))
    assert all(map(math.isnan, mean_losses(torch.zeros(5), 0)))


def test_the_views_loss_is_a_mean_over_the_frames_that_carry_one() -> None:
    batches = torch.tensor([[1.0, 2.0, 3.0, 4 * 1.5, 4.0], [1.0, 2.0, 3.0, 0.0, 0.0]])
    assert mean_losses(batches.sum(0), 2) == MeanLosses(1.0, 2.0, 3.0, 1.5)
    box, *_, view = mean_losses(batches[1], 1)
    assert box == 1.0 and math.isnan(view)
