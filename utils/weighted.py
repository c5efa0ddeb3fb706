"""Every figure of an evaluation under weights of its patients: what a bootstrap draw comes to, without copying frames.

Sums by patient are made once; a draw weighs them. Ranked figures (AP, FROC) weigh detections in order of confidence.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from utils.froc import FALSE_BOXES, ends_of_ties
from utils.labels import UNLABELLED
from utils.metrics import TINY, average_precision
from utils.outcomes import Outcomes
from utils.presence import clip_views, codes, presence
from utils.view_metrics import (
    Floats,
    Integers,
    accuracy,
    balanced_accuracy,
    calibration_columns,
    expected_calibration_error,
    f1_scores,
    macro_f1,
    share,
)

Key = tuple[str, ...]  # a figure's place in metrics.json, such as ("per_class", "AR", "map50")


class Sample:
    """An evaluation's outcomes, summed by unit as far as possible, ready to be weighted.

    Args:
        unit_of: (F,) number of each frame's unit.
        units: U, how many there are.
        by_patient: whether units are patients, so that figures of their clips can be drawn, too.
    """

    def __init__(self, outcomes: Outcomes, unit_of: Integers, units: int, by_patient: bool) -> None:
        o = outcomes
        self._classes = np.unique(o.labelled).tolist()
        self._names = [o.names[label] for label in self._classes]
        self._rankings = [_Ranking(o, unit_of, units, label) for label in self._classes]
        self._froc = _WeightedFroc(o, unit_of, units)

        def by_class(frames: Integers, labels: Integers) -> Floats:
            """(U, k) how often each unit has each class."""
            table = np.zeros((units, len(o.names)))
            np.add.at(table, (unit_of[frames], labels), 1)
            return table[:, self._classes]

        right = o.counts & o.correct[:, 0]
        self._labels = by_class(o.label_frame, o.labelled)
        self._boxes = by_class(o.frame, o.predicted)
        self._shots = by_class(o.frame[o.counts], o.predicted[o.counts])
        self._hits = by_class(o.frame[right], o.predicted[right])
        self._views = _ViewSums(o, unit_of, units) if o.view_names else None
        self._clips = _ClipSums(o) if by_patient else None

    def figures(self, weights: Floats) -> dict[Key, Floats]:
        """Every figure (D,) under weights (D, U); ones give the evaluation's own."""
        found = {**self._ranked(weights), **self._at_operating(weights)}
        if self._views is not None:
            found |= self._views.figures(weights)
        if self._clips is not None:
            found |= self._clips.figures(weights)
        return found

    def _ranked(self, weights: Floats) -> dict[Key, Floats]:
        ap = np.array([[ranking.average_precisions(weight) for ranking in self._rankings] for weight in weights])
        ap = ap.reshape(len(weights), len(self._classes), 10)
        found: dict[Key, Floats] = {("map50",): _mean(ap[:, :, 0]), ("map",): _mean(ap.mean(2))}
        for column, name in enumerate(self._names):
            found["per_class", name, "map50"] = ap[:, column, 0]
            found["per_class", name, "map"] = ap[:, column].mean(1)
        sensitivity = np.array([self._froc.sensitivities(weight) for weight in weights])
        return found | {("froc", f"{rate:g}"): sensitivity[:, i] for i, rate in enumerate(FALSE_BOXES)}

    def _at_operating(self, weights: Floats) -> dict[Key, Floats]:
        labels, shots, hits = (weights @ table for table in (self._labels, self._shots, self._hits))
        known = labels > 0
        recall = np.divide(hits, labels, out=np.full(labels.shape, np.nan), where=known)
        # as on YOLOv5's curves: without a detection above the threshold precision is 1, without any at all it is 0
        nothing = (weights @ self._boxes > 0).astype(float)
        precision = np.where(known, np.divide(hits, shots, out=nothing, where=shots > 0), np.nan)
        found: dict[Key, Floats] = {("precision",): _mean(precision), ("recall",): _mean(recall)}
        found["f1",] = _harmonic(found["precision",], found["recall",])
        for column, name in enumerate(self._names):
            p, r = precision[:, column], recall[:, column]
            found |= {("per_class", name, "precision"): p, ("per_class", name, "recall"): r}
            found["per_class", name, "f1"] = _harmonic(p, r)
        return found


