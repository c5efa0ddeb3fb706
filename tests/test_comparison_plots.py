"""Panels, pictures and the page's table of a comparison."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from utils.comparison import Comparison, Run
from utils.comparison_page import Panel
from utils.comparison_plots import page_table, panels, write_pictures
from utils.loggers import COLUMNS as RESULTS
from utils.paired import Measured


def history(start: float) -> list[dict[str, float]]:
    """Three epochs; nothing was validated in the second."""
    rows = []
    for epoch in range(3):
        row = dict.fromkeys(RESULTS, start + epoch / 10) | {"epoch": float(epoch)}
        if epoch == 1:
            row |= {name: math.nan for name in RESULTS if name.startswith(("val/", "metrics/"))}
        rows.append(row)
    return rows


def run(method: str, seed: int = 0, start: float = 0.0) -> Run:
    rng = np.random.default_rng(seed)
    figures = {
        "mAP_0.5": Measured(0.4 + start, 0.4 + start + rng.normal(0, 0.05, 100)),
        "view_accuracy": Measured(0.8), "detection_loss": Measured(0.1), "view_loss": Measured(1.0),
        "minutes": Measured(2.5), "parameters": Measured(1e6 + start),
    }  # fmt: skip
    absent = {"single_det": ("view_accuracy", "view_loss"), "single_view": ("mAP_0.5", "detection_loss")}
    known = {key: value for key, value in figures.items() if key not in absent.get(method, ())}
    return Run(method, seed, method, known, history(start))


@pytest.fixture
def comparison() -> Comparison:
    """Two seeds of one method, and those that learn one task alone."""
    runs = [run("static"), run("static", 1, 0.1), run("single_det"), run("single_view", start=0.2)]
    return Comparison(runs, "patients", 8, 100)


def by_title(found: list[Panel]) -> dict[str, Panel]:
    return {panel.title: panel for panel in found}


def test_curves_are_those_of_results_csv_by_epoch_counted_from_1(comparison: Comparison) -> None:
    found = by_title(panels(comparison, 3))
    assert list(found) == [
        "mAP50", "view accuracy", "detection loss (val)", "view loss (val)", "view acc against mAP50",
        "mAP50 against minutes",
    ]  # fmt: skip
    curve = found["detection loss (val)"].curves[1]
    assert curve.name == "static, seed 1" and curve.group == "static" and list(curve.x) == [1, 2, 3]
    np.testing.assert_allclose(curve.y, [0.3, math.nan, 0.9])  # box, objectness and class
    np.testing.assert_allclose(found["view accuracy"].curves[0].y, [0.0, math.nan, 0.2])


def test_a_head_that_was_never_trained_has_no_curve_and_no_point(comparison: Comparison) -> None:
    found = by_title(panels(comparison, 3))
    for title, absent in (("mAP50", "single_view"), ("detection loss (val)", "single_view"),
                          ("view accuracy", "single_det"), ("view loss (val)", "single_det")):  # fmt: skip
        groups = [curve.group for curve in found[title].curves]
        assert groups.count("static") == 2 and len(groups) == 3 and absent not in groups
    assert [curve.group for curve in found["view acc against mAP50"].curves] == ["static", "static"]
    assert [curve.group for curve in found["mAP50 against minutes"].curves] == ["static", "static", "single_det"]


def test_points_are_the_figures_of_the_table_and_seeds_share_a_colour(comparison: Comparison) -> None:
    panel = by_title(panels(comparison, 3))["mAP50 against minutes"]
    assert not panel.joined and (panel.x_label, panel.y_label) == ("minutes", "mAP50")
    assert [(list(curve.x), list(curve.y)) for curve in panel.curves] == [
        ([2.5], [0.4]),
        ([2.5], [0.5]),
        ([2.5], [0.4]),
    ]
    assert [curve.colour for curve in panel.curves] == [0, 0, 1]


def test_chance_is_drawn_where_views_are_learned(comparison: Comparison) -> None:
    assert by_title(panels(comparison, 3))["view loss (val)"].references == [(math.log(3), "chance, ln 3")]
    assert not any(panel.references for panel in panels(comparison, 0))


def test_a_run_without_a_history_leaves_no_empty_panel() -> None:
    bare = Run("static", 0, "static", {})
    assert panels(Comparison([bare], "patients", 8, 0), 3) == []


def test_pictures_are_written_where_there_is_something_in_them(comparison: Comparison, tmp_path: Path) -> None:
    found = panels(comparison, 3)
    write_pictures(found, tmp_path, "patients are shared; $x$ _y_")
    for name in ("comparison_curves.png", "comparison_points.png"):
        with Image.open(tmp_path / name) as image:
            assert image.width >= 800 and len(np.unique(np.asarray(image.convert("L")))) > 20
    (tmp_path / "none").mkdir()
    write_pictures([panel for panel in found if panel.joined], tmp_path / "none")
    assert [path.name for path in (tmp_path / "none").iterdir()] == ["comparison_curves.png"]


def test_the_pages_table_has_numbers_to_sort_and_the_noise_as_text(comparison: Comparison) -> None:
    table = page_table(comparison)
    titles = {key: (title, digits) for key, title, digits in table.columns}
    assert titles["mAP_0.5"] == ("mAP50", 3) and titles["method"] == ("method", None)
    assert titles["mAP_0.5 noise"] == ("mAP50: spread, interval", None) and "minutes noise" not in titles
    static, detector, viewer = table.rows
    assert static["mAP_0.5"] == pytest.approx(0.45) and static["seeds"] == 2 and detector["seeds"] == 1
    low, high = comparison.estimates["static", "mAP_0.5"].patients or (0, 0)
    assert static["mAP_0.5 noise"] == f"± 0.071 [{low:.3f} {high:.3f}]"
    assert viewer["mAP_0.5"] is None and detector["view_accuracy"] is None and viewer["mAP_0.5 noise"] == ""


def test_the_pages_marks_are_the_winners() -> None:
    runs = [run("static", seed=1, start=1.0), run("dwa")]
    comparison = Comparison(runs, "patients", 8, 100)
    table = page_table(comparison)
    assert table.marked == {(0, "mAP_0.5"), (1, "parameters")}
    assert "*" not in str(table.rows[0]["mAP_0.5 noise"])
