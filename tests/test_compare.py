"""compare.py: runs side by side, what is missing trained and nothing twice, and faults in one line."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

import compare
import train
import train_dual_backbone
from tests.scripts import phantom_yaml, succeed, tiny_cfg
from tests.torchrun import kill, started, steps, wait_for
from utils import checkpoint, trainings
from utils.config import ROOT
from utils.flags import parse
from utils.log import InputError

OUTPUTS = {"comparison.csv", "differences.csv", "comparison.md", "comparison_curves.png", "comparison_points.png",
           "comparison.html"}  # fmt: skip
METHODS = ["static", "single_det", "single_view", "dual:yolov5n"]


class InThisProcess:
    """Stands in for the scripts' processes: trains without the seconds that a new process takes to start."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, command: list[str]) -> int:
        script = {"train.py": train, "train_dual_backbone.py": train_dual_backbone}[Path(command[1]).name]
        self.lines.append(" ".join(command[2:]))
        try:
            script.main(parse(script.FLAGS, "", command[2:]))
        except InputError:
            return 1
        return 0


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> InThisProcess:
    """The trainings that a test makes."""
    stand_in = InThisProcess()
    monkeypatch.setattr(trainings, "run_to_end", stand_in)
    return stand_in


@pytest.fixture
def nothing_trained(made: InThisProcess) -> Iterator[None]:
    """Fails a test that trains anything."""
    yield
    assert made.lines == []


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small data and a tiny network."""
    folder = tmp_path_factory.mktemp("compare")
    phantom_yaml(folder, patients=14, frames=1)
    tiny_cfg(folder)
    return folder


def settings(place: Path, **changes: Any) -> dict[str, Any]:
    return {
        "data": str(place / "small.yaml"), "cfg": str(place / "tiny-yolov5n.yaml"), "classifier": "yolov5n",
        "imgsz": 64, "batch_size": 8, "epochs": 1, "threads": 1, "workers": 0, "bootstrap": 50,
        "project": str(place / "compared"), **changes,
    }  # fmt: skip


@pytest.fixture(scope="module")
def whole(place: Path) -> Path:
    """Four methods compared on the validation part."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainings, "run_to_end", InThisProcess())
        return compare.run(**settings(place, methods=METHODS, name="whole"))


def rows_of(folder: Path) -> dict[tuple[str, str], dict[str, str]]:
    """The rows of comparison.csv by method and seed."""
    with (folder / "comparison.csv").open(newline="") as file:
        return {(row["method"], row["seed"]): row for row in csv.DictReader(file)}


def times(folder: Path) -> dict[Path, int]:
    """When each file of the runs in a folder was written."""
    return {path: path.stat().st_mtime_ns for path in folder.glob("*-seed*/**/*") if path.is_file()}


def copied(whole: Path, name: str, run: str = "static-seed0") -> Path:
    """A run under another name, to be spoilt."""
    target = whole.parent / "copies" / name
    shutil.copytree(whole / run, target)
    return target


def fault(words: str, *runs: str | Path, **keywords: Any) -> None:
    """Compare, which must end in one line with ``words``."""
    with pytest.raises(InputError) as caught:
        compare.run(*map(str, runs), **keywords)
    assert words in str(caught.value) and "\n" not in str(caught.value), caught.value


# --- methods that are trained ----------------------------------------------------------------------------------------


def test_each_method_is_trained_and_all_outputs_are_there(whole: Path) -> None:
    assert {path.name for path in whole.iterdir()} == OUTPUTS | {
        "static-seed0", "single_det-seed0", "single_view-seed0", "dual-yolov5n-seed0",
    }  # fmt: skip
    assert all((whole / name).stat().st_size > 100 for name in OUTPUTS)
    text = (whole / "comparison.md").read_text()
    assert "small.yaml, val:" in text and "chance for 3 views is a loss of 1.0986" in text
    assert "| dual:yolov5n | 1 |" in text and "how much another seed would change" in text


