"""Figures of boxes: YOLOv5's to the digit, pairs of boxes by hand, the edges of a split."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from utils.metrics import (
    CONFIDENCES,
    IOU_THRESHOLDS,
    DetectionFigures,
    average_precision,
    confusion_matrix,
    detection_figures,
    match,
    smooth,
)

NOTHING, NO_LABELS = torch.zeros(0, 6), torch.zeros(0, 5)


def box(right: float = 100, confidence: float = 0.9, label: int = 0, left: float = 0) -> list[float]:
    """A detection 100 high; against :func:`truth` its IoU is its width in hundredths."""
    return [left, 0, right, 100, confidence, label]


def truth(label: int = 0, left: float = 0) -> list[float]:
    return [label, left, 0, left + 100, 100]


def counts(correct: NDArray[np.bool_]) -> list[int]:
    """At how many of the ten thresholds each detection is right."""
    return correct.sum(1).tolist()


def figures(correct: NDArray[np.bool_], predicted: list[int], labelled: list[int]) -> DetectionFigures:
    """Of detections whose confidence falls from 0.9 on."""
    confidence = np.array([0.9 - 0.01 * i for i in range(len(predicted))])
    return detection_figures(correct, confidence, np.array(predicted, float), np.array(labelled, float))


def right(*first: bool) -> NDArray[np.bool_]:
    """Detections that are right at every threshold, or at none."""
    return np.repeat(np.array(first, bool).reshape(-1, 1), 10, axis=1)


# YOLOv5's figures


def test_average_precision_and_all_beside_it_are_yolov5s(golden: Path) -> None:
    with np.load(golden / "ap.npz") as arrays:
        a = {name: arrays[name] for name in arrays.files}
    got = detection_figures(a["tp"], a["conf"], a["pred_cls"], a["target_cls"])
    assert np.array_equal(got.classes, a["classes"])
    for mine, theirs in (("ap", "ap"), ("precision", "p"), ("recall", "r"), ("f1", "f1")):
        np.testing.assert_allclose(getattr(got, mine), a[theirs], rtol=1e-12, atol=0)
    assert np.array_equal(got.true_positives, a["tp_n"]) and np.array_equal(got.false_positives, a["fp_n"])
    assert got.labels.tolist() == [int((a["target_cls"] == c).sum()) for c in a["classes"]]
    assert (got.map50, got.map) == pytest.approx((a["ap"][:, 0].mean(), a["ap"].mean()), rel=1e-12)
    assert (got.mean_precision, got.mean_recall) == pytest.approx((a["p"].mean(), a["r"].mean()), rel=1e-12)


def test_the_order_of_detections_does_not_matter(golden: Path) -> None:
    with np.load(golden / "ap.npz") as arrays:
        tp, conf, predicted, labelled = (arrays[name] for name in ("tp", "conf", "pred_cls", "target_cls"))
    order = np.random.default_rng(0).permutation(len(conf))
    one = detection_figures(tp, conf, predicted, labelled)
    other = detection_figures(tp[order], conf[order], predicted[order], labelled)
    for field in dataclasses.fields(DetectionFigures):
        np.testing.assert_allclose(getattr(one, field.name), getattr(other, field.name), rtol=1e-12)


def test_the_confusion_matrix_is_yolov5s(golden: Path) -> None:
    case = json.loads((golden / "confusion_matrix.json").read_text())
    got = confusion_matrix(torch.tensor(case["detections"]), torch.tensor(case["labels"]), 4)
    assert got.tolist() == case["matrix_rows_predicted"]


def test_fitness_is_yolov5s(golden: Path) -> None:
    case = json.loads((golden / "fitness.json").read_text())
    _, _, map50, mean_map = case["p_r_map50_map"]
    ap = np.array([[map50, *[(mean_map * 10 - map50) / 9] * 9]])
    assert dataclasses.replace(figures(right(True), [0], [0]), ap=ap).fitness == pytest.approx(
        case["fitness"], rel=1e-12
    )


# pairs


@pytest.mark.parametrize(("width", "thresholds"), [(100, 10), (96, 10), (94, 9), (72, 5), (51, 1), (49, 0)])
def test_a_detection_is_right_up_to_its_overlap(width: float, thresholds: int) -> None:
    correct = match(torch.tensor([box(width)]), torch.tensor([truth()]))
    assert correct[0].tolist() == [True] * thresholds + [False] * (10 - thresholds)
    assert correct.shape == (1, len(IOU_THRESHOLDS))


def test_an_overlap_of_exactly_one_half_counts() -> None:
    assert counts(match(torch.tensor([box(50)]), torch.tensor([truth()]))) == [1]


def test_a_detection_of_another_class_is_wrong() -> None:
    assert counts(match(torch.tensor([box(label=1), box()]), torch.tensor([truth(0), truth(2)]))) == [0, 10]


def test_one_label_serves_one_detection() -> None:
    """The first of those that overlap enough, as in YOLOv5: the more confident one."""
    detections = torch.tensor([box(62, 0.9), box(98, 0.8), box(97, 0.7)])
    correct = match(detections, torch.tensor([truth()]))
    assert correct[0].tolist() == [True] * 3 + [False] * 7
    assert correct[1].tolist() == [False] * 3 + [True] * 7
    assert not correct[2].any()


def test_one_detection_serves_one_label_the_one_it_overlaps_most() -> None:
    labels = torch.tensor([truth(left=20), truth(left=5)])
    assert counts(match(torch.tensor([box()]), labels)) == [9]  # 95 / 105
    # a second detection that overlaps the same label most gets nothing, though the other label is free
    assert counts(match(torch.tensor([box(), box(101, 0.8, left=1)]), labels)) == [9, 0]


def test_labels_and_detections_pair_by_place() -> None:
    labels = torch.tensor([truth(), truth(1, left=300), truth(0, left=600)])
    detections = torch.tensor([box(700, 0.9, 0, 600), box(100, 0.8), box(395, 0.7, 1, 300), box(900, 0.6, 1, 800)])
    assert counts(match(detections, labels)) == [10, 10, 10, 0]


@pytest.mark.parametrize(
    ("detections", "labels"), [(0, 0), (0, 2), (2, 0)], ids=["neither", "no detection", "no label"]
)
def test_a_frame_may_lack_detections_or_labels(detections: int, labels: int) -> None:
    correct = match(torch.tensor([box()] * 2)[:detections], torch.tensor([truth()] * 2)[:labels])
    assert correct.shape == (detections, 10) and correct.dtype == bool and not correct.any()


def scene(seed: int) -> tuple[Tensor, Tensor]:
    """A frame's labels, and detections scattered about them, most confident first."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 60, (8, 2))
    labels = np.column_stack((rng.integers(0, 2, 8), low, low + rng.uniform(10, 60, (8, 2))))
    near = np.repeat(labels, 4, axis=0)
    corners = near[:, 1:] + rng.normal(0, 6, (32, 4))
    corners[:, 2:] = np.maximum(corners[:, 2:], corners[:, :2] + 1)
    detections = np.column_stack((corners, np.sort(rng.random(32))[::-1], near[:, 0]))
    return torch.from_numpy(detections).float(), torch.from_numpy(labels).float()


