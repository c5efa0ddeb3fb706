"""Titles keep within a figure, and text is shown letter for letter."""

from __future__ import annotations

import numpy as np
import pytest

from tests.sheets import LONG_TITLE, assert_legible
from utils import canvas

# A glyph the font lacks, a layout that collapsed, two equal limits: matplotlib reports all three as UserWarning.
pytestmark = pytest.mark.filterwarnings("error::UserWarning")


@pytest.mark.parametrize("width", [2.0, 7.2])
@pytest.mark.parametrize("title", [LONG_TITLE, "W" * 90, "$" * 90, "i " * 90, "two\nlines", "三尖瓣" * 30, ""])
def test_titles_keep_within_a_figure_and_leave_the_axes_their_height(width: float, title: str) -> None:
    figure = canvas.new_figure(width, 3.0, title)
    axes = figure.add_subplot()
    assert_legible(figure)
    assert figure.get_figwidth() == width
    assert 2.5 < axes.get_position().height * figure.get_figheight() < 3.0
    shown = "".join(figure.get_suptitle().replace("\\$", "$").split())
    assert shown == "".join(title.translate({ord(c): "□" for c in "三尖瓣"}).split())  # no letter is lost


def test_lines_break_between_words_and_where_they_were_broken() -> None:
    lines = canvas.wrapped("one two three four\n\nfive", 0.8, 9).split("\n")
    assert " ".join(lines).split() == ["one", "two", "three", "four", "five"]
    assert len(lines) > 3 and lines[-2:] == ["", "five"]
    assert canvas.wrapped("one two three four", 5, 9) == "one two three four"
    assert canvas.wrapped("abc", 0.01, 9) == "a\nb\nc"  # even where not one letter fits


def test_text_is_shown_letter_for_letter() -> None:
    assert canvas.plain("$x^2$ 三") == r"\$x^2\$ □"
    assert canvas.plain("_hidden") == " _hidden"
    assert canvas.plain("Ü\nß") == "Ü\nß"


def test_points_are_drawn_whole_and_their_absence_takes_no_room() -> None:
    for values in ([], [np.nan], [0.0, 1.0]):
        figure = canvas.new_figure(4, 3)
        axes = figure.add_subplot()
        canvas.draw_points(axes, np.array(values), np.array(values), "o", color="black", label="points")
        axes.set(xlim=(0, 1), ylim=(0, 1))
        assert_legible(figure)
        assert axes.get_position().height > 0.7 and axes.get_position().width > 0.7
        assert not axes.lines[0].get_clip_on() and axes.lines[0].get_label() == "points"
