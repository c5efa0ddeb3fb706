"""The table of a comparison: winners only beyond the noise, and each cell of comparison.md and comparison.csv."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from utils.comparison import (
    COLUMNS,
    OF_BOXES,
    OF_VIEWS,
    Column,
    Comparison,
    Run,
    cell,
    csv_rows,
    differences_csv,
    ends,
    markdown,
)
from utils.intervals import interval
from utils.paired import FEWEST_UNITS, Measured
from utils.view_metrics import Floats

MAP = next(column for column in COLUMNS if column.key == "mAP_0.5")
NOISE = np.random.default_rng(0).normal(0, 0.1, 200)  # of which patients are drawn, the same for all methods


def drawn(value: float, own: Floats | float = 0.0) -> Measured:
    """A figure whose draws scatter by what all methods share and by noise of its own."""
    return Measured(value, value + NOISE + own)


def of(method: str, seed: int = 0, **figures: Measured | float) -> Run:
    """A run; a figure's name is its key with the point left out, as ``mAP_05``."""
    keys = {column.key.replace(".", "").replace(":", "_"): column.key for column in COLUMNS}
    known = {keys[name]: one if isinstance(one, Measured) else Measured(one) for name, one in figures.items()}
    return Run(method, seed, f"runs/{method}-seed{seed}", known)


def comparison(*runs: Run, **changes: object) -> Comparison:
    settings: dict[str, object] = {"unit": "patients", "units": 8, "draws": 200, **changes}
    return Comparison(runs, **settings)  # type: ignore[arg-type]


def own_noise(size: float, seed: int = 1) -> Floats:
    scatter: Floats = np.random.default_rng(seed).normal(0, size, 200)
    return scatter


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def column(key: str) -> Column:
    return next(one for one in COLUMNS if one.key == key)


# --- winners ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scatter", "wins"), [(0.001, True), (0.2, False)])
def test_a_winner_beats_the_others_beyond_the_noise(scatter: float, wins: bool) -> None:
    found = comparison(of("a", mAP_05=drawn(0.6, own_noise(scatter))), of("b", mAP_05=drawn(0.5)))
    assert found.winners == ({("a", "mAP_0.5")} if wins else set())
    assert found.differences["a", "b", "mAP_0.5"].beyond_noise is wins


def test_there_is_no_winner_where_the_seeds_in_common_say_the_opposite() -> None:
    """The mean over all seeds is a's, but seed by seed b is better, beyond the noise."""
    runs = [of("a", seed, mAP_05=value) for seed, value in enumerate((0.50, 0.51, 0.99))]
    runs += [of("b", seed, mAP_05=value) for seed, value in enumerate((0.60, 0.62))]
    for given in (runs, runs[::-1]):
        found = comparison(*given)
        (difference,) = found.differences.values()
        assert abs(difference.value) == pytest.approx(0.105) and difference.beyond_noise
        assert found.winners == frozenset()


def test_there_is_no_winner_where_one_other_method_is_within_the_noise() -> None:
    clear = of("c", mAP_05=drawn(0.1, own_noise(0.001, 2)))
    close = of("b", mAP_05=drawn(0.59, own_noise(0.2)))
    assert comparison(of("a", mAP_05=drawn(0.6)), clear).winners == {("a", "mAP_0.5")}
    assert comparison(of("a", mAP_05=drawn(0.6)), clear, close).winners == frozenset()


def test_the_later_method_can_win_too_and_one_alone_cannot() -> None:
    runs = of("a", mAP_05=drawn(0.5)), of("b", mAP_05=drawn(0.6, own_noise(0.001)))
    assert comparison(*runs).winners == {("b", "mAP_0.5")}
    assert comparison(runs[0]).winners == frozenset() and comparison(runs[0]).differences == {}
    # of those that have the figure: the other one does not learn it
    assert comparison(runs[0], of("single_view", view_accuracy=drawn(0.9))).winners == frozenset()


@pytest.mark.parametrize("key", ["parameters", "gflops"])
def test_the_smaller_network_wins_by_any_difference_and_equal_ones_do_not(key: str) -> None:
    def pair(value: float) -> Comparison:
        return comparison(Run("a", 0, "", {key: Measured(7.0)}), Run("b", 0, "", {key: Measured(value)}))

    assert pair(6.9).winners == {("b", key)}
    assert pair(7.0).winners == frozenset()


@pytest.mark.parametrize("key", ["minutes", "peak_memory_gb", "ms_per_frame"])
def test_what_was_measured_once_is_never_marked(key: str) -> None:
    runs = [
        of(method, seed, **{key: value + seed / 1e3}) for method, value in (("a", 1.0), ("b", 9.0)) for seed in (0, 1)
    ]
    assert comparison(*runs).winners == frozenset()


