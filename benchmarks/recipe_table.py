"""The table of a search: each candidate's figures on patients it was not trained on, and its difference to the base."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from benchmarks.candidates import BASE
from utils import outcomes
from utils.assessment import assess
from utils.comparison import ends
from utils.crossval import with_confidence_of_the_others
from utils.intervals import drawn_figures, units_of
from utils.log import progress
from utils.paired import FEWEST_UNITS, Difference, Estimate, Measured, difference, estimate
from utils.report import figure_at, metrics

FIGURES = {  # column -> place in metrics.json
    "mAP50": ("map50",), "F1": ("f1",), "view_balanced_accuracy": ("view", "balanced_accuracy"),
}  # fmt: skip
Runs = Mapping[tuple[int, int], Path]  # outcomes of a candidate's trainings, by fold and seed


@dataclass(frozen=True)
class Row:
    """A candidate's.

    Attributes:
        folds, seeds: that it and the base have in common; of the base, its own.
        units: patients (clips, frames) of those folds.
        values, differences: by figure; a figure that it does not learn is absent, as are the base's differences.
    """

    name: str
    folds: tuple[int, ...]
    seeds: tuple[int, ...]
    units: int
    values: Mapping[str, Estimate]
    differences: Mapping[str, Difference]


def compared(runs: Mapping[str, Runs], draws: int) -> list[Row]:
    """A row for each candidate that has a fold and seed in common with the base; none without the base.

    Args:
        draws: of patients, the same for all candidates.
    """

    @cache
    def of(name: str, folds: tuple[int, ...], seed: int) -> tuple[dict[str, Measured], int]:
        return measured([runs[name][fold, seed] for fold in folds], draws)

    def by_seed(name: str, folds: tuple[int, ...], seeds: Iterable[int]) -> dict[str, dict[int, Measured]]:
        found = {seed: of(name, folds, seed)[0] for seed in seeds}
        return {figure: {s: own[figure] for s, own in found.items() if figure in own} for figure in FIGURES}

    rows = []
    base = runs.get(BASE, {})
    for name in progress(runs if base else (), "table", unit="candidate", leave=False, delay=1.0):
        folds, seeds = in_common(runs[name].keys() & base.keys())
        if not seeds:
            continue
        units = of(name, folds, seeds[0])[1]
        own = {figure: found for figure, found in by_seed(name, folds, seeds).items() if found}
        against = by_seed(BASE, folds, seeds)
        values = {figure: estimate([*found.values()], units) for figure, found in own.items()}
        differences = {
            figure: difference(found, against[figure], units)
            for figure, found in own.items()
            if name != BASE and against[figure]
        }
        rows.append(Row(name, folds, seeds, units, values, differences))
    return rows


def measured(paths: Sequence[Path], draws: int) -> tuple[dict[str, Measured], int]:
    """The figures of a training of several folds, pooled, and the number of patients."""
    parts = [outcomes.load(path) for path in paths]
    whole = outcomes.pooled(with_confidence_of_the_others(parts) if len(parts) > 1 else parts)
    content = metrics(assess(whole, draws=0, counted=True), {})
    drawn = drawn_figures(whole, draws, seed=0)
    values = {figure: figure_at(content, *place) for figure, place in FIGURES.items()}
    known = {figure: value for figure, value in values.items() if value is not None and not math.isnan(value)}
    found = {figure: Measured(value, drawn.get(FIGURES[figure])) for figure, value in known.items()}
    return found, len(units_of(whole)[1])


def in_common(pairs: Iterable[tuple[int, int]]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Folds and seeds of which every pair is there, as many pairs as can be: all seeds must meet the same patients."""
    folds_of: dict[int, set[int]] = {}
    for fold, seed in pairs:
        folds_of.setdefault(seed, set()).add(fold)
    best: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    shared = {frozenset(folds) for folds in folds_of.values()}
    for folds in folds_of.values():  # all intersections of seeds' folds: one of them is the best
        shared |= {one & folds for one in shared}
    for common in sorted(shared, key=sorted):
        seeds = tuple(sorted(seed for seed, own in folds_of.items() if common <= own))
        if len(common) * len(seeds) > len(best[0]) * len(best[1]):
            best = tuple(sorted(common)), seeds
    return best


def print_table(rows: Sequence[Row], minutes: Mapping[str, float], draws: int) -> None:
    """A block a figure, a line a candidate.

    Args:
        minutes: of a training of each candidate.
    """
    width = max([len(row.name) for row in rows] + [len(figure) for figure in FIGURES])
    for figure in FIGURES:
        known = [row for row in rows if figure in row.values]
        if known:
            heads = f"{'folds':>7}{'seeds':>7}{'minutes':>9}{'value':>8}{'sd':>7}  {'95%':<16}"
            print(f"\n{figure:<{width}}{heads}{'less base':>10}  {'95% patients':<16}{'95% seeds':<16}".rstrip())
        for row in known:
            value, found = row.values[figure], row.differences.get(figure)
            spread = "" if math.isnan(value.spread) else f"{value.spread:.3f}"
            cells = f"{_numbers(row.folds):>7}{_numbers(row.seeds):>7}{minutes[row.name]:>9.1f}{value.value:>8.3f}"
            line = f"{row.name:<{width}}{cells}{spread:>7}  {ends(value.patients):<16}"
            if found is not None:
                mark = " *" if found.beyond_noise else ""
                line += f"{found.value:>+10.3f}  {ends(found.patients):<16}{ends(found.seeds)}{mark}"
            print(line.rstrip())
    print("\n" + "\n".join(notes(rows, draws)))


def _numbers(values: Sequence[int]) -> str:
    """As 1-3 where they follow each other, else as 1,3."""
    if len(values) > 2 and values[-1] - values[0] == len(values) - 1:
        return f"{values[0]}-{values[-1]}"
    return ",".join(map(str, values))


def notes(rows: Sequence[Row], draws: int) -> list[str]:
    """What a reader of the table must know."""
    if not rows:
        return ["No training of the base is finished yet, with which candidates are compared."]
    lines = [
        "Last epoch, frames of all folds pooled, each judged by the network that saw neither it nor its patient; F1 at "
        "the confidence that is best for the other folds."
    ]
    if draws:
        lines.append(
            f"95%: bootstrap over {max(row.units for row in rows)} patients, {draws} draws, the same for a candidate "
            "and the base; of the difference also Student's over seeds, where there are several."
        )
    judged = sum(len(row.differences) for row in rows)
    if judged:
        lines.append(
            f"* beyond all noise that is known. Of {judged} differences, about {judged / 20:.0f} are beyond it by "
            "chance: what looks good is to be trained again with other seeds, then once judged on the val part."
        )
    if any(len(row.seeds) < 2 for row in rows):
        lines.append("With one seed it is not known how much another would change: see sd of the base with several.")
    if any(len(row.folds) < 2 for row in rows):
        lines.append("With one fold F1 is at the confidence that is best for itself, which flatters.")
    if draws and min(row.units for row in rows) < FEWEST_UNITS:
        lines.append(f"With fewer than {FEWEST_UNITS} patients, the noise of a difference cannot be told.")
    return lines
