"""Our mAP beside pycocotools': equal where the definitions are, and each difference by itself.

The definitions differ in how the curve is integrated (see docs/evaluation.md) and, where labels of a class overlap, in
which detection goes to which label.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

import val
from models.yolo import Network
from tests.scripts import phantom_yaml
from utils import checkpoint, outcomes
from utils.boxes import xywh_to_xyxy
from utils.config import Hyperparameters, load_dataset_config
from utils.dataset import EchoDataset, prepare
from utils.metrics import average_precision, detection_figures, match

Floats = NDArray[np.float64]
NAMES = ("AR", "MR", "PR", "TR")
WIDTH, HEIGHT = 640, 480
POINTS = np.linspace(0, 1, 101)


class Frame(NamedTuple):
    detections: Tensor  # (n, 6) as from non-maximum suppression
    labels: Tensor  # (m, 5) class, corners


def frame(detections: Sequence[Sequence[float]], labels: Sequence[Sequence[float]]) -> Frame:
    """Detections in any order."""
    found = torch.tensor(detections, dtype=torch.float32).reshape(-1, 6)
    order = found[:, 4].argsort(descending=True, stable=True)
    return Frame(found[order], torch.tensor(labels, dtype=torch.float32).reshape(-1, 5))


def simulated(frames: int = 700, false: int = 20, overlapping: bool = False, seed: int = 0) -> list[Frame]:
    """An imperfect detector: boxes off their place, some missed, doubled or of another class, and false ones.

    Args:
        false: boxes a frame, mostly of low confidence.
        overlapping: labels lie upon each other; else each has a cell of the frame to itself.
    """
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(frames):
        detections: list[list[float]] = []
        labels: list[list[float]] = []
        for cell in rng.permutation(12)[: rng.integers(0, 9)]:
            centre = (
                rng.normal((320, 240), (60, 40)) if overlapping else ((cell % 4 + 0.5) * 160, (cell // 4 + 0.5) * 160)
            )
            size, label = rng.uniform(40, 130, 2), float(rng.integers(len(NAMES)))
            corners = np.concatenate((centre - size / 2, centre + size / 2))
            labels.append([label, *corners])
            for copy in range(int(rng.random() < 0.9) * (1 + int(rng.random() < 0.3))):
                error = rng.gamma(2, 0.04)
                moved = corners + rng.normal(0, error, 4) * np.tile(size, 2) / 1.5
                confidence = np.clip(rng.beta(4, 2) * (1 - error) * (0.6 if copy else 1), 0.001, 0.999)
                detections.append(
                    [*moved, confidence, label if rng.random() < 0.95 else float(rng.integers(len(NAMES)))]
                )
        for _ in range(rng.poisson(false)):
            size = rng.uniform(30, 130, 2)
            corner = rng.uniform(0, (WIDTH, HEIGHT) - size)
            confidence = 0.001 + 0.999 * rng.beta(1, 9)
            detections.append([*corner, *(corner + size), confidence, float(rng.integers(len(NAMES)))])
        found.append(frame(detections, labels))
    return found


class Columns(NamedTuple):
    """What :func:`utils.metrics.detection_figures` asks for."""

    correct: NDArray[np.bool_]
    confidence: Floats
    predicted: Floats
    labelled: Floats


def columns(frames: Sequence[Frame]) -> Columns:
    correct = np.concatenate([match(each.detections, each.labels) for each in frames])
    found = torch.cat([each.detections for each in frames]).double().numpy()
    return Columns(
        correct, found[:, 4], found[:, 5], torch.cat([each.labels for each in frames])[:, 0].double().numpy()
    )


def own_ap(frames: Sequence[Frame]) -> Floats:
    """(k, 10), ours."""
    return detection_figures(*columns(frames)).ap


def coco_ap(truth: dict[str, Any] | str, results: list[dict[str, Any]] | str, max_det: int = 300) -> Floats:
    """(k, 10), pycocotools', over boxes of every area."""
    if isinstance(truth, str):
        labels = COCO(truth)
    else:
        labels = COCO()
        labels.dataset = truth
        labels.createIndex()
    judge = COCOeval(labels, labels.loadRes(results), "bbox")
    judge.params.maxDets, judge.params.areaRng, judge.params.areaRngLbl = [max_det], [[0, 1e10]], ["all"]
    judge.evaluate()
    judge.accumulate()
    precision = judge.eval["precision"][:, :, :, 0, 0]
    labelled = (precision > -1).all((0, 1))  # -1: a class without labels, which our mean leaves out, too
    return precision[:, :, labelled].mean(1).T


