"""Box geometry: forms, overlaps, suppression and scaling back, against YOLOv5's figures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor

from utils import boxes
from utils.boxes import box_iou, non_max_suppression, pair_iou, scale_boxes, xywh_to_xyxy, xyxy_to_xywh
from utils.config import ROOT

SETTINGS: dict[str, dict[str, Any]] = {
    "detect": {"max_det": 1000},
    "val": {"conf_thres": 0.001, "iou_thres": 0.6, "multi_label": True, "max_det": 300},
    "agnostic": {"agnostic": True, "max_det": 1000},
    "classes": {"classes": [0, 2], "max_det": 1000},
}


def predictions(*rows: list[float]) -> Tensor:
    """One image's; a row: centre x, centre y, width, height, objectness, class probabilities."""
    return torch.tensor(rows, dtype=torch.float32)[None]


def test_forms_by_hand() -> None:
    centre, corner = torch.tensor([[10.0, 20, 6, 8]]), torch.tensor([[7.0, 16, 13, 24]])
    assert torch.equal(xywh_to_xyxy(centre), corner) and torch.equal(xyxy_to_xywh(corner), centre)


def test_forms_are_each_others_inverse() -> None:
    boxes = torch.rand(3, 50, 4, generator=torch.Generator().manual_seed(0)) * 100
    torch.testing.assert_close(xyxy_to_xywh(xywh_to_xyxy(boxes)), boxes, rtol=1e-5, atol=1e-4)
    assert xywh_to_xyxy(torch.zeros(0, 4)).shape == xyxy_to_xywh(torch.zeros(0, 4)).shape == (0, 4)


# overlaps


@pytest.mark.parametrize("kind", ["iou", "giou", "diou", "ciou"])
def test_overlaps_are_yolov5s(golden: Path, kind: str) -> None:
    with np.load(golden / "boxes.npz") as arrays:
        first, second, expected = (torch.from_numpy(arrays[name]) for name in ("a_xywh", "b_xywh", kind))
    # atol is the rounding of numbers near 1, which the small differences of them keep
    torch.testing.assert_close(pair_iou(first, second, kind), expected, rtol=1e-5, atol=2e-7)


@pytest.mark.parametrize(
    ("kind", "beside", "apart"),
    [("iou", 1 / 3, 0.0), ("giou", 1 / 3, -0.2), ("diou", 1 / 3 - 1 / 13, -9 / 29), ("ciou", 1 / 3 - 1 / 13, -9 / 29)],
)
def test_overlaps_by_hand(kind: str, beside: float, apart: float) -> None:
    """2 x 2 boxes, one 1 to the right of the other, then 3: enclosed by 3 x 2 and 5 x 2."""
    first = torch.tensor([[2.0, 2, 2, 2]]).expand(3, 4)
    second = torch.tensor([[2.0, 2, 2, 2], [3, 2, 2, 2], [5, 2, 2, 2]])
    assert pair_iou(first, second, kind).tolist() == pytest.approx([1, beside, apart], abs=1e-5)


@pytest.mark.parametrize("kind", ["iou", "giou", "diou", "ciou"])
def test_overlaps_have_finite_gradients(kind: str) -> None:
    first = torch.tensor([[5.0, 5, 2, 2], [5, 5, 2, 2], [50, 5, 1, 1], [5, 5, 1e-4, 3]], requires_grad=True)
    second = torch.tensor([[5.0, 5, 2, 2], [6, 5, 2, 3], [5, 5, 2, 2], [5, 5, 2, 2]])
    overlap = pair_iou(first, second, kind)
    overlap.sum().backward()
    assert overlap.isfinite().all() and first.grad is not None and first.grad.isfinite().all()
    assert first.grad[1].abs().sum() > 0  # kind by kind, an overlapping pair can be moved
    assert kind == "iou" or first.grad[2, 0] < 0  # and all but the plain one draw distant boxes together


# suppression


@pytest.mark.parametrize("name", SETTINGS)
def test_suppression_is_yolov5s(golden: Path, name: str) -> None:
    with np.load(golden / "nms.npz") as arrays:
        given = torch.from_numpy(arrays["pred"])
        expected = [torch.from_numpy(arrays[f"{name}_{i}"]) for i in range(2)]
    before = given.clone()
    found = non_max_suppression(given, **SETTINGS[name])
    assert len(found) == 2
    for got, want in zip(found, expected, strict=True):
        assert torch.equal(got, want)
    assert torch.equal(given, before)


def test_the_more_confident_of_two_overlapping_boxes_stays() -> None:
    rows = ([50, 50, 20, 20, 0.8, 1, 0], [51, 50, 20, 20, 0.9, 1, 0], [90, 50, 20, 20, 0.5, 1, 0])
    (found,) = non_max_suppression(predictions(*rows))
    assert found.tolist() == [pytest.approx([41, 40, 61, 60, 0.9, 0]), pytest.approx([80, 40, 100, 60, 0.5, 0])]


