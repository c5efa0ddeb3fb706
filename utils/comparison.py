"""Trainings side by side: what each method reached, and which differences are beyond the noise; as text and csv."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from utils.outputs import csv_text
from utils.paired import FEWEST_UNITS, Difference, Ends, Estimate, Measured, difference, estimate


@dataclass(frozen=True)
class Column:
    """A figure of the table.

    Attributes:
        key: its name in comparison.csv.
        title: on screen.
        digits: behind the point.
        better: 1 where more is better, -1 where less is, 0 where neither is said, because its noise is not known.
        place: in metrics.json, of a figure that patients are drawn for.
        exact: the same at every measurement, so that any difference is one.
    """

    key: str
    title: str
    digits: int
    better: int
    place: tuple[str, ...] = ()
    exact: bool = False


COLUMNS = (
    Column("total_loss", "total loss", 3, -1),
    Column("detection_loss", "det loss", 4, -1),
    Column("view_loss", "view loss", 3, -1, ("view", "log_loss")),
    Column("view_loss_to_chance", "to chance", 3, 0),
    Column("mAP_0.5", "mAP50", 3, 1, ("map50",)),
    Column("mAP_0.5:0.95", "mAP50-95", 3, 1, ("map",)),
    Column("precision", "P", 3, 1, ("precision",)),
    Column("recall", "R", 3, 1, ("recall",)),
    Column("F1", "F1", 3, 1, ("f1",)),
    Column("confidence", "conf", 3, 0),
    Column("view_accuracy", "view acc", 3, 1, ("view", "accuracy")),
    Column("view_macro_f1", "view macro-F1", 3, 1, ("view", "macro_f1")),
    Column("parameters", "parameters", 0, -1, exact=True),
    Column("gflops", "GFLOPs", 1, -1, exact=True),
    Column("minutes", "minutes", 1, 0),
    Column("peak_memory_gb", "RAM GB", 2, 0),
    Column("ms_per_frame", "ms/frame", 1, 0),
)
OF_BOXES = ("total_loss", "detection_loss", "mAP_0.5", "mAP_0.5:0.95", "precision", "recall", "F1", "confidence")
OF_VIEWS = ("total_loss", "view_loss", "view_loss_to_chance", "view_accuracy", "view_macro_f1")
OF_BOTH = ("parameters", "gflops", "ms_per_frame")  # of a network with both heads, whether trained or not


@dataclass(frozen=True)
class Run:
    """A training, re-validated.

    Attributes:
        figures: by a column's key; absent for what it does not learn.
        history: its results.csv.
        folder: of the run, as it is to be shown.
    """

    method: str
    seed: int
    folder: str
    figures: Mapping[str, Measured]
    history: Sequence[Mapping[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Comparison:
    """Methods and their trainings.

    Attributes:
        units: how many were drawn, and ``unit``: of what.
        draws: of the bootstrap.
        setting: what was compared where, for the reader.
        warnings: that must stand beside the figures.
    """

    runs: Sequence[Run]
    unit: str
    units: int
    draws: int
    setting: Sequence[str] = ()
    warnings: Sequence[str] = ()

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """In the order in which they came."""
        return tuple(dict.fromkeys(run.method for run in self.runs))

    def seeds(self, method: str) -> int:
        """How many trainings a method has."""
        return sum(run.method == method for run in self.runs)

    def measured(self, method: str, key: str) -> dict[int, Measured]:
        """A figure of each training of a method, by seed; empty where one lacks it."""
        found = {run.seed: run.figures.get(key, Measured(math.nan)) for run in self.runs if run.method == method}
        return {} if any(math.isnan(one.value) for one in found.values()) else found

    @cached_property
    def estimates(self) -> dict[tuple[str, str], Estimate]:
        """By method and a column's key."""
        pairs = itertools.product(self.methods, (column.key for column in COLUMNS))
        known = {pair: [*self.measured(*pair).values()] for pair in pairs}
        return {pair: estimate(runs, self.units) for pair, runs in known.items() if runs}

    @cached_property
    def differences(self) -> dict[tuple[str, str, str], Difference]:
        """By two methods and a column's key, the earlier method first."""
        found = {}
        for column, (first, second) in itertools.product(COLUMNS, itertools.combinations(self.methods, 2)):
            one, other = self.measured(first, column.key), self.measured(second, column.key)
            if one and other:
                found[first, second, column.key] = difference(one, other, self.units)
        return found

    @cached_property
    def winners(self) -> frozenset[tuple[str, str]]:
        """Method and column where a method is better than each other one that has the figure, beyond the noise."""
        return frozenset(
            (method, column.key)
            for method, column in itertools.product(self.methods, COLUMNS)
            if column.better and self._beats_all(method, column)
        )

    def _beats_all(self, method: str, column: Column) -> bool:
        others = [m for m in self.methods if m != method and (m, column.key) in self.estimates]
        if (method, column.key) not in self.estimates or not others:
            return False
        return all(self._beats(method, other, column) for other in others)

    def _beats(self, method: str, other: str, column: Column) -> bool:
        value, against = (self.estimates[m, column.key].value for m in (method, other))
        if (value - against) * column.better <= 0:
            return False
        if column.exact:
            return True
        earlier = (method, other, column.key) in self.differences
        found = self.differences[(method, other, column.key) if earlier else (other, method, column.key)]
        # the difference is of the seeds that both have, and these may say the opposite of all seeds
        return found.beyond_noise and (found.value if earlier else -found.value) * column.better > 0

    @property
    def shown(self) -> tuple[Column, ...]:
        """The columns that any method has."""
        return tuple(c for c in COLUMNS if any((method, c.key) in self.estimates for method in self.methods))

    def notes(self) -> list[str]:
        """What a reader of the table must know."""
        found = [d for (*_, key), d in self.differences.items() if key in _JUDGED]
        by_patients = any(d.patients for d in found)
        by_seeds = [d for d in found if d.seeds]
        known = []
        if by_patients:
            known.append(f"a bootstrap over {self.units} {self.unit} ({self.draws} draws, the same for all methods)")
        if by_seeds:
            known.append("the spread over seeds (Student's interval of the differences seed by seed)")
        lines = [*self.setting, *(f"Warning: {warning}" for warning in self.warnings)]
        lines.append(
            f"A winner is marked (*) where no other method is within the noise, at 95%: {', and '.join(known)}. "
            "Of many comparisons, some are beyond it by chance."
            if known
            else "No winner is marked but in parameters and GFLOPs: the noise is not known."
        )
        if len(by_seeds) < len(found):
            lines.append(
                "Where two methods share fewer than two seeds, it is not known how much another seed would change: "
                "even a marked difference may be chance."
            )
        if self.draws and self.units < FEWEST_UNITS:
            lines.append(f"With {self.units} {self.unit}, fewer than {FEWEST_UNITS}, their noise cannot be told.")
        if self.draws and self.unit != "patients":
            lines.append("The dataset names no patients, so the intervals are too narrow where frames resemble others.")
        lines.append(
            "Minutes, memory (of the process, frames included) and milliseconds are measured once, not marked."
        )
        return lines