def test_heads_that_were_never_trained_have_no_figures(whole: Path) -> None:
    rows = rows_of(whole)
    boxes, views = ("detection_loss", "mAP_0.5", "mAP_0.5:0.95", "precision", "recall", "F1"), (
        "view_loss", "view_loss_to_chance", "view_accuracy", "view_macro_f1",
    )  # fmt: skip
    for method in METHODS:
        row = rows[method, "0"]
        assert all(bool(row[key]) == (method != "single_view") for key in boxes), row
        assert all(bool(row[key]) == (method != "single_det") for key in views), row
        assert bool(row["total_loss"]) == (not method.startswith("single"))
        of_network = ("parameters", "gflops", "ms_per_frame")
        assert all(bool(row[key]) == (not method.startswith("single")) for key in of_network)
        assert row["minutes"] and row["peak_memory_gb"]
    text = (whole / "comparison.md").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("| single_view | 1")]
    assert line.count(" - |") == 11


def test_the_pair_is_of_two_plain_backbones(whole: Path) -> None:
    options = checkpoint.read(whole / "dual-yolov5n-seed0" / "weights" / "last.pt").content["options"]
    assert (options["classifier"], options["cfg"]) == ("yolov5n", str(ROOT / "models" / "hub" / "yolov5n.yaml"))


def test_started_again_nothing_is_trained(whole: Path, place: Path, nothing_trained: None) -> None:
    before, rows = times(whole), rows_of(whole)
    again = compare.run(**settings(place, methods=METHODS, name="whole"))
    assert again == whole and times(whole) == before
    same = [key for key in rows["static", "0"] if key != "ms_per_frame"]
    assert [[row[key] for key in same] for row in rows_of(whole).values()] == [
        [row[key] for key in same] for row in rows.values()
    ]


def test_other_settings_under_the_same_name_are_one_line(whole: Path, place: Path, nothing_trained: None) -> None:
    before = times(whole)
    fault("--epochs: expected 1, as the run there was started with, got 2", methods=["static"],
          **settings(place, name="whole", epochs=2))  # fmt: skip
    assert times(whole) == before


def test_a_run_that_was_cut_off_goes_on_and_further_seeds_are_added(
    whole: Path, place: Path, made: InThisProcess
) -> None:
    keywords = settings(place, name="cut", epochs=2)
    of_training = {k: v for k, v in keywords.items() if k != "classifier"}
    project = place / "compared" / "cut"
    started = of_training | {"project": str(project), "name": "static-seed0", "noplots": True, "bootstrap": 0}
    run = train.run(**started, seed=0, balance="static", save_period=1)
    finished = torch.load(run / "weights" / "last.pt", weights_only=True)["ema"]
    shutil.copy(run / "weights" / "epoch0.pt", run / "weights" / "last.pt")
    (run / "metrics.json").unlink()
    folder = compare.run(**keywords, methods=["static"], seeds=[0, 1])
    assert folder == project
    assert made.lines[0].startswith(f"--resume {run / 'weights' / 'last.pt'}") and "--seed 1" in made.lines[1]
    assert len(made.lines) == 2
    again = torch.load(run / "weights" / "last.pt", weights_only=True)["ema"]
    assert all(torch.equal(tensor, again[name]) for name, tensor in finished.items())
    rows = rows_of(folder)
    values = [float(rows["static", seed]["view_loss"]) for seed in ("0", "1")]
    assert float(rows["static", "mean"]["view_loss"]) == pytest.approx(sum(values) / 2, rel=1e-6)
    assert float(rows["static", "spread"]["view_loss"]) == pytest.approx(abs(values[0] - values[1]) / 2**0.5, abs=1e-8)
    assert "± " in (folder / "comparison.md").read_text()  # the spread over two seeds