@pytest.mark.parametrize("key", ["total_loss", "detection_loss", "view_loss"])
def test_a_loss_is_better_where_it_is_lower_and_marked_only_from_two_seeds_on(key: str) -> None:
    def runs(seeds: int) -> list[Run]:
        values = {"low": 0.1, "high": 1.1}
        return [
            of(name, seed, **{key: value + seed / 100 * value})
            for name, value in values.items()
            for seed in range(seeds)
        ]

    assert comparison(*runs(1)).winners == frozenset()
    assert comparison(*runs(2)).winners == {("low", key)}


def test_with_several_seeds_both_sources_of_noise_count() -> None:
    def runs(steps: Sequence[float]) -> list[Run]:
        own = [of("a", seed, mAP_05=drawn(0.5 + step, own_noise(0.001))) for seed, step in enumerate(steps)]
        return [*own, *(of("b", seed, mAP_05=drawn(0.5)) for seed in range(len(steps)))]

    assert comparison(*runs([0.1, 0.11, 0.09])).winners == {("a", "mAP_0.5")}
    assert comparison(*runs([0.3, 0.0, 0.0])).winners == frozenset()  # every patient gains, but by one seed
    assert comparison(*runs([0.1])).winners == {("a", "mAP_0.5")}


def test_a_figure_that_one_seed_lacks_is_not_the_methods() -> None:
    found = comparison(of("a", 0, mAP_05=0.5), of("a", 1), of("b", 0, mAP_05=0.4))
    assert ("a", "mAP_0.5") not in found.estimates and found.differences == {}
    assert found.measured("a", "mAP_0.5") == {}


# --- text ------------------------------------------------------------------------------------------------------------


def by_hand() -> Comparison:
    """Three methods: two with two seeds, one that learns no views; known to the last digit."""
    return comparison(
        of("static", 0, mAP_05=0.5, view_accuracy=0.8, parameters=7_012_345.0, minutes=12.34),
        of("static", 1, mAP_05=0.6, view_accuracy=0.9, parameters=7_012_345.0, minutes=12.54),
        of("a|b", 0, mAP_05=0.1, view_accuracy=0.2, parameters=8_000_000.0),
        of("a|b", 1, mAP_05=0.2, view_accuracy=0.3002, parameters=8_000_000.0),
        of("single_det", 0, mAP_05=0.3),
        setting=["data.yaml, val"], warnings=["patients are shared"],
    )  # fmt: skip


def table_rows(text: str) -> list[list[str]]:
    """The first table of a markdown text, cells of escaped pipes whole."""
    lines = [line for line in text.split("\n\n")[1].splitlines() if line.startswith("| ")]
    return [[part.strip() for part in line.strip("|").replace("\\|", "\0").split("|")] for line in lines]


def test_cells_of_the_table_are_mean_spread_and_interval() -> None:
    head, rule, static, piped, single = table_rows(markdown(by_hand()))
    assert head == ["method", "seeds", "mAP50", "view acc", "parameters", "minutes"] and set(rule) == {"---"}
    assert static == ["static", "2", "0.550 ± 0.071", "**0.850 ± 0.071** *", "**7,012,345** *", "12.4 ± 0.1"]
    assert piped == ["a\0b", "2", "0.150 ± 0.071", "0.250 ± 0.071", "8,000,000", "-"]
    assert single == ["single_det", "1", "0.300", "-", "-", "-"]


def test_an_interval_stands_behind_the_figure() -> None:
    found = comparison(of("a", mAP_05=drawn(0.6, own_noise(0.001))), of("b", mAP_05=drawn(0.5)))
    low, high = interval(0.5 + NOISE, 8) or (0, 0)
    assert cell(found, "b", MAP) == f"0.500 [{low:.3f} {high:.3f}]"
    assert cell(found, "a", MAP).startswith("**0.600 [") and cell(found, "a", MAP).endswith("]** *")
    assert cell(found, "a", column("recall")) == "-"
    assert (ends(None), ends((-0.12345, 0.5))) == ("-", "[-0.123 0.500]")


def test_differences_stand_in_the_file_and_on_the_screen_only_those_beyond_the_noise() -> None:
    runs = (
        of("a", mAP_05=drawn(0.6, own_noise(0.001)), recall=drawn(0.5, own_noise(0.5))),
        of("b", mAP_05=drawn(0.5), recall=drawn(0.4)),
    )
    found = comparison(*runs)
    whole, short = markdown(found), markdown(found, everything=False)
    d = found.differences["a", "b", "mAP_0.5"]
    row = f"| a - b | mAP50 | +0.100 | {ends(d.patients)} | - | yes |"
    assert row in whole and row in short
    assert "| a - b | R | +0.100 |" in whole and "| a - b | R |" not in short
    assert "95% over patients" in whole
    assert "## Runs" in whole and "| a | 0 | runs/a-seed0 |" in whole and "## Runs" not in short