_JUDGED = {column.key for column in COLUMNS if column.better and not column.exact}


def markdown(comparison: Comparison, everything: bool = True) -> str:
    """The content of comparison.md; for the screen without the runs and the differences within the noise."""
    c = comparison
    head = ["method", "seeds", *(column.title for column in c.shown)]
    rows = [[method, str(c.seeds(method)), *(cell(c, method, column) for column in c.shown)] for method in c.methods]
    parts = ["# Comparison", _table(head, rows), "\n".join(f"- {line}" for line in c.notes())]
    rows = [row for row in difference_rows(c) if everything or row[-1] == "yes"]
    if rows:
        parts += ["## Differences", _table(
            ["methods", "figure", "difference", f"95% over {c.unit}", "95% over seeds", "beyond the noise"], rows
        )]  # fmt: skip
    if not everything:
        return "\n\n".join(parts) + "\n"
    parts += ["## Runs", _table(["method", "seed", "folder"], [[r.method, str(r.seed), r.folder] for r in c.runs])]
    return "\n\n".join(parts) + "\n"


def cell(comparison: Comparison, method: str, column: Column) -> str:
    """A figure of the table: mean, spread over seeds, interval over patients; a winner is marked."""
    found = comparison.estimates.get((method, column.key))
    if found is None:
        return "-"
    text = f"{found.value:,.{column.digits}f}"
    if not math.isnan(found.spread) and not column.exact:
        text += f" ± {found.spread:.{column.digits}f}"
    if found.patients is not None:
        text += f" {ends(found.patients)}"
    return f"**{text}** *" if (method, column.key) in comparison.winners else text


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines)


def difference_rows(comparison: Comparison) -> list[list[str]]:
    """A row for each two methods and figure: difference, both intervals, whether it is beyond the noise."""
    columns = {column.key: column for column in COLUMNS if column.key in _JUDGED}
    found = [(columns[key], one, other, d) for (one, other, key), d in comparison.differences.items() if key in columns]
    return [
        [f"{one} - {other}", column.title, _signed(d.value, column.digits), ends(d.patients, column.digits),
         ends(d.seeds, column.digits), "yes" if d.beyond_noise else "no"]
        for column, one, other, d in found
    ]  # fmt: skip


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}"


def ends(pair: Ends | None, digits: int = 3) -> str:
    """An interval as [low high]; - where it is not known."""
    return "-" if pair is None else f"[{pair[0]:.{digits}f} {pair[1]:.{digits}f}]"


def differences_csv(comparison: Comparison) -> str:
    """The content of differences.csv."""
    rows: list[list[object]] = [
        ["first", "second", "figure", "difference", "patients_low", "patients_high", "seeds_low", "seeds_high", "pairs",
         "beyond_noise"],
    ]  # fmt: skip
    for (first, second, key), d in comparison.differences.items():
        if key in _JUDGED:
            known = [*(d.patients or (math.nan,) * 2), *(d.seeds or (math.nan,) * 2)]
            numbers = [_number(value) for value in (d.value, *known)]
            rows.append([first, second, key, *numbers, d.pairs, "yes" if d.beyond_noise else "no"])
    return csv_text(rows)


def csv_rows(comparison: Comparison) -> str:
    """The content of comparison.csv: a row a training, then mean, spread and interval ends of each method."""
    c = comparison
    keys = [column.key for column in c.shown]
    rows: list[list[object]] = [["method", "seed", *keys, "winner", "folder"]]
    for run in c.runs:
        values = [run.figures[key].value if key in run.figures else math.nan for key in keys]
        rows.append([run.method, run.seed, *map(_number, values), "", run.folder])
    for method in c.methods:
        found = [c.estimates.get((method, key)) for key in keys]
        won = " ".join(key for key in keys if (method, key) in c.winners)
        rows.append([method, "mean", *(_number(e.value if e else math.nan) for e in found), won, ""])
        rows.append([method, "spread", *(_number(e.spread if e else math.nan) for e in found), "", ""])
        for name, place in (("low", 0), ("high", 1)):
            known = [e.patients[place] if e and e.patients else math.nan for e in found]
            rows.append([method, name, *map(_number, known), "", ""])
    return csv_text(rows)


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.9g}"
