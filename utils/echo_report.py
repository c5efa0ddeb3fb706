"""A study's findings as plain data, clip by clip: study.json (described in docs/study-report.md) and findings.csv."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from utils.clips import ClipRules, ClipView, FrameFindings, Track, TrackedBox, link, pool_view
from utils.outputs import csv_text
from utils.regions import Rectangle

SCHEMA, VERSION = "echo-study-report", 1
NOTICE = (
    "Research software, not a medical device: nothing here has been cleared for diagnosis, and every finding needs the "
    "eyes of a reader."
)
CSV_COLUMNS = (
    "study", "clip", "frames", "view", "view_confidence", "view_agreement", "view_uncertain", "valve", "onset_frame",
    "onset_s", "frames_seen", "peak_frame", "peak_confidence", "width_cm", "height_cm", "uncertain", "note",
)  # fmt: skip


@dataclass(frozen=True)
class Clip:
    """What was found in one clip, and whatever else the report says of it.

    Attributes:
        name: what its outputs are called.
        kind: dicom, video, frames (of a folder) or still.
        study: of which it is one; see :meth:`utils.output_names.OutputNames.study`.
        frames: in order.
        height, width: of the frames, in pixels.
        total: frames that the file holds, also those that were not looked at.
        seen: what the network saw; None where that is the whole frame.
        cm_per_pixel: of x and y in it; None where unknown.
        identity: file, uid, acquired; with --keep-identifiers only.
        note: why not all of it was read; None where all was.
    """

    name: str
    kind: str
    study: str
    frames: Sequence[FrameFindings]
    height: int
    width: int
    total: int
    fps: float | None = None
    seen: Rectangle | None = None
    cm_per_pixel: tuple[float, float] | None = None
    identity: Mapping[str, str] = field(default_factory=dict)
    note: str | None = None


@dataclass(frozen=True)
class Naming:
    """Names of classes and of views."""

    classes: Sequence[str]
    views: Sequence[str]


def study_report(
    clips: Sequence[Clip],
    identities: Mapping[str, Mapping[str, str]],
    skipped: Sequence[tuple[str, str]],
    naming: Naming,
    rules: ClipRules,
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of study.json.

    Args:
        clips: of all studies, in order.
        identities: of each study by its name: uid and patient; with --keep-identifiers only.
        skipped: files that could not be read, and why.
        facts: when, with which weights and settings; valves that these leave out have no row.
    """
    only = facts["settings"].get("classes")
    looked_for = [*range(len(naming.classes))] if only is None else sorted(set(only))
    said = "" if only is None else f" Looked for {', '.join(naming.classes[label] for label in looked_for)} alone."
    studies: dict[str, list[dict[str, Any]]] = {}
    for clip in clips:
        studies.setdefault(clip.study, []).append(_clip_report(clip, naming, rules))
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "notice": NOTICE + said,
        **facts,
        "names": list(naming.classes),
        "view_names": list(naming.views),
        "studies": [
            {
                "id": study,
                **{key: identities.get(study, {}).get(key) for key in ("uid", "patient")},
                "clips": reports,
                "valves": [_valve_report(label, naming.classes[label], reports) for label in looked_for],
            }
            for study, reports in studies.items()
        ],
        "skipped": [{"file": file, "reason": reason} for file, reason in skipped],
    }


def findings_csv(report: Mapping[str, Any]) -> str:
    """The text of findings.csv: a row a track, and one for a clip without any."""
    rows: list[Sequence[object]] = [CSV_COLUMNS]
    for study in report["studies"]:
        for clip in study["clips"]:
            view = clip["view"] or {}
            seen = (view.get(key) for key in ("name", "confidence", "agreement", "uncertain"))
            begin = (study["id"], clip["id"], clip["frames"], *seen)
            rows += [(*begin, *_track_cells(track), clip["note"]) for track in clip["tracks"] or [None]]
    return csv_text([["" if cell is None else cell for cell in row] for row in rows])


