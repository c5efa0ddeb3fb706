"""Losses: YOLOv5's figures, the assignment cell by cell, and both tasks' losses together."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.heads import Detect
from models.yolo import Network
from utils.boxes import pair_iou
from utils.config import ROOT, Hyperparameters, load_hyperparameters
from utils.loss import DetectionLoss, JointLoss, TaskLosses, assign

ROWS, COLUMNS = 8, 16  # of the level that boxes are assigned to below
NO_BOXES = torch.zeros(0, 6)


@pytest.fixture
def forward(golden: Path) -> dict[str, Tensor]:
    with np.load(golden / "tiny_forward.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


@pytest.fixture
def detect() -> Detect:
    anchors = [[8, 8, 16, 16], [32, 32, 64, 64], [128, 128, 256, 256]]
    return Detect(4, anchors, (8, 8, 8), (8, 16, 32))


def maps(detect: Detect, seed: int = 0) -> list[Tensor]:
    """Random raw maps of two frames of 64 x 128 pixels, as leaves."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(2, detect.na, 64 // s, 128 // s, 5 + detect.nc) for s in detect.strides]
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


def gradients(raw: list[Tensor]) -> list[Tensor]:
    return [torch.zeros_like(level) if level.grad is None else level.grad for level in raw]


# YOLOv5's figures


def test_losses_and_gradients_are_yolov5s(
    golden: Path, tiny: Network, forward: dict[str, Tensor], hyp: Hyperparameters
) -> None:
    figures = json.loads((golden / "tiny_loss.json").read_text())
    losses = DetectionLoss(tiny.detect, hyp)(tiny(forward["x"]).raw, forward["targets"])
    assert [part.item() for part in losses] == pytest.approx(figures["box_obj_cls"], rel=1e-5)
    assert losses.total.item() * 2 == pytest.approx(figures["total_times_batch"], rel=1e-5)
    (losses.total * 2).backward()
    norms = {name: weight.grad.norm().item() for name, weight in tiny.named_parameters() if weight.grad is not None}
    assert norms == pytest.approx(figures["grad_norm"], rel=1e-4)


@pytest.mark.parametrize("variant", ["focal", "smoothing", "pos_weight", "anchor_t"])
def test_variants_of_the_loss_are_yolov5s(
    golden: Path, tiny: Network, forward: dict[str, Tensor], hyp: Hyperparameters, variant: str
) -> None:
    figures = json.loads((golden / "loss_variants.json").read_text())[variant]
    changed = dataclasses.replace(hyp, **figures["hyp"])
    losses = DetectionLoss(tiny.detect, changed)(tiny(forward["x"]).raw, forward["targets"])
    assert [part.item() for part in losses] == pytest.approx(figures["box_obj_cls"], rel=1e-5)
    assert losses.total.item() * 2 == pytest.approx(figures["total_times_batch"], rel=1e-5)


# assignment


def in_cells(x: float, y: float, width: float = 2, height: float = 2, frame: int = 0, label: int = 0) -> list[float]:
    """A normalised row of a box that is given in cells."""
    return [frame, label, x / COLUMNS, y / ROWS, width / COLUMNS, height / ROWS]


@pytest.mark.parametrize(
    ("x", "y", "cells"),
    [
        (3.5, 4.5, {(4, 3)}),
        (3.2, 4.5, {(4, 3), (4, 2)}),
        (3.5, 4.2, {(4, 3), (3, 3)}),
        (3.8, 4.5, {(4, 3), (4, 4)}),
        (3.5, 4.8, {(4, 3), (5, 3)}),
        (3.2, 4.8, {(4, 3), (4, 2), (5, 3)}),
        (3.8, 4.2, {(4, 3), (4, 4), (3, 3)}),
        (0.2, 4.5, {(4, 0)}),
        (15.8, 4.5, {(4, 15)}),
        (3.5, 0.2, {(0, 3)}),
        (3.5, 7.8, {(7, 3)}),
        (0.8, 7.2, {(7, 0), (7, 1), (6, 0)}),
        (16.0, 8.0, {(7, 15)}),
        (0.0, 0.0, {(0, 0)}),
    ],
    ids=[
        "middle", "left", "top", "right", "bottom", "left bottom", "right top", "frame's left", "frame's right",
        "frame's top", "frame's bottom", "away from the border", "frame's corner", "frame's origin",
    ],
)  # fmt: skip
def test_a_box_is_taken_by_its_cell_and_the_neighbours_it_is_near(x: float, y: float, cells: set[Any]) -> None:
    boxes = torch.tensor([in_cells(x, y, 3, 2, frame=5, label=2)])
    found = assign(boxes, torch.tensor([[2.0, 2.0]]), (ROWS, COLUMNS), 4.0)
    assert set(zip(found.row.tolist(), found.column.tolist(), strict=True)) == cells
    assert set(found.frame.tolist()) == {5} and set(found.classes.tolist()) == {2} and set(found.anchor.tolist()) == {0}
    place = torch.stack((found.column, found.row), 1) + found.boxes[:, :2]
    torch.testing.assert_close(place, torch.tensor([[x, y]]).expand_as(place))
    assert found.boxes[:, 2:].tolist() == [[3, 2]] * len(found.frame)
    assert found.anchors.tolist() == [[2, 2]] * len(found.frame)


