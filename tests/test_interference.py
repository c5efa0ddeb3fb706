"""benchmarks/interference.py: a row a finished training, nothing trained twice, and faults found before the first."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import yaml

from benchmarks import interference
from tests.scripts import phantom_yaml
from utils.balance_log import read_balance
from utils.config import ROOT
from utils.flags import parse
from utils.log import InputError


def run(folder: Path, *arguments: str) -> list[dict[str, str]]:
    """The rows of the csv after a run on small frames."""
    common = ["--data", str(folder / "small.yaml"), "--img", "64", "--epochs", "1", "--project", str(folder / "runs")]
    interference.main(parse(interference.FLAGS, "", [*common, "--csv", str(folder / "rows.csv"), *arguments]))
    with (folder / "rows.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_each_finished_training_is_a_row_and_is_not_made_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    phantom_yaml(tmp_path, patients=4)
    rows = run(tmp_path, "--view-layers", "17", "--methods", "gradnorm:0", "single_det", "gradnorm", "gradnorm_static")
    assert [row["method"] for row in rows] == ["gradnorm:0", "single_det", "gradnorm", "gradnorm_static"]
    assert {row["view_layer"] for row in rows} == {"17"}
    _, single, gradnorm, static = rows
    assert single["mAP50"] and not single["view_accuracy"] and single["mean_weight_view"] == "0"
    assert gradnorm["view_accuracy"] and 0 <= float(gradnorm["conflicting"]) <= 1
    # the means of the run before it, not of the one with another alpha
    assert float(static["mean_weight_det"]) == pytest.approx(float(gradnorm["mean_weight_det"]), rel=1e-4)
    assert yaml.safe_load((Path(rows[0]["run"]) / "hyp.yaml").read_text())["gradnorm_alpha"] == 0
    assert "cosine/17" in read_balance(Path(gradnorm["run"]) / "balance.csv")[0]
    again = run(tmp_path, "--view-layers", "17", "--methods", "single_det", "static:0.5")
    assert again[:4] == rows and [row["method"] for row in again[4:]] == ["static:0.5"]
    assert len(list((tmp_path / "runs").glob("*/metrics.json"))) == 5
    assert "static:0.5" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--methods", "static", "magic"), "--methods magic: expected one of static"),
        (("--methods", "static:much"), "--methods static:much: expected a number after the colon, got 'much'"),
        (("--only-folds", "0"), "--only-folds: expected numbers from 1 to 1, got 0"),
        (("--folds", "somewhere"), "--folds and --data: expected one of them"),
        (("--methods", "gradnorm_static"), "expected gradnorm before it"),
    ],
    ids=str,
)
def test_faults_are_found_before_the_first_training(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    phantom_yaml(tmp_path, patients=4)
    with pytest.raises(InputError, match=words):
        run(tmp_path, *arguments)
    assert not (tmp_path / "rows.csv").exists() and not list((tmp_path / "runs").glob("*/weights"))


def test_the_view_head_is_moved_wherever_it_stands() -> None:
    moved = interference.joint_description("n", 17)
    stock = yaml.safe_load((ROOT / "models" / "yolov5n.yaml").read_text())
    assert moved["head"][-1][0] == 17 and moved["head"][:-1] == stock["head"][:-1]