def _track_cells(track: Mapping[str, Any] | None) -> tuple[object, ...]:
    if track is None:
        return ("",) * 9
    onset, peak = track["onset"], track["peak"]
    return (
        track["name"], onset["frame"], onset["time"], track["frames"], peak["frame"], peak["confidence"],
        *(track["largest"]["cm"] or (None, None)), track["uncertain"],
    )  # fmt: skip


def _clip_report(clip: Clip, naming: Naming, rules: ClipRules) -> dict[str, Any]:
    view = pool_view(clip.frames, rules)
    return {
        "id": clip.name,
        "kind": clip.kind,
        **{key: clip.identity.get(key) for key in ("file", "uid", "acquired")},
        "frames": clip.total,
        "height": clip.height,
        "width": clip.width,
        "fps": _rounded(clip.fps),
        "area": None if clip.seen is None else list(clip.seen),
        "cm_per_pixel": None if clip.cm_per_pixel is None else list(clip.cm_per_pixel),
        "view": None if view is None else _view_report(view, naming),
        "tracks": [
            _track_report(number, track, clip, naming, rules)
            for number, track in enumerate(link(clip.frames, rules), 1)
        ],
        "timeline": {
            "frame": [frame.number for frame in clip.frames],
            "time": [_rounded(frame.time) for frame in clip.frames],
            "view": [None if frame.view is None else _each_rounded(frame.view) for frame in clip.frames],
        },
        "note": clip.note,
    }


def _view_report(view: ClipView, naming: Naming) -> dict[str, Any]:
    return {
        "name": naming.views[view.index],
        "confidence": _rounded(view.confidence),
        "agreement": _rounded(view.agreement),
        "frames": view.frames,
        "uncertain": view.uncertain,
        "probabilities": _each_rounded(view.probabilities),
    }


def _track_report(number: int, track: Track, clip: Clip, naming: Naming, rules: ClipRules) -> dict[str, Any]:
    first, last, peak, largest = track.boxes[0], track.boxes[-1], track.peak, track.largest
    return {
        "id": number,
        "class": track.label,
        "name": naming.classes[track.label],
        "onset": _moment(first),
        "end": _moment(last),
        "frames": len(track.boxes),
        "peak": {**_moment(peak), "confidence": _rounded(peak.confidence)},
        "largest": {
            "frame": largest.frame.number,
            "box": [round(float(side), 1) for side in largest.box],
            "cm": _centimetres(largest, clip.cm_per_pixel),
        },
        "uncertain": track.uncertain(rules),
        "boxes": [
            [box.frame.number, *(round(float(side), 1) for side in box.box), _rounded(box.confidence)]
            for box in track.boxes
        ],
    }


def _valve_report(label: int, name: str, clips: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A row of the table of valves against clips; each cell is of the surest track, certain ones first."""
    cells: list[dict[str, Any] | None] = []
    for clip in clips:
        tracks = [track for track in clip["tracks"] if track["class"] == label]
        best = max(tracks, key=lambda track: (not track["uncertain"], track["peak"]["confidence"]), default=None)
        cells.append(
            None
            if best is None
            else {
                "clip": clip["id"],
                "confidence": best["peak"]["confidence"],
                "frames": best["frames"],
                "peak_frame": best["peak"]["frame"],
                "uncertain": best["uncertain"],
            }
        )
    found = [cell for cell in cells if cell is not None]
    surest = max(found, key=lambda cell: (not cell["uncertain"], cell["confidence"]), default=None)
    return {
        "class": label,
        "name": name,
        "clips": len(found),
        "certain": sum(not cell["uncertain"] for cell in found),
        "peak": None
        if surest is None
        else {"clip": surest["clip"], "frame": surest["peak_frame"], "confidence": surest["confidence"]},
        "cells": cells,
    }


def _moment(box: TrackedBox) -> dict[str, Any]:
    return {"frame": box.frame.number, "time": _rounded(box.frame.time)}


def _centimetres(box: TrackedBox, scale: tuple[float, float] | None) -> list[float] | None:
    """Width and height."""
    if scale is None:
        return None
    sides = (box.box[2:] - box.box[:2]).astype(np.float64) * scale
    return [round(float(side), 2) for side in sides]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 4)


def _each_rounded(values: Any) -> list[float]:
    return [round(float(value), 4) for value in values]
