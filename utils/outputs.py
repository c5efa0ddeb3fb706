"""What was found in frames, in the forms that users' tools read: label rows, csv rows, COCO's files; names."""

from __future__ import annotations

import csv
import io
import itertools
import os
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.labels import centre_form, pixel_corners
from utils.letterbox import Image

Boxes = NDArray[np.floating[Any]]  # (n, 6): x1, y1, x2, y2 in pixels, confidence, class

CSV_HEADER = (
    "Image Name", "Prediction", "Confidence",  # YOLOv5's three
    "Frame", "x1", "y1", "x2", "y2", "View", "View Confidence",
)  # fmt: skip
_NUMBERED = re.compile(r"(.*)_\d+", re.DOTALL)
FORMULA = re.compile(r"(^|[;\t\r\n]\s*)([=+\-@＝＋－＠])")
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
LONGEST_FOLDER = 200  # bytes of a folder's name; most file systems take 255
INT64_DIGITS = 18  # longer numbers than numpy holds stay text


class UniqueNames:
    """Names for files in one folder, after files of many folders: a name that is taken gets ``_2``, ``_3``, ...

    A video takes the names of its frames, too, ``NAME_0``, ``NAME_1``, ... (:func:`frame_name`), however many come.
    """

    def __init__(self) -> None:
        self._given: dict[Path, str] = {}
        self._taken: set[str] = set()
        self._videos: set[str] = set()
        self._before_numbers: set[str] = set()  # of the names that are taken, what stands before a last _NUMBER

    def __call__(self, path: Path, video: bool = False, wanted: str | None = None) -> str:
        """The stem to use for a file, its own or ``wanted``; the same at each call with the same path."""
        if path not in self._given:
            wanted = path.stem if wanted is None else wanted
            sign = "-" if wanted in self._videos else "_"  # else it would be the name of one of the video's frames
            later = (f"{wanted}{sign}{number}" for number in itertools.count(2))
            self.give(path, next(name for name in itertools.chain([wanted], later) if self._free(name, video)), video)
        return self._given[path]

    def give(self, path: Path, name: str, video: bool) -> None:
        """Let a file have a name that was chosen earlier."""
        self._given[path] = name
        self._taken.add(name)
        if video:
            self._videos.add(name)
        if numbered := _NUMBERED.fullmatch(name):
            self._before_numbers.add(numbered[1])

    def _free(self, name: str, video: bool) -> bool:
        numbered = _NUMBERED.fullmatch(name)
        of_a_video = numbered is not None and numbered[1] in self._videos
        return not (name in self._taken or of_a_video or (video and name in self._before_numbers))


def frame_name(name: str, number: int | None) -> str:
    """What a frame's own files are called: its video's name and its number; a still's name as it is."""
    return name if number is None else f"{name}_{number}"


def folder_name(label: str) -> str:
    """A class name as a folder's, without what would lead out of its place, and no longer than a file system takes."""
    name = re.sub(r'[/\\:*?"<>|\x00-\x1f\x7f\ud800-\udfff]', "_", label)
    return name.encode()[:LONGEST_FOLDER].decode(errors="ignore").strip(". ") or "_"


def has_screen() -> bool:
    """Whether a window can be opened; without a screen on Linux, OpenCV would end the whole process."""
    return not sys.platform.startswith("linux") or any(os.environ.get(n) for n in ("DISPLAY", "WAYLAND_DISPLAY"))


def label_rows(boxes: Boxes, shape: tuple[int, int], with_confidence: bool, corners: bool = False) -> list[str]:
    """YOLOv5's label rows.

    Args:
        boxes: to be written.
        shape: (height, width) of the frame.
        with_confidence: add it as the last column.
        corners: pixels x1, y1, x2, y2 (Pascal VOC) instead of the normalised centre form.
    """
    rows = []
    for *box, confidence, label in boxes.tolist():
        if not corners:
            box = centre_form(box, shape)
        values: Iterable[float] = (*box, confidence) if with_confidence else box
        rows.append(" ".join([str(int(label)), *(f"{value:g}" for value in values)]))
    return rows


def cut_out(image: Image, box: NDArray[np.floating[Any]]) -> Image:
    """The pixels of a frame that a row of :data:`Boxes` touches, without a margin."""
    x1, y1 = np.floor(box[:2]).astype(int).clip(0)
    x2, y2 = np.ceil(box[2:4]).astype(int).clip(0)
    return image[y1:y2, x1:x2]


