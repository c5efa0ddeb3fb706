"""The figures of a run's balance: each is written, legible, shows what balance.csv holds, and bears what it lacks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tests.sheets import LONG_TITLE, assert_legible, assert_written_without_pyplot, legend, panels
from utils import balance_plots
from utils.balance_log import Rows, column
from utils.balance_plots import balance_figure, running_mean, weights_figure
from utils.canvas import save

# A glyph the font lacks, a layout that collapsed, two equal limits: matplotlib reports all three as UserWarning.
pytestmark = pytest.mark.filterwarnings("error::UserWarning")

NAN = math.nan
LOSSES, NORMS, WEIGHTS = "losses relative to L(0)", "gradient norms at W", "task weights"
COSINES = "cosine of the tasks' gradients"
VIEW = [f"{name}/view" for name in ("loss", "initial_loss", "rate", "norm", "target")]
COMPARED = ["cosine/weight", "cosine/features", "cosine/trunk"]


def steps(count: int, an_epoch: int = 40, seed: int = 0) -> Rows:
    """A balance.csv of GradNorm at alpha 0; the whole trunk is compared at every tenth step."""
    random = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        falling = 0.3 + 0.7 * math.exp(-3 * i / count)
        losses = falling * np.array([0.15, 1.1]) * random.lognormal(0, 0.2, 2)
        norms = falling * np.array([0.1, 2.0]) * random.lognormal(0, 0.3, 2)
        weights = np.array([1.9 - 0.9 * falling, 0.1 + 0.9 * falling])
        target = float((weights * norms).mean())
        row = {"epoch": float(i // an_epoch), "step": float(i + 1)}
        figures = {
            "loss": losses, "initial_loss": np.array([0.15, 1.1]), "norm": norms, "target": np.full(2, target),
            "weight": weights,
        }  # fmt: skip
        for name, of_tasks in figures.items():
            row |= {f"{name}/det": float(of_tasks[0]), f"{name}/view": float(of_tasks[1])}
        at_weight, at_features, trunk = random.normal(0, [0.1, 0.01, 0.2]).tolist()
        rows.append(row | dict(zip(COMPARED, (at_weight, at_features, trunk if i % 10 == 0 else NAN), strict=True)))
    return rows


def without(rows: Rows, *names: str) -> Rows:
    """Rows in which these columns were not measured."""
    return [row | dict.fromkeys(names, NAN) for row in rows]


def with_column(rows: Rows, name: str, values: np.ndarray) -> Rows:
    return [row | {name: float(value)} for row, value in zip(rows, values, strict=True)]


def line(axes: Axes, label: str) -> Line2D:
    (found,) = [one for one in axes.lines if str(one.get_label()).startswith(label)]
    return found


def points(of: Line2D) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(of.get_xdata(), float), np.asarray(of.get_ydata(), float)


def faint(axes: Axes) -> list[Line2D]:
    """Lines of single steps, that the legend leaves out."""
    return [one for one in axes.lines if (one.get_alpha() or 1) < 0.5]


def assert_legend_is_free(figure: Figure) -> None:
    """No line of a figure that was drawn reaches up to its legend, and none beyond the axes."""
    for axes in figure.axes:
        box = axes.get_legend()
        frame = axes.get_window_extent()
        for one in axes.lines if box is not None else ():
            y = axes.transData.transform(np.column_stack(points(one)))[:, 1]
            assert np.nanmin(y) >= frame.y0 - 1 and np.nanmax(y) <= frame.y1 + 1, (axes.get_title(), one)
            assert box is not None and np.nanmax(y) < box.get_window_extent().y0, (axes.get_title(), one)


@pytest.mark.parametrize("draw", [weights_figure, balance_figure])
def test_each_figure_is_written_without_pyplot(draw: Callable[[Rows, str], Figure], tmp_path: Path) -> None:
    assert_written_without_pyplot(lambda path: save(draw(steps(80), LONG_TITLE), path), tmp_path / "balance.png")


CASES = {
    "a run": steps(200),
    "a long run": steps(3000, 500),
    "one step": steps(1),
    "two steps": steps(2),
    "detection alone": [row | {"weight/view": 0.0} for row in without(steps(60), *VIEW, *COMPARED)],
    "the view not even weighted": without(steps(60), *VIEW, *COMPARED, "weight/view"),
    "no targets": without(steps(60), "target/det", "target/view"),
    "targets of their own": with_column(steps(60), "target/view", np.linspace(0.5, 0.1, 60)),
    "no cosine": without(steps(60), *COMPARED),
    "no step over the trunk": without(steps(60), "cosine/trunk"),
    "losses of no number": without(steps(60), "loss/det", "loss/view"),
    "an infinite loss": with_column(steps(60), "loss/det", np.where(np.arange(60) == 30, math.inf, 0.1)),
    "an infinite norm of no weight": [row | {"norm/view": math.inf, "weight/view": 0.0} for row in steps(60)],
    "no norm": without(steps(60), "norm/det", "norm/view"),
    "norms of zero": [row | {"norm/det": 0.0, "norm/view": 0.0} for row in steps(60)],
    "norms that do not change": [
        row | {f"{name}/{task}": 0.1 for name in ("norm", "target") for task in ("det", "view")}
        | {"weight/det": 1.0, "weight/view": 1.0} for row in steps(60)
    ],
    "a cosine of zero": [row | dict.fromkeys(COMPARED, 0.0) for row in steps(60)],
    "opposed throughout": [row | dict.fromkeys(COMPARED, -1.0) for row in steps(60)],
    "nothing but steps": [{"epoch": 0.0, "step": float(i + 1)} for i in range(60)],
    "no step": [],
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_figures_are_legible_whatever_was_measured(case: str) -> None:
    for figure in (weights_figure(CASES[case]), balance_figure(CASES[case])):
        assert_legible(figure)
        assert_legend_is_free(figure)
        for axes in figure.axes:  # a panel says what it shows, or that there is nothing
            texts = [text.get_text() for text in axes.texts]
            assert (texts == ["not measured"]) if axes.get_legend() is None else legend(axes), axes.get_title()


def test_warnings_head_the_figures() -> None:
    warning = "val shares 27 of 28 patients with train"
    for draw in (balance_figure, weights_figure):
        assert draw(steps(30), warning).get_suptitle() == warning
        assert draw(steps(30)).get_suptitle() == ""
        assert_legible(draw(steps(30), LONG_TITLE))


@pytest.mark.parametrize(("balance", "prefix"), [("gradnorm", "gradnorm"), ("gradnorm_static", "balance")])
def test_a_run_gets_both_figures_with_its_warnings(
    balance: str, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[Path, str] = {}
    monkeypatch.setattr(balance_plots, "save", lambda figure, path: drawn.update({path: figure.get_suptitle()}))
    balance_plots.write_balance_figures(steps(3), tmp_path, balance, ("shared patients", "few frames"))
    names = [f"{prefix}_weight_evolution.png", f"{prefix}_analysis.png"]
    assert drawn == dict.fromkeys([tmp_path / name for name in names], "shared patients\nfew frames")


def test_a_panel_without_a_figure_says_so() -> None:
    nothing = {t for t, axes in panels(balance_figure(CASES["detection alone"])).items() if axes.get_legend() is None}
    assert nothing == {COSINES}
    assert all(axes.get_legend() is None for axes in balance_figure(CASES["nothing but steps"]).axes)


def test_weights_are_those_of_each_step() -> None:
    rows = steps(100)
    axes = weights_figure(rows).axes[0]
    for label, task in (("detection", "det"), ("view", "view")):
        x, y = points(line(axes, label))
        np.testing.assert_array_equal(x, column(rows, "step"))
        np.testing.assert_array_equal(y, column(rows, f"weight/{task}"))
    assert axes.get_ylim()[0] == 0 and axes.get_title() == WEIGHTS
    shown = panels(balance_figure(rows))[WEIGHTS]
    np.testing.assert_array_equal(points(line(shown, "view")), points(line(axes, "view")))


@pytest.mark.parametrize("count", [4, 2000])
def test_weights_name_their_last_and_their_mean(count: int) -> None:
    rows = with_column(steps(count), "weight/det", np.linspace(0, 2, count))
    rows = with_column(rows, "weight/view", np.where(np.arange(count) == count - 1, 0.25, 1.0))
    mean = (count - 1 + 0.25) / count
    assert legend(weights_figure(rows).axes[0]) == ["detection: last 2, mean 1", f"view: last 0.25, mean {mean:.3g}"]
    rows[-1]["weight/view"] = NAN
    assert legend(weights_figure(rows).axes[0])[1] == "view: last 1, mean 1"


def test_losses_are_relative_to_what_the_initial_loss_has_come_to() -> None:
    rows = steps(12)
    for i, row in enumerate(rows):  # L(0) is known in full from the tenth step on
        row["loss/det"], row["initial_loss/det"] = 2.0, 1.0 if i < 9 else 4.0
    rows[-1]["initial_loss/det"] = NAN
    axes = panels(balance_figure(rows))[LOSSES]
    np.testing.assert_allclose(points(line(axes, "detection"))[1], 0.5)
    np.testing.assert_allclose(points(faint(axes)[0])[1], 0.5)
    np.testing.assert_allclose(points(faint(axes)[1])[1], column(rows, "loss/view") / 1.1)
    assert legend(axes) == ["detection", "view"]
    low, high = axes.get_ylim()
    assert low == 0 and high > 1
    assert [points(one)[1].tolist() for one in axes.lines if to_rgba(one.get_color()) == to_rgba("0.4")] == [[1, 1]]


def test_an_infinite_figure_hides_none_of_those_beside_it() -> None:
    rows = steps(2000)  # drawn in bins of four
    for name in ("loss/view", "weight/view"):
        rows[801][name], rows[802][name] = math.inf, 11.0
    shown = panels(balance_figure(rows))
    for one, highest in ((faint(shown[LOSSES])[1], 10), (line(shown[WEIGHTS], "view"), 11)):
        x, y = points(one)
        assert (x[y.argmax()], y.max()) == (803, pytest.approx(highest))


def test_norms_are_weighted_and_as_they_are_beside_their_target() -> None:
    rows = [row | {"weight/det": 2.0, "norm/det": 0.1, "target/det": 0.5, "target/view": 0.5} for row in steps(50)]
    axes = panels(balance_figure(rows))[NORMS]
    assert legend(axes) == ["detection, w n", "detection, n", "target of both", "view, w n", "view, n"]
    for label, value in (("detection, w n", 0.2), ("detection, n", 0.1), ("target", 0.5)):
        np.testing.assert_allclose(points(line(axes, label))[1], value)
    weighted = column(rows, "norm/view") * column(rows, "weight/view")
    np.testing.assert_allclose(points(faint(axes)[1])[1], weighted)
    np.testing.assert_allclose(
        points(line(axes, "view, w n"))[1][20], np.exp(np.log(weighted[17:24]).mean())  # geometric, on a log scale
    )  # fmt: skip
    assert axes.get_yscale() == "log"
    assert line(axes, "detection, w n").get_linewidth() > line(axes, "detection, n").get_linewidth()


def test_targets_are_shown_where_there_are_any_and_apart_where_they_differ() -> None:
    own = panels(balance_figure(CASES["targets of their own"]))[NORMS]
    assert [label for label in legend(own) if "target" in label] == ["detection, target", "view, target"]
    assert line(own, "view, target").get_linestyle() != line(own, "detection, target").get_linestyle()
    assert points(line(own, "view, target"))[1].min() == pytest.approx(0.1, rel=0.15)
    assert not [label for label in legend(panels(balance_figure(CASES["no targets"]))[NORMS]) if "target" in label]


def test_norms_of_one_task_alone_are_its_own() -> None:
    axes = panels(balance_figure(CASES["detection alone"]))[NORMS]
    assert legend(axes) == ["detection, w n", "detection, n", "detection, target"]


def test_a_norm_of_zero_has_no_place_on_the_log_scale() -> None:
    rows = with_column(steps(60), "norm/det", np.where(np.arange(60) % 2, 0.0, 0.1))
    axes = panels(balance_figure([row | {"weight/det": 1.0} for row in rows]))[NORMS]
    np.testing.assert_array_equal(points(faint(axes)[0])[0], np.arange(1, 60, 2))
    np.testing.assert_allclose(points(line(axes, "detection, n"))[1], 0.1)


@pytest.mark.parametrize(("low", "high"), [(0.1, 0.1), (0.1, 0.3), (0.01, 2.0), (1e-6, 100.0)])
def test_the_log_scale_has_at_least_two_numbers(low: float, high: float) -> None:
    rows = steps(40)
    for i, row in enumerate(rows):
        row |= dict.fromkeys(("norm/det", "norm/view", "target/det", "target/view"), low * (high / low) ** (i / 39))
        row |= {"weight/det": 1.0, "weight/view": 1.0}
    figure = balance_figure(rows)
    figure.canvas.draw()
    axes = panels(figure)[NORMS]
    within = [tick for tick in axes.get_yticks() if axes.get_ylim()[0] <= tick <= axes.get_ylim()[1]]
    assert 2 <= len(within) <= 8
    written = {label.get_text().replace("−", "-") for label in axes.get_yticklabels()}
    assert written >= {f"{tick:g}" for tick in within}


def test_cosines_say_how_often_the_tasks_opposed_each_other() -> None:
    rows = steps(40)
    for i, row in enumerate(rows):
        row |= {"cosine/weight": -0.1 if i < 10 else 0.1, "cosine/features": 0.0, "cosine/trunk": NAN}
    rows[0]["cosine/weight"] = NAN
    rows[5]["cosine/trunk"] = -0.2
    axes = panels(balance_figure(rows))[COSINES]
    assert legend(axes) == [
        "at W: < 0 in 23% of 39 steps",
        "features: < 0 in 0% of 40 steps",
        "trunk: < 0 in 100% of 1 step",
    ]
    assert points(line(axes, "trunk")) == (6, -0.2) and line(axes, "trunk").get_marker() == "D"
    x, y = points(faint(axes)[0])
    np.testing.assert_array_equal(y, column(rows, "cosine/weight"))
    np.testing.assert_array_equal(x, column(rows, "step"))
    np.testing.assert_allclose(points(line(axes, "at W"))[1][[0, 4, 20]], [-0.1, -0.1, 0.1])


@pytest.mark.parametrize("end", [0.8, -0.8])
def test_cosines_lie_about_zero_which_is_marked(end: float) -> None:
    axes = panels(balance_figure(with_column(steps(40), "cosine/weight", np.linspace(0.1, end, 40))))[COSINES]
    assert axes.get_ylim()[0] == pytest.approx(-0.88) and axes.get_ylim()[1] > 0.88
    assert [0, 0] in [points(one)[1].tolist() for one in axes.lines]


def test_the_trunk_is_not_measured_unless_asked_for() -> None:
    axes = panels(balance_figure(CASES["no step over the trunk"]))[COSINES]
    assert [label.split(":")[0] for label in legend(axes)] == ["at W", "features"]


@pytest.mark.parametrize(
    ("counts", "label"),
    [
        ([40, 40], "step (40 an epoch)"),
        ([40, 39, 40, 7], "step (about 40 an epoch)"),
        ([1], "step (1 an epoch)"),
        ([2500] * 2, "step (2,500 an epoch)"),
    ],
)
def test_the_axis_tells_the_length_of_an_epoch(counts: list[int], label: str) -> None:
    epochs = np.repeat(np.arange(len(counts)), counts)
    rows = with_column(steps(len(epochs)), "epoch", epochs)
    assert {axes.get_xlabel() for axes in (*weights_figure(rows).axes, *balance_figure(rows).axes)} == {label}


@pytest.mark.parametrize("count", [1, 2])
def test_a_run_just_begun_shows(count: int) -> None:
    for axes in (*weights_figure(steps(count)).axes, *balance_figure(steps(count)).axes):
        named = [one for one in axes.lines if not str(one.get_label()).startswith("_")]
        assert named and all(one.get_marker() in (".", "D") for one in named)
        ticks = [tick for tick in axes.get_xticks() if axes.get_xlim()[0] <= tick <= axes.get_xlim()[1]]
        assert ticks == list(range(1, count + 1))


def test_the_figure_says_what_is_faint_and_over_how_many_steps_means_run() -> None:
    assert balance_figure(steps(80)).get_supxlabel() == (
        "faint: single steps; bold: running means over 7 steps; W: the last shared weight"
    )
    assert "over 410 steps" in balance_figure(steps(6000)).get_supxlabel()
    assert balance_figure(steps(1)).get_supxlabel() == "W: the last shared weight"


def test_lines_of_a_panel_are_told_apart_without_colours() -> None:
    figure = balance_figure(CASES["targets of their own"])
    for axes in figure.axes:
        named = [one for one in axes.lines if not str(one.get_label()).startswith("_")]
        looks = {(one.get_linestyle(), one.get_linewidth(), one.get_marker()) for one in named}
        assert len(looks) == len(named) >= 2, axes.get_title()


def test_running_means_by_hand() -> None:
    places, means = running_mean(np.array([1.0, 2, 6, NAN, 4, 5, 7, 8, 9]))  # 9 steps: over 5
    np.testing.assert_array_equal(places, np.arange(9))
    np.testing.assert_allclose(means, [3, 3, 13 / 4, 17 / 4, 22 / 4, 6, 33 / 5, 29 / 4, 8])
    np.testing.assert_array_equal(running_mean(np.array([3.0]))[1], [3])
    missing = np.where(np.arange(60) < 30, NAN, 2.0)
    np.testing.assert_array_equal(running_mean(missing)[1], np.where(np.arange(60) < 27, NAN, 2.0))  # 3 steps ahead


def test_running_means_of_a_long_run_are_those_of_all_its_steps() -> None:
    values = np.random.default_rng(0).normal(size=59_990)
    values[::7] = NAN
    places, means = running_mean(values)
    assert len(places) == len(means) == 600 and places[-1] < len(values)
    middle = 300  # 41 bins of 100 steps
    assert means[middle] == pytest.approx(np.nanmean(values[100 * (middle - 20) : 100 * (middle + 21)]))
    assert means[0] == pytest.approx(np.nanmean(values[:2100]))
    assert means[-1] == pytest.approx(np.nanmean(values[100 * 579 :]))
    assert abs(places[middle] - 100 * middle) <= 50


def test_a_long_run_is_drawn_with_few_points_but_with_every_leap(tmp_path: Path) -> None:
    rows = steps(60_000, 1000)
    rows[31_234]["loss/view"] = 11.0
    rows[12_345]["weight/view"] = 0.0
    begun = time.process_time()
    save(balance_figure(rows), tmp_path / "analysis.png")
    save(weights_figure(rows), tmp_path / "weights.png")
    assert time.process_time() - begun < 20  # two seconds, where nothing else takes the caches
    shown = panels(balance_figure(rows))
    assert max(len(points(one)[0]) for axes in shown.values() for one in axes.lines) <= 1200
    x, y = points(faint(shown[LOSSES])[1])
    assert (x[y.argmax()], y.max()) == (31_235, pytest.approx(10))
    x, y = points(line(shown[WEIGHTS], "view"))
    assert (x[y.argmin()], y.min()) == (12_346, 0)
    assert len(points(line(shown[COSINES], "trunk"))[0]) <= 60
    negative = (points(faint(shown[COSINES])[0])[1] < 0).mean()  # the points are no selection by their values
    assert negative == pytest.approx((column(rows, "cosine/weight") < 0).mean(), abs=0.06)
