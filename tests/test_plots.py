"""The figures of a run: each is written, not blank, legible, and bears empty and broken inputs."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from utils import plots
from utils.log import InputError

# A glyph the font lacks, a layout that collapsed, two equal limits: matplotlib reports all three as UserWarning.
pytestmark = pytest.mark.filterwarnings("error::UserWarning")

NAMES = ["AR", "MR", "PR", "TR"]
VIEWS = ["A4C", "PLAX", "PSAX"]
ODD_NAMES = ["_hidden", "$x", "a$b$c$\\frac", "三尖瓣 Ö"]
X = np.linspace(0, 1, 101)
CURVES = np.stack([np.sin(np.pi * X**p) * (0.9 - 0.1 * p) for p in (0.3, 0.5, 0.7, 0.9)])
MATRIX = np.array([[80, 3, 0, 5, 12], [10, 260, 2, 20, 40], [0, 0, 15, 0, 3], [5, 12, 1, 140, 22], [25, 40, 8, 30, 0]])
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


def panels(figure: Figure) -> dict[str, Axes]:
    return {axes.get_title(): axes for axes in figure.axes}


def legend(axes: Axes) -> list[str]:
    box = axes.get_legend()
    assert box is not None, axes.get_title()
    return [text.get_text() for text in box.get_texts()]


def assert_legible(figure: Figure) -> None:
    """Every text is at least 9 points, and nothing is cut off at the figure's edge."""
    figure.canvas.draw()
    for text in figure.findobj(Text):
        assert isinstance(text, Text) and (not text.get_text() or float(text.get_fontsize()) >= 9), text
    for axes in figure.axes:
        box = axes.get_tightbbox()
        assert box is not None
        assert min(box.x0, box.y0) >= -1, axes
        assert box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1, axes


@pytest.mark.parametrize(
    ("file", "write"),
    [
        ("labels.jpg", lambda path: plots.plot_labels(*label_rows(), NAMES, VIEWS, path)),
        ("results.png", lambda path: plots.plot_results(write_csv(path.with_suffix(".csv")), path)),
        ("confusion_matrix.png", lambda path: plots.plot_confusion(MATRIX, NAMES, path)),
        ("F1_curve.png", lambda path: plots.plot_curve(X, CURVES, NAMES, path, "confidence", "F1")),
        ("PR_curve.png", lambda path: plots.plot_pr(X, CURVES, CURVES.mean(1), NAMES, path)),
    ],
)
def test_each_figure_is_written_without_pyplot(file: str, write: Callable[[Path], None], tmp_path: Path) -> None:
    thread = threading.Thread(target=write, args=(tmp_path / file,))  # as a training may do it, beside its next epoch
    thread.start()
    thread.join()
    image = cv2.imread(str(tmp_path / file))
    assert image is not None
    assert 600 <= image.shape[0] <= 2400 and 700 <= image.shape[1] <= 2400
    assert image.std() > 5
    import matplotlib.pyplot

    assert matplotlib.pyplot.get_fignums() == []


@pytest.mark.parametrize("names", [NAMES, ODD_NAMES, ["a name that goes on and on"] * 4])
def test_figures_are_legible_whatever_the_names(names: list[str], tmp_path: Path) -> None:
    assert_legible(plots.labels_figure(*label_rows(), names, names[:3]))
    assert_legible(plots.confusion_figure(MATRIX, names, title=names[0]))
    assert_legible(plots.confusion_figure(MATRIX[:4, :4], names, background=False))
    assert_legible(plots.curve_figure(X, CURVES, names, "confidence", "F1", title=names[1]))
    assert_legible(plots.pr_figure(X, CURVES, CURVES.mean(1), names))
    assert_legible(plots.results_figure(write_csv(tmp_path / "results.csv")))


