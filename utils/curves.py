"""The curves of an evaluation: over the confidence threshold, precision over recall, FROC.

Each is built here and written by :func:`utils.canvas.save`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from utils.canvas import COLOURS, MOST_NAMES, SMALL, STYLES, Floats, draw_points, finish, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FROC_SPAN = (0.01, 10.0)  # false boxes a frame; the same for all runs, so that they can be compared


def curve_figure(
    x: Floats, y: Floats, names: Sequence[str], xlabel: str, ylabel: str, title: str = ""
) -> Figure:  # fmt: skip
    """A line for each class and a bold one for their mean, whose maximum is marked.

    Args:
        x: (k,) thresholds, 0..1.
        y: (nc, k) F1, precision or recall of each class, 0..1; NaN where undefined.
        names: of the nc classes; with ``ylabel`` 'F1' the legend gives each one's best value too.
    """
    y = np.asarray(y, float).reshape(-1, len(x))
    labels = [plain(name) for name in names]
    if ylabel == "F1":  # fmax, and not max: it passes over NaN
        labels = [f"{label} {np.fmax.reduce(row):.2f}" for label, row in zip(labels, y, strict=True)]
    lines, mean = [(x, row) for row in y], _mean(y)
    if not np.isfinite(mean).any():
        return _lines(lines, labels, (x, mean), "all classes", xlabel, ylabel, title)
    peak = int(np.nanargmax(mean))
    mean_label = f"all classes\n{mean[peak]:.2f} at {x[peak]:.3f}"
    figure = _lines(lines, labels, (x, mean), mean_label, xlabel, ylabel, title)
    draw_points(figure.axes[0], x[peak : peak + 1], mean[peak : peak + 1], "o", color="black", markersize=5)
    return figure


def pr_figure(recall: Floats, precision: Floats, ap50: Floats, names: Sequence[str], title: str = "") -> Figure:
    """Precision over recall at IoU 0.5, a line for each class and a bold one for their mean.

    Args:
        recall: (k,), 0..1.
        precision: (nc, k), 0..1; its classes are those of ``names``.
        ap50: (nc,) average precision at IoU 0.5, for the legend.
    """
    precision = np.asarray(precision, float).reshape(-1, len(recall))
    labels = [f"{plain(name)} {ap:.3f}" for name, ap in zip(names, ap50, strict=True)]
    total = float(_mean(np.asarray(ap50, float)[:, None])[0])
    mean_label = "all classes" if np.isnan(total) else f"all classes\n{total:.3f} mAP 0.5"
    lines = [(recall, row) for row in precision]
    return _lines(lines, labels, (recall, _mean(precision)), mean_label, "recall", "precision", title)


def froc_figure(
    false_boxes: Sequence[Floats], sensitivity: Sequence[Floats], names: Sequence[str],
    marks: Sequence[float] = (0.25, 0.5, 1.0), interval: Floats | None = None, title: str = "",
) -> Figure:  # fmt: skip
    """Free-response ROC: the sensitivity reached with at most so many false boxes a frame, as steps.

    A line for each class, a bold one for all; beyond its last point a line stays at the height it reached.

    Args:
        false_boxes, sensitivity: nc + 1 pairs of arrays, of each class and at the end of all classes together: mean
            false boxes a frame, and share of the labels found, 0..1. Both rise as the threshold falls; each pair has
            a length of its own. One without points lies at 0: nothing is found. One of NaN is left out.
        names: of the nc classes.
        marks: false boxes a frame, above 0, at which the bold line gets a point and the legend its sensitivity.
        interval: (len(marks), 2) low and high end of the 95% interval of the sensitivity at each mark.

    Raises:
        ValueError: arrays, names and marks do not fit each other.
    """
    if not len(false_boxes) == len(sensitivity) == len(names) + 1:
        got = f"{len(false_boxes)} and {len(sensitivity)}"
        raise ValueError(f"false_boxes, sensitivity: expected {len(names) + 1}, each class's and all's, got {got}")
    ends = np.full((len(marks), 2), np.nan) if interval is None else np.asarray(interval, float)
    if ends.shape != (len(marks), 2):
        raise ValueError(f"interval: expected {(len(marks), 2)}, got {ends.shape}")
    limits = min([FROC_SPAN[0], *marks]), max([FROC_SPAN[1], *marks])
    *lines, bold = (_steps(x, y, limits) for x, y in zip(false_boxes, sensitivity, strict=True))
    reached = [_reached(false_boxes[-1], sensitivity[-1], mark) for mark in marks]
    bold_label = "\n".join(["all classes", *map(_mark_text, marks, reached, ends)])
    labels = [plain(name) for name in names]
    figure = _lines(lines, labels, bold, bold_label, "mean false boxes a frame", "sensitivity", title, "steps-post")
    axes = figure.axes[0]
    axes.set(xscale="log", xlim=limits)
    axes.set_xticks(sorted({0.01, 0.1, 1.0, 10.0, *marks}))
    axes.xaxis.set_major_formatter("{x:g}")
    draw_points(axes, np.array(marks), np.array(reached), "o", color="black", markersize=7, zorder=4)
    for mark, (low, high) in zip(marks, ends, strict=True):
        axes.plot([mark, mark], [low, high], "-_", color="black", linewidth=1.2, markersize=8, zorder=4)
    return figure


def _mark_text(mark: float, reached: float, ends: Floats) -> str:
    interval = f" ({ends[0]:.2f} to {ends[1]:.2f})" if np.isfinite(ends).all() else ""
    return f"{reached:.2f}{interval} at {mark:g}"


def _steps(x: Floats, y: Floats, limits: tuple[float, float]) -> tuple[Floats, Floats]:
    """The points of a FROC inside of ``limits``, and what is reached at its ends: zero has no place on a log axis."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    inside = np.isfinite(y) & (x > limits[0]) & (x < limits[1])
    low, high = (_reached(x, y, limit) for limit in limits)
    return np.array([limits[0], *x[inside], limits[1]]), np.array([low, *y[inside], high])


