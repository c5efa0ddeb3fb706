"""benchmarks/preprocessing.py: trainings that differ in the filters alone, a row each, and none is made twice."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import yaml

from benchmarks import preprocessing
from tests.scripts import phantom_yaml
from utils.config import ROOT
from utils.flags import parse
from utils.log import InputError
from utils.predict import load
from utils.preprocess import Preprocessor


def run(folder: Path, *arguments: str) -> list[dict[str, str]]:
    """The rows of the csv after a run on small frames."""
    common = ["--data", str(folder / "small.yaml"), "--img", "64", "--epochs", "1", "--project", str(folder / "runs")]
    preprocessing.main(parse(preprocessing.FLAGS, "", [*common, "--csv", str(folder / "rows.csv"), *arguments]))
    with (folder / "rows.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_each_finished_training_is_a_row_and_is_not_made_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    phantom_yaml(tmp_path, patients=4)
    rows = run(tmp_path, "--steps", "none", "gamma")
    assert [row["step"] for row in rows] == ["none", "gamma"]
    assert all(row[name] for row in rows for name in preprocessing.COLUMNS)
    again = run(tmp_path, "--steps", "gamma", "all")
    assert again[:2] == rows and [row["step"] for row in again[2:]] == ["all"]
    assert len(list((tmp_path / "runs").glob("*/metrics.json"))) == 3
    assert "+0." in (shown := capsys.readouterr().out) or "-0." in shown
    expected = [Preprocessor(), Preprocessor(gamma=0.7), Preprocessor(True, 0.7, 2.0, 1.0)]
    for row, filters in zip(again, expected, strict=True):
        assert load(Path(row["run"]) / "weights" / "last.pt", "cpu").preprocessor == filters


def test_hyp_files_differ_in_the_filters_alone(tmp_path: Path) -> None:
    stock = yaml.safe_load((ROOT / "hyp" / "joint_training_rules.yaml").read_text())
    (tmp_path / "hyp.yaml").write_text(yaml.safe_dump({**stock, "gamma": 2.0, "clahe": 9.0}))
    off = {"sector_mask": False, "gamma": 1.0, "clahe": 0.0, "sharpen": 0.0}
    asked = {
        "none": {}, "sector_mask": {"sector_mask": True}, "gamma": {"gamma": 0.7}, "clahe": {"clahe": 2.0},
        "sharpen": {"sharpen": 1.0}, "all": {"sector_mask": True, "gamma": 0.7, "clahe": 2.0, "sharpen": 1.0},
    }  # fmt: skip
    assert list(preprocessing.STEPS) == list(asked)
    for step, filters in asked.items():
        assert preprocessing.hyperparameters(str(tmp_path / "hyp.yaml"), step) == stock | off | filters


def test_the_table_shows_means_and_differences_to_none_of_the_same_parts(capsys: pytest.CaptureFixture[str]) -> None:
    def row(data: str, step: str, value: float) -> dict[str, str]:
        key = ("a/hyp.yaml", "n", "224", "15", "42", step)
        figures = dict.fromkeys(preprocessing.FIGURES, str(value)) | {"minutes": "2", "run": "runs/a"}
        return {"data": data, **dict(zip(preprocessing.KEYS[1:], key, strict=True)), **figures, "F1": ""}

    # the third part has no `none` yet: it counts for the mean, not for the difference
    rows = [row("1", "none", 0.1), row("1", "gamma", 0.2), row("2", "none", 0.3), row("2", "gamma", 0.6)]
    preprocessing.print_table([*rows, row("3", "gamma", 0.7)])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    setting = ["hyp", "n", "224", "15"]
    assert lines[0] == [*setting, "none", "2", *["0.200"] * 4, "2.0"]
    assert lines[1] == [*setting, "gamma", "3", *["0.500", "(+0.200)"] * 4, "2.0"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--only-folds", "2"), "--only-folds: expected numbers from 1 to 1, got 2"),
        (("--folds", "somewhere"), "--folds and --data: expected one of them"),
        (("--hyp", "gone.yaml"), "--hyp 'gone.yaml': no such file"),
    ],
    ids=str,
)
def test_faults_are_found_before_the_first_training(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    phantom_yaml(tmp_path, patients=4)
    with pytest.raises(InputError, match=words):
        run(tmp_path, *arguments)
    assert not (tmp_path / "rows.csv").exists() and not (tmp_path / "runs").exists()