def test_many_classes() -> None:
    names = [f"class {i}" for i in range(80)]
    boxes = np.column_stack([np.arange(80), np.full((80, 4), 0.5)])
    assert_legible(plots.labels_figure(boxes, np.zeros(3, int), names, VIEWS))
    assert_legible(plots.confusion_figure(np.eye(81), names))
    figure = plots.pr_figure(X, np.repeat(CURVES, 20, 0), np.full(80, 0.5), names)
    assert_legible(figure)
    assert legend(figure.axes[0]) == ["all classes\n0.500 mAP 0.5"]


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
    plots.plot_labels(boxes, views, names, view_names, tmp_path / "labels.jpg")
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
    plots.plot_results(write_csv(csv, 0), tmp_path / "results.png")
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


def test_confusion_shows_share_of_the_true_class_and_count() -> None:
    axes = plots.confusion_figure(MATRIX, NAMES).axes[0]
    texts = [text.get_text() for text in axes.texts]
    assert len(texts) == (MATRIX > 0).sum()  # an empty cell stays blank
    assert texts[:2] == ["0.67\n80", "0.01\n3"]
    assert [label.get_text() for label in axes.get_xticklabels()] == [*NAMES, "background"]
    assert [label.get_text() for label in axes.get_yticklabels()] == [*NAMES, "background"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("true", "predicted")


def test_confusion_of_nothing_and_of_a_wrong_size() -> None:
    assert_legible(plots.confusion_figure(np.zeros((2, 2)), ["MR"]))
    assert_legible(plots.confusion_figure(np.zeros((1, 1)), [], title="no classes"))
    assert_legible(plots.confusion_figure(np.array([[7]]), ["A4C"], background=False))
    with pytest.raises(ValueError, match=r"matrix: expected \(5, 5\) for these names, got \(4, 4\)"):
        plots.confusion_figure(MATRIX[:4, :4], NAMES)


def test_curve_names_the_best_of_each_class_and_the_mean() -> None:
    axes = plots.curve_figure(X, CURVES, NAMES, "confidence", "F1").axes[0]
    mean = CURVES.mean(0)
    assert legend(axes) == [
        *(f"{name} {row.max():.2f}" for name, row in zip(NAMES, CURVES, strict=True)),
        f"all classes\n{mean.max():.2f} at {X[mean.argmax()]:.3f}",
    ]
    assert legend(plots.curve_figure(X, CURVES, NAMES, "confidence", "recall").axes[0])[:4] == NAMES


def test_curve_passes_over_classes_without_a_value() -> None:
    y = CURVES.copy()
    y[1] = np.nan
    axes = plots.curve_figure(X, y, NAMES, "confidence", "F1").axes[0]
    np.testing.assert_allclose(np.asarray(axes.lines[4].get_ydata(), float), y[[0, 2, 3]].mean(0))
    assert legend(axes)[1] == "MR nan"


@pytest.mark.parametrize(
    ("y", "names"),
    [(np.zeros((0, 101)), []), (np.full((2, 101), np.nan), ["a", "b"]), (np.zeros((1, 101)), ["MR"])],
)
def test_curves_of_almost_nothing(y: np.ndarray, names: list[str]) -> None:
    assert_legible(plots.curve_figure(X, y, names, "confidence", "F1"))
    assert_legible(plots.pr_figure(X, y, y.mean(1), names))


def test_curves_need_a_name_for_each_class() -> None:
    with pytest.raises(ValueError, match="names: expected 4, one for each class, got 2"):
        plots.curve_figure(X, CURVES, ["a", "b"], "confidence", "precision")


def test_precision_recall_names_the_average_precisions() -> None:
    figure = plots.pr_figure(X, CURVES, np.array([0.5, 0.25, np.nan, 0.75]), NAMES)
    assert legend(figure.axes[0]) == ["AR 0.500", "MR 0.250", "PR nan", "TR 0.750", "all classes\n0.500 mAP 0.5"]


def test_importing_loads_no_plotting_library() -> None:
    code = (
        "import sys, utils.plots, utils.draw; "
        "sys.exit(bool({'matplotlib', 'seaborn', 'pandas', 'PIL'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(plots.__file__).parents[1]).returncode == 0
