"""Frames that a reader has corrected: checked, and kept in the run folder as a data set that a training takes.

``corrections/images`` and ``labels`` hold what the network saw and what the reader says of it, ``sidecars`` who said
so, when, and what the network had said. What a later correction replaces moves to ``earlier``; nothing is overwritten.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import cv2
import yaml
from numpy.typing import NDArray

from utils.config import is_number
from utils.files import read_json, write_json, write_text, write_whole
from utils.labels import centre_form
from utils.letterbox import Image
from utils.log import InputError, printable
from utils.regions import Area, Rectangle
from utils.study_page import Pictures

PARTS = {"labels": ".txt", "images": ".png", "sidecars": ".json"}
LONGEST_READER = 100  # characters of a reader's name
MOST_BOXES = 300  # of a frame
LEAST_SIDE = 2.0  # pixels of a box, once what lies outside of the picture is cut off
MOST_SIDECAR_BYTES = 1_000_000
# A name of ours; it becomes part of file names.
_CLIP = re.compile(r"\w[\w.-]{0,99}")

_DESCRIPTION = """\
# Frames that readers have corrected (detect.py --review), as a data set: train.py --data {file}
# Sidecars say who corrected a frame, when, and what the network had said. After a move of the folder, change path.
#
# val is the same frames as train, so that the file can be used at once: figures of such a val say nothing. Take frames
# of other patients for it (those of the training before, for instance).
#
# File names do not say whose a frame is: group takes each clip for a patient of its own, and two clips of one patient
# count as two. The sidecars name the study.
"""


class Refused(Exception):
    """What came is no correction: the message is one line for the reader."""


@dataclass(frozen=True)
class Review:
    """What a review is about.

    Attributes:
        folder: of the run; ``corrections`` is made in it.
        report: what study.json holds.
        pictures: of a clip, by its id; only frames with a picture can be corrected.
        image_of: the whole frame, (H, W, 3) RGB, by the clip's id and the frame's number.
        area_of: the part that the network saw of that frame; None where it saw all of it.
        names, view_names: of the network.
    """

    folder: Path
    report: Mapping[str, Any]
    pictures: Mapping[str, Pictures]
    image_of: Callable[[str, int], Image]
    area_of: Callable[[str, int], Area | None]
    names: Sequence[str]
    view_names: Sequence[str]


@dataclass(frozen=True)
class Correction:
    """What a reader says of a frame, checked.

    Attributes:
        boxes: (class, corners in pixels of the whole frame) of each.
        view: index of the view; None where the reader leaves it open.
    """

    clip: str
    frame: int
    reader: str
    boxes: Sequence[tuple[int, tuple[float, float, float, float]]]
    view: int | None


class Corrections:
    """The corrections of a review; safe to call from several threads.

    Raises:
        ValueError: a clip's id cannot be part of a file's name.
    """

    def __init__(self, review: Review) -> None:
        self.review, self.folder = review, review.folder / "corrections"
        self._clips = {clip["id"]: (study, clip) for study in review.report["studies"] for clip in study["clips"]}
        for name in self._clips:
            if not _CLIP.fullmatch(name):
                raise ValueError(f"expected a clip's id that can be part of a file's name, got {name!r}")
        self._frames = {clip: frozenset(map(int, held.frames)) for clip, held in review.pictures.items()}
        self._lock = threading.Lock()

    def all(self) -> list[dict[str, Any]]:
        """The sidecars of this report's frames; what cannot be read as one is passed over."""
        found = []
        for path in sorted((self.folder / "sidecars").glob("*.json")):
            try:
                content = read_json(path, MOST_SIDECAR_BYTES, "a sidecar")
                boxes = [{key: box[key] for key in ("class", "box")} for box in content["boxes"]]
                view = content["view"] and content["view"]["class"]
                words = {key: content[key] for key in ("clip", "frame", "reader")}
                said = self._checked({**words, "boxes": boxes, "view": view})
                if path.stem == _name(said.clip, said.frame):
                    found.append(content)
            except (OSError, InputError, Refused, LookupError, TypeError):
                continue
        return found

    def save(self, content: Any) -> dict[str, Any]:
        """Check what a page sent and keep it; returns the sidecar.

        Raises:
            Refused: it is no correction of a frame that was shown.
            InputError, OSError: the frame cannot be read any more, or the files cannot be written.
        """
        said = self._checked(content)
        study, clip = self._clips[said.clip]
        with self._lock:
            area = self.review.area_of(said.clip, said.frame)
            image = self.review.image_of(said.clip, said.frame)
            if image.shape[:2] != (clip["height"], clip["width"]):
                size = f"{clip['width']} x {clip['height']}"
                raise InputError(f"{said.clip}: expected frames of {size}, got {image.shape[1]} x {image.shape[0]}")
            seen: Rectangle = (0, 0, clip["width"], clip["height"]) if area is None else area.seen
            if area is not None and not area.shown[seen[1] : seen[3], seen[0] : seen[2]].any():
                raise Refused(f"{said.clip}: nothing of this frame may be shown, so that it cannot be corrected")
            rows = label_rows(said, seen, len(self.review.view_names))
            picture = image if area is None else area.crop(area.masked(image))
            sidecar = self._sidecar(said, study, clip, seen)
            self._write(_name(said.clip, said.frame), rows, picture, sidecar)
        return sidecar

    def wait(self) -> None:
        """Until no correction is being saved."""
        with self._lock:
            pass

    def _checked(self, content: Any) -> Correction:
        if not isinstance(content, dict):
            raise Refused(f"expected a mapping, got {type(content).__name__}")
        asked = {"clip", "frame", "reader", "boxes", "view"}
        if set(content) != asked:
            raise Refused(f"expected the keys {', '.join(sorted(asked))}, got {_shown(', '.join(sorted(content)))}")
        clip, frame, reader = content["clip"], content["frame"], content["reader"]
        if not isinstance(clip, str) or clip not in self._clips:
            raise Refused(f"clip: expected one of this report, got {_shown(clip)}")
        if not _is_whole(frame) or frame not in self._frames.get(clip, ()):
            raise Refused(f"frame: expected one of {clip} that has a picture, got {_shown(frame)}")
        if not isinstance(reader, str) or not 1 <= len(reader.strip()) <= LONGEST_READER or not reader.isprintable():
            raise Refused(f"reader: expected a name of 1 to {LONGEST_READER} characters, got {_shown(reader)}")
        view, views = content["view"], len(self.review.view_names)
        if view is not None and not (_is_whole(view) and 0 <= view < views):
            raise Refused(f"view: expected null or a number from 0 to {views - 1}, got {_shown(view)}")
        boxes = content["boxes"]
        if not isinstance(boxes, list) or len(boxes) > MOST_BOXES:
            raise Refused(f"boxes: expected a list of at most {MOST_BOXES}, got {_shown(boxes)}")
        found = self._clips[clip][1]
        checked = [self._checked_box(box, found["width"], found["height"]) for box in boxes]
        return Correction(clip, frame, reader.strip(), checked, view)

    def _checked_box(self, box: Any, width: int, height: int) -> tuple[int, tuple[float, float, float, float]]:
        if not isinstance(box, dict) or set(box) != {"class", "box"}:
            raise Refused(f"boxes: expected class and box of each, got {_shown(box)}")
        label, corners = box["class"], box["box"]
        if not _is_whole(label) or not 0 <= label < len(self.review.names):
            raise Refused(f"class: expected a number from 0 to {len(self.review.names) - 1}, got {_shown(label)}")
        if not isinstance(corners, list) or len(corners) != 4 or not all(map(is_number, corners)):
            raise Refused(f"box: expected four numbers x1 y1 x2 y2, got {_shown(corners)}")
        x1, y1, x2, y2 = map(float, corners)
        if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
            raise Refused(f"box: expected 0 <= x1 < x2 <= {width}, 0 <= y1 < y2 <= {height}, got {_shown(corners)}")
        return label, (x1, y1, x2, y2)

    def _sidecar(
        self, said: Correction, study: Mapping[str, Any], clip: Mapping[str, Any], seen: Rectangle
    ) -> dict[str, Any]:
        review, timeline = self.review, clip.get("timeline") or {}
        views = dict(zip(timeline.get("frame") or (), timeline.get("view") or (), strict=False))
        network = [
            {"class": track["class"], "name": track["name"], "box": list(box[1:5]), "confidence": box[5]}
            for track in clip["tracks"]
            for box in track["boxes"]
            if box[0] == said.frame
        ]
        return {
            "schema": "echo-correction", "version": 1, "study": study["id"], "clip": said.clip, "frame": said.frame,
            "reader": said.reader, "saved": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "weights": review.report["weights"]["sha256"], "seen": list(seen),
            "boxes": [{"class": label, "name": review.names[label], "box": list(box)} for label, box in said.boxes],
            "view": None if said.view is None else {"class": said.view, "name": review.view_names[said.view]},
            "network": {"boxes": network, "view": views.get(said.frame)},
        }  # fmt: skip

    def _write(self, name: str, rows: list[str], picture: NDArray[Any], sidecar: dict[str, Any]) -> None:
        """The sidecar comes last: where it is, all is there. A data set is read by its images: a label comes first."""
        places = {part: self.folder / part / f"{name}{suffix}" for part, suffix in PARTS.items()}
        for path in places.values():
            path.parent.mkdir(parents=True, exist_ok=True)
        done, coded = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        if not done:
            raise InputError(f"{places['images']}: expected a picture that can be written as PNG")
        self._keep_earlier(name, [path for path in places.values() if path.exists()])
        write_text(places["labels"], "".join(f"{row}\n" for row in rows))
        write_whole(places["images"], lambda file: file.write(coded.tobytes()))
        write_json(places["sidecars"], sidecar)
        description = self.folder / "data.yaml"
        if not description.exists():  # a reader's own changes to it stay
            write_text(description, self._description(description))

    def _keep_earlier(self, name: str, paths: list[Path]) -> None:
        """Give what is there a second name, so that replacing the first loses nothing."""
        if not paths:
            return
        earlier = self.folder / "earlier"
        earlier.mkdir(exist_ok=True)
        number = 1
        while any((earlier / f"{name}-{number}{suffix}").exists() for suffix in PARTS.values()):
            number += 1
        for path in paths:
            place = earlier / f"{name}-{number}{path.suffix}"
            try:
                os.link(path, place)
            except OSError:  # a file system without links
                shutil.copyfile(path, place)

    def _description(self, path: Path) -> str:
        values: dict[str, Any] = {"path": str(self.folder.resolve()), "train": "images", "val": "images"}
        values |= {"nc": len(self.review.names), "names": [str(name) for name in self.review.names]}
        if len(self.review.view_names) > 1:
            values["view_names"] = [str(name) for name in self.review.view_names]
        values["group"] = r"^(.+)-\d+\.png$"
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=200)
        return _DESCRIPTION.format(file=json.dumps(str(path.resolve()), ensure_ascii=False)) + text


