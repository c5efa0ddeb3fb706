"""The figures of a run. Each ``plot_*`` writes one file; the ``*_figure`` beside it builds the figure, for other uses.

Figures are made without pyplot's global state: a thread other than the main one may draw, and nothing stays in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from utils.log import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.integer[Any]]

_DPI = 200
_SMALL = 9  # points, of legends and ticks; a page's width takes most figures at their full size
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito's, for colour-blind eyes
_STYLES = ("-", "--", ":", "-.")
_MOST_NAMES = 20  # classes that get a name in a figure; beyond it names would cover everything

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


def plot_labels(boxes: Floats, views: Integers, names: Sequence[str], view_names: Sequence[str], path: Path) -> None:
    """Write what a data set's labels hold; arguments as in :func:`labels_figure`."""
    labels_figure(boxes, views, names, view_names).savefig(path, dpi=_DPI)


def labels_figure(boxes: Floats, views: Integers, names: Sequence[str], view_names: Sequence[str]) -> Figure:
    """Boxes of each class, frames of each view, where the boxes lie and how large they are.

    Args:
        boxes: (N, 5) class, centre x, centre y, width, height; the last four as shares of the frame.
        views: (F,) view of each frame, -1 where unlabelled.
        names, view_names: of the classes and of the views.
    """
    figure = _figure(7.2, 6.4)
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
    shown = [_plain(name) for name in names]
    if (items < 0).any():
        counts, shown = [*counts, int((items < 0).sum())], [*shown, "unlabelled"]
    bars = axes.barh(range(len(counts)), counts, color=([_COLOURS[0]] * len(names) + ["0.6"])[: len(counts)])
    if len(shown) <= _MOST_NAMES + 1:
        axes.set_yticks(range(len(shown)), shown)
        axes.bar_label(bars, fmt="{:,.0f}", padding=2, fontsize=_SMALL)
    axes.set(title=title, xlabel=unit, xlim=(0, 1.2 * max([1, *counts])), ylim=(max(len(counts), 1) - 0.4, -0.6))
    _finish(axes)
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
    _finish(axes)


def plot_results(csv_path: Path, path: Path) -> None:
    """Write the course of a run from its results.csv; see :func:`results_figure`."""
    results_figure(csv_path).savefig(path, dpi=_DPI)