@pytest.mark.parametrize("seed", range(20))
def test_a_harder_threshold_never_finds_more(seed: int) -> None:
    detections, labels = scene(seed)
    found = match(detections, labels).sum(0)
    assert (np.diff(found) <= 0).all() and 0 < found[0] <= len(labels)


# figures of a split


@pytest.mark.parametrize("classes", [1, 3])
def test_perfect_detections_score_one(classes: int) -> None:
    labelled = list(range(classes)) * 20
    got = figures(right(*[True] * len(labelled)), labelled, labelled)
    # not 1: YOLOv5's envelope falls to 0 at recall 1, which costs half a step between its 101 points
    assert (got.map50, got.map, got.fitness) == pytest.approx((0.995, 0.995, 0.995), abs=1e-9)
    assert (got.mean_precision, got.mean_recall, got.mean_f1) == pytest.approx((1, 1, 1), abs=1e-6)
    assert got.true_positives.tolist() == [20] * classes and got.false_positives.tolist() == [0] * classes


def test_average_precision_by_hand() -> None:
    """Right, wrong, right of three labels: precision 1, 1/2, 2/3 at recall 1/3, 1/3, 2/3; then nothing."""
    got = figures(right(True, False, True), [0, 0, 0], [0, 0, 0])
    third, points = 1 / 3, np.linspace(0, 1, 101)
    envelope = np.interp(points, [0, third, third, 2 * third, 1], [1, 1, 2 / 3, 2 / 3, 0])
    assert got.ap[0, 0] == pytest.approx(np.trapezoid(envelope, points), rel=1e-12)
    assert got.ap[0] == pytest.approx([got.ap[0, 0]] * 10)
    area, recall, precision = average_precision(np.array([0.5, 1.0]), np.array([1.0, 0.25]))
    assert recall.tolist() == [0, 0.5, 1, 1] and precision.tolist() == [1, 1, 0.25, 0]
    assert area == pytest.approx(0.5 + 0.5 * (1 + 0.25) / 2, abs=0.01)


