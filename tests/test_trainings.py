"""The trainings of a comparison: which there are, their command lines, and what is made, resumed or refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

import train
import train_dual_backbone
from models.yolo import Network
from tests.test_resume import cut
from tests.torchrun import wait_until
from utils import interrupt, trainings
from utils.config import ROOT
from utils.flags import parse
from utils.log import InputError, Interrupted
from utils.trainings import Training, parse_grid, plan_trainings, run_to_end, write_hyps

HYP = ROOT / "hyp" / "joint_training_rules.yaml"
COMMON = {"epochs": 1, "hyp": str(HYP), "data": "small.yaml", "cfg": "yolov5s.yaml", "workers": 0, "rect": False,
          "noplots": True, "weights": "", "cache": None}  # fmt: skip
OF_DUAL = {"classifier": "resnet18", "parallel": True}


def plan(
    methods: list[str], seeds: list[int] | None = None, grid: dict[str, list[Any]] | None = None,
    folder: Path = Path("runs/compare/exp"),
) -> list[Training]:  # fmt: skip
    return plan_trainings(methods, seeds or [0], grid or {}, folder, COMMON, OF_DUAL, yaml.safe_load(HYP.read_text()))


def labels(found: list[Training]) -> list[tuple[str, int]]:
    return [(training.label, training.seed) for training in found]


def flags_of(training: Training) -> dict[str, Any]:
    """What a training's script reads from its command line."""
    python, script, *words = training.command()
    assert python == sys.executable and Path(script).parent == ROOT
    table = {"train.py": train.FLAGS, "train_dual_backbone.py": train_dual_backbone.FLAGS}[Path(script).name]
    return vars(parse(table, "", words))


# --- which -----------------------------------------------------------------------------------------------------------


def test_seed_by_seed_all_methods_in_a_folder_of_their_own() -> None:
    found = plan(["single_det", "gradnorm", "dual:yolov5n"], [0, 7])
    assert labels(found) == [(m, seed) for seed in (0, 7) for m in ("single_det", "gradnorm", "dual:yolov5n")]
    assert [training.folder.name for training in found[:3]] == [
        "single_det-seed0", "gradnorm-seed0", "dual-yolov5n-seed0",
    ]  # fmt: skip
    assert len({training.folder for training in found}) == 6


@pytest.mark.parametrize(
    ("key", "many"),
    [
        ("gradnorm_alpha", {"gradnorm"}),
        ("gradnorm_lr", {"gradnorm"}),
        ("classifier_lr0", {"dual", "dual:yolov5n"}),
        ("lr0", {"static", "gradnorm", "single_view", "dual", "dual:yolov5n"}),
    ],
)
def test_a_grids_key_multiplies_only_the_methods_that_it_means_something_to(key: str, many: set[str]) -> None:
    methods = ["static", "gradnorm", "single_view", "dual", "dual:yolov5n"]
    found = plan(methods, grid={key: [0.5, 1]})
    for method in methods:
        own = [training for training in found if training.method == method]
        expected = [{key: 0.5}, {key: 1}] if method in many else [{}]
        assert [training.grid for training in own] == expected
        assert [training.label for training in own] == (
            [f"{method} {key}=0.5", f"{method} {key}=1"] if method in many else [method]
        )
    assert len({training.folder for training in found}) == len(found)


def test_two_keys_are_every_pair_of_their_values() -> None:
    found = plan(["static", "gradnorm"], grid={"gradnorm_alpha": [0, 1], "lr0": [0.01, 0.02]})
    assert [training.grid for training in found if training.method == "static"] == [{"lr0": 0.01}, {"lr0": 0.02}]
    assert [tuple(training.grid.values()) for training in found if training.method == "gradnorm"] == [
        (0, 0.01), (0, 0.02), (1, 0.01), (1, 0.02),
    ]  # fmt: skip


def test_grid_points_have_a_hyp_file_that_differs_in_their_values_alone(tmp_path: Path) -> None:
    found = plan(["static", "gradnorm"], grid={"gradnorm_alpha": [0, 0.5]}, folder=tmp_path)
    write_hyps(found)
    base = yaml.safe_load(HYP.read_text())
    for training, alpha in zip(found[1:], (0, 0.5), strict=True):
        path = Path(flags_of(training)["hyp"])
        assert path.parent == tmp_path / "hyp"
        assert yaml.safe_load(path.read_text()) == {**base, "gradnorm_alpha": alpha}
    assert flags_of(found[0])["hyp"] == str(HYP) and len(list((tmp_path / "hyp").iterdir())) == 2


# --- command lines ---------------------------------------------------------------------------------------------------


