"""A training that is cut off anywhere, by a kill, a signal or a full disk, ends as one that was left alone."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import train
import train_dual_backbone
from tests.torchrun import assert_same_pair, assert_same_run, kill, results, started, steps, wait_for
from utils import checkpoint
from utils.config import ROOT
from utils.log import InputError, Interrupted
from utils.resume import read_or_predecessor
from utils.trainer import Training

EPOCHS, STEPS = 3, 7  # steps an epoch


def keywords(place: Path, name: str, **changes: Any) -> dict[str, Any]:
    """A training with dropout and the default balancer, in steps small enough that there are several an epoch."""
    return {
        "data": str(place / "small.yaml"), "cfg": str(place / "tiny-yolov5n.yaml"), "imgsz": 64, "batch_size": 6,
        "epochs": EPOCHS, "project": str(place / "runs"), "name": name, "noplots": True, "bootstrap": 0, "threads": 1,
        **changes,
    }  # fmt: skip


@pytest.fixture(scope="module")
def whole(place: Path) -> Path:
    """The run that is left alone."""
    run = train.run(**keywords(place, "whole"))
    assert steps(run) == EPOCHS * STEPS
    return run


def typed(place: Path, name: str, **changes: Any) -> list[str]:
    """The same training, as flags."""
    options = {key: value for key, value in keywords(place, name, **changes).items() if value}
    names = {key: f"--{key.replace('_', '-')}" for key in options}
    return [names[key] if value is True else f"{names[key]}={value}" for key, value in options.items()]


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Let a signal come while the step of that number is made."""
    original = Training._after_step

    def after(self: Training, progress: Any) -> None:
        if self._learner.running_mean.updates == step:
            signal.raise_signal(signal.SIGTERM)
        original(self, progress)

    monkeypatch.setattr(Training, "_after_step", after)