@pytest.mark.parametrize(
    ("size", "threshold", "taken"),
    [
        ((4, 4), 4.0, {0, 1}),  # 16 / 4 is the threshold itself
        ((4, 4), 2.0, {1}),
        ((4, 4), 4.01, {0, 1, 2}),
        ((2, 8), 4.0, {1}),  # both sides count
        ((8, 8), 4.0, {1, 2}),
        ((0.4, 4), 4.0, set()),
        ((0, 0), 4.0, set()),
    ],
)
def test_anchors_take_boxes_within_a_factor_of_the_threshold(
    size: tuple[float, float], threshold: float, taken: set[int]
) -> None:
    anchors = torch.tensor([[2.0, 2.0], [4.0, 4.0], [16.0, 16.0]])
    found = assign(torch.tensor([in_cells(3.5, 4.5, *size)]), anchors, (ROWS, COLUMNS), threshold)
    assert sorted(found.anchor.tolist()) == sorted(taken)
    assert torch.equal(found.anchors, anchors[found.anchor])


def test_no_boxes_are_taken_by_none() -> None:
    found = assign(NO_BOXES, torch.tensor([[2.0, 2.0]]), (ROWS, COLUMNS), 4.0)
    assert all(len(field) == 0 for field in found)


# the detection loss


def test_without_boxes_only_objectness_is_learned(detect: Detect, hyp: Hyperparameters) -> None:
    raw = maps(detect)
    losses = DetectionLoss(detect, hyp)(raw, NO_BOXES)
    expected = sum(w * F.softplus(level[..., 4]).mean().item() for w, level in zip((4.0, 1.0, 0.4), raw, strict=True))
    assert losses.box == 0 and losses.cls == 0
    assert losses.obj.item() == pytest.approx(hyp.obj * expected, rel=1e-5)
    losses.total.backward()
    for gradient in gradients(raw):
        assert (gradient[..., 4] > 0).all()
        assert gradient[..., :4].count_nonzero() == gradient[..., 5:].count_nonzero() == 0


def test_boxes_and_classes_are_learned_where_a_box_is_and_nowhere_else(detect: Detect, hyp: Hyperparameters) -> None:
    raw = maps(detect)
    DetectionLoss(detect, hyp)(raw, torch.tensor([in_cells(3.5, 4.5, 1, 1, frame=1, label=3)])).total.backward()
    touched = [level[..., :4].abs().sum(-1).nonzero().tolist() for level in gradients(raw)]
    # 8 x 8 pixels at (28, 36): by both anchors of stride 8; on stride 16, 32 pixels are exactly 4 times as large
    assert touched == [[[1, 0, 4, 3], [1, 1, 4, 3]], [], []]
    assert (gradients(raw)[0][1, :, 4, 3, 5:] * torch.tensor([1, 1, 1, -1]) > 0).all()  # towards class 3


def test_a_right_prediction_costs_nothing(detect: Detect, hyp: Hyperparameters) -> None:
    raw = [torch.full_like(level, -40.0) for level in maps(detect)]
    for anchor, size in enumerate((8, 16)):  # a box of 12 x 12 pixels: side = (2 sigmoid)^2 x anchor
        sigmoid = (12 / size) ** 0.5 / 2
        logit = float(np.log(sigmoid / (1 - sigmoid)))
        raw[0][0, anchor, 4, 3] = torch.tensor([0.0, 0, logit, logit, 40, -40, 40, -40, -40])
    sigmoid = (12 / 32) ** 0.5 / 2
    logit = float(np.log(sigmoid / (1 - sigmoid)))
    for row, column, x, y in ((2, 1, 0.75, 0.25), (2, 2, -0.25, 0.25), (1, 1, 0.75, 1.25)):
        centre = [float(np.log((v + 0.5) / 2 / (1 - (v + 0.5) / 2))) for v in (x, y)]
        raw[1][0, 0, row, column] = torch.tensor([*centre, logit, logit, 40, -40, 40, -40, -40])
    losses = DetectionLoss(detect, hyp)(raw, torch.tensor([in_cells(3.5, 4.5, 1.5, 1.5, label=1)]))
    assert [part.item() for part in losses] == pytest.approx([0, 0, 0], abs=1e-5)


