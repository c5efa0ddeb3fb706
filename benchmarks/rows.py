"""Trainings of a benchmark as rows of a csv, one appended when each is finished, so that none is made twice."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def find_row(path: Path, key: dict[str, str]) -> dict[str, str] | None:
    """The row of a finished training, if there is one."""
    return next((row for row in read_rows(path) if key.items() <= row.items()), None)


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of the csv; none of an absent one."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def append_row(path: Path, columns: Sequence[str], row: dict[str, Any]) -> None:
    """Add a finished training; a new csv begins with the ``columns``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.is_file()
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow({k: "" if v is None else f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()})