def test_flags_are_handed_on_as_they_are_zeros_too() -> None:
    static, dual = plan(["static", "dual"], [3])
    own = flags_of(static)
    assert own["typed"] >= {"workers", "seed", "balance", "exist_ok"}
    assert (own["workers"], own["seed"], own["epochs"], own["balance"]) == (0, 3, 1, "static")
    assert (own["noplots"], own["rect"], own["weights"], own["exist_ok"]) == (True, False, "", True)
    assert (own["project"], own["name"]) == (str(Path("runs/compare/exp").absolute()), "static-seed3")
    pair = flags_of(dual)
    assert (pair["classifier"], pair["parallel"], pair["cfg"]) == ("resnet18", True, "yolov5s.yaml")


@pytest.mark.parametrize("name", ["yolov5n", "yolov5s", "yolov5n.yaml"])
def test_a_pair_of_plain_backbones_is_of_one_size(name: str) -> None:
    (found,) = plan([f"dual:{name}"])
    own = flags_of(found)
    assert (own["classifier"], own["cfg"]) == (name, str(ROOT / f"models/hub/{name[:7]}.yaml"))
    assert Path(own["cfg"]).is_file() and found.script == "train_dual_backbone.py"


def test_another_classifier_leaves_the_detector_as_it_is() -> None:
    (found,) = plan(["dual:resnet50"])
    assert (flags_of(found)["classifier"], flags_of(found)["cfg"]) == ("resnet50", "yolov5s.yaml")


def test_gradnorm_static_keeps_the_weights_of_gradnorm_of_its_seed() -> None:
    found = plan(["gradnorm", "gradnorm_static"], [1, 2])
    assert [training.folder for training in found[::2]] == [Path(flags_of(t)["balance_from"]) for t in found[1::2]]


# --- making ----------------------------------------------------------------------------------------------------------


def training(folder: Path, **arguments: Any) -> Training:
    return Training("static", 0, {}, folder, arguments)


class Scripts:
    """Stands in for the scripts' processes: notes command lines, and leaves what a training leaves."""

    def __init__(self, network: Network, folder: Path, code: int = 0, **metrics: Any) -> None:
        self.network, self.folder, self.code, self.metrics = network, folder, code, metrics
        self.calls: list[list[str]] = []

    def __call__(self, command: list[str]) -> int:
        self.calls.append(command)
        if not self.code:
            cut(self.network, self.folder / "weights" / "last.pt", finished=True)
            (self.folder / "metrics.json").write_text(json.dumps(self.metrics))
        return self.code