def results_figure(csv_path: Path) -> Figure:
    """A panel for each quantity of results.csv over the epochs; columns absent or without a number are left out.

    Raises:
        InputError: the file is no table.
    """
    import pandas

    try:
        table = pandas.read_csv(csv_path, skipinitialspace=True, index_col=False)
    except ValueError as error:  # pandas' own errors on empty and on broken files are ValueErrors
        raise InputError(f"{csv_path}: expected a table of results, got: {error}") from error
    table = table.apply(pandas.to_numeric, errors="coerce")  # what is no number becomes NaN
    columns = {str(name).strip(): values.to_numpy(float) for name, values in table.items()}
    epochs = columns.get("epoch", np.arange(len(table), dtype=float))
    known = {name: values for name, values in columns.items() if np.isfinite(values).any()}
    lines = {title: {label: known[c] for c, label in labels.items() if c in known} for title, labels in _PANELS.items()}
    panels = [(title, of_panel) for title, of_panel in lines.items() if of_panel]
    across, down = min(3, len(panels)), -(-len(panels) // 3)
    figure = _figure(max(4.0, 2.5 * across), max(3.0, 2.3 * down))
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
        style = _STYLES[i % len(_STYLES)] if len(lines) > 1 else "-"  # lines that coincide (learning rates) all show
        axes.plot(epochs[there], values[there], style, marker=marker, color=_COLOURS[i], label=label)
    values = np.concatenate(list(lines.values()))
    if title.endswith(("score", "precision")):  # from zero, or a change in the third digit looks like progress
        axes.set_ylim(0, min(1.03, max(0.1, 1.15 * float(values[np.isfinite(values)].max()))))
    axes.set(title=title, xlabel="epoch", ylabel=title.split()[-1])
    axes.yaxis.set_major_formatter("{x:g}")  # the default's power of ten above the axis collides with the title
    axes.grid(color="0.9", linewidth=0.6)
    _finish(axes)
    axes.locator_params(axis="x", nbins=5, integer=True, min_n_ticks=1)
    axes.legend(fontsize=_SMALL, handlelength=1.6, borderaxespad=0.3, framealpha=0.7)


def plot_confusion(matrix: Floats, names: Sequence[str], path: Path, background: bool = True, title: str = "") -> None:
    """Write a confusion matrix; arguments as in :func:`confusion_figure`."""
    confusion_figure(matrix, names, background, title).savefig(path, dpi=_DPI)


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

    labels = [_plain(name) for name in names] + ["background"] * background
    n = len(labels)
    if matrix.shape != (n, n):
        raise ValueError(f"matrix: expected {(n, n)} for these names, got {matrix.shape}")
    counts = np.asarray(matrix, float)
    share = counts / np.maximum(counts.sum(0, keepdims=True), 1e-9)
    few = n <= _MOST_NAMES
    cell = max(0.45, min(0.8, 5.0 / n)) if few else 8.0 / n  # inches
    longest = 0.08 * max(map(len, labels)) if few else 0.2  # inches: a letter is about 0.08 wide
    slant = few and longest > cell
    # Sized for square cells: an equal aspect would have constrained layout cut off labels at a second drawing.
    figure = _figure(cell * n + longest + 1.5, cell * n + 0.8 + 0.7 * longest * slant + 0.2 * bool(title))
    axes = figure.add_subplot()
    texts = [[f"{share[i, j]:.2f}\n{counts[i, j]:.0f}" for j in range(n)] for i in range(n)]
    detail = {"annot": texts, "xticklabels": labels, "yticklabels": labels, "linewidths": 0.5} if few else {}
    seaborn.heatmap(
        share, ax=axes, mask=counts == 0, vmin=0, vmax=1, cmap="Blues", linecolor="0.85", fmt="",
        annot_kws={"size": _SMALL}, cbar_kws={"label": "share of column"}, **detail,
    )  # fmt: skip
    axes.set(title=_plain(title), xlabel="true", ylabel="predicted")
    _finish(axes)
    axes.tick_params(axis="y", rotation=0)
    if slant:
        axes.set_xticks(axes.get_xticks(), labels, rotation=45, ha="right", rotation_mode="anchor")
    return figure


def plot_curve(
    x: Floats, y: Floats, names: Sequence[str], path: Path, xlabel: str, ylabel: str, title: str = "",
    mean_label: str = "all classes",
) -> None:  # fmt: skip
    """Write a quantity over the confidence threshold; arguments as in :func:`curve_figure`."""
    curve_figure(x, y, names, xlabel, ylabel, title, mean_label).savefig(path, dpi=_DPI)


def curve_figure(
    x: Floats, y: Floats, names: Sequence[str], xlabel: str, ylabel: str, title: str = "",
    mean_label: str = "all classes",
) -> Figure:  # fmt: skip
    """A line for each class and a bold one for their mean, whose maximum is marked.

    Args:
        x: (k,) thresholds, 0..1.
        y: (nc, k) F1, precision or recall of each class, 0..1; NaN where undefined.
        names: of the nc classes; with ``ylabel`` 'F1' the legend gives each one's best value too.
    """
    y = np.asarray(y, float).reshape(-1, len(x))
    labels = [_plain(name) for name in names]
    if ylabel == "F1":  # fmax, and not max: it passes over NaN
        labels = [f"{label} {np.fmax.reduce(row):.2f}" for label, row in zip(labels, y, strict=True)]
    mean = _mean(y)
    if not np.isfinite(mean).any():
        return _lines(x, y, labels, mean, mean_label, xlabel, ylabel, title)
    peak = int(np.nanargmax(mean))
    mean_label = f"{mean_label}\n{mean[peak]:.2f} at {x[peak]:.3f}"
    figure = _lines(x, y, labels, mean, mean_label, xlabel, ylabel, title)
    figure.axes[0].plot(x[peak], mean[peak], "o", color="black", markersize=5, clip_on=False)
    return figure


def plot_pr(recall: Floats, precision: Floats, ap50: Floats, names: Sequence[str], path: Path) -> None:
    """Write the precision-recall curve; arguments as in :func:`pr_figure`."""
    pr_figure(recall, precision, ap50, names).savefig(path, dpi=_DPI)


def pr_figure(recall: Floats, precision: Floats, ap50: Floats, names: Sequence[str]) -> Figure:
    """Precision over recall at IoU 0.5, a line for each class and a bold one for their mean.

    Args:
        recall: (k,), 0..1.
        precision: (nc, k), 0..1; its classes are those of ``names``.
        ap50: (nc,) average precision at IoU 0.5, for the legend.
    """
    precision = np.asarray(precision, float).reshape(-1, len(recall))
    labels = [f"{_plain(name)} {ap:.3f}" for name, ap in zip(names, ap50, strict=True)]
    total = float(_mean(np.asarray(ap50, float)[:, None])[0])
    mean_label = "all classes" if np.isnan(total) else f"all classes\n{total:.3f} mAP 0.5"
    return _lines(recall, precision, labels, _mean(precision), mean_label, "recall", "precision", "")


def _lines(
    x: Floats, y: Floats, labels: Sequence[str], mean: Floats, mean_label: str, xlabel: str, ylabel: str, title: str
) -> Figure:
    """Thin lines for the classes, a bold one for their mean, the legend at the right."""
    if len(labels) != len(y):
        raise ValueError(f"names: expected {len(y)}, one for each class, got {len(labels)}")
    figure = _figure(7.2, 4.2)
    axes = figure.add_subplot()
    for i, (row, label) in enumerate(zip(y, labels, strict=True)):
        if len(y) > _MOST_NAMES:
            axes.plot(x, row, color="0.7", linewidth=0.8)
        else:
            style = _STYLES[i // len(_COLOURS) % len(_STYLES)]
            axes.plot(x, row, style, color=_COLOURS[i % len(_COLOURS)], linewidth=1.3, label=label)
    axes.plot(x, mean, color="black", linewidth=2.6, label=_plain(mean_label), zorder=1 if len(y) == 1 else 3)
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel=xlabel, ylabel=ylabel, title=_plain(title))
    axes.grid(color="0.9", linewidth=0.6)
    _finish(axes)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0, fontsize=_SMALL, frameon=False)
    return figure


def _mean(rows: Floats) -> NDArray[np.float64]:
    """Mean over the first axis of what is finite, NaN where nothing is (``nanmean`` would warn there)."""
    return np.ma.masked_invalid(rows).mean(0).filled(np.nan)


def _figure(width: float, height: float) -> Figure:
    """An empty figure of a size in inches, on its own canvas."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _finish(axes: Axes) -> None:
    """The looks that all axes share."""
    axes.tick_params(labelsize=_SMALL)
    axes.spines[["top", "right"]].set_visible(False)
    axes.title.set_fontsize(11)


def _plain(text: str) -> str:
    """``text`` so that matplotlib shows it letter for letter: no formulas, no letter its font lacks."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    font = get_font(findfont(FontProperties()))
    text = "".join(c if c == "\n" or font.get_char_index(ord(c)) else "□" for c in text)
    # A leading underscore would keep a line out of the legend; a dollar would begin a formula.
    return f" {text}".replace("$", r"\$") if text.startswith("_") else text.replace("$", r"\$")