def test_curves_go_over_confidence() -> None:
    got = figures(right(True, False, True), [0, 0, 0], [0, 0, 0])  # at 0.90, 0.89 and 0.88
    at = {c: int(np.argmin(abs(CONFIDENCES - c))) for c in (0.1, 0.91, 0.885)}
    assert got.recall_curve[0, at[0.91]] == 0 and got.precision_curve[0, at[0.91]] == 1
    assert got.recall_curve[0, at[0.1]] == pytest.approx(2 / 3)
    assert got.precision_curve[0, at[0.1]] == pytest.approx(2 / 3) == got.f1_curve[0, at[0.1]]
    assert 0.5 < got.precision_curve[0, at[0.885]] < 2 / 3
    assert 0 <= got.confidence <= 0.9


def test_mean_f1_agrees_with_the_means_beside_it() -> None:
    got = figures(right(True, True, False), [0, 1, 0], [0, 1, 1, 1])
    p, r = got.mean_precision, got.mean_recall
    assert got.mean_f1 == pytest.approx(2 * p * r / (p + r)) and got.mean_f1 != pytest.approx(got.f1.mean())


def test_a_class_with_labels_and_no_detection_scores_zero() -> None:
    got = figures(right(True, True), [0, 0], [0, 0, 3])
    assert got.classes.tolist() == [0, 3] and got.labels.tolist() == [2, 1]
    assert (got.ap[0] >= 0.995).all() and (got.ap[1] == 0).all()
    assert got.map50 == pytest.approx(got.ap[0, 0] / 2)
    assert got.recall[1] == 0 and got.true_positives.tolist() == [2, 0]


def test_detections_of_a_class_without_labels_do_not_count() -> None:
    got, without = figures(right(True, False, False), [0, 2, 2], [0]), figures(right(True), [0], [0])
    assert got.classes.tolist() == [0] and got.map == without.map and got.mean_precision == without.mean_precision


def test_a_split_without_detections_scores_zero() -> None:
    got = figures(np.zeros((0, 10), bool), [], [0, 1, 1])
    assert got.classes.tolist() == [0, 1] and got.labels.tolist() == [1, 2] and got.ap.shape == (2, 10)
    assert got.map50 == got.map == got.mean_precision == got.mean_recall == got.mean_f1 == got.fitness == 0


@pytest.mark.parametrize("detections", [0, 3])
def test_a_split_without_labels_scores_zero(detections: int) -> None:
    got = figures(np.zeros((detections, 10), bool), [0, 1, 1][:detections], [])
    assert len(got.classes) == 0 and got.ap.shape == (0, 10) and got.f1_curve.shape == (0, len(CONFIDENCES))
    assert got.map50 == got.map == got.mean_precision == got.mean_recall == got.mean_f1 == got.fitness == 0


def test_smoothing_averages_over_an_odd_width_and_repeats_the_ends() -> None:
    assert smooth(np.array([0, 0, 5, 0, 0, 0, 0, 0, 0, 10.0]), 0.4).tolist() == pytest.approx(
        [1, 1, 1, 1, 1, 0, 0, 2, 4, 6]
    )
    for share in (0.1, 0.25, 0.5):
        np.testing.assert_allclose(smooth(np.full(10, 0.3), share), np.full(10, 0.3))


