"""Frames become a view and tracks: what is pooled, what is linked across gaps, and what counts as uncertain."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.clips import ClipRules, FrameFindings, link, pool_view

RULES = ClipRules()
HERE, THERE = (10.0, 10.0, 30.0, 30.0), (60.0, 60.0, 90.0, 90.0)


def frame(number: int, *boxes: tuple[float, ...], view: tuple[float, ...] | None = None) -> FrameFindings:
    """Boxes as x1, y1, x2, y2, confidence, class."""
    found = np.array(boxes, np.float32).reshape(-1, 6)
    return FrameFindings(number, number / 30, found, None if view is None else np.array(view, np.float32))


def clip(*seen: tuple[tuple[float, ...], ...]) -> list[FrameFindings]:
    return [frame(number, *boxes) for number, boxes in enumerate(seen)]


def test_the_view_is_the_highest_mean_probability_and_not_the_most_votes() -> None:
    frames = [frame(0, view=(0.55, 0.45)), frame(1, view=(0.55, 0.45)), frame(2, view=(0.1, 0.9))]
    view = pool_view(frames, RULES)
    assert view is not None
    assert view.index == 1 and view.confidence == pytest.approx(0.6) and view.frames == 1
    assert view.agreement == pytest.approx(1 / 3) and view.uncertain


@pytest.mark.parametrize(("agreeing", "uncertain"), [(6, True), (7, False), (10, False)])
def test_a_view_is_uncertain_where_under_70_percent_agree(agreeing: int, uncertain: bool) -> None:
    frames = [frame(n, view=(0.9, 0.1) if n < agreeing else (0.4, 0.6)) for n in range(10)]
    view = pool_view(frames, RULES)
    assert view is not None and view.index == 0 and view.frames == agreeing and view.uncertain is uncertain


def test_frames_without_a_view_have_none() -> None:
    assert pool_view(clip(()), RULES) is None and pool_view([], RULES) is None


def test_a_box_that_stays_is_one_track_with_its_peak_and_its_largest() -> None:
    frames = clip((), ((*HERE, 0.5, 1),), ((10.0, 10.0, 34.0, 30.0, 0.9, 1),), ((10.0, 10.0, 35.0, 35.0, 0.6, 1),), ())
    (track,) = link(frames, RULES)
    assert [box.frame.number for box in track.boxes] == [1, 2, 3] and track.label == 1
    assert track.peak.frame.number == 2 and track.largest.frame.number == 3 and not track.uncertain(RULES)


@pytest.mark.parametrize(("missed", "tracks"), [(0, 1), (5, 1), (6, 2)])
def test_a_track_goes_on_across_gaps_of_up_to_five_frames(missed: int, tracks: int) -> None:
    frames = clip(((*HERE, 0.5, 0),), *[()] * missed, ((*HERE, 0.5, 0),))
    assert len(link(frames, RULES)) == tracks


def test_a_stride_counts_the_frames_that_were_looked_at() -> None:
    frames = [frame(0, (*HERE, 0.5, 0)), frame(10, (*HERE, 0.5, 0))]
    assert len(link(frames, RULES)) == 1


def test_boxes_are_linked_over_an_overlap_of_three_tenths_and_not_at_it() -> None:
    wide = (0.0, 0.0, 10.0, 10.0, 0.5, 0)
    for width, tracks in ((3.0, 2), (3.1, 1)):
        assert len(link(clip((wide,), ((0.0, 0.0, width, 10.0, 0.5, 0),)), RULES)) == tracks


def test_classes_are_tracks_of_their_own() -> None:
    frames = clip(((*HERE, 0.5, 0), (*HERE, 0.4, 1)), ((*HERE, 0.5, 1), (*HERE, 0.4, 0)))
    assert [(track.label, len(track.boxes)) for track in link(frames, RULES)] == [(0, 2), (1, 2)]


def test_two_boxes_of_a_class_go_on_as_the_sum_of_overlaps_is_largest() -> None:
    left, right, between = (0.0, 0.0, 10.0, 10.0), (5.0, 0.0, 15.0, 10.0), (2.0, 0.0, 12.0, 10.0)
    # the best pair alone (between, left: .67) would leave "left" to overlap "right" by .33
    first, second = link(clip(((*left, 0.9, 0), (*right, 0.8, 0)), ((*between, 0.9, 0), (*left, 0.8, 0))), RULES)
    assert np.allclose(first.boxes[1].box, left) and np.allclose(second.boxes[1].box, between)


def test_a_short_track_is_uncertain() -> None:
    frames = clip(((*HERE, 0.9, 0),), ((*HERE, 0.9, 0), (*THERE, 0.9, 2)), ((*HERE, 0.9, 0), (*THERE, 0.9, 2)))
    assert [track.uncertain(RULES) for track in link(frames, RULES)] == [False, True]


boxes = st.lists(
    st.tuples(st.integers(0, 8), st.integers(0, 8), st.floats(0.1, 1), st.integers(0, 1)).map(
        lambda row: (float(row[0]), float(row[1]), row[0] + 4.0, row[1] + 4.0, row[2], float(row[3]))
    ),
    max_size=3,
)


@settings(deadline=None)
@given(st.lists(boxes, max_size=12))
def test_each_box_is_in_one_track_and_a_track_has_one_a_frame(seen: list[list[tuple[float, ...]]]) -> None:
    frames = [frame(number, *found) for number, found in enumerate(seen)]
    tracks = link(frames, RULES)
    assert sum(len(track.boxes) for track in tracks) == sum(map(len, seen))
    for track in tracks:
        numbers = [box.frame.number for box in track.boxes]
        assert all(0 < later - earlier <= RULES.gap + 1 for earlier, later in itertools.pairwise(numbers))
