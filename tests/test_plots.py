"""The figures of labels and of a run: each is written, not blank, legible, and bears empty and broken inputs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.sheets import NAMES, ODD_NAMES, VIEWS, assert_legible, assert_written_without_pyplot, legend, panels
from utils import plots
from utils.canvas import save
from utils.log import InputError

# A glyph the font lacks, a layout that collapsed, two equal limits: matplotlib reports all three as UserWarning.
pytestmark = pytest.mark.filterwarnings("error::UserWarning")

COLUMNS = [
    "epoch",
    *(f"train/{name}_loss" for name in ("box", "obj", "cls")),
    *(f"metrics/{name}" for name in ("precision", "recall", "mAP_0.5", "mAP_0.5:0.95")),
    *(f"val/{name}_loss" for name in ("box", "obj", "cls")),
    *("x/lr0", "x/lr1", "x/lr2", "train/view_loss", "val/view_loss"),
    *("metrics/F1", "metrics/view_accuracy", "metrics/view_macro_f1", "weight/det", "weight/view"),
]
NONE: Mapping[str, str] = {}


def label_rows(count: int = 300, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    boxes = np.column_stack([random.integers(0, 4, count), random.uniform(0.05, 0.95, (count, 4))])
    return boxes, random.integers(-1, 3, count)


def write_csv(path: Path, epochs: int = 12, columns: Sequence[str] = COLUMNS, cells: Mapping[str, str] = NONE) -> Path:
    """A results.csv as a run writes it: names padded to 20; ``cells`` replaces every value of a column."""
    rows = [", ".join(f"{name:>20}" for name in columns)]
    for i in range(epochs):
        rows.append(", ".join(f"{cells.get(n, i if n == 'epoch' else 0.5 / (i + 1)):>20}" for n in columns))
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.mark.parametrize(
    ("file", "write"),
    [
        ("labels.jpg", lambda path: save(plots.labels_figure(*label_rows(), NAMES, VIEWS), path)),
        ("results.png", lambda path: save(plots.results_figure(write_csv(path.with_suffix(".csv"))), path)),
    ],
)
def test_each_figure_is_written_without_pyplot(file: str, write: Callable[[Path], None], tmp_path: Path) -> None:
    assert_written_without_pyplot(write, tmp_path / file)


@pytest.mark.parametrize("names", [NAMES, ODD_NAMES, ["a name that goes on and on"] * 4])
def test_figures_are_legible_whatever_the_names(names: list[str], tmp_path: Path) -> None:
    assert_legible(plots.labels_figure(*label_rows(), names, names[:3]))
    assert_legible(plots.results_figure(write_csv(tmp_path / "results.csv")))


def test_many_classes() -> None:
    boxes = np.column_stack([np.arange(80), np.full((80, 4), 0.5)])
    assert_legible(plots.labels_figure(boxes, np.zeros(3, int), [f"class {i}" for i in range(80)], VIEWS))


def test_labels_count_classes_and_views() -> None:
    boxes = np.array([[0, 0.5, 0.5, 0.1, 0.1], [0, 0.5, 0.5, 0.2, 0.1], [3, 0.5, 0.5, 0.1, 0.3]])
    shown = panels(plots.labels_figure(boxes, np.array([0, -1, -1, 2, 0]), NAMES, VIEWS))
    bars = [[bar.get_width() for bar in shown[t].patches] for t in ("boxes of each class", "frames of each view")]  # type: ignore[attr-defined]
    assert bars == [[2, 0, 0, 1], [2, 0, 1, 2]]
    names = [label.get_text() for label in shown["frames of each view"].get_yticklabels()]
    assert names == [*VIEWS, "unlabelled"]
    assert shown["box centres"].yaxis_inverted()


@pytest.mark.parametrize(
    ("boxes", "views", "names", "view_names"),
    [
        (np.zeros((0, 5)), np.full(5, -1), NAMES, VIEWS),
        (np.zeros((0, 5)), np.zeros(0, int), [], []),
        (np.zeros(0), np.zeros(0), ["MR"], VIEWS),
        (np.array([[0, 0.5, 0.5, 0.1, 0.1]]), np.full(5, -1), ["MR"], []),
        (np.array([[0, 0.5, 0.5, 0.0, 0.0]]), np.array([0]), ["MR"], ["A4C"]),
        (np.array([[0, 0.5, 0.5, 1.0, 1.0]], np.float32), np.array([0], np.int64), ["MR"], ["A4C"]),
    ],
)
def test_labels_of_almost_nothing(
    boxes: np.ndarray, views: np.ndarray, names: list[str], view_names: list[str], tmp_path: Path
) -> None:
    save(plots.labels_figure(boxes, views, names, view_names), tmp_path / "labels.jpg")
    assert (tmp_path / "labels.jpg").stat().st_size > 5000


def test_results_have_one_panel_a_quantity_and_one_legend_a_panel(tmp_path: Path) -> None:
    shown = panels(plots.results_figure(write_csv(tmp_path / "results.csv")))
    losses = ["box loss", "objectness loss", "class loss", "view loss"]
    others = ["detection score", "average precision", "view score", "learning rate", "task weight"]
    assert list(shown) == losses + others
    for title, axes in shown.items():
        assert len([child for child in axes.get_children() if type(child).__name__ == "Legend"]) == 1
        assert axes.get_xlabel() == "epoch" and axes.get_ylabel()
        assert legend(axes) == [line.get_label() for line in axes.lines]
        if title in losses:
            assert legend(axes) == ["train", "validation"]
    assert legend(shown["detection score"]) == ["precision", "recall", "F1"]
    assert shown["box loss"].lines[0].get_ydata()[1] == 0.25  # type: ignore[index]


def test_results_of_a_run_without_views(tmp_path: Path) -> None:
    shown = panels(plots.results_figure(write_csv(tmp_path / "results.csv", columns=COLUMNS[:14])))
    assert len(shown) == 6 and "view loss" not in shown and "task weight" not in shown
    assert legend(shown["detection score"]) == ["precision", "recall"]


@pytest.mark.parametrize("nothing", ["nan", "", "inf", "none"])
def test_results_without_a_number_are_left_out(nothing: str, tmp_path: Path) -> None:
    cells = {"weight/det": nothing, "weight/view": nothing, "val/box_loss": nothing}
    shown = panels(plots.results_figure(write_csv(tmp_path / "results.csv", cells=cells)))
    assert "task weight" not in shown
    assert legend(shown["box loss"]) == ["train"]


def test_results_join_the_epochs_that_were_validated(tmp_path: Path) -> None:
    rows = [f"{i}, {'nan' if i % 2 else 0.5}, 1" for i in range(5)]
    (tmp_path / "results.csv").write_text("epoch, val/box_loss, train/box_loss\n" + "\n".join(rows))
    line = panels(plots.results_figure(tmp_path / "results.csv"))["box loss"].lines[1]
    assert list(line.get_xdata()) == [0, 2, 4]  # type: ignore[arg-type]


@pytest.mark.parametrize("epochs", [1, 2])
def test_results_of_a_run_just_begun_show(epochs: int, tmp_path: Path) -> None:
    figure = plots.results_figure(write_csv(tmp_path / "results.csv", epochs))
    assert_legible(figure)
    for axes in figure.axes:
        assert all(line.get_marker() != "None" for line in axes.lines)
        low, high = axes.get_xlim()
        ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
        assert ticks == list(range(epochs))


def test_results_with_a_header_only_and_with_nothing(tmp_path: Path) -> None:
    csv = tmp_path / "results.csv"
    save(plots.results_figure(write_csv(csv, 0)), tmp_path / "results.png")
    csv.write_text("")
    with pytest.raises(InputError, match=r"results.csv: expected a table"):
        plots.results_figure(csv)
    with pytest.raises(FileNotFoundError):
        plots.results_figure(tmp_path / "missing.csv")


def test_results_with_a_last_row_cut_short(tmp_path: Path) -> None:
    csv = write_csv(tmp_path / "results.csv")
    csv.write_text(csv.read_text() + "12, 0.1, 0.")
    lines = panels(plots.results_figure(csv))["box loss"].lines
    assert [len(np.asarray(line.get_xdata())) for line in lines] == [13, 12]


def test_importing_loads_no_plotting_library() -> None:
    code = (
        "import sys, utils.plots, utils.curves, utils.diagrams, utils.draw; "
        "sys.exit(bool({'matplotlib', 'seaborn', 'pandas', 'PIL'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(plots.__file__).parents[1]).returncode == 0
