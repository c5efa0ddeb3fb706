"""A report of two small studies, its pictures and frames, for tests of what shows them. No test stands here."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from tests.phantoms import encode
from utils.corrections import Review
from utils.phantom import FramePlan, Jet, PhantomConfig, render
from utils.regions import Area, of_sector

NAMES = ("AR", "MR", "PR", "TR")
VIEW_NAMES = ("PLAX", "PSAX", "A4C")
FRAMES = 12
PHANTOM = PhantomConfig(frames=FRAMES)
ODD = "</script><script>alert(1)</script> <b> & \"quotes\" 'too' {{report}} \u2028 三"
NOTICE = "Research software, not a medical device: its findings are no diagnosis."


@dataclass(frozen=True)
class Kept:
    """Pictures in memory, as :class:`utils.study_page.Pictures` has them on disk."""

    frames: Sequence[int]
    size: tuple[int, int]
    jpegs: Sequence[bytes]

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.jpegs)


@cache
def frame_of(view: int, number: int, frames: int = FRAMES) -> tuple[NDArray[np.uint8], list[tuple[float, ...]]]:
    """A phantom frame (H, W, 3) RGB and (class, x1, y1, x2, y2) of its jets."""
    valve = (1, 0, 1)[view]
    phase = number / frames
    jets = (Jet(valve, 0.4 + 0.5 * math.sin(math.pi * phase), 0.05, 0.1, False),) if 0.2 <= phase <= 0.8 else ()
    picture, boxes = render(PHANTOM, FramePlan("val", 5, view + 1, number + 1, view, phase, jets))
    found: list[tuple[float, ...]] = [(valve, x, y, x + w, y + h) for x, y, w, h in map(tuple, boxes)]
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB).astype(np.uint8), found


def clip_of(name: str, view: int, frames: int = FRAMES, **keys: Any) -> tuple[dict[str, Any], Kept]:
    """A clip of the report and its pictures, at half the frame's size."""
    pictures, boxes = [], []
    for number in range(frames):
        image, found = frame_of(view, number, frames)
        half = cv2.resize(image, (160, 120), interpolation=cv2.INTER_AREA)
        pictures.append(encode(".jpg", half[..., ::-1], cv2.IMWRITE_JPEG_QUALITY, 80))
        boxes += [[number, *map(float, box), 0.5 + 0.03 * number] for _, *box in found]
    label = (1, 0, 1)[view]
    tracks = [track(1, label, boxes)] if boxes else []
    if boxes:
        shifted = [[number, x1 - 60, y1 + 5, x1 - 20, y1 + 45, 0.31] for number, x1, y1, _, _, _ in boxes[-2:]]
        tracks.append(track(2, 3, shifted, uncertain=True))
    view_rows = [[0.1, 0.1, 0.1] for _ in range(frames)]
    for number, row in enumerate(view_rows):
        row[view if number % 6 else (view + 1) % 3] = 0.8
    clip = {
        "id": name, "kind": "dicom", "file": None, "uid": None, "acquired": None, "frames": frames,
        "height": PHANTOM.height, "width": PHANTOM.width, "fps": 30.0, "area": None, "cm_per_pixel": [0.05, 0.05],
        "view": {"name": VIEW_NAMES[view], "confidence": 0.71, "agreement": 0.83, "frames": round(0.83 * frames),
                 "uncertain": view == 1, "probabilities": [0.1, 0.2, 0.7]},
        "tracks": tracks, "note": None,
        "timeline": {"frame": list(range(frames)), "time": [number / 30 for number in range(frames)],
                     "view": view_rows},
        **keys,
    }  # fmt: skip
    return clip, Kept(range(frames), (160, 120), pictures)