def test_a_grid_trains_each_value_once(whole: Path, place: Path, made: InThisProcess) -> None:
    shutil.copytree(whole / "static-seed0", place / "compared" / "grid" / "static-seed0")
    keywords = settings(place, name="grid", methods=["static", "gradnorm"], grid=["gradnorm_alpha=0,1.5"])
    folder = compare.run(**keywords)
    assert len(made.lines) == 2 and all("--balance gradnorm" in line for line in made.lines)
    labels = [key[0] for key in rows_of(folder) if key[1] == "0"]
    assert labels == ["static", "gradnorm gradnorm_alpha=0", "gradnorm gradnorm_alpha=1.5"]
    found = [checkpoint.read(path).hyp.gradnorm_alpha for path in sorted(folder.glob("gradnorm*/weights/last.pt"))]
    assert found == [0, 1.5]
    before = times(folder)
    compare.run(**keywords)
    assert len(made.lines) == 2 and times(folder) == before


def test_a_failed_training_is_one_line_and_the_finished_runs_stay(
    whole: Path, place: Path, made: InThisProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(whole / "static-seed0", place / "compared" / "failing" / "static-seed0")

    def broken(options: Any) -> None:
        raise InputError("no space left")

    monkeypatch.setattr(train, "main", broken)
    fault("single_det-seed0: its training ended with exit code 1; the finished ones stay",
          **settings(place, name="failing", methods=["static", "single_det"]))  # fmt: skip
    assert (place / "compared" / "failing" / "static-seed0" / "weights" / "last.pt").is_file()
    assert not (place / "compared" / "failing" / "comparison.csv").exists() and len(made.lines) == 1


def test_a_signal_to_the_comparison_ends_the_training_where_it_stands(place: Path) -> None:
    log, run = place / "signal.txt", place / "compared" / "signal" / "static-seed0"
    words = {"img": 64, "batch-size": 2, "epochs": 500, "threads": 1, "bootstrap": 0, "data": place / "small.yaml",
             "cfg": place / "tiny-yolov5n.yaml", "project": place / "compared", "name": "signal"}  # fmt: skip
    process = started(
        "compare.py", "--methods", "static", *(f"--{name}={value}" for name, value in words.items()), log=log
    )
    try:
        wait_for(lambda: steps(run) >= 2, process)
        children = psutil.Process(process.pid).children(recursive=True)
        process.terminate()  # it alone, as a scheduler does
        assert process.wait(timeout=120) == 143, log.read_text()[-2000:]
        assert children and not [child for child in children if child.is_running()]
    finally:
        kill(process)
    assert "all that was trained stays; the same command goes on" in log.read_text()
    assert checkpoint.read(run / "weights" / "last.pt").content["updates"] == steps(run)


# --- runs that exist -------------------------------------------------------------------------------------------------


def test_runs_that_exist_are_compared_on_the_data_they_were_trained_with(whole: Path, nothing_trained: None) -> None:
    runs = [str(whole / name) for name in ("static-seed0", "single_det-seed0", "dual-yolov5n-seed0")]
    folder = compare.run(*runs, project=str(whole.parent), name="side", bootstrap=50, threads=1, workers=0)
    assert folder.name == "side" and {path.name for path in folder.iterdir()} == OUTPUTS
    rows, first = rows_of(folder), rows_of(whole)
    assert [key[0] for key in rows if key[1] == "0"] == ["static", "single_det", "dual-yolov5n"]
    for key in ("mAP_0.5", "detection_loss", "parameters", "gflops", "minutes"):
        assert float(rows["static", "0"][key]) == pytest.approx(float(first["static", "0"][key]), rel=1e-6)
    assert rows["static", "0"]["folder"] == runs[0]
    other = compare.run(runs[0], project=str(whole.parent), name="side", bootstrap=0, task="test", threads=1,
                        checkpoint="best", workers=0)  # fmt: skip
    text = (other / "comparison.md").read_text()
    assert other.name == "side2" and "small.yaml, test:" in text and "best.pt of each run" in text


def test_runs_of_the_same_name_in_two_projects_are_told_apart_by_their_folders(whole: Path) -> None:
    other = copied(whole, "static-seed0")
    folder = compare.run(str(whole / "static-seed0"), str(other), project=str(whole.parent), name="twins",
                         bootstrap=50, threads=1, workers=0)  # fmt: skip
    rows = rows_of(folder)
    assert [key[0] for key in rows if key[1] == "0"] == [str(whole / "static-seed0"), str(other)]
    assert all(row["winner"] == "" for row in rows.values())  # two of the same


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("exp", ("exp", 0)),
        ("exp2", ("exp2", 0)),
        ("gradnorm-seed12", ("gradnorm", 12)),
        ("gradnorm-seed0-gradnorm_alpha=0.5", ("gradnorm gradnorm_alpha=0.5", 0)),
        ("my-seeds", ("my-seeds", 0)),
    ],
)
def test_a_folders_name_gives_method_and_seed(name: str, expected: tuple[str, int]) -> None:
    assert compare.named(Path("runs") / name) == expected