def test_boxes_of_different_classes_suppress_each_other_only_if_agnostic() -> None:
    rows = ([50, 50, 20, 20, 0.8, 1, 0], [51, 50, 20, 20, 0.9, 0, 1])
    assert non_max_suppression(predictions(*rows))[0][:, 5].tolist() == [1, 0]
    assert non_max_suppression(predictions(*rows), agnostic=True)[0][:, 5].tolist() == [1]


def test_confidence_is_objectness_times_class_probability() -> None:
    rows = ([50, 50, 20, 20, 0.5, 0.5, 0.1], [90, 50, 20, 20, 0.3, 0.1, 0.9], [20, 50, 20, 20, 0.6, 0.2, 0.5])
    (found,) = non_max_suppression(predictions(*rows), conf_thres=0.25)
    assert found[:, 4:].tolist() == [pytest.approx([0.3, 1]), pytest.approx([0.27, 1])]  # 0.25 itself is not above


def test_a_box_counts_for_each_class_only_if_multi_label() -> None:
    given = predictions([50, 50, 20, 20, 1, 0.9, 0.2, 0.6])
    (found,) = non_max_suppression(given, multi_label=True)
    assert found[:, 4:].tolist() == [pytest.approx([0.9, 0]), pytest.approx([0.6, 2])]
    assert non_max_suppression(given)[0][:, 5].tolist() == [0]


@pytest.mark.parametrize("classes", [[0], [1], [], [7]])
def test_only_the_classes_asked_for_are_kept(classes: list[int]) -> None:
    given = predictions([50, 50, 20, 20, 1, 0.9, 0.2], [50, 90, 20, 20, 1, 0.2, 0.9])
    assert non_max_suppression(given, classes=classes)[0][:, 5].tolist() == [c for c in classes if c < 2]


def test_at_most_max_det_detections_are_kept_the_most_confident() -> None:
    given = predictions(*([30 * i, 50, 20, 20, 1, 0.3 + i / 50, 0] for i in range(20)))
    (found,) = non_max_suppression(given, max_det=3)
    assert found[:, 4].tolist() == pytest.approx([0.68, 0.66, 0.64])


