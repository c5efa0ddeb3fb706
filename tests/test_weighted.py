"""Figures under weights: against copied frames, and the fast path against the plain one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.simulated import at, outcomes, repeated
from utils.assessment import assess
from utils.metrics import average_precision
from utils.outcomes import Outcomes
from utils.presence import codes
from utils.report import metrics
from utils.view_metrics import Floats
from utils.weighted import Key, Sample


def figures(whole: Outcomes, weights: Floats) -> dict[Key, Floats]:
    """Under weights of patients (D, U)."""
    names, numbers = codes(whole.patients or ())
    return Sample(whole, numbers, len(names), by_patient=True).figures(weights)


@pytest.mark.parametrize("seed", range(4))
def test_with_every_patient_once_all_figures_are_those_of_metrics_json(seed: int) -> None:
    whole = outcomes(seed, operating=0.0)  # at 0 all count: elsewhere YOLOv5's curves are interpolated
    content = metrics(assess(whole, draws=0), {})
    got = figures(whole, np.ones((1, 8)))
    assert len(got) > 40
    for key, value in got.items():
        np.testing.assert_allclose(value[0], at(content, key), rtol=1e-9, err_msg=str(key))


def test_precision_and_recall_at_the_operating_confidence_are_counted() -> None:
    whole = outcomes(3, operating=0.7)
    got = figures(whole, np.ones((1, 8)))
    above = whole.confidence >= 0.7
    for label, name in enumerate(whole.names):
        mine = above & (whole.predicted == label)
        hits = (mine & whole.correct[:, 0]).sum()
        assert got["per_class", name, "precision"][0] == pytest.approx(hits / mine.sum())
        assert got["per_class", name, "recall"][0] == pytest.approx(hits / (whole.labelled == label).sum())


@pytest.mark.parametrize("times", [(2, 1, 0, 3, 1, 0, 1, 0), (0, 0, 8, 0, 0, 0, 0, 0), (1, 1, 1, 1, 1, 1, 1, 1)])
def test_a_weight_is_as_good_as_that_many_copies(times: tuple[int, ...]) -> None:
    """Ranked figures differ a little: copies of a detection are ranked one by one, a weight counts at once."""
    whole = outcomes(1)
    weighted, copied = figures(whole, np.array([times], float)), repeated(whole, times)
    again = figures(copied, np.ones((1, sum(count > 0 for count in times))))
    for key, value in again.items():
        if key[0] == "clips":
            continue  # copies of a clip are one clip
        tolerance = 0.03 if key[-1] in ("map", "map50") else 1e-9
        np.testing.assert_allclose(weighted[key], value, atol=tolerance, rtol=0, err_msg=str(key))


def test_clips_of_a_patient_drawn_twice_count_twice() -> None:
    whole = outcomes(2, patients=3, frames=6)
    got = figures(whole, np.array([[2.0, 1.0, 0.0]]))
    clips = assess(whole, draws=0).clips
    assert clips is not None
    for column, name in enumerate(whole.names):
        true, found, weight = clips.true[:, column], clips.found[:, column], [2, 2, 1, 1, 0, 0]
        positives = np.dot(weight, true)
        expected = np.dot(weight, true & found) / positives if positives else np.nan
        np.testing.assert_allclose(got["clips", "per_class", name, "sensitivity"][0], expected)


def plain_average_precision(whole: Outcomes, label: int, column: int, weight: Floats) -> float:
    """With every detection, none left out."""
    owner = codes(whole.patients or ())[1]
    mine = np.flatnonzero(whole.predicted == label)
    mine = mine[np.argsort(-whole.confidence[mine], kind="stable")]
    of_each = weight[owner[whole.frame[mine]]]
    hits = (of_each * whole.correct[mine, column]).cumsum()
    total = of_each.cumsum()
    labels = weight[owner[whole.label_frame[whole.labelled == label]]].sum()
    precision = np.divide(hits, total, out=np.zeros(len(hits)), where=total > 0)
    return average_precision(hits / labels, precision)[0]


@pytest.mark.parametrize("seed", range(6))
def test_corners_of_the_curve_give_the_average_precision_of_all_detections(seed: int) -> None:
    whole = outcomes(seed, detections=30)
    weight = np.random.default_rng(seed).multinomial(8, [1 / 8] * 8).astype(float)
    got = figures(whole, weight[None])
    for label, name in enumerate(whole.names):
        expected = [plain_average_precision(whole, label, column, weight) for column in range(10)]
        assert got["per_class", name, "map50"][0] == pytest.approx(expected[0], abs=1e-12)
        assert got["per_class", name, "map"][0] == pytest.approx(np.mean(expected), abs=1e-12)


def test_clips_are_weighed_by_their_patient_whatever_the_names() -> None:
    whole = outcomes(4, patients=3, frames=3)
    names = {"p00": "2", "p01": "10", "p02": "1"}
    renamed = replace(
        whole,
        patients=tuple(names[patient] for patient in whole.patients or ()),
        clips=tuple(f"{names[clip[:3]]}/c" for clip in whole.clips or ()),
    )
    alone = figures(renamed, np.array([[0.0, 0.0, 3.0]]))  # sorted: 1, 10, 2
    first = assess(repeated(whole, (1, 0, 0)), draws=0)
    assert first.clip_views is not None
    right = float((first.clip_views.predicted == first.clip_views.true).mean())
    assert alone["clips", "view", "accuracy"][0] == right


def test_a_class_that_is_never_detected_has_the_same_precision_in_figure_and_interval() -> None:
    """0 as on YOLOv5's curves; 1 where there are boxes of it, but none at or above the operating confidence."""
    whole = outcomes(0, operating=0.0)
    never = replace(whole, predicted=np.where(whole.predicted == 3, 2, whole.predicted), correct=whole.correct & False)
    content = metrics(assess(never, draws=0), {})
    assert figures(never, np.ones((1, 8)))["per_class", "TR", "precision"][0] == 0
    assert content["per_class"]["TR"]["precision"] == 0
    high = replace(whole, operating=np.full(len(whole), 2.0))
    assert figures(high, np.ones((1, 8)))["per_class", "TR", "precision"][0] == 1


def test_a_class_whose_boxes_are_all_of_patients_that_were_not_drawn_has_no_precision() -> None:
    whole = outcomes(0, operating=0.0)
    of_patients = np.unique(np.array(whole.patients), return_inverse=True)[1]
    first = of_patients[whole.frame] == 0
    alone = replace(
        whole, predicted=np.where(~first & (whole.predicted == 3), 2, whole.predicted), correct=whole.correct & False
    )
    assert (alone.predicted == 3).any()
    weights = np.array([[0.0, *[8 / 7] * 7]])
    assert figures(alone, weights)["per_class", "TR", "precision"][0] == 0


def test_a_draw_without_a_labelled_box_says_nothing() -> None:
    whole = outcomes(0)
    owners = np.array(whole.patients)[whole.label_frame]
    few = owners == "p00"
    few_labels = replace(whole, label_frame=whole.label_frame[few], labelled=whole.labelled[few])
    without = figures(few_labels, np.array([[0.0] + [1.0] * 7]))
    for key in (("map50",), ("map",), ("precision",), ("recall",), ("f1",), ("froc", "0.5")):
        assert np.isnan(without[key][0]), key
