"""Figures of a comparison: training curves on common axes; boxes against views; training time against boxes.

The same panels are drawn as pictures and, with curves to hover, on the page (:mod:`utils.comparison_page`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from utils.canvas import COLOURS, SMALL, STYLES, finish, new_figure, plain, save
from utils.comparison import COLUMNS, Comparison, Run, cell
from utils.comparison_page import Curve, PageTable, Panel

CURVES: Mapping[str, tuple[str, tuple[str, ...]]] = {  # panel -> figure, and columns of results.csv that are summed
    "mAP50": ("mAP_0.5", ("metrics/mAP_0.5",)),
    "view accuracy": ("view_accuracy", ("metrics/view_accuracy",)),
    "detection loss (val)": ("detection_loss", ("val/box_loss", "val/obj_loss", "val/cls_loss")),
    "view loss (val)": ("view_loss", ("val/view_loss",)),
}
AGAINST = (("mAP_0.5", "view_accuracy"), ("minutes", "mAP_0.5"))  # x, y


def panels(comparison: Comparison, views: int) -> list[Panel]:
    """All panels, curves first.

    Args:
        views: their number, whose chance is drawn; 0 where none are learned.
    """
    found = []
    for title, (figure, columns) in CURVES.items():
        learned = [run for run in comparison.runs if figure in run.figures]  # not by a head that was never trained
        curves = [curve for run in learned if (curve := _curve(comparison, run, columns))]
        chance = [(math.log(views), f"chance, ln {views}")] if views and title.startswith("view loss") else []
        if curves:
            found.append(Panel(title, "epoch", title, curves, chance))
    for x, y in AGAINST:
        titles = {column.key: column.title for column in COLUMNS}
        points = [
            Curve(_label(run), [run.figures[x].value], [run.figures[y].value], _colour(comparison, run), run.method)
            for run in comparison.runs if x in run.figures and y in run.figures
        ]  # fmt: skip
        if points:
            found.append(Panel(f"{titles[y]} against {titles[x]}", titles[x], titles[y], points, joined=False))
    return found


def _curve(comparison: Comparison, run: Run, columns: Sequence[str]) -> Curve | None:
    """A run's course of a sum of columns; None where it has none."""
    values = [sum(row.get(column, math.nan) for column in columns) for row in run.history]
    if not np.isfinite(values).any():
        return None
    epochs = [row["epoch"] + 1 for row in run.history]
    return Curve(_label(run), epochs, values, _colour(comparison, run), run.method)


def _label(run: Run) -> str:
    return f"{run.method}, seed {run.seed}"


def _colour(comparison: Comparison, run: Run) -> int:
    return comparison.methods.index(run.method)


def page_table(comparison: Comparison) -> PageTable:
    """The table of methods for the page: means, and beside them spreads and intervals as text."""
    c = comparison
    columns: list[tuple[str, str, int | None]] = [("method", "method", None), ("seeds", "seeds", 0)]
    columns += [(column.key, column.title, column.digits) for column in c.shown]
    noted = [column for column in c.shown if column.place]
    columns += [(f"{column.key} noise", f"{column.title}: spread, interval", None) for column in noted]
    rows: list[dict[str, str | float | None]] = []
    for method in c.methods:
        row: dict[str, str | float | None] = {"method": method, "seeds": float(c.seeds(method))}
        for column in c.shown:
            known = c.estimates.get((method, column.key))
            row[column.key] = None if known is None else known.value
        row |= {f"{column.key} noise": cell(c, method, column).strip("* ").partition(" ")[2] for column in noted}
        rows.append(row)
    marked = frozenset((c.methods.index(method), key) for method, key in c.winners)
    return PageTable(columns, rows, marked)


def write_pictures(found: Sequence[Panel], folder: Path, title: str = "") -> None:
    """``comparison_curves.png``, and ``comparison_points.png`` with what stands against each other."""
    for name, joined in (("comparison_curves", True), ("comparison_points", False)):
        chosen = [panel for panel in found if panel.joined == joined]
        if not chosen:
            continue
        across = 2
        down = -(-len(chosen) // across)
        figure = new_figure(10.0, 3.6 * down, title)
        for place, panel in enumerate(chosen, 1):
            axes = figure.add_subplot(down, across, place)
            named: set[str] = set()
            for curve in panel.curves:
                colour = COLOURS[curve.colour % len(COLOURS)]
                label = None if curve.group in named else plain(curve.group)
                named.add(curve.group)
                style = STYLES[curve.colour // len(COLOURS) % len(STYLES)] if panel.joined else "o"
                axes.plot(np.asarray(curve.x, float), np.asarray(curve.y, float), style, color=colour, label=label)
            for value, words in panel.references:
                axes.axhline(value, color="0.4", linewidth=0.8, linestyle=":")
                axes.annotate(words, (1, value), xycoords=("axes fraction", "data"), ha="right", va="bottom",
                              fontsize=SMALL, color="0.4")  # fmt: skip
            axes.set(title=panel.title, xlabel=panel.x_label, ylabel=panel.y_label)
            finish(axes, grid=True)
            if panel.joined:
                axes.locator_params(axis="x", nbins=6, integer=True, min_n_ticks=1)
            axes.legend(fontsize=SMALL, framealpha=0.7)
        save(figure, folder / f"{name}.png")