def view_row(view: NDArray[np.floating[Any]]) -> str:
    """The one-hot row of the likeliest view of (nv,) probabilities."""
    best = int(view.argmax())
    return " ".join("1" if index == best else "0" for index in range(len(view)))


def csv_rows(
    name: str,
    number: int | None,
    boxes: Boxes,
    names: Sequence[str],
    view: NDArray[np.floating[Any]] | None,
    view_names: Sequence[str],
) -> list[list[str]]:
    """A row a box under :data:`CSV_HEADER`; a frame without boxes has one row, with empty cells for the box.

    Text that a spreadsheet would take for a formula is preceded by an apostrophe.
    """
    frame = "" if number is None else str(number)
    shown = ["", ""]
    if view is not None:
        best = int(view.argmax())
        shown = [harmless(view_names[best]), f"{view[best]:.4f}"]
    name = harmless(name.encode("utf-8", "backslashreplace").decode())  # a file's name need not be text
    if not len(boxes):
        return [[name, "", "", frame, "", "", "", "", *shown]]
    return [
        [name, harmless(names[int(label)]), f"{confidence:.2f}", frame, *(f"{v:.1f}" for v in box), *shown]
        for *box, confidence, label in boxes.tolist()
    ]


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """The text of a csv file; no cell is a formula, and a number, also as text, stays one."""
    text = io.StringIO()
    cells = ([cell if NUMBER.fullmatch(cell) else harmless(cell) for cell in map(str, row)] for row in rows)
    csv.writer(text, lineterminator="\n").writerows(cells)
    return text.getvalue()


def harmless(text: str) -> str:
    """A cell's text, in which an apostrophe precedes whatever a spreadsheet would take for a formula.

    That may stand behind a semicolon or tab, too: where the comma is the decimal sign, these part a line's cells.
    """
    text = FORMULA.sub(r"\1'\2", text)
    return f"'{text}" if text[:1] in ("\t", "\r", "\n") else text


def image_ids(files: Sequence[Path]) -> list[int | str]:
    """COCO's ids for the images of a split: unique, and the stem as in YOLOv5, as a number where every stem is one.

    YOLOv5 decides that for each image; pycocotools sorts the ids, which fails where numbers and text are mixed. Of
    equal numbers (two folders; 7 and 007) the later ones go on after the highest; for text see :class:`UniqueNames`.
    """
    if not all(path.stem.isdecimal() and len(path.stem) <= INT64_DIGITS for path in files):
        unique = UniqueNames()
        return [unique(path) for path in files]
    numbers = [int(path.stem) for path in files]
    ids: list[int | str] = []
    taken: set[int] = set()
    after = max(numbers, default=0)
    for number in numbers:
        if number in taken:
            after += 1
        ids.append(after if number in taken else number)
        taken.add(number)
    return ids


def coco_rows(boxes: Boxes, image: int | str) -> list[dict[str, Any]]:
    """Results in COCO's form: top left corner, width, height in pixels; rounded as YOLOv5's."""
    return [
        {
            "image_id": image,
            "category_id": int(label),
            "bbox": [round(value, 3) for value in (x1, y1, x2 - x1, y2 - y1)],
            "score": round(confidence, 5),
        }
        for x1, y1, x2, y2, confidence, label in boxes.tolist()
    ]


def coco_labels(
    ids: Sequence[int | str],
    files: Sequence[str],
    shapes: Sequence[tuple[int, int]],
    labels: Sequence[NDArray[np.float32]],
    names: Sequence[str],
) -> dict[str, Any]:
    """Labels as COCO's ground truth, for results of :func:`coco_rows`.

    Args:
        ids: of :func:`image_ids`.
        files: what each image is called.
        shapes: (height, width) of each image, in pixels.
        labels: (n, 5) of each image: class, then the normalised centre form.
        names: of the classes.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image, file, shape, rows in zip(ids, files, shapes, labels, strict=True):
        images.append({"id": image, "file_name": file, "width": shape[1], "height": shape[0]})
        for label, (x1, y1, x2, y2) in zip(rows[:, 0].tolist(), pixel_corners(rows, shape).tolist(), strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,  # not from 0, by which pycocotools knows what is not matched
                    "image_id": image,
                    "category_id": int(label),
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": number, "name": name} for number, name in enumerate(names)]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}
