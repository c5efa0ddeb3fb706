"""The benchmarks of speed as a user runs them, tiny: each ends with a table and json that holds its figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.exported import saved
from tests.scripts import phantom_yaml, succeed, tiny_cfg
from utils.config import ROOT
from utils.loggers import read_results

ONCE = ("--rounds", "1")


def rows_of(script: str, folder: Path, *arguments: str | Path) -> list[dict[str, Any]]:
    """The rows of a benchmark's json, which are in its table, too."""
    file = folder / f"{script}.json"
    shown = succeed(f"benchmarks/{script}.py", *arguments, "--json", file)
    content = json.loads(file.read_text())
    assert content["script"] == script and content["machine"]["cores"] >= 1 and content["rows"]
    rows: list[dict[str, Any]] = content["rows"]
    assert all(str(next(iter(row.values()))) in shown for row in rows)
    return rows


def small(folder: Path) -> tuple[str | Path, ...]:
    return ("--cfg", tiny_cfg(folder), "--imgsz", "64", "--batch-size", "4")


@pytest.mark.long
def test_train_speed_compares_ways_with_the_plain_one(tmp_path: Path) -> None:
    rows = rows_of("train_speed", tmp_path, *small(tmp_path), *ONCE, "--steps", "2", "--ways", "fast")
    assert [row["way"] for row in rows] == ["plain", "fast"]
    assert rows[0]["ratio"] == rows[0]["MB ratio"] == 1
    assert rows[1]["ratio"] == pytest.approx(rows[1]["images/s"] / rows[0]["images/s"])


@pytest.mark.long
def test_train_memory_shows_what_both_paths_hold(tmp_path: Path) -> None:
    plain, fast = rows_of("train_memory", tmp_path, *small(tmp_path))
    assert plain["MB"] > 100 and fast["MB ratio"] == pytest.approx(fast["MB"] / plain["MB"])


@pytest.mark.long
def test_growth_measures_ten_times_the_frames(tmp_path: Path) -> None:
    one, ten = rows_of("growth", tmp_path, *small(tmp_path), *ONCE, "--patients", "3", "--images", "24")
    assert ten["frames"] == 10 * one["frames"] and one["images/s"] > 0


@pytest.mark.long
def test_epoch_overhead_accounts_for_all_of_an_epoch(tmp_path: Path) -> None:
    data = phantom_yaml(tmp_path)
    rows = rows_of("epoch_overhead", tmp_path, *small(tmp_path), "--data", data, "--epochs", "2")
    seconds = {row["part"]: row["seconds an epoch"] for row in rows}
    shares = {row["part"]: row["share"] for row in rows}
    inside = ("forward", "losses", "backward", "step", "validation: network")
    assert all(seconds[part] > 0 for part in (*inside, "checkpoint", "results.csv", "validation: suppression"))
    assert shares["outside, in all"] == pytest.approx(1 - sum(shares[part] for part in inside))
    assert sum(shares[row["part"]] for row in rows[:-2]) == pytest.approx(1)


@pytest.mark.long
def test_val_speed_times_whole_commands_that_agree(tmp_path: Path) -> None:
    data = phantom_yaml(tmp_path)
    plain, ours = rows_of("val_speed", tmp_path, "--weights", saved("joint"), "--data", data, "--imgsz", "64", *ONCE)
    assert plain["frames"] == ours["frames"] and ours["deviation"] < 0.05
    assert ours["ratio"] == pytest.approx(plain["seconds"] / ours["seconds"])


@pytest.mark.long
def test_detect_speed_compares_one_by_one_a_folder_and_exports(tmp_path: Path) -> None:
    data = phantom_yaml(tmp_path)
    given = ("--weights", saved("joint"), "--data", data, "--imgsz", "64", "--exports", "torchscript")
    rows = rows_of("detect_speed", tmp_path, *given, *ONCE)
    assert [row["way"] for row in rows] == [
        "plain", "detect.py --batch-size 1", "detect.py", "detect.py, torchscript fp32",
    ]  # fmt: skip
    assert all(row["frames/s"] > 0 and row["deviation"] < 0.05 for row in rows)


def test_study_speed_compares_ways_with_the_network_alone(tmp_path: Path) -> None:
    given: tuple[str | Path, ...] = ("--syntaxes", "jpeg", "rle", "--frames", "3", "--height", "120", "--imgsz", "64")
    given = ("--weights", saved("joint"), *given)
    rows = rows_of("study_speed", tmp_path, *given, *ONCE)
    assert [row["loop"] for row in rows] == ["jpeg"] * 5 + ["rle"] * 5 and {row["frames"] for row in rows} == {3}
    assert rows[0]["way"] == "network alone" and rows[0]["ratio"] == 1
    assert rows[2]["ratio"] == pytest.approx(rows[2]["s"] / rows[0]["s"]) and rows[2]["report, s"] > 0


@pytest.mark.long
def test_startup_stops_every_script_at_its_first_batch(tmp_path: Path) -> None:
    rows = rows_of("startup", tmp_path, "--weights", saved("joint"), *ONCE, "--scripts", "train", "detect")
    assert [row["script"] for row in rows] == ["train.py", "detect.py"]
    assert all(0.1 < row["import s"] < row["first batch s"] for row in rows)


@pytest.mark.long
def test_dual_parallel_times_both_ways(tmp_path: Path) -> None:
    first, second = rows_of("dual_parallel", tmp_path, "--imgsz", "64", "--epochs", "1", *ONCE)
    assert second["ratio"] == pytest.approx(first["seconds"] / second["seconds"])


@pytest.mark.long
def test_bf16_trains_each_seed_in_both_types(tmp_path: Path) -> None:
    given = ("--cfg", tiny_cfg(tmp_path), "--imgsz", "64", "--epochs", "1", "--data", phantom_yaml(tmp_path))
    rows = rows_of("bf16", tmp_path, *given, "--seeds", "0", "1")
    assert [row["seed"] for row in rows] == [0, 1, "mean"]
    assert all(row["mAP50 bf16 - fp32"] == pytest.approx(row["bf16 mAP50"] - row["fp32 mAP50"]) for row in rows)


@pytest.mark.long
def test_bf16_by_rounding_differs_from_fp32_where_there_is_no_bf16(tmp_path: Path) -> None:
    flags = (
        "--cfg", tiny_cfg(tmp_path), "--img", "64", "--epochs", "1", "--data", phantom_yaml(tmp_path), "--no-amp",
        "--noplots", "--bootstrap", "0", "--seed", "0", "--project", tmp_path,
    )  # fmt: skip
    succeed("benchmarks/rounded.py", *flags, "--name", "rounded")
    succeed("train.py", *flags, "--name", "plain")
    rows = [read_results(tmp_path / name / "results.csv")[0]["train/box_loss"] for name in ("rounded", "plain")]
    assert rows[0] != rows[1] and rows[0] == pytest.approx(rows[1], rel=0.02)


def test_every_benchmark_is_explained() -> None:
    text = (ROOT / "benchmarks" / "README.md").read_text()
    for path in (ROOT / "benchmarks").glob("*.py"):
        assert f"`{path.name}`" in text, f"{path.name} is not in benchmarks/README.md"
