"""An assessment -> the content of metrics.json, and the figures of a run folder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.assessment import Assessment
from utils.canvas import save
from utils.curves import curve_figure, froc_figure, pr_figure
from utils.diagrams import confusion_figure, reliability_figure
from utils.evaluation import Evaluation
from utils.files import read_json
from utils.froc import FALSE_BOXES
from utils.intervals import LEVEL, Intervals
from utils.log import InputError, shown
from utils.metrics import CONFIDENCES
from utils.presence import Presence
from utils.view_metrics import Calibration, ViewFigures, accuracy, balanced_accuracy, macro_f1, view_confusion

Content = dict[str, Any]


MOST_BYTES = 50_000_000  # of a metrics.json; a real one has a few thousand
LARGEST = 1e18  # no figure of a run is larger: bytes are the largest


def read_metrics(path: Path) -> Content:
    """The content of a run's metrics.json, of which only what is asked for is checked: see :func:`figure_of`.

    Raises:
        InputError: no such file, or something else in it; its warnings are no texts.
    """
    try:
        content = read_json(path, MOST_BYTES, "the figures of a run")
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; a finished run leaves it in its folder") from error
    warnings = content.get("warnings", [])
    if not isinstance(warnings, list) or not all(isinstance(warning, str) for warning in warnings):
        raise InputError(f"{path}: warnings: expected a list of texts, got {shown(warnings)}")
    return content


def figure_at(content: Mapping[str, Any], *place: str) -> float | None:
    """A figure of metrics.json by the names that lead to it; None where one of them is absent, or null.

    Raises:
        TypeError: something else is there.
    """
    value: Any = content
    for name in place:
        if not isinstance(value, Mapping):
            raise TypeError(f"expected it in a mapping, got {shown(value)}")
        value = value.get(name)
        if value is None:
            return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value) > LARGEST:
        raise TypeError(f"expected a number, got {shown(value)}")
    return float(value)


def figure_of(content: Mapping[str, Any], path: Path, *place: str) -> float:
    """A figure of :func:`read_metrics`; NaN where it is absent, or null, as a figure of nothing is.

    Raises:
        InputError: something else is there.
    """
    try:
        found = figure_at(content, *place)
    except TypeError as error:
        raise InputError(f"{path}: {'.'.join(place)}: {error}") from error
    return math.nan if found is None else found


def metrics(
    assessment: Assessment,
    settings: Mapping[str, Any],
    warnings: Sequence[str] = (),
    leakage: Mapping[str, Any] | None = None,
    evaluation: Evaluation | None = None,
) -> Content:
    """The content of metrics.json.

    Args:
        warnings: what a reader must know before the figures; the table and the pictures show them, too.
        leakage: what the split has in common with the training part.
        evaluation: adds losses and milliseconds; without it (pooled folds) they are absent.
    """
    a, figures = assessment, assessment.detection
    content: Content = {
        "warnings": list(warnings),
        "precision": figures.mean_precision,
        "recall": figures.mean_recall,
        "f1": figures.mean_f1,
        "map50": figures.map50,
        "map": figures.map,
        "confidence": figures.confidence,
        "frames": len(a.outcomes),
        "labels": int(figures.labels.sum()),
        "per_class": {a.outcomes.names[label]: _of_class(a, row) for row, label in enumerate(figures.classes)},
        "froc": {f"{rate:g}": a.froc.at(rate) for rate in FALSE_BOXES},
        "confusion": {"names": [*a.outcomes.names, "background"], "predicted_by_true": a.outcomes.confusion.tolist()},
    }
    if a.view is not None and a.calibration is not None:
        content["view"] = _of_views(a.view, a.outcomes.view_names) | _of_calibration(a.calibration)
        if a.calibrated is not None:
            calibrated = {"temperature": a.calibrated.temperature, **_of_calibration(a.calibrated)}
            content["view"]["calibrated"] = calibrated
    if a.patients is not None:
        content["patients"] = _of_presence(a.patients, a.outcomes.names)
    if a.clips is not None:
        content["clips"] = _of_presence(a.clips, a.outcomes.names) | _of_clip_views(a)
    content["interval"] = _of_intervals(a.intervals)
    content["leakage"] = None if leakage is None else dict(leakage)
    if evaluation is not None:
        content["speed_ms"] = vars(evaluation.speed)
        if evaluation.losses is not None:
            content["loss"] = evaluation.losses._asdict()
    content["settings"] = dict(settings)
    return content


def _of_class(assessment: Assessment, row: int) -> Content:
    figures = assessment.detection
    content: Content = {"labels": int(figures.labels[row])}
    if assessment.patients is not None:
        content["patients"] = int(assessment.patients.true[:, figures.classes[row]].sum())
    return content | {
        "precision": float(figures.precision[row]),
        "recall": float(figures.recall[row]),
        "f1": float(figures.f1[row]),
        "map50": float(figures.ap[row, 0]),
        "map": float(figures.ap[row].mean()),
        "froc": {f"{rate:g}": assessment.class_froc[row].at(rate) for rate in FALSE_BOXES},
    }


def _of_views(view: ViewFigures, view_names: Sequence[str]) -> Content:
    return {
        "frames": view.frames,
        "accuracy": view.accuracy,
        "balanced_accuracy": view.balanced_accuracy,
        "macro_f1": view.macro_f1,
        "per_class": {
            name: {
                "frames": int(view.confusion[:, i].sum()),
                "precision": float(view.precision[i]),
                "recall": float(view.recall[i]),
                "f1": float(view.f1[i]),
            }
            for i, name in enumerate(view_names)
        },
        "confusion": view.confusion.tolist(),
    }


def _of_calibration(calibration: Calibration) -> Content:
    return {"ece": calibration.ece, "brier": calibration.brier, "log_loss": calibration.log_loss}


def _of_presence(presence: Presence, names: Sequence[str]) -> Content:
    positive = presence.true.sum(0)
    return {
        "count": len(presence.units),
        "per_class": {
            name: {
                "positive": int(positive[i]),
                "negative": int(len(presence.units) - positive[i]),
                "sensitivity": float(presence.sensitivity[i]),
                "specificity": float(presence.specificity[i]),
            }
            for i, name in enumerate(names)
        },
    }


def _of_clip_views(assessment: Assessment) -> Content:
    views = assessment.clip_views
    if views is None:
        return {}
    confusion = view_confusion(views.predicted, views.true, len(assessment.outcomes.view_names))
    return {
        "mixed_views": int(views.mixed.sum()),
        "view": {
            "clips": int(confusion.sum()),
            "accuracy": float(accuracy(confusion)),
            "balanced_accuracy": float(balanced_accuracy(confusion)),
            "macro_f1": float(macro_f1(confusion)),
        },
    }


def _of_intervals(intervals: Intervals) -> Content:
    """Low and high ends under the keys of the figures they belong to."""
    content: Content = {
        "level": LEVEL, "unit": intervals.unit, "units": intervals.units, "draws": intervals.draws,
    }  # fmt: skip
    for key, ends in intervals.values.items():
        place = content
        for name in key[:-1]:
            place = place.setdefault(name, {})
        place[key[-1]] = list(ends)
    return content


def interval_of(content: Mapping[str, Any], *key: str) -> tuple[float, float] | None:
    """The interval of a figure of metrics.json, or None."""
    place: Any = content["interval"]
    for name in key:
        place = place.get(name) if isinstance(place, Mapping) else None
    return None if place is None else (place[0], place[1])


def write_figures(assessment: Assessment, folder: Path, warnings: Sequence[str] = ()) -> None:
    """Curves, confusion matrices and the reliability diagram of an assessment; warnings stand in their titles."""
    figures, outcomes = assessment.detection, assessment.outcomes
    note = "\n".join(warnings)

    def titled(title: str) -> str:
        return f"{title}\n{note}".strip()

    title = titled("Boxes at confidence 0.25, IoU 0.45")
    confusion = confusion_figure(outcomes.confusion.astype(float), outcomes.names, title=title)
    save(confusion, folder / "confusion_matrix.png")
    own = [outcomes.names[label] for label in figures.classes]
    for letter, name, curve in (
        ("P", "Precision", figures.precision_curve),
        ("R", "Recall", figures.recall_curve),
        ("F1", "F1", figures.f1_curve),
    ):
        curves = curve_figure(CONFIDENCES, curve, own, "Confidence", name, titled(f"{name} at IoU 0.5"))
        save(curves, folder / f"{letter}_curve.png")
    save(pr_figure(CONFIDENCES, figures.pr_curve, figures.ap[:, 0], own, note), folder / "PR_curve.png")
    lines = [*assessment.class_froc, assessment.froc]
    ends = [assessment.intervals.values.get(("froc", f"{rate:g}"), (np.nan, np.nan)) for rate in FALSE_BOXES]
    froc = froc_figure(
        [line.false_boxes for line in lines], [line.sensitivity for line in lines], own,
        FALSE_BOXES, np.array(ends), titled("FROC at IoU 0.5"),
    )  # fmt: skip
    save(froc, folder / "FROC_curve.png")
    if assessment.view is not None and assessment.calibration is not None:
        matrix = assessment.view.confusion.astype(float)
        views = confusion_figure(matrix, outcomes.view_names, background=False, title=titled("Views"))
        save(views, folder / "view_confusion_matrix.png")
        reliability = reliability_figure(assessment.calibration, titled("Views"), assessment.calibrated)
        save(reliability, folder / "view_reliability.png")