def _reached(x: Floats, y: Floats, limit: float) -> float:
    """The sensitivity with at most ``limit`` false boxes a frame, 0 where none is so low; NaN if all are NaN."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    there = np.isfinite(y)
    return np.nan if len(y) and not there.any() else float(y[there & (x <= limit)].max(initial=0))


def _lines(
    lines: Sequence[tuple[Floats, Floats]], labels: Sequence[str], bold: tuple[Floats, Floats], bold_label: str,
    xlabel: str, ylabel: str, title: str, drawstyle: str = "default",
) -> Figure:  # fmt: skip
    """Thin lines (x, y) for the classes, a bold one for all of them, the legend at the right."""
    if len(labels) != len(lines):
        raise ValueError(f"names: expected {len(lines)}, one for each class, got {len(labels)}")
    named = lines if len(lines) <= MOST_NAMES else ()
    legend = 0.22 * len(named) + 0.16 * (bold_label.count("\n") + 1)  # inches: high
    figure = new_figure(7.2, max(4.2, legend + 0.3), title)
    axes = figure.add_subplot()
    for i, ((x, y), label) in enumerate(zip(lines, labels, strict=True)):
        if named:
            style, colour = STYLES[i // len(COLOURS) % len(STYLES)], COLOURS[i % len(COLOURS)]
            axes.plot(x, y, style, color=colour, linewidth=1.3, label=label, drawstyle=drawstyle)
        else:
            axes.plot(x, y, color="0.7", linewidth=0.8, drawstyle=drawstyle)
    order = 1 if len(lines) == 1 else 3  # the line of an only class lies on that of all, and is to be seen
    axes.plot(*bold, color="black", linewidth=2.6, label=plain(bold_label), zorder=order, drawstyle=drawstyle)
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel=xlabel, ylabel=ylabel)
    finish(axes, grid=True)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0, fontsize=SMALL, frameon=False)
    return figure


def _mean(rows: Floats) -> NDArray[np.float64]:
    """Mean over the first axis of what is finite, NaN where nothing is (``nanmean`` would warn there)."""
    return np.ma.masked_invalid(rows).mean(0).filled(np.nan)
