"""What the tests of figures share: what a figure says, and that a reader can see it. No test stands here."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import cv2
import matplotlib.pyplot
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

NAMES = ["AR", "MR", "PR", "TR"]
VIEWS = ["A4C", "PLAX", "PSAX"]
ODD_NAMES = ["_hidden", "$x", "a$b$c$\\frac", "三尖瓣 Ö"]
LONG_TITLE = "val shares 27 of 28 patients with train: these figures say little about $new$ patients " + "x" * 90


def panels(figure: Figure) -> dict[str, Axes]:
    return {axes.get_title(): axes for axes in figure.axes}


def legend(axes: Axes) -> list[str]:
    box = axes.get_legend()
    assert box is not None, axes.get_title()
    return [text.get_text() for text in box.get_texts()]


def assert_legible(figure: Figure) -> None:
    """Every text is at least 9 points, nothing is cut off at the figure's edge, and no title lies on axes."""
    figure.canvas.draw()
    for text in figure.findobj(Text):
        assert isinstance(text, Text) and (not text.get_text() or float(text.get_fontsize()) >= 9), text
    for item in (*figure.axes, *figure.texts):
        box = item.get_tightbbox()
        assert box is not None
        assert min(box.x0, box.y0) >= -1, item
        assert box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1, item
    for title in figure.texts:
        for axes in figure.axes:
            assert not title.get_window_extent().overlaps(axes.get_window_extent()), title


def assert_written_without_pyplot(write: Callable[[Path], None], path: Path) -> None:
    """``write(path)``, from a thread as a training may do it beside its next epoch, leaves a picture and no state."""
    thread = threading.Thread(target=write, args=(path,))
    thread.start()
    thread.join()
    image = cv2.imread(str(path))
    assert image is not None
    assert 600 <= image.shape[0] <= 2400 and 700 <= image.shape[1] <= 2400
    assert image.std() > 5
    assert matplotlib.pyplot.get_fignums() == []


def line_data(axes: Axes, index: int) -> tuple[np.ndarray, np.ndarray]:
    """x and y of a line of the axes, in the order of drawing."""
    line = axes.lines[index]
    return np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)
