"""The figures of a run's balance: the tasks' weights, losses, gradient norms and cosines over the steps.

Both take the rows of a balance.csv, see :mod:`utils.balance_log`; what is not finite in them is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.balance_log import column
from utils.canvas import COLOURS, SMALL, Floats, Integers, finish, new_figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rows = Sequence[Mapping[str, float]]

BINS = 600  # at most, into which steps are gathered: more points than these fall on each other
FEW = 30  # points, up to which a line marks them
MOST_MARKS = 60  # of the cosine over the trunk
LEGEND_ROW = 0.085  # of the axes' height
# Colours and, where they are not seen, styles tell the lines apart.
LOOKS = {"det": ("detection", COLOURS[0], "-"), "view": ("view", COLOURS[1], "--")}
COSINES = {"weight": ("at W", COLOURS[2], "-"), "features": ("features", COLOURS[3], "--")}


def write_balance_figures(rows: Rows, folder: Path, balance: str, warnings: Sequence[str] = ()) -> None:
    """Both figures of a run; ``warnings`` head them.

    Args:
        rows: of its balance.csv.
        folder: of the run; gets ``gradnorm_weight_evolution.png`` and ``gradnorm_analysis.png``, or, from a balancer of
            another name, ``balance_...``.
        balance: name of the balancer.
    """
    prefix, title = "gradnorm" if balance == "gradnorm" else "balance", "\n".join(warnings)
    save(weights_figure(rows, title), folder / f"{prefix}_weight_evolution.png")
    save(balance_figure(rows, title), folder / f"{prefix}_analysis.png")


def weights_figure(rows: Rows, title: str = "") -> Figure:
    """The weights that each step was made with, a line a task.

    Args:
        rows: of a balance.csv.
        title: what heads the figure, such as warnings to its readers.
    """
    figure = new_figure(6.0, 3.4, title)
    _panel(figure.add_subplot(), rows, _weights, "task weights", "weight w")
    return figure


def balance_figure(rows: Rows, title: str = "") -> Figure:
    """Losses relative to L(0); norms n = ||dL/dW||, weighted, and their targets; weights; cosines.

    W is the last shared weight. Bold lines are running means, those of norms geometric; single steps are faint.

    Args:
        rows, title: see :func:`weights_figure`.
    """
    figure = new_figure(7.4, 6.8, title)
    figure.set_layout_engine("constrained", wspace=0.05, hspace=0.05)
    _panel(figure.add_subplot(2, 2, 1), rows, _losses, "losses relative to L(0)", "L / L(0)", level=1)
    _panel(figure.add_subplot(2, 2, 2), rows, _norms, "gradient norms at W", "n = ‖dL/dW‖")
    _panel(figure.add_subplot(2, 2, 3), rows, _weights, "task weights", "weight w")
    _panel(figure.add_subplot(2, 2, 4), rows, _cosines, "cosine of the tasks' gradients", "cosine", level=0)
    width = _bin_size(len(rows)) * _bins_averaged(len(rows))
    looks = f"faint: single steps; bold: running means over {width:,} steps; " if width > 1 else ""
    figure.supxlabel(f"{looks}W: the last shared weight", fontsize=SMALL)
    return figure


def _panel(
    axes: Axes, rows: Rows, draw: Callable[[Axes, Rows], None], title: str, unit: str, level: float | None = None
) -> None:
    """One quantity over the steps, with room for the legend above its lines, and a line at the ``level`` to compare."""
    draw(axes, rows)
    axes.set(title=title, xlabel=_step_label(rows), ylabel=unit)
    finish(axes, grid=True)
    named = axes.get_legend_handles_labels()[1]
    if not named:
        axes.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axes.transAxes)
        axes.set(xticks=[], yticks=[])
        return
    if level is not None:
        axes.axhline(level, color="0.4", linewidth=0.8, zorder=1.8)
    axes.locator_params(axis="x", nbins=5, integer=True, min_n_ticks=1)
    columns = 2 if len(named) > 3 else 1
    _raise_top(axes, LEGEND_ROW * -(-len(named) // columns))
    axes.legend(
        loc="upper right", fontsize=SMALL, ncols=columns, handlelength=2.2, borderaxespad=0.1, labelspacing=0.25,
        columnspacing=1.2, frameon=False,
    )  # fmt: skip


def _raise_top(axes: Axes, share: float) -> None:
    """Leave the upper ``share`` of the axes empty."""
    (low, high), more = axes.get_ylim(), share / (1 - share)
    axes.set_ylim(low, high * (high / low) ** more if axes.get_yscale() == "log" else high + (high - low) * more)


def _step_label(rows: Rows) -> str:
    """Name of the x axis, with the length of most epochs: steps are skipped, and a run may end within one."""
    counts = np.unique(column(rows, "epoch"), return_counts=True)[1]
    if not len(counts):
        return "step"
    usual = round(float(np.median(counts)))
    return f"step ({'' if (counts == usual).all() else 'about '}{usual:,} an epoch)"


def _losses(axes: Axes, rows: Rows) -> None:
    for task, (name, colour, style) in LOOKS.items():
        initial = _finite(rows, f"initial_loss/{task}")
        known = initial[initial > 0]
        if len(known):  # the last: L(0) is the mean of several losses, and settled only after them
            loss = _finite(rows, f"loss/{task}") / known[-1]
            _single_steps(axes, rows, loss, colour)
            _mean(axes, rows, loss, style, color=colour, label=name)
    axes.set_ylim(0, max(1.05, axes.get_ylim()[1]))


def _norms(axes: Axes, rows: Rows) -> None:
    """Bold what enters the trunk, w n; thin the norms as they are; dotted what w n is drawn to."""
    targets = [_positive(rows, f"target/{task}") for task in LOOKS]
    shared = np.array_equal(targets[0], targets[1], equal_nan=True)  # as at alpha 0
    for i, (task, (name, colour, style)) in enumerate(LOOKS.items()):
        norm = _positive(rows, f"norm/{task}")
        weighted = _positive(rows, f"weight/{task}") * norm
        _single_steps(axes, rows, weighted, colour)
        _mean(axes, rows, weighted, style, geometric=True, color=colour, label=f"{name}, w n")
        _mean(axes, rows, norm, style, geometric=True, color=colour, label=f"{name}, n", linewidth=0.8)
        if i == 0 or not shared:
            label = "target of both" if shared else f"{name}, target"
            looks: dict[str, Any] = {"color": "black", "linewidth": 1.4, "zorder": 2.5}
            _mean(axes, rows, targets[i], (":", "-.")[i], geometric=True, label=label, **looks)
    if axes.lines:
        _log_scale(axes)


def _log_scale(axes: Axes) -> None:
    """A log scale with its numbers written out, and with more than two of them on a short one."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    if high < 4 * low:  # too short for two numbers of 1, 2, 5
        low, high = axes.set_ylim(low / 2, high * 2)
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if high > 100 * low else (1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def _weights(axes: Axes, rows: Rows) -> None:
    steps = column(rows, "step")
    for task, (name, colour, style) in LOOKS.items():
        weights = _finite(rows, f"weight/{task}")
        known, shown = weights[np.isfinite(weights)], _extremes(weights)
        if len(known):
            label = f"{name}: last {known[-1]:.3g}, mean {known.mean():.3g}"
            looks: dict[str, Any] = {"color": colour, "linewidth": 1.8, "marker": _marker(shown), "label": label}
            axes.plot(steps[shown], weights[shown], style, clip_on=False, zorder=2.6, **looks)  # 0 lies on the axis
    axes.set_ylim(bottom=0)


def _cosines(axes: Axes, rows: Rows) -> None:
    """Bold the running means, faint the single steps at W; marks where the whole trunk was compared."""
    steps = column(rows, "step")
    cosines = {name: _finite(rows, f"cosine/{name}") for name in (*COSINES, "trunk")}
    single = slice(None, None, _bin_size(len(rows)))  # not the extremes: it is to be seen where most steps lie
    looks: dict[str, Any] = {"color": COSINES["weight"][1], "markersize": 4, "alpha": 0.35, "markeredgewidth": 0}
    axes.plot(steps[single], cosines["weight"][single], ".", **looks)
    for name, (place, colour, style) in COSINES.items():
        _mean(axes, rows, cosines[name], style, color=colour, label=_with_share(place, cosines[name]))
    compared = np.flatnonzero(np.isfinite(cosines["trunk"]))
    if len(compared):
        marked = compared[:: -(-len(compared) // MOST_MARKS)]
        looks = {"color": "black", "markersize": 4.5, "markerfacecolor": "none", "zorder": 3}
        label = _with_share("trunk", cosines["trunk"])
        axes.plot(steps[marked], cosines["trunk"][marked], "D", label=label, **looks)
    bound = 1.1 * np.nanmax(np.abs([0.0, *np.concatenate(list(cosines.values()))])) or 1.0
    axes.set_ylim(-bound, bound)


def _with_share(place: str, cosines: Floats) -> str:
    """A name for the legend, with how often the tasks opposed each other."""
    known = cosines[np.isfinite(cosines)]
    below = 100 * np.count_nonzero(known < 0) / max(len(known), 1)
    return f"{place}: < 0 in {below:.0f}% of {len(known):,} step" + "s" * (len(known) != 1)


def _finite(rows: Rows, name: str) -> Floats:
    """(n,) of a column, NaN where it is not finite."""
    values = column(rows, name)
    return np.where(np.isfinite(values), values, np.nan)


def _positive(rows: Rows, name: str) -> Floats:
    """The same, NaN also where it has no logarithm."""
    values = _finite(rows, name)
    return np.where(values > 0, values, np.nan)


def _single_steps(axes: Axes, rows: Rows, values: Floats, colour: str) -> None:
    shown = _extremes(values)
    if len(shown):
        axes.plot(column(rows, "step")[shown], values[shown], color=colour, linewidth=0.6, alpha=0.35, zorder=1.6)


def _mean(
    axes: Axes, rows: Rows, values: Floats, style: str, geometric: bool = False, linewidth: float = 1.8, **looks: Any
) -> None:
    """The running mean of a column (n,); no line where nothing was measured."""
    if not np.isfinite(values).any():
        return
    middle, means = running_mean(np.log(values) if geometric else values)
    known = np.isfinite(means)
    middle, means = middle[known], np.exp(means[known]) if geometric else means[known]
    axes.plot(column(rows, "step")[middle], means, style, linewidth=linewidth, marker=_marker(means), **looks)


def _marker(points: Floats | Integers) -> str | None:
    return "." if len(points) <= FEW else None


def running_mean(values: Floats) -> tuple[Integers, Floats]:
    """Means over a fifteenth or so of a run, and at least 7 steps where it has 13; at its ends over what there is.

    Args:
        values: (n,), n > 0, a step; NaN is passed over.

    Returns:
        (m,) places of the steps, at most ``BINS``, and the mean around each, NaN where nothing is.
    """
    size, width = _bin_size(len(values)), _bins_averaged(len(values))
    starts, known = np.arange(0, len(values), size), np.isfinite(values)
    sums = np.add.reduceat(np.where(known, values, 0), starts)
    counts = np.add.reduceat(known.astype(float), starts)
    around = np.convolve(counts, np.ones(width), "same")
    means = np.convolve(sums, np.ones(width), "same") / np.where(around > 0, around, np.nan)
    return np.minimum(starts + size // 2, len(values) - 1), means


def _extremes(values: Floats) -> Integers:
    """Places of each bin's lowest and highest value, so that no leap is lost; of all values in a run of few steps."""
    size = _bin_size(len(values))
    bins = np.pad(values, (0, -len(values) % size), constant_values=np.nan).reshape(-1, size)
    starts, none = np.arange(len(bins)) * size, np.isnan(bins)
    lowest, highest = np.where(none, np.inf, bins).argmin(1), np.where(none, -np.inf, bins).argmax(1)
    places = np.unique(np.concatenate((starts + lowest, starts + highest)))
    places = places[places < len(values)]
    return places[np.isfinite(values[places])]


def _bin_size(steps: int) -> int:
    return max(1, -(-steps // BINS))


def _bins_averaged(steps: int) -> int:
    """Width of the running mean in bins, odd."""
    bins = -(-steps // _bin_size(steps))
    return 2 * max(0, min(max(3, bins // 30), (bins - 1) // 4)) + 1
