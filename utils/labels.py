"""A label file -> boxes and a view, row by row, with every fault named.

Rows of 5 columns (``cls xc yc w h``) and polygons (``cls x1 y1 x2 y2 x3 y3 ...``) may be mixed; all coordinates are
normalised. After an empty line follows a one-hot view row, such as ``0 1 0``; a file may hold that row alone. A faulty
row is left out and reported, the rest of its file counts.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from utils.log import printable

UNLABELLED = -1
MAX_LABEL_BYTES = 2_000_000  # read within seconds; a thousand polygons of a hundred corners
MAX_PROBLEMS = 100  # of one file that are told one by one


class Problem(NamedTuple):
    """A fault in a data file: where it is, which rule it breaks, and what was done."""

    path: Path
    line: int | None
    rule: str
    action: str

    def __str__(self) -> str:
        place = f"{self.path}:{self.line}" if self.line else str(self.path)
        return f"{place}: {self.rule}; {self.action}"


@dataclass(frozen=True)
class Label:
    """What one label file says.

    Attributes:
        boxes: (n, 5) float32: class, centre x, centre y, width, height, normalised.
        view: column of the view row, or ``UNLABELLED``.
        problems: faults, in the order of the file.
    """

    boxes: NDArray[np.float32]
    view: int
    problems: tuple[Problem, ...]

    def content(self) -> list[Any] | None:
        """Plain values for :meth:`from_content`; None where not the file's rows but the file itself is at fault."""
        if any(problem.line is None for problem in self.problems):
            return None
        return [self.boxes.tolist(), self.view, [problem[1:] for problem in self.problems]]

    @classmethod
    def from_content(cls, path: Path, content: Any) -> Label:
        """The label of the file ``path`` that gave this content; ValueError or TypeError where none can."""
        boxes, view, problems = content
        found = tuple(Problem(path, int(line), str(rule), str(action)) for line, rule, action in problems)
        return cls(np.array(boxes, np.float32).reshape(-1, 5), int(view), found)


def label_path(image: Path) -> Path:
    """The label file of an image: its last folder ``images`` becomes ``labels``, its suffix ``.txt``."""
    return (_label_folder(image.parent) / image.name).with_suffix(".txt")


@lru_cache(maxsize=1024)  # a dataset's frames lie in few folders
def _label_folder(folder: Path) -> Path:
    parts = list(folder.parts)
    for index in range(len(parts) - 1, -1, -1):
        if parts[index] == "images":
            parts[index] = "labels"
            break
    return Path(*parts)


def read_label(path: Path, nc: int, nv: int) -> Label:
    """Read a label file; a missing or empty one is background without a view.

    Args:
        path: of the label file.
        nc: number of box classes.
        nv: number of views; with 0, view rows are passed over.
    """
    problems: list[Problem] = []
    try:
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):  # opening a pipe would wait for its writer
            problem = Problem(
                path, None, "expected a file of labels, got a directory or a device", "taken as background"
            )
            return Label(np.zeros((0, 5), np.float32), UNLABELLED, (problem,))
        if state.st_size > MAX_LABEL_BYTES:
            problem = Problem(path, None, f"expected under {MAX_LABEL_BYTES} bytes of labels", "left out")
            return Label(np.zeros((0, 5), np.float32), UNLABELLED, (problem,))
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        lines = []
    except (OSError, ValueError) as error:  # ValueError: no UTF-8, or a path with a null byte
        lines, problems = [], [Problem(path, None, f"cannot be read as text: {_reason(error)}", "taken as background")]
    boxes: dict[tuple[float, ...], None] = {}  # in order, and each found at once
    more = 0
    view = UNLABELLED
    after_gap = True  # a file may begin with its view row
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words:
            after_gap = True
            continue
        try:
            if _is_view_row(words, nv, after_gap):
                view = _parse_view(words, nv, view)
            else:
                box = _parse_box(words, nc)
                if box in boxes:
                    raise ValueError("the same box stands in an earlier row")
                boxes[box] = None
        except ValueError as error:
            if len(problems) < MAX_PROBLEMS:
                problems.append(Problem(path, number, str(error), "row left out"))
            else:
                more += 1
        after_gap = False
    if more:
        problems.append(Problem(path, number, f"{more} more rows with faults up to here", "rows left out"))
    array = np.array(list(boxes), np.float32).reshape(-1, 5)
    return Label(array, view, tuple(problems))


def pixel_corners(boxes: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float64]:
    """Label rows (n, 5), normalised -> corners x1 y1 x2 y2 (n, 4) in pixels of (height, width), cut off at its edge."""
    centre, half = boxes[:, 1:3].astype(np.float64), boxes[:, 3:5].astype(np.float64) / 2
    return np.concatenate((centre - half, centre + half), 1).clip(0, 1) * np.tile(shape[::-1], 2)


def centre_form(corners: Sequence[float], shape: tuple[int, int]) -> tuple[float, float, float, float]:
    """The way back, of one box: x1 y1 x2 y2 in pixels of (height, width) -> normalised, as label rows have it."""
    (x1, y1, x2, y2), (height, width) = corners, shape
    return (x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height


def _is_view_row(words: list[str], nv: int, after_gap: bool) -> bool:
    """Whether a row is meant as a view row: nothing but 0 and 1, and of a length no box row has.

    Where views are as many as a box row has columns (5, or 7, 9, ...), only the row after an empty line, or the
    file's first, is taken for one.
    """
    if not all(word in ("0", "1", "0.0", "1.0") for word in words):
        return False
    box_like = len(words) == 5 or (len(words) >= 7 and len(words) % 2 == 1)
    return not box_like or (after_gap and len(words) == nv)


def _parse_view(words: list[str], nv: int, before: int) -> int:
    if nv == 0:
        return UNLABELLED
    if len(words) != nv:
        raise ValueError(f"expected a view row of {nv} columns, got {len(words)}")
    values = [float(word) for word in words]
    if sum(values) != 1:
        raise ValueError(f"expected a view row with exactly one 1, got {printable(' '.join(words))}")
    if before != UNLABELLED:
        raise ValueError("expected one view row, got a second one")
    return values.index(1)


def _parse_box(words: list[str], nc: int) -> tuple[float, ...]:
    polygon = len(words) >= 7 and len(words) % 2 == 1
    if len(words) != 5 and not polygon:
        raise ValueError(
            f"expected 5 columns (cls x y w h), or a class and 3 or more corners, got {len(words)} columns"
        )
    values = [_number(word) for word in words]
    if not values[0].is_integer() or not 0 <= values[0] < nc:
        raise ValueError(f"expected a class from 0 to {nc - 1}, got {printable(words[0])}")
    outside = [word for word, value in zip(words[1:], values[1:], strict=True) if not 0 <= value <= 1]
    if outside:
        raise ValueError(f"expected coordinates from 0 to 1, got {printable(outside[0])}")
    if polygon:
        xs, ys = values[1::2], values[2::2]
        box = ((min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2, max(xs) - min(xs), max(ys) - min(ys))
        values = [values[0], *box]
    if np.float32(values[3]) == 0 or np.float32(values[4]) == 0:
        raise ValueError("expected a box with a width and a height, got one of size 0")
    return tuple(values)


def _number(word: str) -> float:
    """A plain decimal number; Python's own 1_0 and digits of other scripts are none in a label file."""
    try:
        return float(word if word.isascii() and "_" not in word else "")
    except ValueError:
        raise ValueError(f"expected numbers, got {printable(word)!r}") from None


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or printable(str(error))


if __name__ == "__main__":
    import sys

    from utils.audit import start  # not above: it imports this module

    sys.exit(start())
