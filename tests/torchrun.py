"""Scripts in several processes, as torchrun starts them, and trainings that are cut off. No test stands here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from utils.balance_log import read_balance
from utils.config import ROOT
from utils.epoch import EpochProgress
from utils.loggers import read_results
from utils.trainer import Training

LAUNCHER = (sys.executable, "-m", "torch.distributed.run")


def environment(**changes: str) -> dict[str, str]:
    """This process's, with one thread a process: many more than there are cores would only wait for each other."""
    return {**os.environ, "OMP_NUM_THREADS": "1", **changes}


def launched(
    *launcher: str, script: str, arguments: tuple[str, ...], wait: int = 240
) -> subprocess.CompletedProcess[str]:
    """Run a script under torchrun, whose own flags are ``launcher``, and wait for it."""
    command = [*LAUNCHER, *launcher, str(ROOT / script), *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=wait, check=False, env=environment()
    )


# A training script whose trainings do not come to their end: see hold().
HELD = """
import functools, importlib, sys
from tests import torchrun
from utils.flags import parse
from utils.log import run_script

step, script = int(sys.argv[1]), importlib.import_module(sys.argv[2])
torchrun.hold(step)
if hasattr(script, "train_part"):
    script.train_part = functools.partial(torchrun.held_part, step)
sys.exit(run_script(script.main, parse(script.FLAGS, "", sys.argv[3:])))
"""


def hold(step: int) -> None:
    """Let each training of this process wait in that step until a signal comes.

    So a test that signals it once it has come to something need not be in time.
    """
    original = Training._after_step

    def after(self: Training, progress: EpochProgress) -> None:
        if self._learner.running_mean.updates == step:
            wait_until(lambda: bool(self._interrupts.signal), 600)
        original(self, progress)

    Training._after_step = after  # type: ignore[method-assign]


def held_part(step: int, name: str, folder: Path, stored: Mapping[str, Any]) -> None:
    """:func:`train_dual_backbone.train_part`, which waits in that step."""
    import train_dual_backbone

    hold(step)
    train_dual_backbone.train_part(name, folder, stored)


def started(script: str, *arguments: str, log: Path, held: int = 0) -> subprocess.Popen[bytes]:
    """A script in a process group of its own, so that it and all it starts can be killed together.

    Args:
        held: step in which it waits for a signal; 0 for none.
    """
    start = ["-c", HELD, str(held), Path(script).stem] if held else [str(ROOT / script)]
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, *start, *arguments], cwd=ROOT, stdout=file, stderr=file,
            start_new_session=True, env=environment(),
        )  # fmt: skip


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes], seconds: float = 120.0) -> None:
    """Wait until something is so, or the process has ended."""
    wait_until(lambda: condition() or process.poll() is not None, seconds)


def wait_until(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.01)


def kill(process: subprocess.Popen[bytes], number: int = signal.SIGKILL) -> int:
    """Signal a process group and wait for its end; returns the exit code."""
    if process.poll() is None:
        os.killpg(process.pid, number)
    return process.wait(timeout=120)


def steps(run: Path) -> int:
    """Steps that a run has logged so far."""
    path = run / "balance.csv"
    return max(path.read_bytes().count(b"\n") - 1, 0) if path.is_file() else 0


def weights(run: Path, name: str = "last", key: str = "network") -> Mapping[str, torch.Tensor]:
    """Tensors of one of a run's checkpoints."""
    found: Mapping[str, torch.Tensor] = torch.load(run / "weights" / f"{name}.pt", weights_only=True)[key]
    return found


def results(run: Path) -> list[dict[str, float]]:
    """The rows of results.csv, but for the time it took."""
    return [{key: cell for key, cell in row.items() if key != "seconds"} for row in read_results(run / "results.csv")]


def assert_same_run(one: Path, other: Path) -> None:
    """Both runs ended alike, bit for bit: weights, their mean, logs, and what was found in every frame."""
    for name, key in (("last", "network"), ("last", "ema"), ("best", "ema")):
        _assert_same_tensors(weights(one, name, key), weights(other, name, key), f"{name}.pt: {key}")
    np.testing.assert_equal(results(one), results(other))
    np.testing.assert_equal(read_balance(one / "balance.csv"), read_balance(other / "balance.csv"))
    with np.load(one / "outcomes.npz") as first_file, np.load(other / "outcomes.npz") as second_file:
        assert first_file.files == second_file.files
        for name in first_file.files:
            np.testing.assert_array_equal(first_file[name], second_file[name], err_msg=name)


def assert_same_pair(one: Path, other: Path) -> None:
    """Both runs of two networks ended alike, bit for bit: weights of both, their mean, the log."""
    for part in ("detector", "classifier"):
        for name, key in (("last", "network"), ("best", "ema")):
            _assert_same_tensors(weights(one / part, name, key), weights(other / part, name, key), f"{part}: {name}.pt")
    _assert_same_tensors(weights(one, "last", "ema"), weights(other, "last", "ema"), "last.pt")
    np.testing.assert_equal(results(one), results(other))


def _assert_same_tensors(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor], name: str) -> None:
    assert first.keys() == second.keys(), name
    differing = [tensor for tensor in first if not torch.equal(first[tensor], second[tensor])]
    assert not differing, f"{name}: {len(differing)} tensors differ, such as {differing[0]}"
