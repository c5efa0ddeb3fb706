"""Does a training that is killed at random moments, and gone on with, end as one that was left alone?

    python tests/long/kill_training.py
    python tests/long/kill_training.py --script train_dual_backbone.py --kills 5

A tiny network on phantom frames. SIGKILL reaches the whole process group, each time after a random share of the time
that the whole training takes; the run is gone on with, and killed again, until it has ended. Then the next one begins.
Exit code 1 where a run ends otherwise, or cannot be gone on with.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.scripts import phantom_yaml, tiny_cfg
from tests.torchrun import assert_same_pair, assert_same_run, kill, started
from utils.flags import Flag, parse
from utils.log import InputError, progress, run_script

SCRIPTS = {"train.py": assert_same_run, "train_dual_backbone.py": assert_same_pair}
FLAGS = (
    Flag("script", "train.py", "", choices=[*SCRIPTS]),
    Flag("kills", 20, "in all", int),
    Flag("save-steps", 2, "of the training", int),
    Flag("seed", 0, "of the moments", int),
    Flag("traceback", False, "show where an error arose"),
)


def main(options: argparse.Namespace) -> None:
    """Train, kill, go on, compare."""
    moments = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        flags = [
            "--data", str(phantom_yaml(place)), "--cfg", str(tiny_cfg(place)), "--project", str(place), "--img", "64",
            "--batch", "6", "--epochs", "4", "--noplots", "--bootstrap", "0", "--threads", "1", "--save-steps",
            str(options.save_steps),
        ]  # fmt: skip
        if options.script == "train_dual_backbone.py":
            flags += ["--classifier", "yolov5n"]
        begun = time.monotonic()
        trained(options.script, [*flags, "--name", "whole"], place, None)
        longest = time.monotonic() - begun
        kills = runs = 0
        nothing: tuple[int, ...] = ()
        with progress(nothing, "kills", total=options.kills, unit="kill") as bar:
            while kills < options.kills:
                runs += 1
                run = place / f"killed{runs}"
                last, going_on = run / "weights" / "last.pt", [*flags, "--name", run.name]
                while True:
                    patience = moments.uniform(0, longest) if kills < options.kills else None
                    if trained(options.script, going_on, place, patience):
                        break
                    kills += 1
                    bar.update()
                    if (run / "metrics.json").is_file():  # what was killed had nothing left to do
                        break
                    going_on = ["--resume", str(last)] if last.is_file() else [*flags, "--name", run.name, "--exist-ok"]
                SCRIPTS[options.script](place / "whole", run)
        print(f"{options.script}: {kills} kills in {runs} runs; each ended as the one that was left alone, bit for bit")


def trained(script: str, flags: list[str], place: Path, seconds: float | None) -> bool:
    """Run a script for so long at most, then kill it; whether it came to its end.

    Raises:
        InputError: it ended by itself, in an error.
    """
    log = place / "log.txt"
    process = started(script, *flags, log=log)
    try:
        code = process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        kill(process)
        return False
    if code:
        raise InputError(f"{script} {' '.join(flags)}: exit code {code}: {log.read_text()[-1000:]}")
    return True


if __name__ == "__main__":
    sys.exit(run_script(main, parse(FLAGS, __doc__ or "")))
