"""The detection loss (YOLOv5's) and the view loss. Both are means over a batch, without the factor batch size.

Where several processes hold a batch together, each divides by what all of them hold: boxes that are answered for,
frames, labelled views. So a loss here is this process's share, and the shares' sum is the loss of the whole batch.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from models.border import alone
from models.dual import AnyNetwork, Dual
from models.heads import Detect
from models.yolo import Network
from utils.boxes import pair_iou
from utils.config import Hyperparameters
from utils.labels import UNLABELLED
from utils.log import InputError

Summed = Callable[[Tensor], Tensor]  # the sum of a tensor over all processes; may change the tensor
LEVEL_BALANCE = {3: (4.0, 1.0, 0.4)}  # weight of each level's objectness, fine to coarse
LEVEL_BALANCE_MANY = (4.0, 1.0, 0.25, 0.06, 0.02)
FOCAL_ALPHA = 0.25


class DetectionLosses(NamedTuple):
    """Gain-weighted parts of the detection loss, scalars each."""

    box: Tensor
    obj: Tensor
    cls: Tensor

    @property
    def total(self) -> Tensor:
        """Their sum."""
        return self.box + self.obj + self.cls


class Assigned(NamedTuple):
    """Targets assigned to one level: where each prediction stands, and what it should be.

    Attributes:
        frame, anchor, row, column: (n,) indices into the level's map.
        boxes: (n, 4) centre offset from the cell, width and height, in cells.
        anchors: (n, 2) width and height of the anchor, in cells.
        classes: (n,).
    """

    frame: Tensor
    anchor: Tensor
    row: Tensor
    column: Tensor
    boxes: Tensor
    anchors: Tensor
    classes: Tensor

    def to(self, device: torch.device) -> Assigned:
        """The same on a device."""
        return Assigned(*(tensor.to(device, non_blocking=True) for tensor in self))


class DetectionLoss:
    """Box (CIoU), objectness and class loss over the levels of a Detect head.

    Args:
        detect: head whose anchors and class count hold; its anchors are read at each call.
        hyp: gains as scaled by :meth:`Hyperparameters.scaled`.

    Attributes:
        summed: over the processes that hold a batch together.
    """

    def __init__(self, detect: Detect, hyp: Hyperparameters) -> None:
        self.detect, self.hyp = detect, hyp
        self.summed: Summed = alone
        self.on, self.off = 1.0 - 0.5 * hyp.label_smoothing, 0.5 * hyp.label_smoothing
        levels = len(detect.strides)
        self.balance = LEVEL_BALANCE.get(levels, LEVEL_BALANCE_MANY[:levels])

        self._copied: tuple[int, Tensor] | None = None

    @property
    def _anchors(self) -> Tensor:
        """(nl, na, 2) as they are now, on the processor; fetched from a GPU only when they have changed."""
        anchors = self.detect.anchors
        if self._copied is None or self._copied[0] != anchors._version:
            self._copied = anchors._version, anchors.cpu()
        return self._copied[1]

    def __call__(self, raw: Sequence[Tensor], boxes: Tensor) -> DetectionLosses:
        """Loss of a batch.

        Args:
            raw: Detect's maps (B, na, H_i, W_i, 5 + nc), in any float type.
            boxes: (N, 6): frame, class, centre x, centre y, width, height, normalised; on the processor, as they come
                from the loader: what follows from them is worked out there, so that no step waits for a GPU.
        """
        hyp, levels = self.hyp, range(len(self.balance))
        box = obj = cls = raw[0].new_zeros((), dtype=torch.float32)
        device = raw[0].device
        assigned = [assign(boxes, self._anchors[i], raw[i].shape[2:4], hyp.anchor_t) for i in levels]
        frames = len(raw[0])
        all_frames, *positives = self.summed(torch.tensor([frames, *(len(found.frame) for found in assigned)])).tolist()
        for level, balance in enumerate(self.balance):
            predicted = raw[level].float()
            target = torch.zeros_like(predicted[..., 4])
            found = assigned[level].to(device)
            if len(found.frame):
                share = len(found.frame) / positives[level]
                rows = predicted[found.frame, found.anchor, found.row, found.column]
                centre = rows[:, :2].sigmoid() * 2 - 0.5
                size = (rows[:, 2:4].sigmoid() * 2) ** 2 * found.anchors
                iou = pair_iou(torch.cat((centre, size), 1), found.boxes, "ciou")
                box = box + (1.0 - iou).mean() * share
                target[found.frame, found.anchor, found.row, found.column] = iou.detach().clamp(0)
                if self.detect.nc > 1:
                    wanted = torch.full_like(rows[:, 5:], self.off)
                    wanted[torch.arange(len(rows), device=rows.device), found.classes] = self.on
                    cls = cls + binary_focal(rows[:, 5:], wanted, hyp.cls_pw, hyp.fl_gamma) * share
            all_cells = binary_focal(predicted[..., 4], target, hyp.obj_pw, hyp.fl_gamma)
            obj = obj + all_cells * (balance * frames / all_frames)
        return DetectionLosses(box * hyp.box, obj * hyp.obj, cls * hyp.cls)


def assign(boxes: Tensor, anchors: Tensor, shape: Sequence[int], threshold: float) -> Assigned:
    """Which cells and anchors of a level answer for which boxes.

    A box is taken by each anchor whose sides differ from its own by a factor under ``threshold``, in the cell of its
    centre and in the two neighbours that the centre is nearest to.

    Args:
        boxes: (N, 6): frame, class, centre x, centre y, width, height, normalised.
        anchors: (na, 2) in cells.
        shape: (rows, columns) of the level.
    """
    size = torch.tensor([shape[1], shape[0]], device=boxes.device, dtype=boxes.dtype)
    ratio = boxes[None, :, 4:] * size / anchors[:, None]
    anchor, index = (torch.maximum(ratio, 1 / ratio).amax(2) < threshold).nonzero(as_tuple=True)
    centre, extent = boxes[index, 2:4] * size, boxes[index, 4:] * size
    from_end = size - centre
    near_start = (centre % 1 < 0.5) & (centre > 1)  # (n, 2): the neighbour to the left, the one above
    near_end = (from_end % 1 < 0.5) & (from_end > 1)
    chosen = torch.cat((torch.ones_like(near_start[:, :1]), near_start, near_end), 1).T  # (5, n)
    offsets = centre.new_tensor([[0, 0], [1, 0], [0, 1], [-1, 0], [0, -1]]) * 0.5
    which, taken = chosen.nonzero(as_tuple=True)
    index, anchor, centre, extent = index[taken], anchor[taken], centre[taken], extent[taken]
    cell = (centre - offsets[which]).long()
    cell = torch.minimum(cell.clamp(min=0), size.long() - 1)
    return Assigned(
        frame=boxes[index, 0].long(),
        anchor=anchor,
        row=cell[:, 1],
        column=cell[:, 0],
        boxes=torch.cat((centre - cell, extent), 1),
        anchors=anchors[anchor],
        classes=boxes[index, 1].long(),
    )


def binary_focal(logits: Tensor, target: Tensor, positive_weight: float, gamma: float) -> Tensor:
    """Mean binary cross-entropy, weighted by the focal factor (arXiv 1708.02002, equation 5) where gamma > 0."""
    weight = logits.new_tensor([positive_weight])
    if not gamma:
        return F.binary_cross_entropy_with_logits(logits, target, pos_weight=weight)
    loss = F.binary_cross_entropy_with_logits(logits, target, pos_weight=weight, reduction="none")
    p = logits.sigmoid()
    right = target * p + (1 - target) * (1 - p)
    alpha = target * FOCAL_ALPHA + (1 - target) * (1 - FOCAL_ALPHA)
    return (loss * alpha * (1 - right) ** gamma).mean()


class WeightedLoss(NamedTuple):
    """A mean over frames, and the sum of their weights.

    Attributes:
        mean: scalar, this process's share of it.
        weight: scalar, on the processor; of the frames of all processes that hold the batch together.
        own_weight: scalar, on the processor; of this process's frames.
    """

    mean: Tensor
    weight: Tensor
    own_weight: Tensor


class ViewLoss:
    """Cross-entropy over the frames that carry a view, with label smoothing, class weights, an optional focal factor.

    The mean is weighted by the class weight of each frame's view. Smoothing takes part in that, unlike in torch's
    cross-entropy: a frame of weight 0 does not count, and equal probabilities have the loss :attr:`at_chance` whatever
    the weights. A batch without any frame that counts has loss 0 (and a gradient of 0).

    Args:
        hyp: its ``view_...`` keys.
        views: number of views.

    Attributes:
        summed: over the processes that hold a batch together.
    """

    def __init__(self, hyp: Hyperparameters, views: int) -> None:
        self.summed: Summed = alone
        self.smoothing, self.gamma = hyp.view_label_smoothing, hyp.view_focal_gamma
        self.weights = hyp.view_class_weights or (1.0,) * views
        if len(self.weights) != views:
            raise InputError(f"view_class_weights: expected {views} numbers, one a view, got {len(self.weights)}")

    @property
    def at_chance(self) -> float:
        """The loss of equal probabilities for all views: log C, and the focal factor."""
        views = len(self.weights)
        return math.log(views) * (1 - 1 / views) ** self.gamma

    def __call__(self, logits: Tensor, views: Tensor) -> WeightedLoss:
        """Loss of logits (B, nv) against views (B,) on the processor, -1 where unlabelled."""
        labelled = (views != UNLABELLED).nonzero().squeeze(1)  # found out here, so that no step waits for a GPU
        views = views[labelled]
        weights = torch.tensor(self.weights)[views]
        own_weight = weights.sum()
        weight = self.summed(own_weight.clone())
        views, weights, total = (
            found.to(logits.device, non_blocking=True) for found in (views, weights, weight.clamp(min=1e-12))
        )
        logits = logits.float()[labelled.to(logits.device, non_blocking=True)]
        each = F.cross_entropy(logits, views, label_smoothing=self.smoothing, reduction="none") * weights
        if self.gamma:
            right = logits.softmax(1).gather(1, views[:, None]).squeeze(1)
            each = each * (1 - right) ** self.gamma
        return WeightedLoss(each.sum() / total, weight, own_weight)


class TaskLosses(NamedTuple):
    """Unweighted losses of a batch: the two tasks', and the parts of the first.

    Attributes:
        det: scalar, sum of ``parts``; None of a classifier alone.
        weighted_view: None of a network without a view head.
        parts: box, objectness and class loss.
        frames: of the batch, in all processes that hold it together.
    """

    det: Tensor | None
    weighted_view: WeightedLoss | None
    parts: DetectionLosses | None
    frames: int

    @property
    def view(self) -> Tensor | None:
        """Scalar; None of a network without a view head."""
        return self.weighted_view.mean if self.weighted_view else None

    def by_task(self) -> list[Tensor]:
        """The losses of the tasks that the network has: detection, view."""
        return [loss for loss in (self.det, self.view) if loss is not None]

    def columns(self) -> Tensor:
        """(5,) for :func:`utils.epoch.mean_losses`, cut off from the graph; NaN for what is not learned.

        Box, objectness and class loss, the view loss times the weight of its frames, and that weight.
        """
        like = self.by_task()[0].detach()
        view = self.weighted_view
        of_view = (None, None) if view is None else (view.mean * view.weight.to(like.device), view.own_weight)
        found = [*(self.parts or (None, None, None)), *of_view]
        return torch.stack([like.new_tensor(math.nan) if loss is None else loss.detach().to(like) for loss in found])


class JointLoss:
    """Detection and view loss of a network's output, each unweighted and without the batch factor."""

    def __init__(self, detection: DetectionLoss | None, view: ViewLoss | None) -> None:
        self.detection, self.view = detection, view
        self.summed: Summed = alone

    def over(self, summed: Summed) -> JointLoss:
        """The same losses of batches that several processes hold together; see the module's text."""
        shared = JointLoss(copy.copy(self.detection), copy.copy(self.view))
        for part in (shared, shared.detection, shared.view):
            if part is not None:
                part.summed = summed
        return shared

    def __call__(self, raw: Sequence[Tensor], logits: Tensor | None, boxes: Tensor, views: Tensor) -> TaskLosses:
        """Losses from Detect's maps and view logits against boxes (N, 6) and views (B,), on the processor."""
        parts = self.detection(raw, boxes) if self.detection is not None else None
        view = self.view(logits, views) if self.view is not None and logits is not None else None
        frames = int(self.summed(torch.tensor(len(views))))
        return TaskLosses(None if parts is None else parts.total, view, parts, frames)

    @classmethod
    def of(cls, network: AnyNetwork, hyp: Hyperparameters, image_size: int) -> JointLoss:
        """The losses of a network, with the gains of a hyp file scaled to it and to the image size in pixels."""
        detection = None
        if isinstance(network, Network | Dual) and network.nc:
            scaled = hyp.scaled(len(network.detect.strides), network.nc, image_size)
            detection = DetectionLoss(network.detect, scaled)
        return cls(detection, ViewLoss(hyp, network.nv) if network.nv else None)
