"""Confusion, reliability and folds: each is written, legible, says what it was given, and bears empty inputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tests.sheets import LONG_TITLE, NAMES, ODD_NAMES, assert_legible, assert_written_without_pyplot, legend, line_data
from utils import diagrams
from utils.canvas import save
from utils.diagrams import Folds
from utils.view_metrics import Calibration

# A glyph the font lacks, a layout that collapsed, two equal limits: matplotlib reports all three as UserWarning.
pytestmark = pytest.mark.filterwarnings("error::UserWarning")

MATRIX = np.array([[80, 3, 0, 5, 12], [10, 260, 2, 20, 40], [0, 0, 15, 0, 3], [5, 12, 1, 140, 22], [25, 40, 8, 30, 0]])
COUNTS = np.array([0.0, 3, 0, 40, 800])
CONFIDENCE = np.array([np.nan, 0.31, np.nan, 0.7, 0.97])
RIGHT = np.array([np.nan, 0.0, np.nan, 0.6, 1.0])
BINNED = Calibration(COUNTS, CONFIDENCE, RIGHT, ece=0.123, brier=0.1, log_loss=0.2)
FOLDS = {"mAP50": Folds([0.6, 0.7, 0.5], 0.61, (0.55, 0.66)), "view accuracy": Folds([1.0, 0.9, np.nan], 0.94)}


@pytest.mark.parametrize(
    ("file", "write"),
    [
        ("confusion_matrix.png", lambda path: save(diagrams.confusion_figure(MATRIX, NAMES), path)),
        ("view_reliability.png", lambda path: save(diagrams.reliability_figure(BINNED), path)),
        ("folds.png", lambda path: save(diagrams.folds_figure(FOLDS, "Cross-validation"), path)),
    ],
)
def test_each_figure_is_written_without_pyplot(file: str, write: Callable[[Path], None], tmp_path: Path) -> None:
    assert_written_without_pyplot(write, tmp_path / file)


@pytest.mark.parametrize("names", [NAMES, ODD_NAMES, ["a name that goes on and on"] * 4])
def test_figures_are_legible_whatever_the_names(names: list[str]) -> None:
    assert_legible(diagrams.confusion_figure(MATRIX, names, title=names[0]))
    assert_legible(diagrams.confusion_figure(MATRIX[:4, :4], names, background=False))
    folds = {f"{name} {i}": Folds([0.5, 0.6, 0.7, 0.4], 0.5, (0.4, 0.6)) for i, name in enumerate(names)}
    assert_legible(diagrams.folds_figure(folds, names[2]))


@pytest.mark.parametrize("count", [1, 4, 80])
def test_figures_are_legible_with_long_titles_however_many_there_are(count: int) -> None:
    names = [f"class {i}" for i in range(count)]
    assert_legible(diagrams.confusion_figure(np.eye(count), names, background=False, title=LONG_TITLE))
    bins = (np.arange(count) + 0.5) / count
    assert_legible(diagrams.reliability_figure(Calibration(np.ones(count), bins, bins, 0.0, 0.0, 0.0), LONG_TITLE))
    assert_legible(diagrams.folds_figure({"F1": Folds(list(bins), 0.5)}, LONG_TITLE))


def test_confusion_shows_share_of_the_true_class_and_count() -> None:
    axes = diagrams.confusion_figure(MATRIX, NAMES).axes[0]
    texts = [text.get_text() for text in axes.texts]
    assert len(texts) == (MATRIX > 0).sum()  # an empty cell stays blank
    assert texts[:2] == ["0.67\n80", "0.01\n3"]
    assert [label.get_text() for label in axes.get_xticklabels()] == [*NAMES, "background"]
    assert [label.get_text() for label in axes.get_yticklabels()] == [*NAMES, "background"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("true", "predicted")


def test_confusion_of_nothing_and_of_a_wrong_size() -> None:
    assert_legible(diagrams.confusion_figure(np.zeros((2, 2)), ["MR"]))
    assert_legible(diagrams.confusion_figure(np.zeros((1, 1)), [], title="no classes"))
    assert_legible(diagrams.confusion_figure(np.array([[7]]), ["A4C"], background=False))
    with pytest.raises(ValueError, match=r"matrix: expected \(5, 5\) for these names, got \(4, 4\)"):
        diagrams.confusion_figure(MATRIX[:4, :4], NAMES)


def test_reliability_shows_the_bins_that_hold_a_frame() -> None:
    above, below = diagrams.reliability_figure(BINNED, "Views").axes
    np.testing.assert_array_equal(line_data(above, 0), [[0, 1], [0, 1]])
    np.testing.assert_array_equal(line_data(above, 1), [[0.31, 0.7, 0.97], [0, 0.6, 1]])
    assert legend(above) == ["perfect calibration", "ECE 0.123"]
    bars = [(bar.get_height(), bar.get_x(), bar.get_x() + bar.get_width()) for bar in below.patches]  # type: ignore[attr-defined]
    assert [height for height, _, _ in bars] == [3, 40, 800]
    for (_, left, right), edge in zip(bars, (0.2, 0.6, 0.8), strict=True):  # within its bin, a fifth wide
        assert edge < left < right < edge + 0.2 and right - left > 0.15
    assert (below.get_xlabel(), above.get_ylabel()) == ("confidence", "share of frames that are right")
    assert below.get_ylabel() == "frames" and below.get_yscale() == "log" and below.get_ylim()[0] < 1


def test_reliability_after_temperature_scaling_stands_beside_it() -> None:
    after = replace(BINNED, count=COUNTS[::-1], confidence=CONFIDENCE - 0.05, ece=0.031, temperature=1.7)
    figure = diagrams.reliability_figure(BINNED, calibrated=after)
    assert_legible(figure)
    above, below = figure.axes
    assert legend(above)[1:] == ["ECE 0.123", "ECE 0.031 at temperature 1.70"]
    np.testing.assert_allclose(line_data(above, 2)[0], [0.26, 0.65, 0.92])
    assert above.lines[1].get_color() != above.lines[2].get_color()
    spans = sorted((bar.get_x(), bar.get_x() + bar.get_width(), bar.get_height()) for bar in below.patches)  # type: ignore[attr-defined]
    assert [height for _, _, height in spans] == [800, 3, 40, 40, 3, 800]
    assert all(right <= left + 1e-9 for (_, right, _), (left, _, _) in pairwise(spans))


@pytest.mark.parametrize("bins", [0, 1, 10])
def test_reliability_of_nothing(bins: int) -> None:
    nothing = np.full(bins, np.nan)
    figure = diagrams.reliability_figure(Calibration(np.zeros(bins), nothing, nothing, math.nan, math.nan, math.nan))
    assert_legible(figure)
    assert figure.axes[0].get_position().height > 0.5  # and not given up for what is not there
    assert legend(figure.axes[0]) == ["perfect calibration", "ECE nan"]


def test_reliability_needs_arrays_of_one_length() -> None:
    with pytest.raises(ValueError, match="confidence, right, count: expected one length, got 5, 4 and 5"):
        diagrams.reliability_figure(replace(BINNED, right=RIGHT[:4]))


def test_folds_show_each_value_their_mean_and_the_pooled_figure() -> None:
    axes = diagrams.folds_figure(FOLDS).axes[0]
    mean, dots, interval, pooled = (line_data(axes, i)[1].tolist() for i in range(4))
    assert (mean, dots, interval, pooled) == ([pytest.approx(0.6)] * 2, [0.6, 0.7, 0.5], [0.55, 0.66], [0.61])
    assert line_data(axes, 4)[1].tolist() == [pytest.approx(0.95)] * 2  # of the two folds that have a value
    assert line_data(axes, 6)[1].tolist() == [0.94] and len(axes.lines) == 7  # no interval
    assert [text.get_text() for text in axes.texts] == ["1", "2", "3", "1", "2"]
    assert [label.get_text().split("\n") for label in axes.get_xticklabels()] == [
        ["mAP50", "mean 0.600", "pooled 0.610", "(0.550 to 0.660)"],
        ["view accuracy", "mean 0.950", "pooled 0.940"],
    ]
    x = line_data(axes, 1)[0]
    assert (np.diff(x) > 0).all() and x.max() < line_data(axes, 3)[0]  # in order, the pooled figure at their right


def test_folds_legend_says_what_is_drawn() -> None:
    assert [label.split("\n")[0] for label in legend(diagrams.folds_figure(FOLDS).axes[0])] == [
        "a fold", "mean of the folds", "all folds pooled,",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("values", "limits"),
    [
        ([0.62, 0.68], (0.5, 0.8)), ([0.97, 1.0], (0.9, 1.0)), ([0.0, 0.02], (0.0, 0.1)), ([1.0], (0.9, 1.0)),
        ([0.1, 0.9], (0.0, 1.0)), ([-0.3, 1.4], (-0.3, 1.4)), ([np.nan], (0.0, 1.0)),
    ],
)  # fmt: skip
def test_folds_axis_ends_at_tenths_around_what_is_drawn(values: list[float], limits: tuple[float, float]) -> None:
    figure = diagrams.folds_figure({"F1": Folds(values, values[0], (values[0], values[0]))})
    assert figure.axes[0].get_ylim() == pytest.approx(limits)
    assert_legible(figure)


def test_folds_of_almost_nothing() -> None:
    assert_legible(diagrams.folds_figure({}))
    assert_legible(diagrams.folds_figure({"F1": Folds([], np.nan, (np.nan, np.nan))}))
    figure = diagrams.folds_figure({"F1": Folds([np.nan, np.nan], np.nan, (np.nan, np.nan))})
    assert_legible(figure)
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["F1\nmean nan\npooled nan"]


def test_folds_beyond_ten_have_no_numbers() -> None:
    axes = diagrams.folds_figure({"F1": Folds([0.5] * 11, 0.5)}).axes[0]
    assert len(axes.texts) == 0 and len(legend(axes)) == 3


def test_folds_need_a_value_for_each_fold() -> None:
    with pytest.raises(ValueError, match="F1: expected 3 values, one for each fold, got 1"):
        diagrams.folds_figure({**FOLDS, "F1": Folds([0.5], 0.5)})
