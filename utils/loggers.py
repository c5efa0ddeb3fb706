"""The figures of each epoch, as results.csv, training_history.json and TensorBoard events."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.files import read_text, write_json, write_text
from utils.log import LOGGER, InputError, printable

# YOLOv5's columns in its order (readers index them by position), then ours.
COLUMNS = (
    "epoch",
    "train/box_loss",
    "train/obj_loss",
    "train/cls_loss",
    "metrics/precision",
    "metrics/recall",
    "metrics/mAP_0.5",
    "metrics/mAP_0.5:0.95",
    "val/box_loss",
    "val/obj_loss",
    "val/cls_loss",
    "x/lr0",
    "x/lr1",
    "x/lr2",
    "train/view_loss",
    "val/view_loss",
    "metrics/F1",
    "metrics/view_accuracy",
    "metrics/view_macro_f1",
    "weight/det",
    "weight/view",
    "leakage/patients",  # share of val's frames whose patient is in train, too; NaN where patients are not named
    "leakage/near_identical",  # share of val's frames that look like one of train
    "epochs",  # that the training is to have
    "seconds",  # that the training has taken up to here, without the time between a cut and its resumption
)
WIDTH = 20
MAX_BYTES = 50_000_000  # of a file of rows: tens of thousands of epochs
MOST_COLUMNS = 1000


class RunLogger:
    """Writes a run's rows; both files are rewritten whole at each epoch.

    Args:
        folder: of the run.
        keep_epochs: rows of an earlier part of the run to keep, when it is resumed.
        tensorboard: write event files, if the package is installed.
    """

    def __init__(self, folder: Path, keep_epochs: int = 0, tensorboard: bool = True) -> None:
        self.csv_path, self.json_path = folder / "results.csv", folder / "training_history.json"
        # the json holds every digit, the csv nine
        kept = (read_history(self.json_path) or read_results(self.csv_path)) if keep_epochs else []
        self.rows = kept[:keep_epochs]
        self._events = _event_writer(folder) if tensorboard else None

    @property
    def seconds(self) -> float:
        """What the training has taken so far; 0 where that is not known."""
        spent = self.rows[-1]["seconds"] if self.rows else 0.0
        return 0.0 if math.isnan(spent) else spent

    def log(self, row: Mapping[str, float]) -> None:
        """Append an epoch; columns that are missing in ``row`` are NaN."""
        full = {column: row.get(column, math.nan) for column in COLUMNS}
        self.rows.append(full)
        write_text(self.csv_path, format_results(self.rows))
        write_json(self.json_path, self.rows)
        if self._events is not None:
            for name, value in full.items():
                if name != "epoch" and not math.isnan(value):
                    self._events.add_scalar(name, value, int(full["epoch"]))
            self._events.flush()

    def log_steps(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Add rows of balance.csv to the event file."""
        if self._events is not None:
            for row in rows:
                for name, value in row.items():
                    if name not in ("epoch", "step") and math.isfinite(value):
                        self._events.add_scalar(f"balance/{name}", value, int(row["step"]))
            self._events.flush()

    def close(self) -> None:
        """Finish the event file."""
        if self._events is not None:
            self._events.close()


def format_results(rows: list[dict[str, float]]) -> str:
    """The csv text: names and figures padded to 20 characters; figures with the digits that give them back exactly."""
    lines = [",".join(f"{column:>{WIDTH}}" for column in COLUMNS)]
    for row in rows:
        cells = (f"{int(row[c])}" if c == "epoch" else f"{row[c]:.9g}" for c in COLUMNS)
        lines.append(",".join(f"{cell:>{WIDTH}}" for cell in cells))
    return "\n".join(lines) + "\n"


def read_results(path: Path) -> list[dict[str, float]]:
    """The rows of a results.csv; an absent file has none.

    Raises:
        InputError: the file holds something else.
    """
    if not path.is_file():
        return []
    text = read_text(path, MAX_BYTES, "the rows of a training")
    try:
        lines = [row for row in csv.reader(io.StringIO(text), skipinitialspace=True) if row]
        header, *rows = lines or [[]]
        if len(header) > MOST_COLUMNS:
            raise ValueError(f"{len(header):,} columns")
        names = [name.strip() for name in header]
        unknown = dict.fromkeys(COLUMNS, math.nan)  # columns that are younger than the file
        found = [unknown | {name: float(cell) for name, cell in zip(names, row, strict=True)} for row in rows]
        _check_epochs(found)
        return found
    except (ValueError, csv.Error) as error:
        raise _no_rows(path, error) from error


def read_history(path: Path) -> list[dict[str, float]]:
    """The rows of a training_history.json; an absent file has none.

    Raises:
        InputError: the file holds something else.
    """
    try:
        rows = json.loads(read_text(path, MAX_BYTES, "the rows of a training"))
        known = [{name: row[name] for name in ("epoch", *row) if row[name] is not None} for row in rows]
        found = [{name: float(row.get(name, math.nan)) for name in COLUMNS} for row in known]
        _check_epochs(found)
        return found
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise _no_rows(path, error) from error


def _check_epochs(rows: Sequence[Mapping[str, float]]) -> None:
    """Raise a ValueError where a row is of no epoch; a resumed run writes its rows again, with the number as it is."""
    for row in rows:
        if not abs(row["epoch"]) < math.inf:
            raise ValueError(f"an epoch {row['epoch']}")


def _no_rows(path: Path, error: Exception) -> InputError:
    return InputError(f"{path}: expected the rows of a training, got something else: {printable(str(error), 200)}")


def _event_writer(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        LOGGER.info("TensorBoard events are not written: pip install tensorboard")
        return None
    return SummaryWriter(str(folder))
