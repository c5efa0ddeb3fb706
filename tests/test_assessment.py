"""An assessment: figures at one operating confidence, and at one that differs between frames."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.simulated import outcomes
from utils.assessment import assess
from utils.metrics import detection_figures


def test_at_one_confidence_the_figures_are_yolov5s_at_it() -> None:
    whole = outcomes(2, operating=0.4)
    expected = detection_figures(whole.correct, whole.confidence, whole.predicted, whole.labelled, 0.4)
    got = assess(whole, draws=0).detection
    for figure in ("precision", "recall", "f1", "ap", "true_positives"):
        np.testing.assert_array_equal(getattr(got, figure), getattr(expected, figure))


def test_counted_figures_take_boxes_at_each_frames_own_confidence() -> None:
    whole = outcomes(2, operating=0.4)
    half = np.where(np.arange(len(whole)) < len(whole) // 2, 0.3, 0.8)
    got = assess(replace(whole, operating=half), draws=0, counted=True).detection
    counts = whole.confidence >= half[whole.frame]
    for row, label in enumerate(got.classes):
        mine = counts & (whole.predicted == label)
        hits = (mine & whole.correct[:, 0]).sum()
        assert got.true_positives[row] == hits and got.false_positives[row] == mine.sum() - hits
        assert got.precision[row] == pytest.approx(hits / mine.sum())
        assert got.recall[row] == pytest.approx(hits / (whole.labelled == label).sum())
    assert got.map50 == assess(whole, draws=0).detection.map50  # ranks do not depend on it


def test_counted_figures_are_close_to_those_read_off_the_curves() -> None:
    whole = outcomes(0, patients=30)
    read_off, counted = (assess(whole, draws=0, counted=way).detection for way in (False, True))
    np.testing.assert_allclose(counted.precision, read_off.precision, atol=0.02)
    np.testing.assert_allclose(counted.recall, read_off.recall, atol=0.02)


def test_a_split_in_which_no_frame_carries_a_view_has_no_figures_of_views() -> None:
    got = assess(replace(outcomes(), true_views=np.full(48, -1)), draws=20)
    assert (got.view, got.calibration, got.clip_views) == (None, None, None)
    assert not any("view" in key for key in got.intervals.values)


def test_what_the_dataset_does_not_name_is_absent() -> None:
    bare = assess(replace(outcomes(views=False), patients=None, clips=None), draws=0)
    assert (bare.patients, bare.clips, bare.clip_views, bare.view, bare.calibration) == (None,) * 5
    assert bare.intervals.unit == "frames"


def test_every_class_with_labels_has_a_froc() -> None:
    whole = outcomes(1)
    got = assess(whole, draws=0)
    assert len(got.class_froc) == len(got.detection.classes) == 4
    labels = np.bincount(whole.labelled)
    found = [round(curve.sensitivity[-1] * count) for curve, count in zip(got.class_froc, labels, strict=True)]
    assert sum(found) == round(got.froc.sensitivity[-1] * len(whole.labelled)) == whole.correct[:, 0].sum()
