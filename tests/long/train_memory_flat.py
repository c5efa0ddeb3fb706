"""Does a long training keep its memory and its open files where they are?

    python tests/long/train_memory_flat.py

train.py, as a user starts it, trains a tiny network for 2,000 steps on phantom frames, in epochs, each with a
validation and checkpoints. From outside, its memory (RSS) and its descriptors are looked at many times a second, beside
the rows of its balance.csv, which has one a step. After a warm-up, in which caches fill, the memory of each piece of 20
steps is the median of what was seen in it; the slope over the pieces is Theil and Sen's, the median over all pairs,
which a checkpoint being written does not move. Exit code 1 if memory grows by over 1 MB in 1,000 steps, or the
descriptors do.

One thread by default: on a machine that does other things, too, the threads of so small a network wait for each other.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from scipy.stats import theilslopes

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.scripts import phantom_yaml, tiny_cfg
from utils.config import ROOT, load_dataset_config
from utils.dataset import prepare
from utils.files import write_text
from utils.flags import Flag, check_range, parse
from utils.log import InputError, run_script
from utils.split_files import list_images

PIECE = 20  # steps
PAUSE = 0.02  # seconds between two looks
LIMIT = 1.0  # MB in 1,000 steps
BATCH, PATIENTS, FRAMES = 4, 24, 10

FLAGS = (
    Flag("steps", 2000, "of the optimizer, at least; whole epochs", int),
    Flag("warmup", 400, "steps that are left out", int),
    Flag("csv", "", "also write every look to this file: step, bytes, descriptors"),
    Flag("threads", 1, "of the training's processor", int),
    Flag("traceback", False, "show where an error arose"),
)


@dataclass(frozen=True)
class Look:
    """What a process held when it had made so many steps: bytes of memory, and descriptors."""

    step: int
    memory: int
    descriptors: int


@dataclass(frozen=True)
class Growth:
    """What changed after the warm-up.

    Attributes:
        slope: MB in 1,000 steps, robust.
        early, late: MB, medians of the first and the last third.
        descriptors: medians of the same thirds.
    """

    slope: float
    early: float
    late: float
    descriptors: tuple[int, int]

    @property
    def flat(self) -> bool:
        """Whether nothing grows beyond the limit."""
        return self.slope <= LIMIT and self.descriptors[1] <= self.descriptors[0]


def growth(looks: Sequence[Look], warmup: int) -> Growth:
    """The growth over looks after the warm-up; InputError where there are too few."""
    kept = [look for look in looks if look.step >= warmup]
    pieces = np.array([look.step // PIECE for look in kept])
    numbers = np.unique(pieces)
    if len(numbers) < 9:
        raise InputError(f"--steps: expected at least {warmup + 9 * PIECE}, 9 pieces after the warm-up, fewer came")
    memory = np.array([look.memory / 1e6 for look in kept])
    opened = np.array([look.descriptors for look in kept])
    typical = np.array([np.median(memory[pieces == number]) for number in numbers])
    handles = np.array([np.median(opened[pieces == number]) for number in numbers])
    third = len(numbers) // 3
    return Growth(
        slope=float(theilslopes(typical, numbers * PIECE / 1000).slope),
        early=float(np.median(typical[:third])),
        late=float(np.median(typical[-third:])),
        descriptors=(round(float(np.median(handles[:third]))), round(float(np.median(handles[-third:])))),
    )


def watched(command: Sequence[str], balance: Path, last_step: int, log: Path) -> list[Look]:
    """Run a training and look at it until it has made its last step; InputError where it fails."""
    looks: list[Look] = []
    with log.open("wb") as output, subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output) as started:
        process = psutil.Process(started.pid)
        place, steps = 0, -1  # the header is no step
        while started.poll() is None:
            if balance.is_file():
                with balance.open("rb") as file:
                    file.seek(place)
                    piece = file.read()
                place, steps = place + len(piece), steps + piece.count(b"\n")
            if 0 < steps < last_step:  # what follows the last step (figures, pictures) is not repeated
                try:
                    looks.append(Look(steps, process.memory_info().rss, process.num_fds()))
                except psutil.Error:
                    break
            time.sleep(PAUSE)
    if started.returncode:
        end = log.read_text(encoding="utf-8", errors="replace")[-500:]
        raise InputError(f"train.py: expected it to end well, exit code {started.returncode} came: {end}")
    return looks


def main(options: argparse.Namespace) -> None:
    """Train, watch, print."""
    check_range(options, "warmup", 0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data, cfg = phantom_yaml(folder, patients=PATIENTS, frames=FRAMES), tiny_cfg(folder)
        hyp = folder / "hyp.yaml"  # every batch a step of the optimizer, which balance.csv counts
        rules = (ROOT / "hyp" / "joint_training_rules.yaml").read_text(encoding="utf-8")
        hyp.write_text(re.sub(r"(?m)^nominal_batch: \d+", f"nominal_batch: {BATCH}", rules), encoding="utf-8")
        steps_an_epoch = frames_of_training(data) // BATCH
        epochs = -(-options.steps // steps_an_epoch)
        command = [
            sys.executable, "train.py", "--data", str(data), "--cfg", str(cfg), "--hyp", str(hyp), "--img", "64",
            "--batch", str(BATCH), "--epochs", str(epochs), "--threads", str(options.threads), "--noplots",
            "--project", str(folder / "runs"), "--bootstrap", "0",
        ]  # fmt: skip
        started = time.monotonic()
        balance = folder / "runs" / "exp" / "balance.csv"
        looks = watched(command, balance, epochs * steps_an_epoch, folder / "output.txt")
        minutes = (time.monotonic() - started) / 60
    if options.csv:
        lines = (f"{look.step},{look.memory},{look.descriptors}\n" for look in looks)
        write_text(Path(options.csv), "step,bytes,descriptors\n" + "".join(lines))
    found = growth(looks, options.warmup)
    print(
        f"{epochs * steps_an_epoch} steps in {epochs} epochs, {minutes:.1f} minutes, {len(looks)} looks: "
        f"{found.slope:+.2f} MB in 1,000 steps after the first {options.warmup} "
        f"(median {found.early:.1f} MB early, {found.late:.1f} MB late); "
        f"descriptors {found.descriptors[0]} early, {found.descriptors[1]} late"
    )
    if not found.flat:
        raise InputError(f"expected at most {LIMIT:g} MB in 1,000 steps and no more descriptors")


def frames_of_training(data: Path) -> int:
    """Frames in the train part of a phantom dataset, which is made if it is not there."""
    config = load_dataset_config(data)
    prepare(config)
    return len(list_images(config, "train"))


if __name__ == "__main__":
    sys.exit(run_script(main, parse(FLAGS, __doc__ or "")))