@pytest.mark.parametrize("options", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("rows", [0, 5])
def test_images_without_a_detection_give_empty_tensors(options: dict[str, Any], rows: int) -> None:
    found = non_max_suppression(torch.zeros(2, rows, 9), **options)
    assert [tuple(each.shape) for each in found] == [(0, 6), (0, 6)]


@pytest.mark.parametrize("multi_label", [False, True])
def test_rows_whose_confidence_is_not_a_number_are_dropped(multi_label: bool) -> None:
    nan = float("nan")
    rows = ([50, 50, 9, 9, nan, 0.9, 0.1], [80, 80, 9, 9, 0.9, nan, nan], [20, 20, 10, 10, 0.8, 1, 0])
    (found,) = non_max_suppression(predictions(*rows), multi_label=multi_label)
    assert found.tolist() == [pytest.approx([15, 15, 25, 25, 0.8, 0])]


def test_half_precision_predictions_give_full_precision_detections() -> None:
    (found,) = non_max_suppression(predictions([1000, 50, 21, 21, 1, 1, 0], [50, 50, 9, 9, 1, 0, 0.5]).half())
    assert found.dtype == torch.float32
    assert found.tolist() == [[989.5, 39.5, 1010.5, 60.5, 1, 0], [45.5, 45.5, 54.5, 54.5, 0.5, 1]]


# back to the frame


def test_boxes_scaled_back_are_yolov5s(golden: Path) -> None:
    for case in json.loads((golden / "geometry.json").read_text())["scale_boxes"]:
        (height, width), (to_height, to_width) = case["from_hw"], case["to_hw"]
        gain = min(height / to_height, width / to_width)
        pad = (width - to_width * gain) / 2, (height - to_height * gain) / 2
        boxes = torch.tensor(case["xyxy"])
        got = scale_boxes(boxes, (gain, gain), pad, (to_height, to_width))
        torch.testing.assert_close(got, torch.tensor(case["out"]), rtol=1e-5, atol=0)


def test_scaling_back_undoes_letterboxing_keeps_columns_and_clips() -> None:
    frame = torch.tensor([[30.0, 20, 200, 100, 0.9, 3]])
    gain, pad = (0.5, 0.4), (10.0, 7.0)
    letterboxed = frame.clone()
    letterboxed[:, :4] = frame[:, :4] * torch.tensor(gain * 2) + torch.tensor(pad * 2)
    before = letterboxed.clone()
    torch.testing.assert_close(scale_boxes(letterboxed, gain, pad, (120, 300)), frame)
    assert torch.equal(letterboxed, before)
    assert scale_boxes(letterboxed, gain, pad, (60, 150))[0, :4].tolist() == pytest.approx([30, 20, 150, 60])
    assert scale_boxes(torch.tensor([[-5.0, 0, 9, 90]]), gain, pad, (60, 150))[0].tolist() == [0, 0, 0, 60]
    assert scale_boxes(torch.zeros(0, 6), gain, pad, (60, 150)).shape == (0, 6)


def test_rows_whose_place_is_not_a_number_are_dropped() -> None:
    good, bad = [10.0, 10.0, 4.0, 4.0, 0.9, 1.0], [float("nan"), 10.0, 4.0, 4.0, 0.99, 1.0]
    (found,) = non_max_suppression(torch.tensor([[good, bad]]))
    assert found[:, 4].tolist() == pytest.approx([0.9])


@pytest.mark.parametrize("size", [(1e-8, 1e-8), (1e-8, 1.0), (1.0, 1e-8)])
def test_overlap_with_a_vanishing_box_has_a_finite_value_and_gradient(size: tuple[float, float]) -> None:
    first = torch.tensor([[0.9, 0.9, *size]], requires_grad=True)
    value = pair_iou(first, torch.tensor([[1.0, 1.0, 2.0, 3.0]]), "ciou")
    value.sum().backward()
    assert value.isfinite().all() and first.grad is not None and first.grad.isfinite().all()


# fast paths against plain ones


def plain_suppression(given: Tensor, conf: float, iou: float, multi_label: bool, max_det: int) -> list[Tensor]:
    """Image by image, class by class, with the package's own function."""
    found = []
    for rows in given:
        kept = []
        scores = rows[:, 5:] * rows[:, 4:5]
        for label in range(scores.shape[1]):
            good = (scores[:, label] > conf) & (rows[:, 4] > conf)
            good &= torch.tensor(multi_label) | (scores.argmax(1) == label)
            mine = torch.cat((xywh_to_xyxy(rows[good, :4]), scores[good, label, None]), 1)
            mine = mine[torchvision.ops.nms(mine[:, :4], mine[:, 4], iou)]
            kept.append(torch.cat((mine, torch.full((len(mine), 1), float(label))), 1))
        together = torch.cat(kept)
        found.append(together[together[:, 4].argsort(descending=True)][:max_det])
    return found


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("max_det", [5, 300])
def test_suppression_of_a_batch_is_that_of_each_image_and_class(multi_label: bool, max_det: int) -> None:
    torch.manual_seed(0)
    given = torch.rand(5, 200, 8)
    given[..., :2] *= 64
    given[..., 2:4] *= 24
    given[3, :, 4] = 0  # an image without any
    found = non_max_suppression(given, 0.2, 0.5, multi_label=multi_label, max_det=max_det)
    for got, want in zip(found, plain_suppression(given, 0.2, 0.5, multi_label, max_det), strict=True):
        # classes are suppressed at an offset, which rounds corners in the fourth digit; none is that near here
        assert torch.equal(got, want)
    assert not len(found[3]) and len(found[0])


def test_only_the_most_confident_candidates_of_an_image_enter_suppression(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boxes, "MAX_CANDIDATES", 2)
    row = [[10.0 + 20 * i, 10, 8, 8, 0.5 + i / 10, 1] for i in range(4)]
    found = non_max_suppression(torch.tensor([row, row[:1] * 4]))
    assert found[0][:, 4].tolist() == pytest.approx([0.8, 0.7]) and found[1][:, 4].tolist() == pytest.approx([0.5])


def test_overlaps_of_each_with_each_are_torchvisions() -> None:
    torch.manual_seed(0)
    first, second = (xywh_to_xyxy(torch.rand(n, 4)) for n in (7, 5))
    assert torch.equal(box_iou(first, second), torchvision.ops.box_iou(first, second))
    assert box_iou(first[:0], second).shape == (0, 5)


def test_suppression_needs_the_package_only_where_its_library_cannot_be_found() -> None:
    """In a fresh process, with and without the library at its place."""
    program = """
import importlib.util, sys
from utils import boxes
import torch
if sys.argv[1] == "hidden":
    importlib.util.find_spec = lambda name: None
pair = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 8]])
print(boxes.compiled_nms()(pair, torch.tensor([0.5, 0.9]), 0.5).tolist(), "torchvision" in sys.modules)
import torchvision
print(torchvision.ops.nms(pair, torch.tensor([0.5, 0.9]), 0.5).tolist())
"""
    for word, imported in (("found", "False"), ("hidden", "True")):
        command = [sys.executable, "-c", program, word]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert ended.stdout.split("\n")[:2] == [f"[1] {imported}", "[1]"], ended.stderr
