"""Figures from detections: AP, precision, recall, F1, confusion.

The detection figures follow YOLOv5's definitions, so that they compare: 10 IoU thresholds, 101-point interpolated AP,
precision and recall at the confidence where the classes' mean F1 is highest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from utils.boxes import box_iou

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
IOU_THRESHOLDS = torch.linspace(0.5, 0.95, 10)
CONFIDENCES = np.linspace(0, 1, 1000)  # where the curves are sampled
TINY = 1e-16


@dataclass(frozen=True)
class DetectionFigures:
    """Figures of each class that has labels, k of them, and of their mean.

    Attributes:
        classes: (k,) class numbers.
        labels: (k,) how many boxes each has.
        precision, recall, f1: (k,) at ``confidence``.
        ap: (k, 10) at each IoU threshold.
        confidence: the one given, or where the smoothed mean F1 is highest.
        true_positives, false_positives: (k,) counts at that confidence.
        precision_curve, recall_curve, f1_curve: (k, 1000) over :data:`CONFIDENCES`.
        pr_curve: (k, 1000) precision over recall, at IoU 0.5.
    """

    classes: Integers
    labels: Integers
    precision: Floats
    recall: Floats
    f1: Floats
    ap: Floats
    confidence: float
    true_positives: Integers
    false_positives: Integers
    precision_curve: Floats
    recall_curve: Floats
    f1_curve: Floats
    pr_curve: Floats

    @property
    def map50(self) -> float:
        """Mean AP at IoU 0.5."""
        return _mean(self.ap[:, 0])

    @property
    def map(self) -> float:
        """Mean AP over IoU 0.5 to 0.95."""
        return _mean(self.ap)

    @property
    def mean_precision(self) -> float:
        """Mean over classes."""
        return _mean(self.precision)

    @property
    def mean_recall(self) -> float:
        """Mean over classes."""
        return _mean(self.recall)

    @property
    def mean_f1(self) -> float:
        """Harmonic mean of the two means above, so that the three agree with each other."""
        p, r = self.mean_precision, self.mean_recall
        return 2 * p * r / (p + r + TINY)

    @property
    def fitness(self) -> float:
        """What the best epoch is chosen by: 0.1 mAP50 + 0.9 mAP50-95, as in YOLOv5."""
        return 0.1 * self.map50 + 0.9 * self.map


def _mean(values: Floats) -> float:
    return float(values.mean()) if values.size else 0.0


def match(detections: Tensor, labels: Tensor) -> NDArray[np.bool_]:
    """Which detections of a frame are right at which IoU threshold.

    A detection goes to the label of its class that it overlaps most; of several that go to one label, the most
    confident is right.

    Args:
        detections: (n, 6) x1, y1, x2, y2, confidence, class.
        labels: (m, 5) class, x1, y1, x2, y2.

    Returns:
        (n, 10).
    """
    correct = np.zeros((len(detections), len(IOU_THRESHOLDS)), bool)
    if not len(detections) or not len(labels):
        return correct
    overlap = box_iou(labels[:, 1:], detections[:, :4])
    iou = overlap.where(labels[:, :1] == detections[None, :, 5], overlap.new_zeros(())).cpu().numpy()
    for column, threshold in enumerate(IOU_THRESHOLDS.tolist()):
        _, found = _pairs(iou, threshold, by_overlap=False)
        correct[found, column] = True
    return correct


def _pairs(iou: NDArray[np.float32], threshold: float, by_overlap: bool) -> tuple[Integers, Integers]:
    """Rows and columns of a pairing: each column takes its best row, a row keeps one of its columns.

    That is the one of most overlap, or the first; columns are in order of confidence.
    """
    rows, columns = (iou >= threshold).nonzero()
    order = iou[rows, columns].argsort(kind="stable")[::-1]
    rows, columns = rows[order], columns[order]
    first = np.unique(columns, return_index=True)[1]
    rows, columns = rows[first], columns[first]
    if by_overlap:
        order = iou[rows, columns].argsort(kind="stable")[::-1]
        rows, columns = rows[order], columns[order]
    first = np.unique(rows, return_index=True)[1]
    return rows[first], columns[first]


def average_precision(recall: Floats, precision: Floats) -> tuple[float, Floats, Floats]:
    """Area under the precision envelope, by 101 points; also the envelope's recall and precision."""
    recall = np.concatenate(([0.0], recall, [1.0]))
    precision = np.concatenate(([1.0], precision, [0.0]))
    precision = np.flip(np.maximum.accumulate(np.flip(precision)))
    points = np.linspace(0, 1, 101)
    return float(np.trapezoid(np.interp(points, recall, precision), points)), recall, precision