@pytest.mark.parametrize("step", [1, STEPS - 1, STEPS, STEPS + 3, EPOCHS * STEPS])
def test_a_signal_in_any_step_is_gone_on_from_bit_for_bit(
    place: Path, whole: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"signal{step}"
    with monkeypatch.context() as patch:
        stop_after(patch, step)
        with pytest.raises(Interrupted, match=r"python train\.py --resume .*last\.pt") as caught:
            train.run(**keywords(place, name))
    assert caught.value.signal == signal.SIGTERM
    run = place / "runs" / name
    content = checkpoint.read(run / "weights" / "last.pt").content
    assert (content["updates"], content["finished"]) == (step, False)
    assert content["epoch"] + 1 == len(results(run)) == (step - 1) // STEPS
    assert train.run(resume=str(run / "weights" / "last.pt")) == run
    assert_same_run(whole, run)


def test_a_signal_in_the_validation_loses_no_step(place: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("utils.trainer.evaluate", lambda *_, **__: signal.raise_signal(signal.SIGINT))
        with pytest.raises(Interrupted):
            train.run(**keywords(place, "validation"))
    run = place / "runs" / "validation"
    assert checkpoint.read(run / "weights" / "last.pt").content["progress"]["batches"] == STEPS
    train.run(resume=str(run / "weights" / "last.pt"))
    assert_same_run(whole, run)


def test_what_fails_because_of_a_signal_is_no_fault_and_is_not_saved(
    place: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Training._after_step

    def after(self: Training, progress: Any) -> None:
        original(self, progress)
        if self._learner.running_mean.updates == STEPS + 2:
            signal.raise_signal(signal.SIGTERM)
            raise RuntimeError("DataLoader worker is killed")

    with monkeypatch.context() as patch:
        patch.setattr(Training, "_after_step", after)
        with pytest.raises(Interrupted, match=r"python train\.py --resume .*last\.pt"):
            train.run(**keywords(place, "broken"))
    last = place / "runs" / "broken" / "weights" / "last.pt"
    assert checkpoint.read(last).content["updates"] == STEPS
    train.run(resume=str(last))
    assert_same_run(whole, place / "runs" / "broken")


def test_a_killed_process_goes_on_from_the_last_save_between_epochs(place: Path, whole: Path) -> None:
    run, log = place / "runs" / "killed", place / "killed.txt"
    process = started("train.py", *typed(place, "killed", save_steps=2), log=log, held=EPOCHS * STEPS - 1)
    wait_for(lambda: steps(run) >= STEPS + 3, process)
    assert kill(process) == -signal.SIGKILL, log.read_text()[-2000:]
    content = checkpoint.read(run / "weights" / "last.pt").content
    assert content["updates"] % 2 == 0 or content["progress"] is None  # of a save between epochs, or of an epoch's end
    assert checkpoint.read(run / "weights" / "last_previous.pt").content["updates"] < content["updates"]
    train.run(resume=str(run / "weights" / "last.pt"))
    assert_same_run(whole, run)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_user_is_told_in_one_line_how_to_go_on(place: Path, number: int, code: int) -> None:
    name = f"told{code}"
    run, log = place / "runs" / name, place / f"{name}.txt"
    process = started("train.py", *typed(place, name, epochs=500), log=log)
    wait_for(lambda: steps(run) >= 2, process)
    assert kill(process, number) == code
    errors = [line for line in log.read_text().replace("\r", "\n").splitlines() if line.startswith("ERROR")]
    assert len(errors) == 1 and f"go on with: python train.py --resume {run / 'weights' / 'last.pt'}" in errors[0]
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_of_a_training_with_loaders_of_its_own_loses_no_step(
    place: Path, number: int
) -> None:
    run, log = place / "runs" / f"loaders{number}", place / f"loaders{number}.txt"
    process = started("train.py", *typed(place, run.name, epochs=500, cache="none", workers=2), log=log)
    wait_for(lambda: steps(run) >= STEPS + 2, process)
    assert kill(process, number) == 128 + number, log.read_text()[-2000:]
    assert f"--resume {run / 'weights' / 'last.pt'}" in log.read_text()
    assert checkpoint.read(run / "weights" / "last.pt").content["updates"] == steps(run)


@pytest.mark.parametrize("parallel", [False, True], ids=["turns", "parallel"])
def test_two_backbones_are_gone_on_with_from_any_step(
    place: Path, parallel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = {"epochs": 2, "classifier": "yolov5n", "parallel": parallel}
    left = train_dual_backbone.run(**keywords(place, f"left{parallel}", **more))
    run, log = place / "runs" / f"cut{parallel}", place / f"cut{parallel}.txt"
    words = typed(place, run.name, save_steps=1, **more)
    process = started("train_dual_backbone.py", *words, log=log, held=2 * STEPS - 1)
    parts = [run / name / "weights" / "last.pt" for name in train_dual_backbone.PARTS]
    wait_for(lambda: all(last.is_file() and checkpoint.read(last).content["updates"] >= 3 for last in parts), process)
    assert kill(process, signal.SIGTERM) == 143, log.read_text()[-2000:]
    assert "python train_dual_backbone.py --resume" in log.read_text()
    assert train_dual_backbone.run(resume=str(run / "weights" / "last.pt")) == run
    assert_same_pair(left, run)


def test_a_signal_before_both_of_two_backbones_have_begun_names_no_checkpoint_that_is_not_there(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*_: Any, **__: Any) -> None:
        raise Interrupted(signal.SIGTERM)

    monkeypatch.setattr("utils.taking_turns.progress", cut)  # which comes once the processes are started
    with pytest.raises(Interrupted) as caught:
        train_dual_backbone.run(**keywords(place, "unbegun", classifier="yolov5n", parallel=True))
    last = place / "runs" / "unbegun" / "weights" / "last.pt"
    assert ("--resume" in str(caught.value)) == last.is_file()
    assert ("the same command starts again" in str(caught.value)) != last.is_file()


@pytest.mark.parametrize("script", [train, train_dual_backbone], ids=lambda script: script.__name__)
def test_a_signal_while_the_last_pictures_are_drawn_leaves_none_out(
    place: Path, script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"pictures-{script.__name__}"
    more = {"classifier": "yolov5n"} if script is train_dual_backbone else {}
    with monkeypatch.context() as patch:
        patch.setattr("utils.run_folder.write_batch_pictures", lambda *_: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(Interrupted, match=rf"python {script.__name__}\.py --resume"):
            script.run(**keywords(place, name, epochs=1, noplots=False, **more))
    run = place / "runs" / name
    assert not (run / "metrics.json").exists()
    assert script.run(resume=str(run / "weights" / "last.pt")) == run
    drawn = {path.name for path in run.iterdir()}
    assert {"metrics.json", "results.png", "PR_curve.png", "val_batch0_labels.jpg", "val_batch0_pred.jpg"} <= drawn
    with pytest.raises(InputError, match="its training is finished"):
        script.run(resume=str(run / "weights" / "last.pt"))


def test_more_epochs_may_be_asked_for_and_fewer_not(place: Path) -> None:
    run = train.run(**keywords(place, "longer", epochs=1))
    last = run / "weights" / "last.pt"
    with pytest.raises(InputError, match="nothing to resume, unless --epochs is raised"):
        train.run(resume=str(last))
    assert train.run(resume=str(last), epochs=2) == run
    assert len(results(run)) == 2 and (run / "metrics.json").is_file()
    with pytest.raises(InputError, match=r"--resume --epochs: expected at least 2, the run's own, got 1"):
        train.run(resume=str(last), epochs=1)


def test_a_damaged_checkpoint_is_replaced_by_the_one_before(
    place: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, STEPS + 2)
        with pytest.raises(Interrupted):
            train.run(**keywords(place, "damaged"))
    last = place / "runs" / "damaged" / "weights" / "last.pt"
    damaged = bytearray(last.read_bytes())
    damaged[len(damaged) // 2 : len(damaged) // 2 + 64] = bytes(64)
    last.write_bytes(damaged[: len(damaged) - 100])
    assert read_or_predecessor(last).path.name == "last_previous.pt"
    train.run(resume=str(last))
    assert "going on with last_previous.pt" in caplog.text
    assert_same_run(whole, place / "runs" / "damaged")


# What a disk may do.

CHILD = """
import sys, torch
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from utils import checkpoint
from utils.log import InputError, one_line
try:
    checkpoint.save(Path(sys.argv[2]), {**torch.load(sys.argv[3], weights_only=True), "more": torch.rand(2**20)}, True)
except (InputError, OSError) as error:
    print(one_line(error))
"""


def saved_by_a_child(path: Path, content: Path, *before: str) -> str:
    """Save a checkpoint, 4 MB larger than ``content``, in another process; returns its error line."""
    command = [*before, sys.executable, "-c", CHILD, str(ROOT), str(path), str(content)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_full_disk_leaves_the_checkpoint_and_says_what_to_free(whole: Path, tmp_path: Path) -> None:
    source = whole / "weights" / "best.pt"
    script = (
        f"mount -t tmpfs -o size={source.stat().st_size // 1024 + 512}k tmpfs {tmp_path} && "
        f'cp {source} {tmp_path}/last.pt && "$@" && cmp {source} {tmp_path}/last.pt && ls -A {tmp_path}'
    )
    # a file system of its own, which nobody else sees and which is gone with the process
    isolated = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    possible = subprocess.run([*isolated, "true"], capture_output=True, check=False).returncode == 0
    if possible:
        said = saved_by_a_child(tmp_path / "last.pt", source, *isolated, "sh", "-ec", script, "sh").splitlines()
        assert said[1:] == ["last.pt"]  # no draft is left
        line = said[0]
    else:  # a limit of the process instead: the same error from the same call
        target = tmp_path / "last.pt"
        target.write_bytes(source.read_bytes())
        line = saved_by_a_child(target, source, "prlimit", f"--fsize={source.stat().st_size + 1000}")
        assert target.read_bytes() == source.read_bytes()
    assert "last.pt" in line and "\n" not in line
    assert not possible or ("no space left for a checkpoint of" in line and "free some" in line and "--resume" in line)


def test_a_disk_that_fills_up_stops_the_training_with_the_epoch_before_whole(
    place: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = checkpoint.write_whole

    def full(path: Path, *arguments: Any) -> None:
        if path.name == "last.pt" and steps(path.parents[1]) >= 2 * STEPS:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(path, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_whole", full)
        with pytest.raises(
            InputError, match=r"last\.pt: no space left for a checkpoint of \d+ MB .* go on with --resume"
        ):
            train.run(**keywords(place, "full"))
    last = place / "runs" / "full" / "weights" / "last.pt"
    assert checkpoint.read(last).content["epoch"] == 0
    train.run(resume=str(last))
    assert_same_run(whole, place / "runs" / "full")


def test_a_folder_that_cannot_be_written_leaves_the_checkpoint_and_is_named(whole: Path, tmp_path: Path) -> None:
    source, target = whole / "weights" / "best.pt", tmp_path / "weights" / "last.pt"
    target.parent.mkdir()
    target.write_bytes(source.read_bytes())
    target.parent.chmod(0o555)
    # permissions do not hold root back, unless it gives that power away
    powerless = ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override"] if os.geteuid() == 0 else []
    line = saved_by_a_child(target, source, *powerless)
    target.parent.chmod(0o755)
    assert "Permission denied" in line and str(target.parent) in line
    assert target.read_bytes() == source.read_bytes() and [path.name for path in target.parent.iterdir()] == ["last.pt"]