def coco_of(frames: Sequence[Frame], max_det: int = 300, ids: Sequence[int] | None = None) -> Floats:
    """pycocotools' of frames whose image ids are their places, or those given."""
    images = range(len(frames)) if ids is None else ids
    labels: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image, each in zip(images, frames, strict=True):
        for label, x1, y1, x2, y2 in each.labels.tolist():
            box, area = [x1, y1, x2 - x1, y2 - y1], (x2 - x1) * (y2 - y1)
            row = {"id": len(labels) + 1, "image_id": image, "category_id": int(label), "iscrowd": 0}
            labels.append(row | {"bbox": box, "area": area})
        for x1, y1, x2, y2, score, label in each.detections.tolist():
            box = [x1, y1, x2 - x1, y2 - y1]
            results.append({"image_id": image, "category_id": int(label), "bbox": box, "score": score})
    categories = [{"id": number, "name": name} for number, name in enumerate(NAMES)]
    truth = {"images": [{"id": image} for image in images], "annotations": labels, "categories": categories}
    return coco_ap(truth, results, max_det)


class Areas(NamedTuple):
    """Under one curve, by definitions that lead from COCO's to ours."""

    coco: float  # mean of 101 precisions, each that of the first recall at or above the point; 0 beyond the last
    trapezoid: float  # the same values by the trapezoid rule
    line: float  # straight between recalls instead of steps, and at a recall that is a point the step's foot
    ours: float  # and straight from the last recall down to precision 0 at recall 1, also where that is the last


def areas(correct: NDArray[np.bool_], labels: int) -> Areas:
    """Of detections in order of confidence."""
    hits = correct.cumsum()
    recall, precision = hits / labels, hits / np.arange(1, len(hits) + 1)
    ours, line_recall, line_precision = average_precision(recall, precision)
    steps = np.append(line_precision[1:-1], 0.0)[np.searchsorted(recall, POINTS)]
    line = np.where(recall[-1] >= POINTS, np.interp(POINTS, line_recall[:-1], line_precision[:-1]), 0)
    trapezoid, straight = (float(np.trapezoid(values, POINTS)) for values in (steps, line))
    return Areas(float(steps.mean()), trapezoid, straight, ours)


def all_areas(found: Columns) -> Floats:
    """(k, 10, 4): :class:`Areas` of each class and IoU threshold."""
    order = np.argsort(-found.confidence, kind="stable")
    correct, predicted = found.correct[order], found.predicted[order]
    classes, counts = np.unique(found.labelled, return_counts=True)
    rows = [
        [areas(column, count) for column in correct[predicted == label].T]
        for label, count in zip(classes, counts, strict=True)
    ]
    return np.array(rows)


# many labels, each apart from the others: every detection has one label to go to


@pytest.fixture(scope="module")
def many() -> list[Frame]:
    frames = simulated()
    assert sum(len(each.labels) for each in frames) > 2500
    return frames


@pytest.fixture(scope="module")
def beside(many: list[Frame]) -> Floats:
    """(k, 10), pycocotools' of the same."""
    return coco_of(many)


def test_the_same_curve_integrated_as_coco_does_gives_cocos_figure(many: list[Frame], beside: Floats) -> None:
    np.testing.assert_allclose(all_areas(columns(many))[..., 0], beside, rtol=0, atol=1e-6)


