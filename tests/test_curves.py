"""The curves of an evaluation: each is written, legible, says what it was given, and bears empty and broken inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.sheets import LONG_TITLE, NAMES, ODD_NAMES, assert_legible, assert_written_without_pyplot, legend, line_data
from utils import curves
from utils.canvas import save

# A glyph the font lacks, a layout that collapsed, two equal limits: matplotlib reports all three as UserWarning.
pytestmark = pytest.mark.filterwarnings("error::UserWarning")

X = np.linspace(0, 1, 101)
CURVES = np.stack([np.sin(np.pi * X**p) * (0.9 - 0.1 * p) for p in (0.3, 0.5, 0.7, 0.9)])
FALSE = [np.array([0.0, 0.005, 0.02, 0.3, 0.6, 2.0]), np.array([0.1, 0.5])]  # a class, and all
FOUND = [np.array([0.1, 0.2, 0.4, 0.5, 0.7, 0.8]), np.array([0.25, 0.75])]


def froc_of(count: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """So many lines of a FROC, each with a length of its own."""
    points = [np.geomspace(0.003, 30, 10 + i) for i in range(count)]
    return points, [np.linspace(0.01 * i, 1, len(x)) for i, x in enumerate(points)]


@pytest.mark.parametrize(
    ("file", "write"),
    [
        ("F1_curve.png", lambda path: save(curves.curve_figure(X, CURVES, NAMES, "confidence", "F1"), path)),
        ("PR_curve.png", lambda path: save(curves.pr_figure(X, CURVES, CURVES.mean(1), NAMES, "Shared"), path)),
        ("FROC_curve.png", lambda path: save(curves.froc_figure(*froc_of(5), NAMES, title="FROC"), path)),
    ],
)
def test_each_figure_is_written_without_pyplot(file: str, write: Callable[[Path], None], tmp_path: Path) -> None:
    assert_written_without_pyplot(write, tmp_path / file)


@pytest.mark.parametrize("names", [NAMES, ODD_NAMES, ["a name that goes on and on"] * 4])
def test_figures_are_legible_whatever_the_names(names: list[str]) -> None:
    assert_legible(curves.curve_figure(X, CURVES, names, "confidence", "F1", title=names[1]))
    assert_legible(curves.pr_figure(X, CURVES, CURVES.mean(1), names))
    assert_legible(curves.froc_figure(*froc_of(5), names, interval=np.tile([0.3, 0.6], (3, 1)), title=names[3]))


@pytest.mark.parametrize("count", [4, 20, 80])
def test_figures_are_legible_with_long_titles_and_many_classes(count: int) -> None:
    names, y = [f"class {i}" for i in range(count)], np.repeat(CURVES, count // 4, 0)
    ends = np.tile([0.3, 0.6], (3, 1))
    for figure in (
        curves.curve_figure(X, y, names, "confidence", "F1", LONG_TITLE),
        curves.pr_figure(X, y, np.full(count, 0.5), names, LONG_TITLE),
        curves.froc_figure(*froc_of(count + 1), names, interval=ends, title=LONG_TITLE),
    ):
        assert_legible(figure)
        shown = legend(figure.axes[0])
        assert len(shown) == (count + 1 if count <= 20 else 1) and shown[-1].startswith("all classes\n")
        assert len(figure.axes[0].lines) >= count + 1  # without a name, but drawn


def test_curve_names_the_best_of_each_class_and_the_mean() -> None:
    axes = curves.curve_figure(X, CURVES, NAMES, "confidence", "F1").axes[0]
    mean = CURVES.mean(0)
    assert legend(axes) == [
        *(f"{name} {row.max():.2f}" for name, row in zip(NAMES, CURVES, strict=True)),
        f"all classes\n{mean.max():.2f} at {X[mean.argmax()]:.3f}",
    ]
    assert legend(curves.curve_figure(X, CURVES, NAMES, "confidence", "recall").axes[0])[:4] == NAMES


def test_curve_passes_over_classes_without_a_value() -> None:
    y = CURVES.copy()
    y[1] = np.nan
    axes = curves.curve_figure(X, y, NAMES, "confidence", "F1").axes[0]
    np.testing.assert_allclose(np.asarray(axes.lines[4].get_ydata(), float), y[[0, 2, 3]].mean(0))
    assert legend(axes)[1] == "MR nan"


@pytest.mark.parametrize(
    ("y", "names"),
    [(np.zeros((0, 101)), []), (np.full((2, 101), np.nan), ["a", "b"]), (np.zeros((1, 101)), ["MR"])],
)
def test_curves_of_almost_nothing(y: np.ndarray, names: list[str]) -> None:
    assert_legible(curves.curve_figure(X, y, names, "confidence", "F1"))
    assert_legible(curves.pr_figure(X, y, y.mean(1), names))


def test_curves_need_a_name_for_each_class() -> None:
    with pytest.raises(ValueError, match="names: expected 4, one for each class, got 2"):
        curves.curve_figure(X, CURVES, ["a", "b"], "confidence", "precision")


def test_precision_recall_names_the_average_precisions() -> None:
    figure = curves.pr_figure(X, CURVES, np.array([0.5, 0.25, np.nan, 0.75]), NAMES)
    assert legend(figure.axes[0]) == ["AR 0.500", "MR 0.250", "PR nan", "TR 0.750", "all classes\n0.500 mAP 0.5"]


def test_titles_stand_above_the_curves() -> None:
    warning = "val shares 27 of 28 patients with train"
    assert curves.pr_figure(X, CURVES, CURVES.mean(1), NAMES, warning).get_suptitle() == warning
    assert curves.curve_figure(X, CURVES, NAMES, "confidence", "F1", warning).get_suptitle() == warning
    assert curves.froc_figure(*froc_of(5), NAMES, title=warning).get_suptitle() == warning
    assert curves.pr_figure(X, CURVES, CURVES.mean(1), NAMES).get_suptitle() == ""


def test_froc_steps_up_where_a_point_lies_and_begins_with_what_needs_less() -> None:
    axes = curves.froc_figure(FALSE, FOUND, ["MR"]).axes[0]
    x, y = line_data(axes, 0)  # 0 and 0.005 lie left of the axis: their sensitivity is where it begins
    np.testing.assert_array_equal(x, [0.01, 0.02, 0.3, 0.6, 2.0, 10.0])
    np.testing.assert_array_equal(y, [0.2, 0.4, 0.5, 0.7, 0.8, 0.8])
    assert axes.lines[0].get_drawstyle() == axes.lines[1].get_drawstyle() == "steps-post"  # and never between points
    assert axes.get_xscale() == "log" and axes.get_xlim() == (0.01, 10)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("mean false boxes a frame", "sensitivity")
    assert legend(axes)[0] == "MR" and axes.lines[1].get_linewidth() > axes.lines[0].get_linewidth()


@pytest.mark.parametrize(
    ("marks", "reached"),
    [((0.25, 0.5, 1.0), [0.25, 0.75, 0.75]), ((0.05, 0.1, 50.0), [0.0, 0.25, 0.75]), ((0.001,), [0.0]), ((), [])],
)
def test_froc_marks_what_is_reached_with_at_most_so_many_false_boxes(
    marks: Sequence[float], reached: list[float]
) -> None:
    figure = curves.froc_figure(FALSE, FOUND, ["MR"], marks)
    assert_legible(figure)
    axes = figure.axes[0]
    x, y = line_data(axes, 2)
    np.testing.assert_array_equal(x, marks)
    np.testing.assert_array_equal(y, reached)
    low, high = axes.get_xlim()
    assert all(low <= mark <= high for mark in marks) and set(marks) <= set(axes.get_xticks())
    assert legend(axes)[1].split("\n") == [
        "all classes", *(f"{y:.2f} at {x:g}" for x, y in zip(marks, reached, strict=True))
    ]  # fmt: skip


def test_froc_draws_the_intervals_that_are_known() -> None:
    ends = np.array([[0.1, 0.4], [np.nan, np.nan], [0.6, 0.9]])
    axes = curves.froc_figure(FALSE, FOUND, ["MR"], interval=ends).axes[0]
    bars = [line_data(axes, i) for i in (3, 4, 5)]
    np.testing.assert_array_equal([x for x, _ in bars], [[0.25, 0.25], [0.5, 0.5], [1, 1]])
    np.testing.assert_array_equal([y for _, y in bars], ends)
    assert legend(axes)[1].split("\n")[1:] == ["0.25 (0.10 to 0.40) at 0.25", "0.75 at 0.5", "0.75 (0.60 to 0.90) at 1"]


def test_froc_of_almost_nothing() -> None:
    nothing, undefined = np.zeros(0), np.full(1, np.nan)
    figure = curves.froc_figure(
        [nothing, np.ones(1), nothing], [nothing, undefined, nothing], ["found no box", "no label"]
    )
    assert_legible(figure)
    np.testing.assert_array_equal(line_data(figure.axes[0], 0)[1], 0)
    assert np.isnan(line_data(figure.axes[0], 1)[1]).all()
    assert legend(figure.axes[0])[2].startswith("all classes\n0.00 at 0.25")
    assert_legible(curves.froc_figure([nothing], [nothing], []))
    assert_legible(curves.froc_figure([np.ones(1)], [undefined], []))


def test_froc_needs_a_line_for_each_class_and_for_all() -> None:
    with pytest.raises(ValueError, match="false_boxes, sensitivity: expected 3, each class's and all's, got 2 and 2"):
        curves.froc_figure(FALSE, FOUND, ["a", "b"])
    with pytest.raises(ValueError, match=r"interval: expected \(3, 2\), got \(2, 3\)"):
        curves.froc_figure(FALSE, FOUND, ["MR"], interval=np.zeros((2, 3)))
