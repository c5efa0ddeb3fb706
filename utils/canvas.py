"""What all figures share: sheets without pyplot's state, colours and sizes, titles that wrap, text letter for letter.

Without pyplot's global state a thread other than the main one may draw, and nothing stays in memory.
"""

from __future__ import annotations

from bisect import bisect_right
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.integer[Any]]

SMALL = 9  # points, of legends and ticks; a page's width takes most figures at their full size
TITLE = 11  # points
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito's, for colour-blind eyes
STYLES = ("-", "--", ":", "-.")
MEASURED_DPI = 1200  # so fine that hinting, which rounds each letter to pixels, does not matter
MOST_NAMES = 20  # classes that get a name in a figure; beyond it names would cover everything


def new_figure(width: float, height: float, title: str = "") -> Figure:
    """An empty figure on its own canvas; ``title`` is wrapped to its width and adds its lines to its height.

    Args:
        width, height: inches, without the title.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    text = wrapped(title, width - 0.4, TITLE)
    lines = text.count("\n") + 1 if text else 0
    figure = Figure(figsize=(width, height + 0.2 * lines), layout="constrained")
    FigureCanvasAgg(figure)
    if text:
        figure.suptitle(text, fontsize=TITLE)
    return figure


def finish(axes: Axes, grid: bool = False) -> None:
    """The looks that all axes share."""
    axes.tick_params(labelsize=SMALL)
    axes.spines[["top", "right"]].set_visible(False)
    axes.title.set_fontsize(TITLE)
    if grid:
        axes.grid(color="0.9", linewidth=0.6)


def draw_points(axes: Axes, x: Floats, y: Floats, style: str, **looks: Any) -> None:
    """Points that are whole at the border of the axes; there may be none, or NaN among them."""
    for line in axes.plot(x, y, style, clip_on=False, **looks):
        line.set_in_layout(False)  # without a point the layout would keep room for one in the figure's corner


def save(figure: Figure, path: Path) -> None:
    """Write a figure at the resolution that all have; the suffix of ``path`` says the format."""
    figure.savefig(path, dpi=200)


def plain(text: str) -> str:
    """``text`` so that matplotlib shows it letter for letter: no formulas, no letter its font lacks."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    font = get_font(findfont(FontProperties()))
    text = "".join(c if c == "\n" or font.get_char_index(ord(c)) else "□" for c in text)
    # A leading underscore would keep a line out of the legend; a dollar would begin a formula.
    return f" {text}".replace("$", r"\$") if text.startswith("_") else text.replace("$", r"\$")


def wrapped(text: str, inches: float, size: float) -> str:
    """``text`` as by :func:`plain`, in lines no longer than ``inches`` at a font of ``size`` points.

    Lines are broken between words; a word that fills more than a line is cut.
    """
    lines = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split():
            if line and _inches(f"{line} {word}", size) <= inches:
                line = f"{line} {word}"
                continue
            lines += [line] if line else []
            line = word
            while len(line) > 1 and _inches(line, size) > inches:
                end = max(1, bisect_right(range(1, len(line)), inches, key=lambda n: _inches(line[:n], size)))
                lines.append(line[:end])
                line = line[end:]
        lines.append(line)
    return "\n".join(plain(line) for line in lines)


def _inches(line: str, size: float) -> float:
    """How wide a line of text is drawn, by its letters' advance; to measure their outlines takes 100 times as long."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    font = get_font(findfont(FontProperties()))
    font.set_size(size, MEASURED_DPI)
    font.set_text(plain(line).replace(r"\$", "$"))
    width: float = font.get_width_height()[0] / 64
    return width / MEASURED_DPI