def test_our_figure_is_cocos_and_three_differences_of_integration(many: list[Frame], beside: Floats) -> None:
    ours, parts = own_ap(many), all_areas(columns(many))
    np.testing.assert_allclose(parts[..., 3], ours, rtol=1e-12)
    trapezoid, line, tail = np.moveaxis(np.diff(parts), -1, 0)
    np.testing.assert_allclose(ours - trapezoid - tail, beside, rtol=0, atol=1e-3)  # each class, each threshold
    assert np.abs(line).max() < 1e-3 and (tail >= 0).all()
    assert (np.abs(trapezoid) <= 0.005).all()
    assert abs(line[:, 0].mean()) < 1e-4 and abs(line.mean()) < 1e-4  # mAP50, mAP50-95


@pytest.mark.parametrize(("false", "tail"), [(2, (0.02, 0.06)), (20, (0.005, 0.02)), (150, (0.0005, 0.004))])
def test_the_lower_the_confidences_that_are_kept_the_nearer_the_figures(false: int, tail: tuple[float, float]) -> None:
    parts = all_areas(columns(simulated(frames=200, false=false)))
    assert tail[0] < np.diff(parts).mean((0, 1))[2] < tail[1]


# each difference by itself


def box(left: float, confidence: float | None = None, label: int = 0, width: float = 100) -> list[float]:
    """A detection, or a label where no confidence is given."""
    corners = [left, 0.0, left + width, 100.0]
    return [label, *corners] if confidence is None else [*corners, confidence, label]


def test_beyond_the_last_recall_coco_counts_nothing_and_ours_a_triangle() -> None:
    """Two of three labels found, nothing false."""
    found = [frame([box(0, 0.9), box(200, 0.8)], [box(0), box(200), box(400)])]
    assert own_ap(found)[0] == pytest.approx([2 / 3 + 1 / 6] * 10, abs=1e-4)
    assert coco_of(found)[0] == pytest.approx([67 / 101] * 10)
    assert areas(np.array([True, True]), 3) == pytest.approx((67 / 101, 0.665, 0.665, 5 / 6), abs=1e-4)


def test_a_detection_whose_best_label_is_taken_gets_the_next_one_from_coco_only() -> None:
    labels = [box(0), box(30)]
    found = [frame([box(1, 0.9), box(14, 0.8)], labels)]  # both overlap the first label most, IoU 0.98 and 0.75
    assert columns(found).correct[:, 0].tolist() == [True, False]
    assert coco_of(found)[0, 0] == 1
    assert own_ap(found)[0, 0] == pytest.approx(0.5 + 0.5 / 4, abs=0.005)


def test_labels_that_overlap_change_little() -> None:
    frames = simulated(overlapping=True)
    difference = coco_of(frames) - all_areas(columns(frames))[..., 0]
    assert difference.max() > 1e-6 and (difference > -1e-4).all()  # COCO finds a label for more detections
    assert difference[:, 0].mean() < 0.005 and difference.mean() < 0.002


def test_coco_keeps_100_detections_of_a_class_in_a_frame() -> None:
    false = [box(200, 0.9 - 0.001 * i) for i in range(100)]
    found = [frame([*false, box(0, 0.5)], [box(0)])]
    assert coco_of(found, max_det=100)[0, 0] == 0
    assert coco_of(found, max_det=300)[0, 0] == pytest.approx(1 / 101)
    other_class = [[*row[:5], 1] for row in false]
    assert coco_of([frame([*other_class, box(0, 0.5)], [box(0)])], max_det=100)[0, 0] == pytest.approx(1)


def test_equal_confidences_are_ranked_by_frame_ours_as_listed_and_cocos_by_image_id() -> None:
    found = [frame([box(0, 0.5)], [box(0)]), frame([box(200, 0.5)], [box(0)])]
    first_right = areas(np.array([True, False]), 2)
    assert own_ap(found)[0, 0] == first_right.ours
    assert coco_of(found)[0, 0] == pytest.approx(first_right.coco)
    assert coco_of(found, ids=[1, 0])[0, 0] == pytest.approx(areas(np.array([False, True]), 2).coco)


def test_a_class_without_labels_counts_in_neither_mean() -> None:
    found = [frame([box(0, 0.9), box(0, 0.8, 1)], [box(0), box(200, label=2)])]
    assert coco_of(found)[:, 0] == pytest.approx([1, 0])
    assert own_ap(found)[:, 0] == pytest.approx([0.995, 0])  # the most there is: at recall 1 it has come down to 0


