"""balance.csv: how the tasks pulled at the weights they share, a row a step of the optimizer; and what it comes to."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from utils.files import write_text
from utils.log import InputError, printable

COLUMNS = ("epoch", "step")
MAX_BYTES = 1_000_000_000  # of a million steps and more
MOST_COLUMNS = 2000  # some, and one a layer of the trunk
MOST_CELLS = 200_000_000  # ten million steps; at most 70 bytes of memory each
LONGEST_LINE = 32 * MOST_COLUMNS
LAST_STEP = 10**12
Rows = list[dict[str, float]]


class BalanceLog:
    """Appends rows to balance.csv, at every step, so that a run can be watched.

    The first row makes the header.

    Args:
        path: of the file.
        keep_steps: steps of an earlier part of the run whose rows stay, when it is resumed.
    """

    def __init__(self, path: Path, keep_steps: int = 0) -> None:
        self._path = path
        there = keep_steps > 0 and path.is_file()  # what else lies there is of an earlier run (--exist-ok)
        kept = [row for row in read_balance(path) if row["step"] <= keep_steps] if there else []
        self._columns: list[str] = list(kept[0]) if kept else []
        self._new: Rows = []
        write_text(path, _lines(self._columns, kept, header=True) if kept else "")
        self._file = path.open("a", encoding="utf-8", newline="")

    def append(self, row: Mapping[str, float]) -> None:
        """Write a row, NaN as an empty cell; a column that the file does not have is left out."""
        text = ""
        if not self._columns:
            self._columns = list(row)
            text = _lines(self._columns, [], header=True)
        try:
            self._file.write(text + _lines(self._columns, [row], header=False))
            self._file.flush()
        except OSError as error:  # a full disk does not say where
            error.filename = error.filename or str(self._path)
            raise
        self._new.append(dict(row))

    def flush(self) -> Rows:
        """The rows since the last call."""
        rows, self._new = self._new, []
        return rows

    def close(self) -> None:
        """Finish the file."""
        self._file.close()


def _lines(columns: Sequence[str], rows: Sequence[Mapping[str, float]], header: bool) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    if header:
        writer.writerow(columns)
    for row in rows:
        writer.writerow(_cell(name, row.get(name, math.nan)) for name in columns)
    return file.getvalue()


def _cell(name: str, value: float) -> str:
    if math.isnan(value):
        return ""
    return f"{int(value)}" if name in COLUMNS else f"{value:.6g}"


def read_balance(path: Path) -> Rows:
    """The rows of a balance.csv; empty cells are NaN. A last line that was cut off is left out.

    Raises:
        InputError: no such file, or something else in it.
    """
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise InputError(
                f"{path}: expected the balance.csv of a training, of at most {MAX_BYTES:,} bytes: {size:,}"
            )
        with path.open(encoding="utf-8") as file:
            return _rows(path, csv.reader(_whole_lines(file)))
    except OSError as error:
        raise InputError(f"{path}: expected the balance.csv of a training: {error.strerror}") from error
    except (ValueError, csv.Error) as error:
        reason = printable(str(error), 200)
        raise InputError(f"{path}: expected the balance.csv of a training, got something else: {reason}") from error


def _whole_lines(file: TextIO) -> Iterator[str]:
    """The lines of a file, one at a time, but for one at its end that was cut off."""
    while (line := file.readline(LONGEST_LINE)).endswith("\n"):
        yield line
    if len(line) == LONGEST_LINE:
        raise ValueError(f"a line of {LONGEST_LINE} characters or more")


def _rows(path: Path, lines: Iterator[list[str]]) -> Rows:
    header = next(lines, None)
    if header is None:
        return []
    if header[:2] != list(COLUMNS):
        raise InputError(f"{path}: expected columns epoch, step, ..., got {printable(','.join(header[:2]), 60)!r}")
    if len(header) > MOST_COLUMNS:
        raise InputError(f"{path}: expected at most {MOST_COLUMNS} columns, got {len(header)}")
    rows: Rows = []
    for number, row in enumerate(lines, 2):
        if len(row) != len(header):
            raise InputError(f"{path}:{number}: expected {len(header)} numbers, got {len(row)}")
        if len(rows) * len(header) > MOST_CELLS:
            raise InputError(f"{path}: expected at most {MOST_CELLS:,} numbers, got more")
        try:  # empty cells share one NaN, so that many of them take little memory
            found = {name: float(cell) if cell else math.nan for name, cell in zip(header, row, strict=True)}
        except ValueError as error:
            raise InputError(f"{path}:{number}: expected numbers: {printable(str(error), 200)}") from error
        if not all(0 <= found[name] <= LAST_STEP and found[name].is_integer() for name in COLUMNS):
            raise InputError(f"{path}:{number}: expected whole numbers as epoch and step, got {','.join(row[:2])[:60]}")
        rows.append(found)
    return rows


@dataclass(frozen=True)
class BalanceSummary:
    """What a training's balance comes to.

    Attributes:
        balance: name of the balancer.
        steps: of the optimizer.
        compared: steps in which both tasks had a gradient at W.
        conflicting: share of these in which the two point against each other (cosine < 0).
        cosine: mean over them; unrelated gradients conflict in half of all steps, at cosines near 0.
        conflicting_features: the same share at the features that both branches read.
        norm_ratio: geometric mean over the steps of ||dL_view/dW|| / ||dL_det/dW||, both unweighted.
        weights, mean_weights: of detection and view: at the last step, and over all steps.
    """

    balance: str
    steps: int
    compared: int
    conflicting: float
    cosine: float
    conflicting_features: float
    norm_ratio: float
    weights: tuple[float, ...]
    mean_weights: tuple[float, ...]

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, float]], balance: str) -> BalanceSummary:
        """The summary of the rows of a balance.csv, at least one."""
        weights = np.stack([column(rows, f"weight/{task}") for task in ("det", "view")], 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.log(column(rows, "norm/view") / column(rows, "norm/det"))
        known = logs[np.isfinite(logs)]
        cosines = column(rows, "cosine/weight")
        known_cosines = cosines[np.isfinite(cosines)]
        return cls(
            balance=balance,
            steps=len(rows),
            compared=len(known_cosines),
            conflicting=_share_negative(cosines),
            cosine=float(known_cosines.mean()) if len(known_cosines) else math.nan,
            conflicting_features=_share_negative(column(rows, "cosine/features")),
            norm_ratio=float(np.exp(known.mean())) if len(known) else math.nan,
            weights=tuple(weights[-1].tolist()),
            mean_weights=tuple(weights.mean(0).tolist()),
        )

    def sentence(self) -> str:
        """One line for the user."""
        det, view = (f"{weight:.3g}" for weight in self.weights)
        text = f"Balance ({self.balance}): final weights {det} for detection and {view} for the view"
        if not self.compared:
            return f"{text}; the tasks were not compared: only one had a gradient at the last shared layer"
        times = f"{self.norm_ratio:.2g}" if self.norm_ratio < 100 else f"{self.norm_ratio:.0f}"
        pulled = "would have pulled" if self.balance == "detached" else "pulled"
        return (
            f"{text}; in {100 * self.conflicting:.0f}% of {self.compared} steps the tasks {pulled} the last shared "
            f"layer in opposing directions (mean cosine {self.cosine:.2f}), the view's gradient {times} times as large "
            "as detection's (unweighted)"
        )


def column(rows: Sequence[Mapping[str, float]], name: str) -> NDArray[np.float64]:
    """(steps,) of a column; NaN where a row, or the file, lacks it."""
    return np.array([row.get(name, math.nan) for row in rows])


def _share_negative(cosines: NDArray[np.float64]) -> float:
    known = cosines[np.isfinite(cosines)]
    return float((known < 0).mean()) if len(known) else math.nan
