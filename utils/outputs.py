"""What was found in frames, in the forms that users' tools read: label rows, csv rows, COCO results; file names."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.floating[Any]]  # (n, 6): x1, y1, x2, y2 in pixels, confidence, class

CSV_HEADER = (
    "Image Name", "Prediction", "Confidence",  # YOLOv5's three
    "Frame", "x1", "y1", "x2", "y2", "View", "View Confidence",
)  # fmt: skip


class UniqueNames:
    """Names for files in one folder, after files of many folders: a name that is taken gets ``_2``, ``_3``, ..."""

    def __init__(self) -> None:
        self._given: dict[tuple[Path, int | None], str] = {}
        self._taken: set[str] = set()

    def __call__(self, path: Path, frame: int | None = None) -> str:
        """The stem to use for a file, or for a frame of a video; the same at each call with the same arguments."""
        key = (path, frame)
        if key not in self._given:
            wanted = path.stem if frame is None else f"{path.stem}_{frame}"
            name, number = wanted, 2
            while name in self._taken:
                name, number = f"{wanted}_{number}", number + 1
            self._taken.add(name)
            self._given[key] = name
        return self._given[key]


def label_rows(boxes: Boxes, shape: tuple[int, int], with_confidence: bool, corners: bool = False) -> list[str]:
    """YOLOv5's label rows.

    Args:
        boxes: to be written.
        shape: (height, width) of the frame.
        with_confidence: add it as the last column.
        corners: pixels x1, y1, x2, y2 (Pascal VOC) instead of the normalised centre form.
    """
    height, width = shape
    rows = []
    for x1, y1, x2, y2, confidence, label in boxes.tolist():
        box: Sequence[float] = (x1, y1, x2, y2)
        if not corners:
            box = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
        values: Iterable[float] = (*box, confidence) if with_confidence else box
        rows.append(" ".join([str(int(label)), *(f"{value:g}" for value in values)]))
    return rows


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
    name = harmless(name)
    if not len(boxes):
        return [[name, "", "", frame, "", "", "", "", *shown]]
    return [
        [name, harmless(names[int(label)]), f"{confidence:.2f}", frame, *(f"{v:.1f}" for v in box), *shown]
        for *box, confidence, label in boxes.tolist()
    ]


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """The text of a csv file; no cell is a formula."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([harmless(str(cell)) for cell in row] for row in rows)
    return text.getvalue()


def harmless(text: str) -> str:
    """A cell's text, preceded by an apostrophe where a spreadsheet would take it for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def coco_rows(boxes: Boxes, path: Path) -> list[dict[str, Any]]:
    """Results in COCO's form: top left corner, width, height in pixels; the image's id is its stem, or that number."""
    image = int(path.stem) if path.stem.isdecimal() else path.stem
    return [
        {
            "image_id": image,
            "category_id": int(label),
            "bbox": [round(value, 3) for value in (x1, y1, x2 - x1, y2 - y1)],
            "score": round(confidence, 5),
        }
        for x1, y1, x2, y2, confidence, label in boxes.tolist()
    ]
