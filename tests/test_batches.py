"""The order of an epoch, and how processes share its batches."""

from __future__ import annotations

import numpy as np
import pytest

from utils.batches import EpochBatches, EpochSampler, Key
from utils.log import InputError
from utils.processes import ALONE, Processes


def order(sampler: EpochSampler, epoch: int) -> list[int]:
    sampler.epoch = epoch
    keys = list(sampler)
    assert {key.epoch for key in keys} == {epoch}
    return [key.item for key in keys]


def test_an_epochs_order_depends_on_seed_and_epoch_alone() -> None:
    running = EpochSampler(50, seed=3)
    orders = [order(running, epoch) for epoch in range(4)]
    assert all(sorted(items) == list(range(50)) for items in orders)
    assert len({tuple(items) for items in orders}) == 4
    assert order(EpochSampler(50, seed=3), 2) == orders[2]  # a resumed run goes on as the first would have
    assert order(EpochSampler(50, seed=4), 2) != orders[2]
    assert order(EpochSampler(50, seed=3, shuffle=False), 2) == list(range(50))
    assert len(running) == 50


def test_weights_draw_frames_in_their_proportion() -> None:
    sampler = EpochSampler(20_000, seed=1)
    weights = np.zeros(20_000)
    weights[:3] = 1.0, 3.0, 6.0
    sampler.weights = weights
    items = order(sampler, 0)
    np.testing.assert_allclose(np.bincount(items, minlength=3)[:3] / 20_000, [0.1, 0.3, 0.6], atol=0.015)
    assert len(items) == 20_000 and max(items) == 2
    assert order(sampler, 0) == items and order(sampler, 1) != items


def batches_of(frames: int, size: int, processes: int, divided: bool = True, first: int = 0) -> list[list[list[int]]]:
    """The frames of each batch, by process."""
    shares = []
    for rank in range(processes):
        sampler = EpochSampler(frames, seed=5)
        sampler.epoch = 3
        own = EpochBatches(sampler, size, Processes(rank, processes), divided)
        own.first = first
        found = list(own)
        assert len(own) == len(found) + first
        assert all(isinstance(key, Key) and key.epoch == 3 for batch in found for key in batch)
        shares.append([[key.item for key in batch] for batch in found])
    return shares


def test_alone_the_batches_are_the_epochs_keys_in_order() -> None:
    sampler = EpochSampler(10, seed=5)
    found = list(EpochBatches(sampler, 4, ALONE, divided=True))
    assert [len(batch) for batch in found] == [4, 4, 2]
    assert [key for batch in found for key in batch] == list(sampler)


@pytest.mark.parametrize(
    ("frames", "size", "processes"), [(32, 16, 2), (33, 16, 3), (20, 7, 2), (31, 16, 4), (5, 5, 5)]
)
def test_divided_batches_are_those_of_one_process_cut_in_pieces_of_like_size(
    frames: int, size: int, processes: int
) -> None:
    shares, (whole,) = batches_of(frames, size, processes), batches_of(frames, size, 1)
    together = [[frame for share in parts for frame in share] for parts in zip(*shares, strict=True)]
    assert [frame for batch in together for frame in batch] == [frame for batch in whole for frame in batch]
    if frames % size == 0 or frames % size >= processes:
        assert together == whole
    for parts in zip(*shares, strict=True):
        lengths = [len(part) for part in parts]
        assert min(lengths) >= 1 and max(lengths) - min(lengths) <= 1


def test_a_last_batch_too_small_for_all_becomes_part_of_the_one_before() -> None:
    shares = batches_of(33, 16, 2)
    assert [[len(batch) for batch in share] for share in shares] == [[8, 8], [8, 9]]


def test_whole_batches_are_dealt_out_in_turn() -> None:
    shares, (whole,) = batches_of(30, 4, 3, divided=False), batches_of(30, 4, 1)
    assert [[len(batch) for batch in share] for share in shares] == [[4, 4, 4], [4, 4, 2], [4, 4]]
    assert [shares[i % 3][i // 3] for i in range(8)] == whole


@pytest.mark.parametrize("processes", [1, 2])
def test_what_has_been_trained_on_is_left_out(processes: int) -> None:
    for rest, all_of_it in zip(batches_of(40, 8, processes, first=2), batches_of(40, 8, processes), strict=True):
        assert rest == all_of_it[2:]


@pytest.mark.parametrize(("frames", "size"), [(10, 3), (3, 10)])
def test_a_batch_has_a_frame_for_each_process(frames: int, size: int) -> None:
    with pytest.raises(InputError, match="--batch-size: expected at least a frame for each of 4 processes, got 3"):
        EpochBatches(EpochSampler(frames), size, Processes(0, 4), divided=True)
