"""One epoch of training and one evaluation: plain functions that are handed everything they use."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from models.balancer import TASKS, Balancer
from models.border import Cut, find_border
from models.dual import Trainable
from models.step_gradients import StepFigures, StepGradients
from models.yolo import AnyModule, Output, fused
from utils.boxes import non_max_suppression, scale_boxes, xywh_to_xyxy
from utils.dataset import Batch
from utils.devices import Compute
from utils.epoch import BAD_STEPS, EpochProgress, MeanLosses, NotFiniteError, Waiting, mean_losses
from utils.letterbox import Geometry
from utils.log import progress as progress_bar
from utils.loss import JointLoss
from utils.metrics import DetectionFigures, confusion_matrix, detection_figures, match
from utils.optim import RunningMean, set_rates
from utils.processes import ALONE, Processes
from utils.schedule import Schedule
from utils.view_metrics import ViewFigures, view_figures


@dataclass(frozen=True)
class MultiScale:
    """Batches resized at random between half and one and a half times their size, by (seed, iteration)."""

    seed: int
    stride: int

    def __call__(self, images: Tensor, iteration: int) -> Tensor:
        """(B, 3, H, W) -> (B, 3, H', W') with sides of whole strides."""
        factor = np.random.default_rng((self.seed, iteration)).uniform(0.5, 1.5)
        size = [max(round(side * factor / self.stride), 1) * self.stride for side in images.shape[2:]]
        return F.interpolate(images, size=size, mode="bilinear", align_corners=False)


def train_one_epoch(
    network: Trainable,
    loader: DataLoader[Batch],
    criterion: JointLoss,
    optimizer: torch.optim.Optimizer,
    balancer: Balancer,
    running_mean: RunningMean,
    schedule: Schedule,
    compute: Compute,
    epoch: int,
    clip_grad_norm: float = 10.0,
    multi_scale: MultiScale | None = None,
    record: Callable[[dict[str, float]], None] | None = None,
    interference_every: int = 0,
    progress: EpochProgress | None = None,
    after_step: Callable[[EpochProgress], None] | None = None,
    processes: Processes = ALONE,
) -> EpochProgress:
    """Train on every batch of the loader once.

    The total is batch x sum of weight x loss; its gradient passes the border between trunk and heads as the balancer
    says. Gradients are summed over the schedule's number of batches, and over all processes; the last step of the epoch
    takes what is there, so that nothing is carried from one epoch to the next.

    Args:
        loader: of what is left of the epoch.
        epoch: 0-based; places the epoch in the schedule.
        clip_grad_norm: gradients are scaled down to this norm; 0 leaves them.
        record: given a row of figures after each step of the optimizer, see :func:`balance_row`.
        interference_every: steps between two that also measure each task's gradient over the whole trunk; 0: never.
        progress: of the epoch before it was cut off; is brought up to date.
        after_step: called after each step, taken or skipped; may save, and may raise to end the epoch there.
        processes: that hold each batch together.

    Raises:
        NotFiniteError: :data:`BAD_STEPS` steps in a row could not be taken.
    """
    network.train()
    border = find_border(network)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state = progress or EpochProgress()
    batches = len(loader)
    step, waiting = StepGradients(len(border.branches), processes.sum), Waiting(compute.device)
    bar = progress_bar(loader, f"epoch {epoch + 1}/{schedule.epochs}", batches, "batch", initial=state.batches)
    for number, batch in enumerate(bar, state.batches):
        iteration = epoch * batches + number
        rates = schedule.at(iteration, epoch)
        set_rates(optimizer, rates)
        processes.seed(iteration)
        images = to_float(batch.images, compute)
        if multi_scale is not None:
            images = multi_scale(images, iteration)
        with compute.autocast():
            cut = Cut(network, border, images, processes.sum)
        losses = criterion(cut.output.raw, cut.output.view, batch.boxes, batch.views)
        waiting.add(losses.columns(), batch.indices)
        # weights change between optimizer steps only, so that one step's gradients share them
        weights = balancer.weights.clone()
        whole = interference_every > 0 and running_mean.updates % interference_every == 0
        tasks = losses.by_task()
        gradients = cut.backward(tasks, weights.tolist(), balancer.at_border, losses.frames, whole)
        step.add(torch.stack(tasks), gradients, losses.frames, losses.frames)
        del cut, losses, tasks, gradients  # what they hold of the graph is not to outlast the next forward pass
        if waiting.batches >= rates.accumulate or number == batches - 1:
            processes.sum_gradients(parameters)
            figures = step.figures()
            norm = nn.utils.clip_grad_norm_(parameters, clip_grad_norm or math.inf)
            good = bool(norm.isfinite()) and bool(figures.losses.isfinite().all())
            waiting.settle(state, good, processes)
            if good:
                optimizer.step()
                processes.average_statistics(network)
                running_mean.update(network)
                balancer.step(figures.losses, figures.norms)
                if record is not None:
                    layers = border.shared if interference_every else ()
                    record(balance_row(epoch, running_mean.updates, figures, weights, balancer, layers))
            else:
                restore_buffers(network, running_mean.network)
            optimizer.zero_grad(set_to_none=True)
            step, waiting = StepGradients(len(border.branches), processes.sum), Waiting(compute.device)
            if state.in_a_row >= BAD_STEPS:
                raise NotFiniteError(state.in_a_row, state.bad_frames)
            if after_step is not None:
                after_step(state)
        if not bar.disable and bar.last_print_n == bar.n and state.counted:  # it has just been drawn: no more often
            bar.set_postfix_str(_words(state.losses), refresh=False)
    bar.close()
    return state


@torch.no_grad()
def restore_buffers(network: nn.Module, healthy: nn.Module) -> None:
    """Replace running statistics that a bad batch has made infinite or NaN by the averaged network's."""
    averaged = dict(healthy.named_buffers())
    for name, buffer in network.named_buffers():
        if not buffer.isfinite().all():
            buffer.copy_(averaged[name])


