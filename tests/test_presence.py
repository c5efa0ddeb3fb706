"""Patients and clips: by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.simulated import outcomes
from utils.outcomes import Outcomes
from utils.presence import clip_views, presence


@pytest.fixture
def four() -> Outcomes:
    """Two patients of two frames and one clip each.

    a: MR labelled in both frames, found in the second alone; a false TR in the first. b: AR labelled in one frame and
    missed, for its detection is under the operating confidence.
    """
    return replace(
        outcomes(patients=2, frames=2, detections=0),
        files=("a1", "a2", "b1", "b2"),
        patients=("a", "a", "b", "b"),
        clips=("a-1", "a-1", "b-1", "b-1"),
        frame=np.array([0, 1, 2]),
        confidence=np.array([0.9, 0.6, 0.3]),
        predicted=np.array([3, 1, 0]),
        correct=np.repeat([[False], [True], [True]], 10, axis=1),
        label_frame=np.array([0, 1, 2]),
        labelled=np.array([1, 1, 0]),
        views=np.array([[0.9, 0.1, 0.0], [0.3, 0.4, 0.3], [0.2, 0.5, 0.3], [0.2, 0.2, 0.6]]),
        true_views=np.array([0, 1, -1, 2]),
        operating=np.full(4, 0.5),
    )


def test_a_patient_is_positive_if_any_frame_is(four: Outcomes) -> None:
    got = presence(four, four.patients or ())
    assert got.units == ("a", "b")
    assert got.true.tolist() == [[False, True, False, False], [True, False, False, False]]
    assert got.found.tolist() == [[False, True, False, True], [False] * 4]
    np.testing.assert_array_equal(got.sensitivity, [0, 1, np.nan, np.nan])
    np.testing.assert_array_equal(got.specificity, [1, 1, 1, 0.5])


def test_each_frame_counts_at_its_own_operating_confidence(four: Outcomes) -> None:
    lower = replace(four, operating=np.array([0.95, 0.95, 0.3, 0.3]))
    assert presence(lower, lower.patients or ()).found.tolist() == [[False] * 4, [True, False, False, False]]


def test_a_clip_has_the_view_of_its_highest_mean_probability(four: Outcomes) -> None:
    got = clip_views(four, four.clips or ())
    assert got.clips == ("a-1", "b-1")
    assert got.predicted.tolist() == [0, 2]  # means .6 .25 .15 and .2 .35 .45
    assert got.true.tolist() == [0, 2]  # of two views with a frame each, the first; an unlabelled frame has no vote
    assert got.mixed.tolist() == [True, False]


def test_a_clip_without_a_labelled_frame_has_no_true_view(four: Outcomes) -> None:
    bare = replace(four, true_views=np.array([0, 0, -1, -1]))
    got = clip_views(bare, bare.clips or ())
    assert got.true.tolist() == [0, -1] and not got.mixed.any()
