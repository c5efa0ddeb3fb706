"""The figures of a data set's labels and of a run's course.

Each is built here and written by :func:`utils.canvas.save`.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from utils.canvas import COLOURS, MOST_NAMES, SMALL, STYLES, Floats, Integers, finish, new_figure, plain
from utils.files import read_text
from utils.log import InputError, printable
from utils.loggers import MAX_BYTES, MOST_COLUMNS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Title (its last word names the y axis too), and what each column of results.csv is called in the legend.
_PANELS: Mapping[str, Mapping[str, str]] = {
    "box loss": {"train/box_loss": "train", "val/box_loss": "validation"},
    "objectness loss": {"train/obj_loss": "train", "val/obj_loss": "validation"},
    "class loss": {"train/cls_loss": "train", "val/cls_loss": "validation"},
    "view loss": {"train/view_loss": "train", "val/view_loss": "validation"},
    "detection score": {"metrics/precision": "precision", "metrics/recall": "recall", "metrics/F1": "F1"},
    "average precision": {"metrics/mAP_0.5": "mAP 0.5", "metrics/mAP_0.5:0.95": "mAP 0.5:0.95"},
    "view score": {"metrics/view_accuracy": "accuracy", "metrics/view_macro_f1": "macro F1"},
    "learning rate": {"x/lr0": "lr0", "x/lr1": "lr1", "x/lr2": "lr2"},
    "task weight": {"weight/det": "detection", "weight/view": "view"},
}


def labels_figure(boxes: Floats, views: Integers, names: Sequence[str], view_names: Sequence[str]) -> Figure:
    """Boxes of each class, frames of each view, where the boxes lie and how large they are.

    Args:
        boxes: (N, 5) class, centre x, centre y, width, height; the last four as shares of the frame.
        views: (F,) view of each frame, -1 where unlabelled.
        names, view_names: of the classes and of the views.
    """
    figure = new_figure(7.2, 6.4)
    boxes = np.asarray(boxes, float).reshape(-1, 5)
    _bars(figure.add_subplot(2, 2, 1), boxes[:, 0].astype(int), names, "boxes of each class", "boxes")
    _bars(figure.add_subplot(2, 2, 2), np.asarray(views, int), view_names, "frames of each view", "frames")
    centres = figure.add_subplot(2, 2, 3)
    _density(centres, boxes[:, 1], boxes[:, 2], 1.0)
    centres.set(title="box centres", xlabel="x / frame width", ylabel="y / frame height", ylim=(1, 0))  # y down
    sizes = figure.add_subplot(2, 2, 4)
    _density(sizes, boxes[:, 3], boxes[:, 4], max(0.1, np.ceil(boxes[:, 3:].max(initial=0) * 10) / 10))
    sizes.set(title="box sizes", xlabel="width / frame width", ylabel="height / frame height")
    return figure


def _bars(axes: Axes, items: Integers, names: Sequence[str], title: str, unit: str) -> None:
    """How often each of 0..len(names)-1 occurs in ``items``, and -1 as 'unlabelled' if it does."""
    counts = np.bincount(items[items >= 0], minlength=len(names))[: len(names)].tolist()
    shown = [plain(name) for name in names]
    if (items < 0).any():
        counts, shown = [*counts, int((items < 0).sum())], [*shown, "unlabelled"]
    bars = axes.barh(range(len(counts)), counts, color=([COLOURS[0]] * len(names) + ["0.6"])[: len(counts)])
    if len(shown) <= MOST_NAMES + 1:
        axes.set_yticks(range(len(shown)), shown)
        axes.bar_label(bars, fmt="{:,.0f}", padding=2, fontsize=SMALL)
    axes.set(title=title, xlabel=unit, xlim=(0, 1.2 * max([1, *counts])), ylim=(max(len(counts), 1) - 0.4, -0.6))
    finish(axes)
    axes.locator_params(axis="x", nbins=5, integer=True)


def _density(axes: Axes, x: Floats, y: Floats, limit: float) -> None:
    """A two-dimensional histogram over 0..limit on both axes, with a colour bar."""
    import seaborn
    from matplotlib.ticker import MaxNLocator

    if len(x):
        bar = {"label": "boxes", "ticks": MaxNLocator(integer=True, min_n_ticks=1)}
        seaborn.histplot(x=x, y=y, ax=axes, bins=40, binrange=(0, limit), cmap="viridis_r", cbar=True, cbar_kws=bar)
    else:
        axes.text(0.5, 0.5, "no boxes", ha="center", va="center", transform=axes.transAxes)
    axes.set(xlim=(0, limit), ylim=(0, limit))
    finish(axes)


def results_figure(csv_path: Path, title: str = "") -> Figure:
    """A panel for each quantity of results.csv over the epochs; columns absent or without a number are left out.

    Raises:
        InputError: the file is no table.
    """
    import pandas

    text = read_text(csv_path, MAX_BYTES, "a table of results")
    if text.partition("\n")[0].count(",") > MOST_COLUMNS:
        raise InputError(f"{csv_path}: expected a table of results, got more than {MOST_COLUMNS:,} columns")
    try:
        table = pandas.read_csv(io.StringIO(text), skipinitialspace=True, index_col=False)
    except (ValueError, OverflowError) as error:  # pandas' own errors on empty and on broken files are ValueErrors
        raise InputError(f"{csv_path}: expected a table of results, got: {printable(str(error), 200)}") from error
    table = table.apply(pandas.to_numeric, errors="coerce")  # what is no number becomes NaN
    columns = {str(name).strip(): values.to_numpy(float) for name, values in table.items()}
    epochs = columns.get("epoch", np.arange(len(table), dtype=float))
    known = {name: values for name, values in columns.items() if np.isfinite(values).any()}
    lines = {title: {label: known[c] for c, label in labels.items() if c in known} for title, labels in _PANELS.items()}
    panels = [(title, of_panel) for title, of_panel in lines.items() if of_panel]
    across, down = min(3, len(panels)), -(-len(panels) // 3)
    figure = new_figure(max(4.0, 2.5 * across), max(3.0, 2.3 * down), title)
    for i, (title, of_panel) in enumerate(panels):
        _course(figure.add_subplot(down, across, i + 1), epochs, of_panel, title)
    if not panels:
        figure.text(0.5, 0.5, "no results yet", ha="center", va="center")
    return figure


def _course(axes: Axes, epochs: Floats, lines: Mapping[str, Floats], title: str) -> None:
    """One panel of :func:`results_figure`."""
    for i, (label, values) in enumerate(lines.items()):
        # Only the points that are there, joined: validation may run at every fifth epoch.
        there = np.isfinite(values) & np.isfinite(epochs)
        marker = "." if there.sum() <= 30 else None
        style = STYLES[i % len(STYLES)] if len(lines) > 1 else "-"  # lines that coincide (learning rates) all show
        axes.plot(epochs[there], values[there], style, marker=marker, color=COLOURS[i], label=label)
    values = np.concatenate(list(lines.values()))
    if title.endswith(("score", "precision")):  # from zero, or a change in the third digit looks like progress
        axes.set_ylim(0, min(1.03, max(0.1, 1.15 * float(values[np.isfinite(values)].max()))))
    axes.set(title=title, xlabel="epoch", ylabel=title.split()[-1])
    axes.yaxis.set_major_formatter("{x:g}")  # the default's power of ten above the axis collides with the title
    finish(axes, grid=True)
    axes.locator_params(axis="x", nbins=5, integer=True, min_n_ticks=1)
    axes.legend(fontsize=SMALL, handlelength=1.6, borderaxespad=0.3, framealpha=0.7)