def test_a_training_is_made_once_and_gives_its_figure(
    joint: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts = Scripts(joint, tmp_path / "a", map50=0.25, view={"accuracy": 0.75})
    monkeypatch.setattr(trainings, "run_to_end", scripts)
    one = training(tmp_path / "a", epochs=1)
    assert not one.finished and one.make() == 0.25 and one.finished
    assert one.make() == 0.25 and len(scripts.calls) == 1
    assert replace(one, method="single_view").make() == 0.75


def test_a_training_that_was_cut_off_goes_on_from_its_last_checkpoint(
    joint: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts = Scripts(joint, tmp_path / "a", map50=0.25)
    monkeypatch.setattr(trainings, "run_to_end", scripts)
    one = training(tmp_path / "a", epochs=1)
    for finished in (False, True):  # between epochs; after the last one, before its figures
        cut(joint, one.last, finished=finished)
        (tmp_path / "a" / "metrics.json").unlink(missing_ok=True)
        assert not one.finished and one.make() == 0.25
    assert scripts.calls == [[sys.executable, str(ROOT / "train.py"), "--resume", str(one.last)]] * 2


def test_an_error_in_a_training_is_one_line_that_names_its_folder(
    joint: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainings, "run_to_end", Scripts(joint, tmp_path / "a", code=3))
    with pytest.raises(InputError, match=r"/a: its training ended with exit code 3; the finished ones stay"):
        training(tmp_path / "a").make()


# What a training does when a signal comes: it takes its time to save, and counts the signals meanwhile.
SAVES = """
import signal, sys, time
from pathlib import Path

folder, came = Path(sys.argv[1]), []
signal.signal(signal.SIGTERM, lambda *_: came.append(0))
(folder / "ready").touch()
while not came:
    time.sleep(0.01)
(folder / "told").touch()
end = time.monotonic() + float(sys.argv[3])
while time.monotonic() < end:
    time.sleep(0.01)
(folder / "saved").write_text(str(len(came)))
sys.exit(int(sys.argv[2]))
"""


@pytest.mark.parametrize("code", [143, 0], ids=["cut", "at its end"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_passed_on_once_and_the_training_is_waited_for(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    def send() -> None:
        wait_until((tmp_path / "ready").exists)
        os.kill(os.getpid(), number)

    sender = threading.Thread(target=send)
    sender.start()
    with pytest.raises(Interrupted, match="the same command goes on") as caught:
        run_to_end([sys.executable, "-c", SAVES, str(tmp_path), str(code), "2"])
    sender.join()
    assert caught.value.signal == number and (tmp_path / "saved").read_text() == "1"


def test_another_ctrl_c_leaves_no_training_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupt, "PATIENCE", 0.0)
    begun: list[subprocess.Popen[bytes]] = []
    original = subprocess.Popen

    def begin(*arguments: Any, **keywords: Any) -> subprocess.Popen[bytes]:
        begun.append(original(*arguments, **keywords))
        return begun[0]

    monkeypatch.setattr(trainings.subprocess, "Popen", begin)

    def send() -> None:
        for name in ("ready", "told"):
            wait_until((tmp_path / name).exists)
            os.kill(os.getpid(), signal.SIGINT)

    sender = threading.Thread(target=send)
    sender.start()
    with pytest.raises(KeyboardInterrupt):
        run_to_end([sys.executable, "-c", SAVES, str(tmp_path), "143", "600"])
    sender.join()
    assert begun[0].returncode == -signal.SIGKILL and not (tmp_path / "saved").exists()


def test_an_exit_code_is_returned() -> None:
    assert run_to_end([sys.executable, "-c", "raise SystemExit(3)"]) == 3


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [("epochs", 3, "--epochs: expected 2"), ("batch-size", 4, "--batch-size: expected 8"), ("data", "b", "--data")],
)
def test_a_run_of_other_settings_under_the_same_name_is_refused(
    tmp_path: Path, name: str, value: Any, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainings, "run_to_end", None)
    (tmp_path / "opt.yaml").write_text("epochs: 2\nbatch_size: 8\ndata: a\nworkers: 8\n")
    with pytest.raises(InputError, match=told) as caught:
        training(tmp_path, **{name: value}).make()
    assert "--name gives another comparison" in str(caught.value) and "\n" not in str(caught.value)


def test_a_run_of_other_hyperparameters_under_the_same_name_is_refused(tmp_path: Path) -> None:
    hyp = yaml.safe_load(HYP.read_text())
    (tmp_path / "hyp.yaml").write_text(yaml.safe_dump({**hyp, "seed": 7, "balance": "equal"}))  # flags', per training
    one = replace(training(tmp_path), hyp=hyp)
    one.check_settings()
    with pytest.raises(InputError, match=r"lr0: expected 0\.01, as the run there was started with, got 0\.02"):
        replace(one, hyp={**hyp, "lr0": 0.02}).check_settings()


def test_settings_that_change_no_result_may_differ(
    joint: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "opt.yaml").write_text("epochs: 2\nworkers: 8\nthreads: 0\ndevice: ''\n")
    monkeypatch.setattr(trainings, "run_to_end", Scripts(joint, tmp_path, map50=0.5))
    assert training(tmp_path, epochs=2, workers=0, threads=1, device="cpu").make() == 0.5


# --- grids -----------------------------------------------------------------------------------------------------------


def test_a_grids_values_are_those_of_the_hyp_file() -> None:
    grid = parse_grid(["gradnorm_alpha=0,0.5,1,1.5", "cos_lr=true,false"], HYP)
    assert grid == {"gradnorm_alpha": [0, 0.5, 1, 1.5], "cos_lr": [True, False]}
    assert parse_grid([], HYP) == {}


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("gradnorm_alpha=0,,1", "expected key=value,value,... without a gap"),
        ("gradnorm_alpha=", "without a gap"),
        ("gradnorm_alpha=0,1,", "without a gap"),
        ("gradnorm_alpha", "without a gap"),
        ("=1", "without a gap"),
        ("gradnorm_alhpa=1", "unknown hyp key 'gradnorm_alhpa' (near: gradnorm_alpha"),
        ("qqq=1", "unknown hyp key 'qqq'"),
        ("gradnorm_alpha=[", "expected values as in a hyp file"),
        ("seed=1,2", "seed: expected in --seeds"),
        ("balance=static,equal", "balance: expected in --methods"),
        ("lr0=0.01,0.01", "expected each value once"),
        ("lr0=fast", "lr0"),
        ("lr0=0.01,-1", "lr0"),
    ],
)
def test_a_faulty_grid_is_one_line(word: str, told: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_grid([word], HYP)
    assert str(caught.value).startswith(f"--grid {word}") and told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_key_that_is_there_twice_is_refused() -> None:
    with pytest.raises(InputError, match="expected each key once, got lr0 again"):
        parse_grid(["lr0=0.01", "lr0=0.02"], HYP)
