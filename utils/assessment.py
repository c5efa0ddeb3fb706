"""All figures of an evaluation from its outcomes: boxes and views; frames, clips and patients; with intervals."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from utils.froc import Froc, froc
from utils.intervals import DRAWS, Intervals, intervals
from utils.labels import UNLABELLED
from utils.metrics import DetectionFigures, detection_figures
from utils.outcomes import Outcomes
from utils.presence import ClipViews, Presence, clip_views, presence
from utils.view_metrics import Calibration, ViewFigures, calibration, view_confusion
from utils.weighted import Sample


@dataclass(frozen=True)
class Assessment:
    """What is known of a network from a split.

    Attributes:
        view, calibration: None where no view is learned.
        calibrated: the calibration at the temperature that was asked for, or None.
        froc: of all classes together.
        class_froc: of each class that has labels, in the order of ``detection.classes``.
        patients, clips: None where the dataset does not name them.
        clip_views: None where it does not, or no view is learned.
    """

    outcomes: Outcomes
    detection: DetectionFigures
    view: ViewFigures | None
    calibration: Calibration | None
    calibrated: Calibration | None
    froc: Froc
    class_froc: tuple[Froc, ...]
    patients: Presence | None
    clips: Presence | None
    clip_views: ClipViews | None
    intervals: Intervals


def assess(
    outcomes: Outcomes, draws: int = DRAWS, seed: int = 0, temperature: float | None = None, counted: bool = False
) -> Assessment:
    """Every figure of a split.

    Args:
        draws: of the bootstrap; 0 gives no intervals.
        temperature: also calibrate the views' probabilities by it, found elsewhere.
        counted: take precision and recall by counting the boxes at each frame's operating confidence, rather than off
            YOLOv5's curves, which know one confidence for all frames and are straight between detections.
    """
    o = outcomes
    learned = bool(o.view_names) and bool((o.true_views != UNLABELLED).any())
    detection = _counted(o) if counted else _at(o, float(o.operating[0]))
    confusion = view_confusion(o.views.argmax(1), o.true_views, len(o.view_names)) if learned else None
    return Assessment(
        outcomes=o,
        detection=detection,
        view=None if confusion is None else ViewFigures(confusion),
        calibration=calibration(o.views, o.true_views) if learned else None,
        calibrated=calibration(o.views, o.true_views, temperature) if learned and temperature is not None else None,
        froc=froc(o.correct[:, 0], o.confidence, len(o.labelled), len(o)),
        class_froc=tuple(_class_froc(o, label) for label in detection.classes.tolist()),
        patients=None if o.patients is None else presence(o, o.patients),
        clips=None if o.clips is None else presence(o, o.clips),
        clip_views=clip_views(o, o.clips) if o.clips is not None and learned else None,
        intervals=intervals(o, draws, seed),
    )


def _at(outcomes: Outcomes, confidence: float) -> DetectionFigures:
    o = outcomes
    return detection_figures(o.correct, o.confidence, o.predicted, o.labelled, confidence)


def _counted(outcomes: Outcomes) -> DetectionFigures:
    """Precision, recall and F1 from the boxes at or above their frame's operating confidence."""
    o = outcomes
    figures = _at(o, float(o.operating.mean()))
    found = Sample(o, np.zeros(len(o), np.int64), 1, by_patient=False).figures(np.ones((1, 1)))

    def of_classes(figure: str) -> NDArray[np.float64]:
        return np.array([found["per_class", o.names[label], figure][0] for label in figures.classes])

    hits = np.bincount(o.predicted[o.counts & o.correct[:, 0]], minlength=len(o.names))[figures.classes]
    shots = np.bincount(o.predicted[o.counts], minlength=len(o.names))[figures.classes]
    return replace(
        figures, precision=of_classes("precision"), recall=of_classes("recall"), f1=of_classes("f1"),
        confidence=float(o.operating.mean()), true_positives=hits, false_positives=shots - hits,
    )  # fmt: skip


def _class_froc(outcomes: Outcomes, label: int) -> Froc:
    mine = outcomes.predicted == label
    labels = int((outcomes.labelled == label).sum())
    return froc(outcomes.correct[mine, 0], outcomes.confidence[mine], labels, len(outcomes))