# the files of val.py


@pytest.fixture
def untrained(tmp_path: Path, joint: Network, hyp: Hyperparameters, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Small phantom data in small.yaml and a checkpoint that was never trained; figures are not drawn."""
    for name in ("write_figures", "write_batch_pictures"):
        monkeypatch.setattr(val, name, lambda *_: None)
    phantom_yaml(tmp_path, patients=24, frames=2)
    values = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(hyp).items()}
    checkpoint.save(tmp_path / "untrained.pt", {
        "description": joint.description, "names": list(NAMES), "view_names": ["PLAX", "PSAX", "A4C"],
        "image_size": 64, "rect": False, "hyp": values, "epoch": 0, "ema": joint.state_dict(),
    })  # fmt: skip
    return tmp_path


def validated(place: Path, name: str) -> dict[str, Any]:
    return val.run(
        weights=str(place / "untrained.pt"), data=str(place / "small.yaml"), project=str(place), name=name,
        save_json=True, conf_thres=1e-5, bootstrap=0, workers=0,
    )  # fmt: skip


def files_of(folder: Path) -> tuple[str, str]:
    return str(folder / "annotations.json"), str(folder / "predictions.json")


def test_what_val_writes_is_read_by_pycocotools(untrained: Path) -> None:
    content = validated(untrained, "raw")
    truth, results = files_of(untrained / "raw")
    ap = coco_ap(truth, results)
    assert ap.shape == (len(content["per_class"]), 10) and np.isfinite(ap).all()
    written = json.loads(Path(truth).read_text())
    assert len(written["images"]) == len(outcomes.load(untrained / "raw" / "outcomes.npz"))
    assert [row["name"] for row in written["categories"]] == list(NAMES)
    assert {row["image_id"] for row in json.loads(Path(results).read_text())} <= {
        row["id"] for row in written["images"]
    }
    for row in written["images"]:
        assert (untrained / "phantom" / row["file_name"]).is_file() and (row["height"], row["width"]) == (96, 128)


def test_pycocotools_finds_in_the_files_what_val_found(untrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A detector that knows the labels, nearly."""
    config = load_dataset_config(untrained / "small.yaml")
    prepare(config)
    dataset, rng = EchoDataset(config, "val", 64), np.random.default_rng(0)
    frames = iter(range(len(dataset)))
    confidences: Iterator[float] = iter(rng.permutation(99_999) / 1e5 + 1e-5)  # as they are written, and distinct

    def found(decoded: Tensor, *_: Any, **__: Any) -> list[Tensor]:
        each = []
        for index in (next(frames) for _ in decoded):
            labels = torch.from_numpy(dataset[index][1])
            corners = xywh_to_xyxy(labels[:, 1:] * 64)
            near = corners + torch.from_numpy(rng.normal(0, 0.8, corners.shape)).float()
            rows = [
                [*row, next(confidences), label]
                for row, label in zip(near.tolist(), labels[:, 0].tolist(), strict=True)
            ]
            rows += [
                [*rng.uniform(0, 30, 2), *rng.uniform(31, 64, 2), next(confidences) / 2, rng.integers(4)]
                for _ in range(2)
            ]
            each.append(frame(rows, []).detections)
        return each

    monkeypatch.setattr("utils.evaluation.non_max_suppression", found)
    content = validated(untrained, "near")
    kept = outcomes.load(untrained / "near" / "outcomes.npz")
    own = Columns(kept.correct, kept.confidence, kept.predicted.astype(float), kept.labelled.astype(float))
    parts = all_areas(own)
    assert len(kept.labelled) > 10 and 0.2 < content["map"] < content["map50"] < 1
    assert (content["map50"], content["map"]) == pytest.approx((parts[:, 0, 3].mean(), parts[..., 3].mean()))
    np.testing.assert_allclose(coco_ap(*files_of(untrained / "near")), parts[..., 0], rtol=0, atol=1e-6)
