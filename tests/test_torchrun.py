"""train.py in several processes: the same training as in one, one writer, and what is left when a process is killed."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import torch

from tests.scripts import phantom_yaml, succeed, tiny_cfg
from tests.torchrun import LAUNCHER, assert_same_run, environment, launched, results, steps, wait_for, weights
from utils.balance_log import read_balance
from utils.config import ROOT

TWO = ("--standalone", "--nproc_per_node", "2")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset and a tiny network; hyp without dropout, at a rate so low that rounding does not grow into chaos."""
    folder = tmp_path_factory.mktemp("torchrun")
    phantom_yaml(folder, patients=9, frames=3)
    tiny_cfg(folder)
    text = (ROOT / "hyp" / "joint_training_rules.yaml").read_text()
    for old, new in (("lr0: 0.01", "lr0: 0.001"), ("bias_lr: 0.1", "bias_lr: 0.0"), ("dropout: 0.1", "dropout: 0.0")):
        assert old in text
        text = text.replace(old, new)
    (folder / "still.yaml").write_text(text)
    (folder / "window.yaml").write_text(f"{text}clip_window: 1\n")
    return folder


def arguments(place: Path, name: str, *more: str, epochs: int = 5) -> tuple[str, ...]:
    return (
        "--data", str(place / "small.yaml"), "--cfg", str(place / "tiny-yolov5n.yaml"), "--img", "64", "--batch", "16",
        "--epochs", str(epochs), "--project", str(place / "runs"), "--name", name, "--noplots", "--bootstrap", "0",
        "--no-amp", "--threads", "1", *more,
    )  # fmt: skip


def test_two_processes_of_eight_frames_train_as_one_of_sixteen(place: Path) -> None:
    hyp = ("--hyp", str(place / "still.yaml"), "--interference-every", "4")
    done = launched(*TWO, script="train.py", arguments=arguments(place, "two", "--sync-bn", *hyp))
    assert done.returncode == 0, done.stderr[-3000:]
    succeed("train.py", *arguments(place, "one", *hyp))
    one, two = (read_balance(place / "runs" / name / "balance.csv") for name in ("one", "two"))
    assert len(one) == len(two) == 20
    for mine, other in zip(one, two, strict=True):
        for name in ("loss/det", "loss/view", "weight/det", "weight/view"):
            assert mine[name] == pytest.approx(other[name], abs=1e-4), (mine["step"], name)
        loose = 1 if mine["step"] <= 4 else 20  # later, weights that differ in the last digits have had their effect
        for name in ("norm/det", "norm/view"):
            assert mine[name] == pytest.approx(other[name], rel=1e-3 * loose), (mine["step"], name)
        for name in (key for key in mine if key.startswith("cosine")):
            assert mine[name] == pytest.approx(other[name], abs=1e-3 * loose, nan_ok=True), (mine["step"], name)
    first, second = weights(place / "runs" / "one"), weights(place / "runs" / "two")
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=0, atol=1e-4, msg=name)
    for mine, other in zip(results(place / "runs" / "one"), results(place / "runs" / "two"), strict=True):
        assert mine == pytest.approx(other, abs=1e-3, nan_ok=True)
    assert json.loads((place / "runs" / "two" / "launch.json").read_text())["processes"] == 2
    shown = done.stderr.replace("\r", "\n")
    assert shown.count("Run: ") == 1 and done.stdout.count("Results in") == 1  # one process speaks


def test_a_worker_that_is_killed_goes_on_from_the_last_save(place: Path) -> None:
    flags = ("--save-steps", "1", "--weights", "")
    whole = launched(*TWO, script="train.py", arguments=arguments(place, "whole", *flags, epochs=3))
    assert whole.returncode == 0, whole.stderr[-3000:]
    command = [*LAUNCHER, *TWO, "--max-restarts", "3", str(ROOT / "train.py")]
    run = place / "runs" / "killed"
    with (place / "killed.txt").open("wb") as log:
        launcher = subprocess.Popen(
            [*command, *arguments(place, "killed", *flags, epochs=3)], cwd=ROOT, stdout=log, stderr=log,
            start_new_session=True, env=environment(),
        )  # fmt: skip
    try:
        wait_for(lambda: steps(run) >= 5, launcher)
        workers = [
            child for child in psutil.Process(launcher.pid).children() if "train.py" in " ".join(child.cmdline())
        ]
        assert len(workers) == 2
        workers[1].send_signal(signal.SIGKILL)
        assert launcher.wait(timeout=240) == 0, (place / "killed.txt").read_text()[-3000:]
    finally:
        if launcher.poll() is None:
            os.killpg(launcher.pid, signal.SIGKILL)
    assert not (place / "runs" / "killed2").exists()
    assert_same_run(place / "runs" / "whole", run)


def test_the_last_batch_is_divided_and_fewer_frames_than_processes_are_refused(place: Path) -> None:
    done = launched(*TWO, script="train.py", arguments=arguments(place, "few", "--batch-size", "1", epochs=1))
    assert done.returncode != 0
    assert "--batch-size: expected at least a frame for each of 2 processes, got 1" in done.stderr
    assert str(ROOT / "train.py") + '"' not in done.stderr  # the traceback that there is is torchrun's own
    assert not (place / "runs" / "few").exists()


def test_a_signal_reaches_all_processes_and_each_step_made_is_kept(place: Path) -> None:
    run = place / "runs" / "stopped"
    with (place / "stopped.txt").open("wb") as log:
        launcher = subprocess.Popen(
            [*LAUNCHER, *TWO, str(ROOT / "train.py"), *arguments(place, "stopped", epochs=200)], cwd=ROOT, stdout=log,
            stderr=log, start_new_session=True, env=environment(),
        )  # fmt: skip
    try:
        wait_for(lambda: steps(run) >= 2, launcher)
        launcher.send_signal(signal.SIGTERM)
        launcher.wait(timeout=60)
        time.sleep(0.5)
    finally:
        if launcher.poll() is None:
            os.killpg(launcher.pid, signal.SIGKILL)
    content = torch.load(run / "weights" / "last.pt", weights_only=True)
    assert content["updates"] == steps(run) and math.isfinite(content["seconds"])
    assert "--resume" in (place / "stopped.txt").read_text()


def test_two_backbones_in_two_processes_train_as_in_one(place: Path) -> None:
    """With frames that are averaged, in validation, with neighbours of another process's batches."""
    more = ("--classifier", "yolov5n", "--hyp", str(place / "window.yaml"))
    done = launched(
        *TWO, script="train_dual_backbone.py", arguments=arguments(place, "dual2", "--sync-bn", *more, epochs=2)
    )
    assert done.returncode == 0, done.stderr[-3000:]
    succeed("train_dual_backbone.py", *arguments(place, "dual1", *more, epochs=2))
    rows = [results(place / "runs" / name) for name in ("dual1", "dual2")]
    assert len(rows[0]) == len(rows[1]) == 2
    for one, two in zip(*rows, strict=True):
        assert two == pytest.approx(one, abs=1e-3, nan_ok=True)
        for name in ("train/box_loss", "train/obj_loss", "train/cls_loss", "train/view_loss"):
            assert two[name] == pytest.approx(one[name], abs=1e-4), name