class _Ranking:
    """The detections of a class in order of confidence, thinned to those that its average precision depends on."""

    def __init__(self, outcomes: Outcomes, unit_of: Integers, units: int, label: int) -> None:
        mine = np.flatnonzero(outcomes.predicted == label)
        mine = mine[np.argsort(-outcomes.confidence[mine], kind="stable")]
        self._unit = unit_of[outcomes.frame[mine]]
        self._labels = _tally(unit_of[outcomes.label_frame[outcomes.labelled == label]], units)
        correct = outcomes.correct[mine]
        # On the precision-recall curve only right detections, what comes just before them, and the end are corners.
        right = np.flatnonzero(correct.any(1))
        corners = np.union1d(np.union1d(right, right - 1), [len(mine) - 1])
        self._corners = corners[corners >= 0].astype(np.int64)
        self._correct = correct[self._corners]

    def average_precisions(self, weight: Floats) -> Floats:
        """(10,) by IoU threshold, under weights (U,); NaN where no unit with a label is drawn."""
        labels = float(weight @ self._labels)
        if not labels:
            return np.full(10, np.nan)
        if not len(self._corners):
            return np.zeros(10)
        total = weight[self._unit].cumsum()[self._corners, None]
        hits = (weight[self._unit[self._corners], None] * self._correct).cumsum(0)
        precision = np.divide(hits, total, out=np.zeros(hits.shape), where=total > 0)
        pairs = zip((hits / labels).T, precision.T, strict=True)
        return np.array([average_precision(recall, p)[0] for recall, p in pairs])


class _WeightedFroc:
    """:func:`utils.froc.froc` of all classes together, under weights."""

    def __init__(self, outcomes: Outcomes, unit_of: Integers, units: int) -> None:
        order = np.argsort(-outcomes.confidence, kind="stable")
        self._unit = unit_of[outcomes.frame[order]]
        self._right = outcomes.correct[order, 0]
        self._ends = ends_of_ties(outcomes.confidence[order])
        self._frames = _tally(unit_of, units)
        self._labels = _tally(unit_of[outcomes.label_frame], units)

    def sensitivities(self, weight: Floats) -> Floats:
        """(3,) at :data:`utils.froc.FALSE_BOXES`; NaN where no unit with a label is drawn."""
        labels = float(weight @ self._labels)
        if not labels:
            return np.full(len(FALSE_BOXES), np.nan)
        of_each = weight[self._unit]
        found = np.append(0, (of_each * self._right).cumsum()[self._ends])
        false = np.append(0, (of_each * ~self._right).cumsum()[self._ends])
        # Sums of whole numbers: exact, so that a rate that is just reached counts.
        within = np.searchsorted(false[1:], np.array(FALSE_BOXES) * float(weight @ self._frames), "right")
        return found[within] / labels