def label_rows(said: Correction, seen: Rectangle, views: int) -> list[str]:
    """The rows of a label file; see :mod:`utils.labels`.

    Args:
        seen: the rectangle of the picture in the frame; boxes are cut off at its edge.
        views: that there are.

    Raises:
        Refused: a box lies outside of the picture, or stands there twice.
    """
    left, top, right, bottom = seen
    width, height = right - left, bottom - top
    rows: list[str] = []
    for label, (x1, y1, x2, y2) in said.boxes:
        x1, x2 = max(x1 - left, 0.0), min(x2 - left, float(width))
        y1, y2 = max(y1 - top, 0.0), min(y2 - top, float(height))
        if x2 - x1 < LEAST_SIDE or y2 - y1 < LEAST_SIDE:
            where = f"x {left} to {right}, y {top} to {bottom}"
            raise Refused(f"box: expected {LEAST_SIDE:g} pixels a side within what the network sees ({where})")
        values = centre_form((x1, y1, x2, y2), (height, width))
        row = " ".join([str(label), *(f"{value:.6f}" for value in values)])
        if row in rows:
            raise Refused("boxes: expected each box once, got one twice")
        rows.append(row)
    if said.view is not None:
        rows += ["", " ".join(str(int(view == said.view)) for view in range(views))]
    return rows


def _name(clip: str, frame: int) -> str:
    return f"{clip}-{frame:05d}"


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    try:
        return printable(json.dumps(value))
    except ValueError:  # a number of thousands of digits
        return f"a {type(value).__name__}"
