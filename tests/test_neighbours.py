"""utils.neighbours: frames averaged with those around them, against the same written out."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from utils.neighbours import ClipWindow, FrameOutput, Neighbours


def outputs(clips: Sequence[str | None], cells: int = 6, nc: int = 3, seed: int = 0) -> list[FrameOutput[int]]:
    """A frame for each name of a clip; what is said of it is random."""
    draw = torch.Generator().manual_seed(seed)
    return [
        FrameOutput(
            index, clip, torch.rand(cells, 5 + nc, generator=draw), torch.rand(3, generator=draw).softmax(0)
        )
        for index, clip in enumerate(clips)
    ]  # fmt: skip


def through(found: Sequence[FrameOutput[int]], window: int) -> list[FrameOutput[int]]:
    neighbours: Neighbours[int] = Neighbours(window)
    return [ready for one in found for ready in neighbours.add(one)] + neighbours.flush()


def scores(output: FrameOutput[int]) -> Tensor:
    assert output.boxes is not None
    return output.boxes[:, 5:] * output.boxes[:, 4:5]


CLIPS: list[str | None] = [*"aaaaa", "b", *"cccc", None, None, *"aaaaaaaaa"]


@pytest.mark.parametrize("window", [1, 2, 3, 30])
def test_scores_and_views_are_half_the_frames_own_and_half_its_windows_within_the_clip(window: int) -> None:
    found = outputs(CLIPS)
    runs = [(0, 5), (5, 6), (6, 10), (10, 11), (11, 12), (12, 21)]  # frames without a clip are by themselves
    got = through(found, window)
    assert [one.frame for one in got] == list(range(len(found)))
    for one in got:
        start, end = next(run for run in runs if run[0] <= one.frame < run[1])
        around = found[max(one.frame - window, start) : min(one.frame + window + 1, end)]
        mine = found[one.frame]
        assert one.boxes is not None and mine.boxes is not None
        assert torch.equal(one.boxes[:, :4], mine.boxes[:, :4])
        expected = sum(scores(other) / len(around) for other in around) / 2 + scores(mine) / 2
        torch.testing.assert_close(scores(one), expected)
        views = [other.view for other in around if other.view is not None]
        assert one.view is not None and mine.view is not None
        torch.testing.assert_close(one.view, sum(views) / len(around) / 2 + mine.view / 2)
        assert one.boxes[:, 4:].min() >= 0 and one.boxes[:, 4:].max() <= 1 + 1e-6


def test_without_a_window_everything_comes_back_at_once_as_it_is() -> None:
    neighbours: Neighbours[int] = Neighbours(0)
    for one in outputs(["a", "a", "b"]):
        assert neighbours.add(one) == [one]
    assert neighbours.flush() == []


def test_a_frame_comes_back_when_its_last_neighbour_has_come() -> None:
    neighbours: Neighbours[int] = Neighbours(2)
    came = [[ready.frame for ready in neighbours.add(one)] for one in outputs([*"aaaaa", "b"])]
    assert came == [[], [], [0], [1], [2], [3, 4]]
    assert [one.frame for one in neighbours.flush()] == [5] and neighbours.flush() == []


def test_no_more_is_held_than_a_window_needs() -> None:
    neighbours: Neighbours[int] = Neighbours(2)
    for one in outputs(["a"] * 50):
        neighbours.add(one)
        assert len(neighbours._said) <= 5 and len(neighbours._waiting) <= 2


def test_frames_of_another_size_are_not_averaged_with() -> None:
    found = [*outputs(["a", "a"]), *outputs(["a"], cells=4)]
    got = through(found, 5)
    last = got[-1].boxes
    assert last is not None and len(last) == 4
    torch.testing.assert_close(scores(got[-1]), scores(found[-1]))


@pytest.mark.parametrize("missing", ["boxes", "view"])
def test_what_a_network_does_not_learn_stays_absent(missing: str) -> None:
    found = [FrameOutput(one.frame, one.clip, **{"boxes": one.boxes, "view": one.view} | {missing: None})
             for one in outputs(["a"] * 3)]  # fmt: skip
    for one in through(found, 1):
        assert getattr(one, missing) is None
        assert (one.view if missing == "boxes" else one.boxes) is not None


def test_cells_in_which_nothing_is_stay_finite() -> None:
    found = [FrameOutput(index, "a", torch.zeros(4, 8), None) for index in range(3)]
    for one in through(found, 1):
        assert one.boxes is not None and bool((one.boxes == 0).all())


def test_frames_of_a_dataset_without_clips_are_by_themselves() -> None:
    assert ClipWindow(2).clip_of(7) is None
    assert ClipWindow(2, ["a", "b"]).clip_of(1) == "b"