def test_objectness_is_taught_the_overlap(detect: Detect, hyp: Hyperparameters) -> None:
    raw = maps(detect)
    losses = DetectionLoss(detect, hyp)(raw, torch.tensor([in_cells(3.5, 4.5, 1, 1)]))
    losses.obj.backward()
    rows = raw[0][0, :, 4, 3].detach().sigmoid()
    anchors = torch.tensor([[1.0, 1.0], [2.0, 2.0]])
    predicted = torch.cat((rows[:, :2] * 2 - 0.5, (rows[:, 2:4] * 2) ** 2 * anchors), 1)
    overlap = pair_iou(predicted, torch.tensor([[0.5, 0.5, 1, 1]]).expand(2, 4), "ciou").clamp(0)
    cells = 2 * 2 * ROWS * COLUMNS
    expected = hyp.obj * 4.0 * (rows[:, 4] - overlap) / cells
    torch.testing.assert_close(gradients(raw)[0][0, :, 4, 3, 4], expected, rtol=1e-4, atol=1e-9)
    assert gradients(raw)[0][..., :4].count_nonzero() == 0  # the overlap itself is not pulled


def test_a_box_given_twice_costs_as_much_as_once(detect: Detect, hyp: Hyperparameters) -> None:
    loss, raw, box = DetectionLoss(detect, hyp), maps(detect), in_cells(3.2, 4.8, label=2)
    once, twice = loss(raw, torch.tensor([box])), loss(raw, torch.tensor([box, box]))
    assert [part.item() for part in twice] == pytest.approx([part.item() for part in once], rel=1e-5)


def test_two_boxes_of_a_cell_both_count(detect: Detect, hyp: Hyperparameters) -> None:
    loss, raw = DetectionLoss(detect, hyp), maps(detect)
    one, other = in_cells(3.5, 4.5, 1, 1, label=0), in_cells(3.5, 4.5, 1.25, 1, label=3)
    each = [loss(raw, torch.tensor([box])) for box in (one, other)]
    both = loss(raw, torch.tensor([one, other]))
    assert both.box.item() == pytest.approx((each[0].box + each[1].box).item() / 2, rel=1e-5)
    assert both.cls.item() == pytest.approx((each[0].cls + each[1].cls).item() / 2, rel=1e-5)


def test_a_single_class_has_no_class_loss(hyp: Hyperparameters) -> None:
    detect = Detect(1, [[8, 8]], (8,), (8,))
    losses = DetectionLoss(detect, hyp)([torch.randn(1, 1, ROWS, COLUMNS, 6)], torch.tensor([in_cells(3.5, 4.5)]))
    assert losses.cls == 0 and losses.box > 0


def test_gains_are_factors_of_the_parts(detect: Detect, hyp: Hyperparameters) -> None:
    boxes = torch.tensor([in_cells(3.2, 4.8), in_cells(9.5, 2.1, 6, 3, frame=1, label=2)])
    plain = DetectionLoss(detect, dataclasses.replace(hyp, box=1, obj=1, cls=1))(maps(detect), boxes)
    scaled = DetectionLoss(detect, dataclasses.replace(hyp, box=2, obj=3, cls=5))(maps(detect), boxes)
    for got, factor, part in zip(scaled, (2, 3, 5), plain, strict=True):
        torch.testing.assert_close(got, factor * part)
    torch.testing.assert_close(scaled.total, 2 * plain.box + 3 * plain.obj + 5 * plain.cls)


def test_anchors_that_change_later_hold_at_once(detect: Detect, hyp: Hyperparameters) -> None:
    loss, raw, boxes = DetectionLoss(detect, hyp), maps(detect), torch.tensor([in_cells(3.5, 4.5, 6, 2)])
    detect.set_anchors(torch.tensor([[[48.0, 16], [9, 9]], [[90, 30], [80, 90]], [[300, 100], [200, 200]]]))
    fresh = DetectionLoss(detect, hyp)
    assert torch.equal(loss(raw, boxes).box, fresh(raw, boxes).box)
    detect.set_anchors(torch.full((3, 2, 2), 5000.0))
    assert loss(raw, boxes).box == 0


def test_maps_in_bfloat16_give_the_loss_in_full_precision(
    tiny: Network, forward: dict[str, Tensor], hyp: Hyperparameters
) -> None:
    loss = JointLoss.of(tiny, hyp, 640)
    raw, views = tiny(forward["x"]).raw, torch.tensor([-1, -1])
    half = [level.detach().bfloat16().requires_grad_() for level in raw]
    full, low = (loss(levels, None, forward["targets"], views).det for levels in (raw, half))
    assert full is not None and low is not None
    assert low.dtype == torch.float32 and low.item() == pytest.approx(full.item(), rel=0.01)
    low.backward()
    assert all(level.grad is not None and level.grad.dtype == torch.bfloat16 for level in half)
    assert all(level.grad is not None and level.grad.isfinite().all() and level.grad.any() for level in half)


