"""One evaluation of a network on a split: suppression, boxes back in the file's pixels, figures."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from models.yolo import AnyModule, Output, fused
from utils.boxes import non_max_suppression, scale_boxes, xywh_to_xyxy
from utils.dataset import Batch
from utils.devices import Compute, to_float
from utils.epoch import MeanLosses, mean_losses
from utils.letterbox import Geometry
from utils.log import progress as progress_bar
from utils.loss import JointLoss
from utils.metrics import DetectionFigures, confusion_matrix, detection_figures, match
from utils.neighbours import BY_ITSELF, ClipWindow, FrameOutput, Neighbours
from utils.processes import ALONE, Processes
from utils.view_metrics import ViewFigures, view_figures


@dataclass(frozen=True)
class Thresholds:
    """Of non-maximum suppression in an evaluation; the defaults are val.py's."""

    conf: float = 0.001
    iou: float = 0.6
    max_det: int = 300
    single_class: bool = False  # boxes of all classes suppress each other and count as class 0


@dataclass(frozen=True)
class FramePrediction:
    """What was found in one frame of a dataset.

    Attributes:
        index: of the frame.
        boxes: (n, 6) x1, y1, x2, y2 in pixels of the file's frame, confidence, class.
        view: (nv,) probabilities, or None.
        correct: (n, 10) which boxes are right, from :func:`utils.metrics.match`.
    """

    index: int
    boxes: Tensor
    view: Tensor | None
    correct: NDArray[np.bool_]


@dataclass(frozen=True)
class Speed:
    """Milliseconds a frame."""

    preprocess: float
    inference: float
    nms: float


@dataclass(frozen=True)
class Evaluation:
    """Figures of a network on a split.

    Attributes:
        view: None for a network, or a split, without views.
        losses: None where no criterion was given.
        confusion: (nc + 1, nc + 1), row predicted, column true, last background.
    """

    detection: DetectionFigures
    view: ViewFigures | None
    losses: MeanLosses | None
    confusion: NDArray[np.int64]
    predictions: list[FramePrediction]
    speed: Speed


def inference_copy(network: AnyModule, compute: Compute) -> AnyModule:
    """The form in which every script evaluates a network: fused, on the device and in its layout.

    Weights are in fp32 but for those that autocast would cast at each call, which are cast here, once.
    """
    ready = fused(network).float()
    for module in ready.modules():
        if compute.amp is not None and isinstance(module, nn.Conv2d | nn.Linear):
            module.to(compute.amp)
    return compute.place(ready)


@dataclass(frozen=True, eq=False)
class _Place:
    """A frame of a dataset: how it was letterboxed, and its labels (m, 5), class and corners in pixels of the file."""

    index: int
    geometry: Geometry
    labels: Tensor
    view: int


@dataclass
class _Seen:
    """What one process has found in its batches, frame by frame."""

    found: list[FramePrediction] = field(default_factory=list)
    labelled: list[Tensor] = field(default_factory=list)
    views: list[int] = field(default_factory=list)
    losses: dict[int, list[float]] = field(default_factory=dict)  # by the first frame of each batch
    confusion: NDArray[np.int64] | int = 0
    seconds: NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))

    def take(self, outputs: Sequence[FrameOutput[_Place]], detections: Sequence[Tensor], nc: int) -> None:
        """Compare frames with their labels; ``detections`` (n, 6) are in pixels of the letterboxed frame."""
        for output, rows in zip(outputs, detections, strict=True):
            place = output.frame
            at = place.geometry
            boxes = scale_boxes(rows, (at.gain_x, at.gain_y), (at.left, at.top), at.original)
            self.labelled.append(place.labels[:, 0])
            self.views.append(place.view)
            self.confusion += confusion_matrix(boxes, place.labels, nc)
            self.found.append(FramePrediction(place.index, boxes, output.view, match(boxes, place.labels)))


@torch.inference_mode()
def evaluate(
    network: Callable[[Tensor], Output],
    loader: DataLoader[Batch],
    nc: int,
    nv: int,
    compute: Compute,
    thresholds: Thresholds,
    criterion: JointLoss | None = None,
    description: str = "validation",
    operating: float | None = None,
    processes: Processes = ALONE,
    window: ClipWindow = BY_ITSELF,
) -> Evaluation:
    """Run a network in evaluation mode over a split and compare with its labels.

    Args:
        network: gives :class:`models.yolo.Output` with decoded boxes; usually :func:`models.yolo.fused`.
        loader: of this process's batches.
        nc: number of box classes; 0 for a classifier alone, whose frames then have no boxes, labelled or found.
        nv: number of views; 0 for a detector alone.
        criterion: losses to report beside the figures, of batches that a process holds by itself.
        operating: the confidence of :func:`utils.metrics.detection_figures`.
        processes: that share the split; each of them gets the figures of all of it.
        window: frames are averaged with their neighbours in it; the loader then brings all of a clip's, in order.
            Losses are of each frame by itself in any case.
    """
    seen = _Seen(confusion=np.zeros((nc + 1, nc + 1), np.int64))
    neighbours: Neighbours[_Place] = Neighbours(window.frames)
    for batch in progress_bar(loader, description, unit="batch"):
        clock = [compute.now()]
        images = to_float(batch.images, compute)
        clock.append(compute.now())
        with compute.autocast():
            output = network(images)
        clock.append(compute.now())
        frames = list(_by_frame(output, batch, window))
        begin = compute.now()
        ready = [done for frame in frames for done in neighbours.add(frame)]
        detections = _detections(ready, thresholds)
        clock.append(clock[-1] + compute.now() - begin)
        seen.seconds += np.diff(clock)
        if criterion is not None:
            losses = criterion(output.raw, output.view, batch.boxes, batch.views)
            seen.losses[batch.indices[0]] = losses.columns().tolist()
        seen.take(ready, detections, nc)
    begin = compute.now()
    rest = neighbours.flush()
    detections = _detections(rest, thresholds)
    seen.seconds[2] += compute.now() - begin
    seen.take(rest, detections, nc)
    return _evaluation(_joined(processes.gather(seen)), nv, criterion is not None, operating)