def test_names_in_the_csv_files_are_no_formulas_and_negative_figures_stay_numbers() -> None:
    evil = "=HYPERLINK(1)"
    found = comparison(of(evil, mAP_05=drawn(0.5)), of("b", mAP_05=drawn(0.6)))
    assert {row["method"] for row in rows_of(csv_rows(found))} == {f"'{evil}", "b"}
    lines = differences_csv(found)
    assert f"'{evil}" in lines and "-0.1" in lines and "'-0" not in lines


def test_the_csv_has_a_row_a_training_and_four_a_method() -> None:
    rows = rows_of(csv_rows(by_hand()))
    assert [(row["method"], row["seed"]) for row in rows] == [
        ("static", "0"), ("static", "1"), ("a|b", "0"), ("a|b", "1"), ("single_det", "0"),
        *((method, name) for method in ("static", "a|b", "single_det") for name in ("mean", "spread", "low", "high")),
    ]  # fmt: skip
    assert list(rows[0]) == ["method", "seed", "mAP_0.5", "view_accuracy", "parameters", "minutes", "winner", "folder"]
    assert rows[0]["mAP_0.5"] == "0.5" and rows[0]["folder"] == "runs/static-seed0" and rows[0]["winner"] == ""
    by = {(row["method"], row["seed"]): row for row in rows}
    mean, spread = by["static", "mean"], by["static", "spread"]
    assert float(mean["mAP_0.5"]) == pytest.approx(0.55) and mean["winner"] == "view_accuracy parameters"
    assert float(spread["mAP_0.5"]) == pytest.approx(0.5**0.5 / 10)
    lone = [by["single_det", name] for name in ("0", "mean", "spread")]
    assert [row["view_accuracy"] for row in lone] == ["", "", ""]  # what is not known is an empty cell
    assert [row["mAP_0.5"] for row in lone] == ["0.3", "0.3", ""] and by["static", "low"]["mAP_0.5"] == ""


def test_interval_ends_in_the_csv_are_those_of_the_estimate() -> None:
    found = comparison(of("a", mAP_05=drawn(0.6)))
    by = {row["seed"]: row for row in rows_of(csv_rows(found))}
    low, high = found.estimates["a", "mAP_0.5"].patients or (math.nan, math.nan)
    assert (float(by["low"]["mAP_0.5"]), float(by["high"]["mAP_0.5"])) == pytest.approx((low, high))


# --- notes -----------------------------------------------------------------------------------------------------------


def notes(**changes: object) -> str:
    settings: dict[str, object] = {"seeds": 1, **changes}
    seeds = settings.pop("seeds")
    assert isinstance(seeds, int)
    noise = {method: own_noise(0.01, seed) for seed, method in enumerate("ab")}

    def figure(method: str, seed: int) -> Measured | float:
        value = 0.5 + 0.01 * seed * (method == "b")  # seeds whose differences are the same say nothing of others
        return drawn(value, noise[method]) if settings.get("draws", 200) else value

    runs = [of(m, seed, mAP_05=figure(m, seed)) for m in "ab" for seed in range(seeds)]
    return "\n".join(comparison(*runs, **settings).notes())


def test_notes_say_which_noise_is_known() -> None:
    one = notes()
    assert "a bootstrap over 8 patients (200 draws, the same" in one and "spread over seeds" not in one
    assert "it is not known how much another seed would change" in one
    several = notes(seeds=2)
    assert "bootstrap over 8 patients" in several and "and the spread over seeds" in several
    assert "another seed" not in several
    assert "No winner is marked but in parameters and GFLOPs: the noise is not known" in notes(draws=0)
    few = notes(units=FEWEST_UNITS - 1)
    assert "With 5 patients, fewer than 6, their noise cannot be told." in few and "bootstrap" not in few
    assert "at 95%: the spread over seeds" in notes(draws=0, seeds=2)


def test_notes_warn_of_frames_that_are_not_patients_and_repeat_warnings_and_the_setting() -> None:
    assert "names no patients, so the intervals are too narrow" in notes(unit="frames")
    assert "names no patients" not in notes() and "names no patients" not in notes(unit="frames", draws=0)
    whole = markdown(by_hand())
    assert "- data.yaml, val\n- Warning: patients are shared\n" in whole
    assert "measured once, not marked" in whole


def test_columns_of_both_heads_are_columns_of_the_table_and_no_key_is_there_twice() -> None:
    keys = [one.key for one in COLUMNS]
    assert len(set(keys)) == len(keys) and {*OF_BOXES, *OF_VIEWS} <= set(keys)
    absent: Mapping[str, set[str]] = {"boxes": set(OF_BOXES) - set(OF_VIEWS), "views": set(OF_VIEWS) - set(OF_BOXES)}
    assert set(OF_BOXES) & set(OF_VIEWS) == {"total_loss"} and all(absent.values())