# confusion


def test_pairs_of_the_confusion_matrix_disregard_the_class() -> None:
    got = confusion_matrix(torch.tensor([box(95, label=1), box(400, 0.8, 2, 300)]), torch.tensor([truth(0)]), 3)
    expected = np.zeros((4, 4), int)
    expected[1, 0] = 1  # predicted 1 where 0 is true
    expected[2, 3] = 1  # predicted 2 where there is background
    assert got.tolist() == expected.tolist()


@pytest.mark.parametrize("labels", [NO_LABELS, torch.tensor([truth(2, left=500)])], ids=["background", "elsewhere"])
def test_false_boxes_count_in_a_frame_where_nothing_matches(labels: Tensor) -> None:
    got = confusion_matrix(torch.tensor([box(), box(label=1), box(300, 0.8, 1, 200)]), labels, 3)
    assert got[:3, 3].tolist() == [1, 2, 0] and got[3].tolist() == [0, 0, len(labels), 0]
    assert got.sum() == 3 + len(labels)


def test_missed_labels_and_unsure_detections_in_the_confusion_matrix() -> None:
    labels = torch.tensor([truth(0), truth(1, left=300), truth(1, left=600)])
    detections = torch.tensor([box(), box(400, 0.25, 1, 300), box(640, 0.9, 1, 600)])  # unsure; too little overlap
    got = confusion_matrix(detections, labels, 2)
    assert got.tolist() == [[1, 0, 0], [0, 0, 1], [0, 2, 0]]
    assert confusion_matrix(detections, labels, 2, conf_thres=0.2, iou_thres=0.3).tolist() == [
        [1, 0, 0], [0, 2, 0], [0, 0, 0],
    ]  # fmt: skip


def test_the_overlap_must_be_above_the_confusion_matrixs_threshold() -> None:
    for width, hit in ((50, 0), (51, 1)):
        assert confusion_matrix(torch.tensor([box(width)]), torch.tensor([truth()]), 1, iou_thres=0.5)[0, 0] == hit


@pytest.mark.parametrize("seed", range(5))
def test_every_label_and_every_sure_detection_is_counted_once(seed: int) -> None:
    detections, labels = scene(seed)
    got = confusion_matrix(detections, labels, 2)
    assert got[:, :2].sum() == len(labels) and got[2, 2] == 0
    assert got[:2].sum() == (detections[:, 4] > 0.25).sum()


def test_an_empty_frame_adds_nothing_to_the_confusion_matrix() -> None:
    assert confusion_matrix(NOTHING, NO_LABELS, 4).tolist() == np.zeros((5, 5)).tolist()


def test_of_two_boxes_on_one_label_the_better_counts_in_the_matrix_and_the_surer_in_precision() -> None:
    label = torch.tensor([[0.0, 0, 0, 100, 100]])
    boxes = torch.tensor([[0.0, 0, 60, 100, 0.9, 0], [0.0, 0, 98, 100, 0.8, 0]])
    assert match(boxes, label)[:, 0].tolist() == [True, False]
    boxes[0, 5] = 1
    matrix = confusion_matrix(boxes, label, 2)
    assert matrix.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]


def test_precision_and_recall_may_be_taken_at_a_confidence_found_elsewhere(golden: Path) -> None:
    with np.load(golden / "ap.npz") as arrays:
        tp, conf, predicted, labelled = (arrays[name] for name in ("tp", "conf", "pred_cls", "target_cls"))
    own = detection_figures(tp, conf, predicted, labelled)
    again = detection_figures(tp, conf, predicted, labelled, own.confidence)
    for field in dataclasses.fields(DetectionFigures):
        np.testing.assert_array_equal(getattr(again, field.name), getattr(own, field.name))
    stricter = detection_figures(tp, conf, predicted, labelled, 0.9)
    assert stricter.confidence == pytest.approx(0.9, abs=1e-3)
    assert stricter.mean_recall < own.mean_recall and stricter.mean_f1 < own.mean_f1
    assert stricter.map == own.map  # the ranking is the same
