"""Outcomes of networks that never were, for tests of figures and intervals. No test stands here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from utils.outcomes import Outcomes

NAMES, VIEW_NAMES = ("AR", "MR", "PR", "TR"), ("PLAX", "PSAX", "A4C")


def outcomes(
    seed: int = 0,
    patients: int = 8,
    frames: int = 6,
    detections: int = 12,
    skill: Sequence[float] | NDArray[np.float64] | None = None,
    operating: float = 0.5,
    views: bool = True,
) -> Outcomes:
    """One labelled box a frame; clips of three frames; confidences are distinct.

    Args:
        frames, detections: of each patient, of each frame.
        skill: (patients,) how often a patient's box is found and its view right; half the time if not given.
    """
    rng = np.random.default_rng(seed)
    count = patients * frames
    owner = np.repeat(np.arange(patients), frames)
    skilled = np.full(patients, 0.5) if skill is None else np.asarray(skill)
    frame = np.repeat(np.arange(count), detections)
    labelled = rng.integers(0, len(NAMES), count)
    predicted = rng.integers(0, len(NAMES), len(frame))
    first = np.arange(count) * detections if detections else np.zeros(0, int)
    found = rng.random(len(first)) < skilled[owner[: len(first)]]
    correct = np.zeros((len(frame), 10), bool)
    for row, is_found, label in zip(first, found, labelled, strict=False):
        if is_found:
            predicted[row] = label
            correct[row, : rng.integers(1, 11)] = True
    confidence = rng.permutation(len(frame)) / max(len(frame), 1) * 0.8 + correct[:, 0] * 0.2
    true_views = rng.integers(0, 3, count)
    seen = np.where(rng.random(count) < skilled[owner], true_views, rng.integers(0, 3, count))
    probabilities = rng.dirichlet((1, 1, 1), count)
    probabilities[np.arange(count), seen] += 1
    names = [f"p{patient:02d}-c{place // 3 + 1:02d}" for patient in range(patients) for place in range(frames)]
    return Outcomes(
        names=NAMES,
        view_names=VIEW_NAMES if views else (),
        files=tuple(f"{name}-f{place:04d}.png" for place, name in enumerate(names)),
        patients=tuple(name.split("-")[0] for name in names),
        clips=tuple(names),
        frame=frame,
        confidence=confidence,
        predicted=predicted,
        correct=correct,
        label_frame=np.arange(count),
        labelled=labelled,
        views=probabilities / 2 if views else np.zeros((count, 0)),
        true_views=true_views,
        operating=np.full(count, operating),
        confusion=np.zeros((len(NAMES) + 1, len(NAMES) + 1), np.int64),
    )


def repeated(whole: Outcomes, times: Sequence[int]) -> Outcomes:
    """What a draw means: each patient's frames, copied so many times; ``times`` are by patient, in sorted order."""
    assert whole.patients is not None and whole.clips is not None
    names = sorted(set(whole.patients))
    rows: list[int] = []
    for name, count in zip(names, times, strict=True):
        rows += [row for row, patient in enumerate(whole.patients) if patient == name] * count
    boxes = [np.flatnonzero(whole.frame == row) for row in rows]
    labels = [np.flatnonzero(whole.label_frame == row) for row in rows]
    detections = np.concatenate(boxes)
    return Outcomes(
        names=whole.names, view_names=whole.view_names, files=tuple(whole.files[row] for row in rows),
        patients=tuple(whole.patients[row] for row in rows), clips=tuple(whole.clips[row] for row in rows),
        frame=np.repeat(np.arange(len(rows)), [len(own) for own in boxes]),
        confidence=whole.confidence[detections], predicted=whole.predicted[detections],
        correct=whole.correct[detections],
        label_frame=np.repeat(np.arange(len(rows)), [len(own) for own in labels]),
        labelled=whole.labelled[np.concatenate(labels)], views=whole.views[rows], true_views=whole.true_views[rows],
        operating=whole.operating[rows], confusion=whole.confusion,
    )  # fmt: skip


def few(views: bool = True) -> Outcomes:
    """Four frames of two patients: two of three AR boxes and the one TR box found, one false MR box; 3 of 4 views."""
    return replace(
        outcomes(patients=2, frames=2, detections=0, views=views),
        frame=np.array([0, 1, 2, 3]),
        confidence=np.array([0.9, 0.8, 0.7, 0.6]),
        predicted=np.array([0, 0, 1, 3]),
        correct=np.array([[True] * 10, [True] * 5 + [False] * 5, [False] * 10, [True] * 10]),
        label_frame=np.arange(4),
        labelled=np.array([0, 0, 0, 3]),
        views=np.eye(3)[[0, 1, 1, 2]] if views else np.zeros((4, 0)),
        true_views=np.array([0, 0, 1, 2]),
    )


def at(content: object, key: Sequence[str]) -> float:
    """A figure of metrics.json, by its place."""
    for name in key:
        assert isinstance(content, dict)
        content = content[name]
    assert isinstance(content, float)
    return content