def _by_frame(output: Output, batch: Batch, window: ClipWindow) -> Iterator[FrameOutput[_Place]]:
    """What a network says of each frame of a batch; of one without boxes the frames have no labels, either."""
    shape = (batch.images.shape[2], batch.images.shape[3])
    labels = batch.boxes if output.boxes is not None else batch.boxes[:0]
    probabilities = None if output.view is None else output.view.float().softmax(1).cpu()
    for row, (index, geometry) in enumerate(zip(batch.indices, batch.geometries, strict=True)):
        own = _in_file_pixels(labels[labels[:, 0] == row, 1:], shape, geometry)
        clip = window.clip_of(index)
        yield FrameOutput(
            frame=_Place(index, geometry, own, int(batch.views[row])),
            clip=None if clip is None else (clip, geometry),  # cells are those of the same place only where it fits
            boxes=None if output.boxes is None else output.boxes[row].float(),
            view=None if probabilities is None else probabilities[row],
        )


def _detections(outputs: Sequence[FrameOutput[_Place]], thresholds: Thresholds) -> list[Tensor]:
    """Boxes (n, 6) of each frame that suppression keeps, on the processor."""
    kept: list[Tensor] = []
    for _, group in itertools.groupby(outputs, key=lambda output: None if output.boxes is None else output.boxes.shape):
        alike = list(group)
        boxes = [output.boxes for output in alike if output.boxes is not None]
        if not boxes:
            kept += [torch.zeros(0, 6)] * len(alike)
            continue
        rows = non_max_suppression(
            torch.stack(boxes), thresholds.conf, thresholds.iou, agnostic=thresholds.single_class, multi_label=True,
            max_det=thresholds.max_det,
        )  # fmt: skip
        kept += torch.cat(rows).cpu().split([len(of_frame) for of_frame in rows])
    if thresholds.single_class:
        for of_frame in kept:
            of_frame[:, 5] = 0
    return kept


def _joined(parts: Sequence[_Seen]) -> _Seen:
    """What all processes have found, in the order of the frames."""
    if len(parts) == 1:
        return parts[0]
    whole = _Seen()
    rows = [row for part in parts for row in zip(part.found, part.labelled, part.views, strict=True)]
    for found, labelled, view in sorted(rows, key=lambda row: row[0].index):
        whole.found.append(found)
        whole.labelled.append(labelled)
        whole.views.append(view)
    for part in parts:
        whole.losses |= part.losses
        whole.confusion = whole.confusion + part.confusion
        whole.seconds = whole.seconds + part.seconds
    return whole


def _evaluation(seen: _Seen, nv: int, with_losses: bool, operating: float | None) -> Evaluation:
    view = None
    if nv and any(true >= 0 for true in seen.views):
        view = view_figures([int(f.view.argmax()) for f in seen.found if f.view is not None], seen.views, nv)
    losses = torch.tensor([seen.losses[first] for first in sorted(seen.losses)])
    assert isinstance(seen.confusion, np.ndarray)
    return Evaluation(
        detection=_detection(seen.found, seen.labelled, operating),
        view=view,
        losses=mean_losses(losses.sum(0), len(losses)) if with_losses else None,
        confusion=seen.confusion,
        predictions=seen.found,
        speed=Speed(*(seen.seconds * 1000 / max(len(seen.found), 1)).tolist()),
    )


def _detection(
    found: Sequence[FramePrediction], labelled: Sequence[Tensor], operating: float | None
) -> DetectionFigures:
    detections = torch.cat([frame.boxes for frame in found]).double().numpy()
    correct = np.concatenate([frame.correct for frame in found])
    return detection_figures(
        correct, detections[:, 4], detections[:, 5], torch.cat(list(labelled)).double().numpy(), operating
    )


def _in_file_pixels(labels: Tensor, shape: tuple[int, int], geometry: Geometry) -> Tensor:
    """Labels (m, 5) class, normalised centre form -> class, corners in pixels of the file's frame."""
    height, width = shape
    corners = xywh_to_xyxy(labels[:, 1:] * labels.new_tensor([width, height, width, height]))
    corners = scale_boxes(corners, (geometry.gain_x, geometry.gain_y), (geometry.left, geometry.top), geometry.original)
    return torch.cat((labels[:, :1], corners), 1)
