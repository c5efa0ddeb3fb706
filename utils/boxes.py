"""Geometry of boxes: forms, overlaps, non-maximum suppression, and the way back from a letterboxed frame. A leaf.

Boxes are ``xyxy`` (two corners) or ``xywh`` (centre, width, height), in the last dimension of a tensor.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

MAX_CANDIDATES = 30_000  # boxes of an image that enter suppression: the most confident ones
FIRST_COMPARED = 4  # times as many boxes enter suppression at first as may leave it
TINY = 1e-7
LEAST_SCORE = 1e-12
CLASS_OFFSET = 7680.0  # pixels: moves classes apart so that one suppression serves all of them


def xywh_to_xyxy(boxes: Tensor) -> Tensor:
    """(..., 4) centre form -> (..., 4) corner form."""
    centre, half = boxes[..., :2], boxes[..., 2:4] / 2
    return torch.cat((centre - half, centre + half), -1)


def xyxy_to_xywh(boxes: Tensor) -> Tensor:
    """(..., 4) corner form -> (..., 4) centre form."""
    low, high = boxes[..., :2], boxes[..., 2:4]
    return torch.cat(((low + high) / 2, high - low), -1)


def with_scores(boxes: Tensor, scores: Tensor) -> Tensor:
    """Boxes (..., 4) and scores (..., nc), objectness x class probability -> predictions (..., 5 + nc).

    The objectness is the best class's score, and class probabilities are shares of that.
    """
    objectness = scores.amax(-1, keepdim=True)
    return torch.cat((boxes, objectness, scores / objectness.clamp(min=LEAST_SCORE)), -1)


def pair_iou(first: Tensor, second: Tensor, kind: str = "iou") -> Tensor:
    """Overlap of corresponding boxes.

    Args:
        first: (N, 4) in centre form.
        second: (N, 4) in centre form.
        kind: "iou"; "giou" (arXiv 1902.09630); "diou" or "ciou" (arXiv 1911.08287).

    Returns:
        (N,), differentiable; giou, diou and ciou may be negative.
    """
    a, b = xywh_to_xyxy(first), xywh_to_xyxy(second)
    intersection = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(0).prod(1)
    union = first[:, 2:].prod(1) + second[:, 2:].prod(1) - intersection + TINY
    iou = intersection / union
    if kind == "iou":
        return iou
    hull = torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])
    if kind == "giou":
        area = hull.prod(1) + TINY
        return iou - (area - union) / area
    distance = (first[:, :2] - second[:, :2]).square().sum(1) / (hull.square().sum(1) + TINY)
    if kind == "diou":
        return iou - distance
    # from the sizes as given: differences of corners round a small box to width 0, and atan(0 / 0) has no gradient
    angles = torch.atan(second[:, 2] / second[:, 3]) - torch.atan(first[:, 2] / first[:, 3])
    v = 4 / math.pi**2 * angles.square()
    with torch.no_grad():
        alpha = v / (v - iou + 1 + TINY)
    return iou - distance - alpha * v


def box_iou(first: Tensor, second: Tensor) -> Tensor:
    """Overlap of each box with each: (N, 4) and (M, 4) corner form -> (N, M)."""
    corners = torch.minimum(first[:, None, 2:], second[:, 2:]) - torch.maximum(first[:, None, :2], second[:, :2])
    intersection = corners.clamp(min=0).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (first, second)]
    return intersection / (areas[0][:, None] + areas[1] - intersection)


@cache
def compiled_nms() -> Callable[[Tensor, Tensor, float], Tensor]:
    """torchvision's suppression: boxes (N, 4) in corner form, scores (N,), IoU -> indices kept, best first.

    Its compiled library is loaded without the package around it, whose import takes longer than torch's own.
    """
    package = importlib.util.find_spec("torchvision")
    for folder in (package.submodule_search_locations or ()) if package else ():
        for library in sorted(Path(folder).glob("_C*.so")):
            torch.ops.load_library(library)
    if not hasattr(torch.ops.torchvision, "nms"):  # built in another way (Windows): the package knows
        importlib.import_module("torchvision")
    suppress: Callable[[Tensor, Tensor, float], Tensor] = torch.ops.torchvision.nms
    return suppress


def scale_boxes(
    boxes: Tensor, gain: tuple[float, float], pad: tuple[float, float], original: tuple[int, int]
) -> Tensor:
    """Boxes of a letterboxed frame in pixels of the original one, clipped to it.

    Args:
        boxes: (N, 4 or more) corner form in the letterboxed frame; further columns are kept.
        gain: letterboxed over original pixels, in x and y.
        pad: pixels left of and above the frame.
        original: (height, width) of the frame before letterboxing.
    """
    shift = boxes.new_tensor([pad[0], pad[1], pad[0], pad[1]])
    scale = boxes.new_tensor([gain[0], gain[1], gain[0], gain[1]])
    limit = boxes.new_tensor([original[1], original[0], original[1], original[0]])
    corners = torch.minimum(((boxes[:, :4] - shift) / scale).clamp(min=0), limit)
    return torch.cat((corners, boxes[:, 4:]), 1)


def non_max_suppression(
    predictions: Tensor,
    conf_thres: float = 0.25,
    iou_thres: float = 0.45,
    classes: Sequence[int] | None = None,
    agnostic: bool = False,
    multi_label: bool = False,
    max_det: int = 300,
) -> list[Tensor]:
    """Detections of each image, most confident first.

    Args:
        predictions: (B, N, 5 + nc) centre x, y, width, height in pixels, objectness, class probabilities.
        conf_thres: detections below objectness x class probability of this are dropped.
        iou_thres: of two boxes that overlap more, the less confident one is dropped.
        classes: keep only these.
        agnostic: boxes of different classes suppress each other, too.
        multi_label: a box counts for every class above the threshold, not only for its best.
        max_det: detections kept an image.

    Returns:
        B tensors (n, 6): x1, y1, x2, y2 in pixels, confidence, class.
    """
    multi_label = multi_label and predictions.shape[2] > 6
    image, place = (predictions[..., 4] > conf_thres).nonzero(as_tuple=True)
    rows = predictions[image, place].float()
    scores = rows[:, 5:] * rows[:, 4:5]
    if multi_label:
        index, label = (scores > conf_thres).nonzero(as_tuple=True)
        confidence = scores[index, label]
    else:
        index = torch.arange(len(rows), device=rows.device)
        confidence, label = scores.max(1) if len(rows) else (scores.sum(1), scores.sum(1).long())
    keep = (confidence > conf_thres) & rows.isfinite().all(1)[index]
    if classes is not None:
        keep &= torch.isin(label, torch.tensor(list(classes), device=label.device))
    index, confidence, label = index[keep], confidence[keep], label[keep]
    order = confidence.argsort(descending=True, stable=True)
    order = order[image[index[order]].argsort(stable=True)]  # image by image, most confident first in each
    index, confidence, label = index[order], confidence[order], label[order].to(rows.dtype)
    candidates = torch.cat((xywh_to_xyxy(rows[index, :4]), confidence[:, None], label[:, None]), 1)
    counts = image[index].bincount(minlength=len(predictions)).tolist()
    found = []
    # one suppression an image: several moved apart by an offset would round their corners
    for detections in candidates.split(counts):
        detections = detections[:MAX_CANDIDATES]
        shifted = detections[:, :4] if agnostic else detections[:, :4] + detections[:, 5:] * CLASS_OFFSET
        found.append(detections[_suppressed(shifted, detections[:, 4], iou_thres, max_det)])
    return found


def _suppressed(boxes: Tensor, confidence: Tensor, iou_thres: float, most: int) -> Tensor:
    """Indices of the first ``most`` boxes that stay, of boxes (N, 4) sorted by confidence.

    What stays of the most confident ones does not depend on those below, of which an evaluation has thousands: they are
    compared only where they are needed to fill the number.
    """
    size = FIRST_COMPARED * most
    while True:
        kept = compiled_nms()(boxes[:size], confidence[:size], iou_thres)[:most]
        if len(kept) == most or size >= len(boxes):
            return kept
        size *= FIRST_COMPARED