class _ViewSums:
    """Confusion, calibration bins and scores of the views, summed by unit."""

    def __init__(self, outcomes: Outcomes, unit_of: Integers, units: int) -> None:
        labelled = np.flatnonzero(outcomes.true_views != UNLABELLED)
        probabilities, true, unit = outcomes.views[labelled], outcomes.true_views[labelled], unit_of[labelled]
        columns = calibration_columns(probabilities, true)
        self._names = outcomes.view_names
        self._frames = _tally(unit, units)
        self._confusion = _confusions(unit, probabilities.argmax(1), true, units, len(self._names))
        self._bins = np.zeros((units, *columns.bins.shape[1:]))
        np.add.at(self._bins, unit, columns.bins)
        self._scores = {
            name: np.bincount(unit, getattr(columns, name), minlength=units) for name in ("brier", "log_loss")
        }

    def figures(self, weights: Floats) -> dict[Key, Floats]:
        """Figures (D,) under weights (D, U)."""
        confusion = np.tensordot(weights, self._confusion, 1)
        found = _of_confusion(confusion, ("view",))
        found["view", "ece"] = expected_calibration_error(np.tensordot(weights, self._bins, 1))
        found |= {
            ("view", name): share(weights @ of_unit, weights @ self._frames) for name, of_unit in self._scores.items()
        }
        scores = f1_scores(confusion)
        return found | {("view", "per_class", name, "f1"): scores[:, i] for i, name in enumerate(self._names)}


class _ClipSums:
    """Which valves clips have and which were found, and the confusion of their views, summed by patient."""

    def __init__(self, outcomes: Outcomes) -> None:
        assert outcomes.patients is not None and outcomes.clips is not None
        owner = dict(zip(outcomes.clips, outcomes.patients, strict=True))
        names = codes(outcomes.patients)[0]
        place = {name: number for number, name in enumerate(names)}
        clips = presence(outcomes, outcomes.clips)
        unit = np.array([place[owner[clip]] for clip in clips.units], np.int64)
        self._names = outcomes.names

        def summed(of_clips: NDArray[np.bool_]) -> Floats:
            """(U, k) from clips (C, k)."""
            table = np.zeros((len(names), of_clips.shape[1]))
            np.add.at(table, unit, of_clips)
            return table

        self._valves = {
            "sensitivity": (summed(clips.true & clips.found), summed(clips.true)),
            "specificity": (summed(~clips.true & ~clips.found), summed(~clips.true)),
        }
        self._confusion = None
        if outcomes.view_names:
            views = clip_views(outcomes, outcomes.clips)
            known = np.flatnonzero(views.true != UNLABELLED)
            self._confusion = _confusions(
                unit[known], views.predicted[known], views.true[known], len(names), len(outcomes.view_names)
            )

    def figures(self, weights: Floats) -> dict[Key, Floats]:
        """Figures (D,) under weights (D, U)."""
        found: dict[Key, Floats] = {}
        for figure, (part, whole) in self._valves.items():
            values = share(weights @ part, weights @ whole)
            found |= {("clips", "per_class", name, figure): values[:, i] for i, name in enumerate(self._names)}
        if self._confusion is not None:
            found |= _of_confusion(np.tensordot(weights, self._confusion, 1), ("clips", "view"))
        return found


def _confusions(unit: Integers, predicted: Integers, true: Integers, units: int, nv: int) -> Floats:
    """(U, nv, nv) counts by unit."""
    counts = np.zeros((units, nv, nv))
    np.add.at(counts, (unit, predicted, true), 1)
    return counts


def _of_confusion(confusion: Floats, place: Key) -> dict[Key, Floats]:
    """Figures (D,) of matrices (D, nv, nv)."""
    return {
        (*place, "accuracy"): accuracy(confusion),
        (*place, "balanced_accuracy"): balanced_accuracy(confusion),
        (*place, "macro_f1"): macro_f1(confusion),
    }


def _tally(units: NDArray[np.int64], count: int) -> Floats:
    """How often each of ``count`` units occurs."""
    return np.bincount(units, minlength=count).astype(float)


def _mean(values: Floats) -> Floats:
    """(D, k) -> (D,): mean over the classes that a draw has labels of, NaN without one; 0 where k is 0."""
    known = ~np.isnan(values)
    means = np.where(known, values, 0).sum(1) / np.maximum(known.sum(1), 1)
    return np.where(known.any(1), means, np.nan) if values.shape[1] else means


def _harmonic(p: Floats, r: Floats) -> Floats:
    return 2 * p * r / (p + r + TINY)