def track(number: int, label: int, boxes: list[list[float]], uncertain: bool = False) -> dict[str, Any]:
    """A track of the report; boxes are [frame, x1, y1, x2, y2, confidence]."""

    def at(frame: float) -> dict[str, float]:
        return {"frame": frame, "time": frame / 30}

    peak = max(boxes, key=lambda box: box[5])
    largest = max(boxes, key=lambda box: (box[3] - box[1]) * (box[4] - box[2]))
    cm = [0.05 * (largest[3] - largest[1]), 0.05 * (largest[4] - largest[2])]
    return {
        "id": number, "class": label, "name": NAMES[label], "onset": at(boxes[0][0]), "end": at(boxes[-1][0]),
        "frames": len(boxes), "peak": {**at(peak[0]), "confidence": peak[5]},
        "largest": {"frame": largest[0], "box": largest[1:5], "cm": cm}, "uncertain": uncertain, "boxes": boxes,
    }  # fmt: skip


def valves_of(clips: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The valves' rows of a study's table."""
    rows = []
    for label, name in enumerate(NAMES):
        cells: list[dict[str, Any] | None] = []
        for clip in clips:
            found = [item for item in clip["tracks"] if item["class"] == label]
            best = max(found, key=lambda item: item["peak"]["confidence"], default=None)
            cells.append(best and {
                "clip": clip["id"], "confidence": best["peak"]["confidence"], "frames": best["frames"],
                "peak_frame": best["peak"]["frame"], "uncertain": best["uncertain"],
            })  # fmt: skip
        there = [cell for cell in cells if cell]
        top = max(there, key=lambda cell: cell["confidence"], default=None)
        peak = top and {"clip": top["clip"], "frame": top["peak_frame"], "confidence": top["confidence"]}
        certain = sum(not cell["uncertain"] for cell in there)
        rows.append(
            {"class": label, "name": name, "clips": len(there), "certain": certain, "peak": peak, "cells": cells}
        )
    return rows


def report_of(*studies: Sequence[dict[str, Any]], **keys: Any) -> dict[str, Any]:
    """A report of studies, each given by its clips."""
    return {
        "schema": "echo-study-report", "version": 1, "created": "2026-11-29T15:40:57+00:00", "notice": NOTICE,
        "weights": {"file": "best.pt", "sha256": "5a" * 32}, "names": list(NAMES), "view_names": list(VIEW_NAMES),
        "settings": {"imgsz": 320, "clip_window": 0, "conf_thres": 0.25, "iou_thres": 0.45, "max_det": 1000,
                     "vid_stride": 1, "calibrate": False, "track_iou": 0.3, "track_gap": 5, "track_frames": 3,
                     "view_agreement": 0.7, "keep_overlay": False, "keep_identifiers": False},
        "studies": [{"id": f"study-{number}", "uid": None, "patient": None, "clips": list(clips),
                     "valves": valves_of(clips)} for number, clips in enumerate(studies, 1)],
        "skipped": [], **keys,
    }  # fmt: skip


def small() -> tuple[dict[str, Any], dict[str, Kept]]:
    """Two studies, of three clips in all; of the second clip each third picture is there, the third is a still."""
    first, one = clip_of("clip-aa01", 2)
    second, two = clip_of("clip-aa02", 0, file=ODD, note=ODD)
    third, three = clip_of("clip-aa03", 1, 1, fps=None, cm_per_pixel=None)
    third["timeline"]["time"] = [None]
    two = Kept(range(0, FRAMES, 3), two.size, two.jpegs[::3])
    report = report_of([first, second], [third], skipped=[{"file": ODD, "reason": "not a file that can be read"}])
    return report, {"clip-aa01": one, "clip-aa02": two, "clip-aa03": three}


def image_of(clip: str, frame: int) -> NDArray[np.uint8]:
    """The whole frame (H, W, 3) RGB of a clip of :func:`small`."""
    return frame_of({"clip-aa01": 2, "clip-aa02": 0, "clip-aa03": 1}[clip], frame)[0]


def area_of(clip: str, frame: int = 0) -> Area | None:
    """The sector of the first clip, the same in all frames; the others are seen whole."""
    return of_sector(image_of(clip, 0)) if clip == "clip-aa01" else None


def review_in(folder: Path) -> Review:
    """A review of :func:`small`, in a run folder."""
    report, pictures = small()
    area = area_of("clip-aa01")
    assert area is not None
    report["studies"][0]["clips"][0]["area"] = list(area.seen)
    return Review(folder, report, pictures, image_of, area_of, NAMES, VIEW_NAMES)