def test_runs_that_cannot_be_compared_are_one_line(whole: Path, tmp_path: Path) -> None:
    static = whole / "static-seed0"
    out = {"project": str(tmp_path / "out"), "threads": 1, "workers": 0, "bootstrap": 0}
    fault("nowhere: expected the folder of a run, got no folder", tmp_path / "nowhere", **out)
    (tmp_path / "empty").mkdir()
    fault("expected a run with weights/last.pt, got none", static, tmp_path / "empty", **out)
    fault("expected a run with weights/best.pt", tmp_path / "empty", checkpoint="best", **out)

    other = copied(whole, "other-data")
    (other / "opt.yaml").unlink()
    fault("expected opt.yaml, which names its dataset", static, other, **out)
    assert not (tmp_path / "out").exists() and (static / "weights" / "last.pt").is_file()


# --- faults before the first training --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"methods": ["static", "magic"]}, "--methods magic: expected one of"),
        ({"methods": ["static:0.5"]}, "--methods static:0.5: expected one of"),
        ({"methods": ["dual:yolov9"]}, "--methods dual:yolov9"),
        ({"methods": ["gradnorm_static"]}, "--methods gradnorm_static: expected gradnorm before it"),
        ({"methods": ["gradnorm_static", "gradnorm"]}, "expected gradnorm before it"),
        ({"methods": ["static"], "seeds": [0, -1]}, "--seeds: expected numbers of at least 0, got -1"),
        ({"methods": ["static"], "bootstrap": -1}, "--bootstrap: expected at least 0"),
        ({"methods": ["gradnorm"], "grid": ["gradnorm_alpha=0,,1"]}, "without a gap"),
        ({"methods": ["gradnorm"], "grid": ["gradnorm_alpha="]}, "without a gap"),
        ({"methods": ["gradnorm"], "grid": ["alpha=1"]}, "--grid alpha=1: unknown hyp key 'alpha'"),
        ({"methods": ["static"], "hyp": "nothing.yaml"}, "--hyp"),
        ({"methods": ["static"], "data": "nothing.yaml"}, "--data"),
        ({}, "expected run folders to compare, or --methods to train, and not both"),
    ],
    ids=str,
)
@pytest.mark.usefixtures("nothing_trained")
def test_faults_are_found_before_a_training_and_before_a_folder(
    place: Path, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    fault(words, **(settings(place, project=str(tmp_path / "out")) | changes))
    assert not (tmp_path / "out").exists()


def test_runs_and_methods_exclude_each_other(whole: Path, tmp_path: Path) -> None:
    fault("and not both", whole / "static-seed0", methods=["static"], project=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


# --- as a user types it ----------------------------------------------------------------------------------------------


def test_as_a_user_types_it(whole: Path, place: Path) -> None:
    shutil.copytree(whole / "static-seed0", place / "compared" / "typed" / "static-seed0")
    words = [f"--{name.replace('_', '-')}={value}" for name, value in settings(place, name="typed").items()]
    shown = succeed("compare.py", *words, "--methods", "static", "single_det", "--seeds", "0")
    assert "| static | 1 |" in shown and "| single_det | 1 |" in shown and "comparison.html opens" in shown
    assert rows_of(place / "compared" / "typed").keys() >= {("static", "0"), ("single_det", "0")}