def balance_row(
    epoch: int, step: int, figures: StepFigures, weights: Tensor, balancer: Balancer, layers: Sequence[int] = ()
) -> dict[str, float]:
    """A row of balance.csv; what was not measured is NaN.

    Args:
        epoch: 0-based.
        step: of the optimizer, counted from 1 over the whole training.
        weights: (T,) that the step was made with.
        balancer: after it has seen the step.
        layers: that are compared one by one, now and then; a column each.
    """
    columns = {
        "loss": figures.losses, "initial_loss": balancer.initial_losses, "rate": balancer.rates,
        "norm": figures.norms, "target": balancer.targets, "weight": weights,
    }  # fmt: skip
    row: dict[str, float] = {"epoch": epoch, "step": step}
    for name, values in columns.items():
        row |= {f"{name}/{task}": value for task, value in zip(TASKS, values.tolist(), strict=False)}
    row |= {"cosine/weight": figures.at_weight, "cosine/features": figures.at_features}
    row |= {"cosine/trunk": figures.over_trunk}
    return row | {f"cosine/{layer}": figures.by_layer.get(layer, math.nan) for layer in layers}


def _words(losses: MeanLosses) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in losses._asdict().items())


def to_float(images: Tensor, compute: Compute) -> Tensor:
    """uint8 (B, 3, H, W) -> float32 in [0, 1] on the device, in its layout."""
    images = images.to(compute.device, non_blocking=True)
    return images.to(torch.float32, memory_format=compute.layout).div_(255)


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


@dataclass
class _Seen:
    """What one process has found in its batches, frame by frame."""

    found: list[FramePrediction] = field(default_factory=list)
    labelled: list[Tensor] = field(default_factory=list)
    views: list[int] = field(default_factory=list)
    losses: dict[int, list[float]] = field(default_factory=dict)  # by the first frame of each batch
    confusion: NDArray[np.int64] | int = 0
    seconds: NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))


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
    """
    seen = _Seen(confusion=np.zeros((nc + 1, nc + 1), np.int64))
    for batch in progress_bar(loader, description, unit="batch"):
        clock = [_now(compute)]
        images = to_float(batch.images, compute)
        clock.append(_now(compute))
        with compute.autocast():
            output = network(images)
        clock.append(_now(compute))
        detections = _detections(output, len(images), thresholds)
        clock.append(_now(compute))
        seen.seconds += np.diff(clock)
        if criterion is not None:
            losses = criterion(output.raw, output.view, batch.boxes, batch.views)
            seen.losses[batch.indices[0]] = losses.columns().tolist()
        boxes = batch.boxes if output.boxes is not None else batch.boxes[:0]
        probabilities = output.view.float().softmax(1).cpu() if output.view is not None else None
        for place, (index, geometry) in enumerate(zip(batch.indices, batch.geometries, strict=True)):
            shape = (images.shape[2], images.shape[3])
            labels = _in_file_pixels(boxes[boxes[:, 0] == place, 1:], shape, geometry)
            frame = scale_boxes(detections[place], (geometry.gain_x, geometry.gain_y), (geometry.left, geometry.top),
                                geometry.original)  # fmt: skip
            seen.labelled.append(labels[:, 0])
            seen.confusion += confusion_matrix(frame, labels, nc)
            view_of_frame = None if probabilities is None else probabilities[place]
            seen.found.append(FramePrediction(index, frame, view_of_frame, match(frame, labels)))
        seen.views += batch.views.tolist()
    return _evaluation(_joined(processes.gather(seen)), nv, criterion is not None, operating)


def _detections(output: Output, frames: int, thresholds: Thresholds) -> list[Tensor]:
    """Boxes (n, 6) of each frame of a batch that suppression keeps, on the processor."""
    if output.boxes is None:
        return [torch.zeros(0, 6)] * frames
    kept = non_max_suppression(
        output.boxes, thresholds.conf, thresholds.iou, agnostic=thresholds.single_class, multi_label=True,
        max_det=thresholds.max_det,
    )  # fmt: skip
    detections = list(torch.cat(kept).cpu().split([len(rows) for rows in kept]))
    if thresholds.single_class:
        for rows_of_frame in detections:
            rows_of_frame[:, 5] = 0
    return detections


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


def _now(compute: Compute) -> float:
    """Seconds, once the device has finished what it was given."""
    if compute.device.type == "cuda":
        torch.cuda.synchronize(compute.device)
    return time.perf_counter()
