"""The figures of an evaluation that are no curves: confusion matrix, reliability of the views, folds side by side.

Each is built here and written by :func:`utils.canvas.save`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from utils.canvas import (
    COLOURS,
    MOST_NAMES,
    SMALL,
    Floats,
    draw_points,
    finish,
    new_figure,
    plain,
    wrapped,
)
from utils.view_metrics import Calibration

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_FOLDS = 10  # that get a number in a figure


class Folds(NamedTuple):
    """One figure of a cross-validation.

    Attributes:
        values: of each fold; NaN where a fold has none.
        pooled: over the frames of all folds together.
        interval: low and high end of the pooled figure's 95% interval.
    """

    values: Sequence[float]
    pooled: float
    interval: tuple[float, float] | None = None


def confusion_figure(matrix: Floats, names: Sequence[str], background: bool = True, title: str = "") -> Figure:
    """Counts of predicted against true classes; colour and upper number are the share of the true class.

    Args:
        matrix: (n, n) counts, row = predicted, column = true.
        names: of the n classes, or of the first n - 1 with ``background``.
        background: the last row counts what was missed, the last column what was found where nothing is.

    Raises:
        ValueError: the matrix does not fit the names.
    """
    import seaborn

    labels = [plain(name) for name in names] + ["background"] * background
    n = len(labels)
    if matrix.shape != (n, n):
        raise ValueError(f"matrix: expected {(n, n)} for these names, got {matrix.shape}")
    counts = np.asarray(matrix, float)
    share = counts / np.maximum(counts.sum(0, keepdims=True), 1e-9)
    few = n <= MOST_NAMES
    cell = max(0.45, min(0.8, 5.0 / n)) if few else 8.0 / n  # inches
    longest = 0.08 * max(map(len, labels)) if few else 0.2  # inches: a letter is about 0.08 wide
    slant = few and longest > cell
    # Sized for square cells: an equal aspect would have constrained layout cut off labels at a second drawing.
    figure = new_figure(cell * n + longest + 1.5, cell * n + 0.8 + 0.7 * longest * slant, title)
    axes = figure.add_subplot()
    texts = [[f"{share[i, j]:.2f}\n{counts[i, j]:.0f}" for j in range(n)] for i in range(n)]
    detail = {"annot": texts, "xticklabels": labels, "yticklabels": labels, "linewidths": 0.5} if few else {}
    seaborn.heatmap(
        share, ax=axes, mask=counts == 0, vmin=0, vmax=1, cmap="Blues", linecolor="0.85", fmt="",
        annot_kws={"size": SMALL}, cbar_kws={"label": "share of column"}, **detail,
    )  # fmt: skip
    axes.set(xlabel="true", ylabel="predicted")
    finish(axes)
    axes.tick_params(axis="y", rotation=0)
    if slant:
        axes.set_xticks(axes.get_xticks(), labels, rotation=45, ha="right", rotation_mode="anchor")
    return figure


def reliability_figure(calibration: Calibration, title: str = "", calibrated: Calibration | None = None) -> Figure:
    """How often a view is right, over how sure the network is of it; below, the frames of each bin.

    Args:
        calibration: of the probabilities as they are.
        calibrated: the same after temperature scaling.

    Raises:
        ValueError: the arrays of a calibration are not of one length.
    """
    series = [(calibration, f"ECE {calibration.ece:.3f}")]
    if calibrated is not None:
        series.append((calibrated, f"ECE {calibrated.ece:.3f} at temperature {calibrated.temperature:.2f}"))
    figure = new_figure(5.4, 5.8, title)
    above, below = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": (3, 1)})
    above.plot((0, 1), (0, 1), "--", color="0.6", linewidth=1.2, label="perfect calibration")
    for i, (found, label) in enumerate(series):
        x, y, frames = found.confidence, found.right, found.count
        if not len(x) == len(y) == len(frames):
            got = f"{len(x)}, {len(y)} and {len(frames)}"
            raise ValueError(f"confidence, right, count: expected one length, got {got}")
        there = np.isfinite(x) & np.isfinite(y)
        draw_points(above, x[there], y[there], "os"[i] + "-", color=COLOURS[i], markersize=5, label=label)
        filled, bins, part = np.flatnonzero(frames), len(frames), 0.9 / len(series)  # a bar's part of a bin's width
        left = (filled + 0.05 + part * i) / max(bins, 1)
        below.bar(left, frames[filled], part / max(bins, 1), align="edge", color=COLOURS[i])
    most = max(int(found.count.max(initial=1)) for found, _ in series)
    above.set(xlim=(0, 1), ylim=(0, 1), ylabel="share of frames that are right")
    # Most frames lie in the last bin: on a linear axis nobody sees whether a point above rests on 3 frames or on 30.
    below.set(xlabel="confidence", ylabel="frames", ylim=(0.5, 2 * most))  # limits first: no frames have no logarithm
    below.set_yscale("log")
    below.yaxis.set_major_formatter("{x:,.0f}")
    below.yaxis.set_minor_formatter("")
    for axes in (above, below):
        finish(axes, grid=True)
        axes.set_axisbelow(True)
    figure.align_ylabels()
    above.legend(fontsize=SMALL)
    return figure


def folds_figure(figures: Mapping[str, Folds], title: str = "") -> Figure:
    """A column for each figure: a dot for each fold, a bar for their mean, a diamond for the pooled figure.

    Args:
        figures: by their names, such as 'mAP50'; each with the same k folds, in the same order, numbered 1..k.

    Raises:
        ValueError: figures are not of the same folds.
    """
    k = max((len(folds.values) for folds in figures.values()), default=0)
    column = min(2.2, max(1.35, 0.22 * k))  # inches
    figure = new_figure(3.0 + column * max(len(figures), 1), 4.2, title)
    axes = figure.add_subplot()
    texts = []
    for i, (name, folds) in enumerate(figures.items()):
        if len(folds.values) != k:
            raise ValueError(f"{name}: expected {k} values, one for each fold, got {len(folds.values)}")
        mean = _folds(axes, i, folds)
        low, high = folds.interval or (np.nan, np.nan)
        interval = f"\n({low:.3f} to {high:.3f})" if np.isfinite((low, high)).all() else ""
        heading = wrapped(name, column - 0.15, SMALL)
        texts.append(f"{heading}\nmean {mean:.3f}\npooled {folds.pooled:.3f}{interval}")
    axes.set_xticks(range(len(figures)), texts)
    axes.set(xlim=(-0.5, max(len(figures), 1) - 0.5), ylim=_limits(figures.values()))
    finish(axes)
    axes.grid(axis="y", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    _folds_legend(axes)
    return figure


def _folds(axes: Axes, at: int, folds: Folds) -> float:
    """Draw one column of :func:`folds_figure`; returns the mean of the folds that have a value."""
    values = np.asarray(folds.values, float)
    k, there = len(values), np.isfinite(values)
    mean = float(values[there].mean()) if there.any() else np.nan
    places = at - 0.06 + (np.linspace(-0.32, 0.32, k) if k > 1 else np.zeros(k))
    numbered = k <= MOST_FOLDS
    axes.plot([at - 0.45, at + 0.33], [mean, mean], color=COLOURS[1], linewidth=2, zorder=1.5)
    # A white edge keeps apart dots that overlap.
    size = 14 if numbered else 6
    draw_points(axes, places, values, "o", color=COLOURS[0], markersize=size, markeredgecolor="white")
    for i in np.flatnonzero(there) if numbered else ():
        axes.text(places[i], values[i], str(i + 1), size=SMALL, color="white", ha="center", va="center_baseline")
    if folds.interval is not None:
        axes.plot([at + 0.41] * 2, folds.interval, "-_", color="black", linewidth=1.2, markersize=8)
    draw_points(axes, np.array([at + 0.41]), np.array([folds.pooled]), "D", color="black", markersize=6)
    return mean


def _limits(figures: Iterable[Folds]) -> tuple[float, float]:
    """Of the y axis: the tenths around all that is drawn, and no more than 0..1 where that holds it."""
    drawn = np.array([x for folds in figures for x in (*folds.values, folds.pooled, *(folds.interval or ()))], float)
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn):
        return 0, 1
    low, high = float(drawn.min()), float(drawn.max())
    return max(np.floor(10 * low - 0.5) / 10, min(0, low)), min(np.ceil(10 * high + 0.5) / 10, max(1, high))


def _folds_legend(axes: Axes) -> None:
    """What dot, bar and diamond mean."""
    from matplotlib.lines import Line2D

    entries = [
        Line2D([], [], linestyle="", marker="o", color=COLOURS[0], markersize=6, label="a fold"),
        Line2D([], [], linewidth=2, color=COLOURS[1], label="mean of the folds"),
        Line2D([], [], linestyle="", marker="D", color="black", markersize=6, label="all folds pooled,\n95% interval"),
    ]
    axes.legend(
        handles=entries, loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0, fontsize=SMALL, frameon=False
    )