# both


@pytest.mark.parametrize("levels", [2, 3])
def test_gains_are_scaled_to_levels_classes_and_image_size(
    tiny_description: dict[str, Any], hyp: Hyperparameters, levels: int
) -> None:
    tiny_description["head"][-1][0] = [17, 20, 23][:levels]
    tiny_description["anchors"] = tiny_description["anchors"][:levels]
    loss = JointLoss.of(Network(tiny_description, nc=6), hyp, image_size=320)
    assert loss.detection is not None
    scaled = loss.detection.hyp
    assert (scaled.box, scaled.cls, scaled.obj) == pytest.approx(
        (hyp.box * 3 / levels, hyp.cls * 6 / 80 * 3 / levels, hyp.obj * (320 / 640) ** 2 * 3 / levels)
    )
    assert dataclasses.replace(scaled, box=hyp.box, cls=hyp.cls, obj=hyp.obj) == hyp


def test_the_joint_loss_is_both_losses_unweighted(
    joint: Network, forward: dict[str, Tensor], hyp: Hyperparameters
) -> None:
    output, views = joint(forward["x"]), torch.tensor([2, -1])
    losses = JointLoss.of(joint, hyp, 320)(output.raw, output.view, forward["targets"], views)
    parts = DetectionLoss(joint.detect, hyp.scaled(3, 4, 320))(output.raw, forward["targets"])
    assert losses.parts is not None and losses.det is not None
    assert [part.item() for part in losses.parts] == [part.item() for part in parts]
    assert torch.equal(losses.det, parts.total)
    assert output.view is not None and losses.view is not None
    torch.testing.assert_close(losses.view, F.cross_entropy(output.view[:1], views[:1]))


def test_a_detector_alone_has_no_view_loss(tiny: Network, forward: dict[str, Tensor], hyp: Hyperparameters) -> None:
    output = tiny(forward["x"])
    losses = JointLoss.of(tiny, hyp, 640)(output.raw, output.view, forward["targets"], torch.tensor([1, 0]))
    assert losses.view is None and losses.det is not None and losses.det > 0


class Together:
    """Sums over processes that run one after the other: the first round listens, the second answers."""

    def __init__(self) -> None:
        self.heard: list[Tensor] = []
        self.answers: Iterator[Tensor] | None = None

    def __call__(self, tensor: Tensor) -> Tensor:
        if self.answers is not None:
            return next(self.answers).clone()
        self.heard.append(tensor.clone())
        return tensor


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_shares_of_two_processes_sum_to_the_loss_of_the_whole_batch(joint: Network, cut: int) -> None:
    hyp = dataclasses.replace(
        load_hyperparameters(ROOT / "hyp" / "joint_training_rules.yaml"), view_class_weights=(1.0, 2.0, 0.5)
    )
    whole = JointLoss.of(joint, hyp, 64)
    torch.manual_seed(0)
    output = joint(torch.rand(4, 3, 64, 64))
    assert output.view is not None
    boxes = torch.rand(9, 6) * 0.4 + 0.2
    boxes[:, 0], boxes[:, 1] = torch.tensor([0, 0, 0, 1, 2, 3, 3, 3, 3]), torch.arange(9) % 4
    views = torch.tensor([0, 1, -1, 2])
    expected = whole(output.raw, output.view, boxes, views)
    parts = []
    for rows in (slice(0, cut), slice(cut, 4)):
        own = boxes[(boxes[:, 0] >= rows.start) & (boxes[:, 0] < rows.stop)].clone()
        own[:, 0] -= rows.start
        parts.append(([level[rows] for level in output.raw], output.view[rows], own, views[rows]))
    listeners = [Together(), Together()]
    for listener, part in zip(listeners, parts, strict=True):
        whole.over(listener)(*part)
    sums = [first + second for first, second in zip(*(listener.heard for listener in listeners), strict=True)]
    shares = []
    for listener, part in zip(listeners, parts, strict=True):
        listener.answers = iter(sums)
        shares.append(whole.over(listener)(*part))
    assert {share.frames for share in shares} == {expected.frames} == {4}
    torch.testing.assert_close(sum(share.columns() for share in shares), expected.columns())
    heads = [*output.raw, output.view]
    gradients = torch.autograd.grad(_summed(shares), heads, retain_graph=True)
    for mine, other in zip(gradients, torch.autograd.grad(_summed([expected]), heads), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-8)


def _summed(shares: Sequence[TaskLosses]) -> Tensor:
    return torch.stack([loss for share in shares for loss in share.by_task()]).sum()