def detection_figures(
    correct: NDArray[np.bool_],
    confidence: Floats,
    predicted: Floats | Integers,
    labelled: Floats | Integers,
    operating: float | None = None,
) -> DetectionFigures:
    """Figures of a whole split.

    Args:
        correct: (n, 10) from :func:`match`, all frames' detections.
        confidence: (n,) theirs.
        predicted: (n,) their classes.
        labelled: (m,) classes of all labels.
        operating: the confidence at which precision, recall and F1 are taken, found elsewhere; None takes the one where
            this split's own F1 is highest, which flatters unless the split serves to find it.
    """
    order = np.argsort(-confidence, kind="stable")
    correct, confidence, predicted = correct[order], confidence[order], predicted[order]
    classes, counts = np.unique(labelled, return_counts=True)
    k, points = len(classes), len(CONFIDENCES)
    ap = np.zeros((k, correct.shape[1]))
    precision_curve, recall_curve, pr_curve = (np.zeros((k, points)) for _ in range(3))
    for row, (label, count) in enumerate(zip(classes, counts, strict=True)):
        mine = predicted == label
        if not mine.any():
            continue
        hits = correct[mine].cumsum(0)
        misses = (~correct[mine]).cumsum(0)
        recall = hits / (count + TINY)
        precision = hits / (hits + misses)
        falling = -confidence[mine]
        recall_curve[row] = np.interp(-CONFIDENCES, falling, recall[:, 0], left=0)
        precision_curve[row] = np.interp(-CONFIDENCES, falling, precision[:, 0], left=1)
        for column in range(correct.shape[1]):
            ap[row, column], r, p = average_precision(recall[:, column], precision[:, column])
            if column == 0:
                pr_curve[row] = np.interp(CONFIDENCES, r, p)
    f1_curve = 2 * precision_curve * recall_curve / (precision_curve + recall_curve + TINY)
    if operating is not None:
        best = round(operating * (points - 1))
    else:
        best = int(smooth(f1_curve.mean(0), 0.1).argmax()) if k else 0
    precision, recall = precision_curve[:, best], recall_curve[:, best]
    hits_at_best = (recall * counts).round()
    return DetectionFigures(
        classes=classes.astype(np.int64),
        labels=counts.astype(np.int64),
        precision=precision,
        recall=recall,
        f1=f1_curve[:, best],
        ap=ap,
        confidence=float(CONFIDENCES[best]),
        true_positives=hits_at_best.astype(np.int64),
        false_positives=(hits_at_best / (precision + TINY) - hits_at_best).round().astype(np.int64),
        precision_curve=precision_curve,
        recall_curve=recall_curve,
        f1_curve=f1_curve,
        pr_curve=pr_curve,
    )


def smooth(values: Floats, share: float) -> Floats:
    """Moving average over about ``share`` of the values, an odd number of them; the ends are repeated."""
    width = round(len(values) * share * 2) // 2 + 1
    width += width % 2 == 0
    ends = np.ones(width // 2)
    extended = np.concatenate((ends * values[0], values, ends * values[-1]))
    return np.convolve(extended, np.ones(width) / width, mode="valid")


def confusion_matrix(
    detections: Tensor, labels: Tensor, nc: int, conf_thres: float = 0.25, iou_thres: float = 0.45
) -> Integers:
    """A frame's (nc + 1, nc + 1) counts: row predicted, column true; the last of each is background.

    Pairs are made regardless of class. Unlike YOLOv5's, a false box in a frame where nothing matches counts, too.

    Args:
        detections: (n, 6) x1, y1, x2, y2, confidence, class.
        labels: (m, 5) class, x1, y1, x2, y2.
    """
    matrix = np.zeros((nc + 1, nc + 1), np.int64)
    detections = detections[detections[:, 4] > conf_thres]
    true = labels[:, 0].long().cpu().numpy()
    predicted = detections[:, 5].long().cpu().numpy()
    iou = box_iou(labels[:, 1:], detections[:, :4]).cpu().numpy()
    rows, columns = _pairs(iou, np.nextafter(np.float32(iou_thres), np.float32(1)), by_overlap=True)
    np.add.at(matrix, (predicted[columns], true[rows]), 1)
    matrix[nc] += np.bincount(np.delete(true, rows), minlength=nc + 1)
    matrix[:, nc] += np.bincount(np.delete(predicted, columns), minlength=nc + 1)
    return matrix
