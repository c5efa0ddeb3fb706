"""FROC: by hand, and against a plain count at every threshold."""

from __future__ import annotations

import numpy as np
import pytest

from utils.froc import ends_of_ties, froc


def test_a_curve_by_hand() -> None:
    """Four detections on two frames with three labelled boxes: right, wrong, right, wrong."""
    got = froc(np.array([True, False, True, False]), np.array([0.9, 0.8, 0.7, 0.6]), labels=3, frames=2)
    assert got.false_boxes.tolist() == [0, 0.5, 0.5, 1.0]
    assert got.sensitivity == pytest.approx([1 / 3, 1 / 3, 2 / 3, 2 / 3])
    assert [got.at(rate) for rate in (0.25, 0.5, 1)] == pytest.approx([1 / 3, 2 / 3, 2 / 3])


def test_detections_of_equal_confidence_come_together() -> None:
    got = froc(np.array([True, False, True]), np.array([0.5, 0.5, 0.4]), labels=2, frames=1)
    assert got.false_boxes.tolist() == [1, 1] and got.sensitivity.tolist() == [0.5, 1.0]
    assert got.at(0.5) == 0  # no threshold takes the right one without the wrong one
    assert ends_of_ties(np.array([0.9, 0.9, 0.5, 0.1, 0.1])).tolist() == [1, 2, 4]


@pytest.mark.parametrize("seed", range(5))
def test_every_point_is_what_counting_at_its_threshold_gives(seed: int) -> None:
    rng = np.random.default_rng(seed)
    right, confidence = rng.random(200) < 0.3, rng.integers(0, 40, 200) / 40
    labels, frames = 90, 25
    got = froc(right, confidence, labels, frames)
    thresholds = sorted(set(confidence), reverse=True)
    assert len(got.sensitivity) == len(thresholds)
    for false_boxes, sensitivity, threshold in zip(got.false_boxes, got.sensitivity, thresholds, strict=True):
        above = confidence >= threshold
        assert false_boxes == pytest.approx((above & ~right).sum() / frames)
        assert sensitivity == pytest.approx((above & right).sum() / labels)
    for rate in (0.25, 0.5, 1.0):
        within = [s for f, s in zip(got.false_boxes, got.sensitivity, strict=True) if f <= rate]
        assert got.at(rate) == max(within, default=0.0)


def test_nothing_detected_finds_nothing_and_nothing_labelled_is_no_number() -> None:
    nothing = froc(np.zeros(0, bool), np.zeros(0), labels=4, frames=3)
    assert len(nothing.sensitivity) == 0 and nothing.at(1) == 0
    for frames in (3, 1):  # of one frame the first threshold has more false boxes already
        assert np.isnan(froc(np.array([False]), np.array([0.5]), labels=0, frames=frames).at(0.5))
