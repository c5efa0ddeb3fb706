"""How much of an epoch is spent outside forward pass, backward pass and step?

    python benchmarks/epoch_overhead.py
    python benchmarks/epoch_overhead.py --data my_data.yaml --imgsz 640 --epochs 3

A joint training by train.py's own loop on phantom frames, validation and checkpoints included. Counted as inside:
converting images, the network, the losses, the backward pass, clipping, optimizer, running mean, balancer; and in
validation the network. Everything else is outside: loading, progress bar, balance.csv, suppression and figures of
validation, results.csv, checkpoints. The first epoch, which warms caches up, is left out; so is what a run does once,
before the first and after the last epoch, which is shown below the table.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import train
from benchmarks.measure import JSON, phantom_yaml, report
from utils import engine, evaluation, loss, optim, trainer
from utils.config import find_file
from utils.flags import IMGSZ, THREADS, Flag, check_range, parse
from utils.learner import Learner
from utils.log import run_script

FLAGS = (
    Flag("data", "", "dataset yaml; phantom frames unless given"),
    Flag("cfg", "models/yolov5s.yaml", "network yaml"),
    Flag(IMGSZ, 320, "pixels of the frames' longer side", int),
    Flag("batch-size", 16, "frames a batch", int),
    Flag("epochs", 3, "the first is not counted", int),
    THREADS,
    JSON,
    Flag("traceback", False, "show where an error arose"),
)
INSIDE = ("forward", "losses", "backward", "step", "validation: network")


class Clock:
    """Seconds by name, of the epoch that runs; wrapped functions add theirs, those within another's call do not."""

    def __init__(self) -> None:
        self.epochs: list[dict[str, float]] = []
        self.now: dict[str, float] = defaultdict(float)
        self._busy = False

    def wrap(self, owner: Any, attribute: str, name: str) -> None:
        """Count the calls of a function under a name."""
        function: Callable[..., Any] = getattr(owner, attribute)

        def timed(*arguments: Any, **keywords: Any) -> Any:
            with self.count(name):
                return function(*arguments, **keywords)

        setattr(owner, attribute, timed)

    @contextlib.contextmanager
    def count(self, name: str) -> Iterator[None]:
        """Add what happens inside to a name."""
        if self._busy:
            yield
            return
        self._busy, start = True, time.perf_counter()
        try:
            yield
        finally:
            self.now[name] += time.perf_counter() - start
            self._busy = False

    def epoch(self, seconds: float) -> None:
        """Close an epoch that took so long."""
        self.epochs.append({**self.now, "epoch": seconds})
        self.now.clear()


def main(options: argparse.Namespace) -> None:
    """Train, and print where the seconds of an epoch went."""
    check_range(options, "epochs", 2)
    clock = Clock()
    watch(clock)
    with tempfile.TemporaryDirectory() as name:
        data = find_file(options.data, "data", flag="--data") if options.data else phantom_yaml(Path(name), patients=36)
        start = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            train.run(
                data=str(data), cfg=options.cfg, imgsz=options.imgsz, batch_size=options.batch_size, bootstrap=2000,
                epochs=options.epochs, threads=options.threads, project=name,
            )  # fmt: skip
        whole = time.perf_counter() - start
    counted = clock.epochs[1:]
    total = sum(epoch["epoch"] for epoch in counted)
    names = [*INSIDE, *sorted({name for epoch in counted for name in epoch} - {*INSIDE, "epoch"})]
    spent = {name: sum(epoch.get(name, 0.0) for epoch in counted) for name in names}
    spent["everything else"] = total - sum(spent.values())
    rows = [
        {"part": name, "seconds an epoch": spent[name] / len(counted), "share": spent[name] / total} for name in spent
    ]
    outside = 1 - sum(spent[name] for name in INSIDE) / total
    rows.append({"part": "outside, in all", "seconds an epoch": outside * total / len(counted), "share": outside})
    once = whole - sum(epoch["epoch"] for epoch in clock.epochs)
    rows.append({"part": "before and after all epochs", "seconds an epoch": once, "share": float("nan")})
    report("epoch_overhead", rows, options.json)


def watch(clock: Clock) -> None:
    """Count what an epoch consists of."""
    clock.wrap(engine, "to_float", "forward")
    clock.wrap(engine.Cut, "__init__", "forward")
    clock.wrap(loss.JointLoss, "__call__", "losses")
    clock.wrap(engine.Cut, "backward", "backward")
    clock.wrap(engine.StepGradients, "add", "step")
    clock.wrap(engine.StepGradients, "figures", "step")
    clock.wrap(engine.nn.utils, "clip_grad_norm_", "step")
    clock.wrap(optim.RunningMean, "update", "step")
    clock.wrap(evaluation, "non_max_suppression", "validation: suppression")
    clock.wrap(evaluation, "match", "validation: figures")
    clock.wrap(evaluation, "confusion_matrix", "validation: figures")
    clock.wrap(evaluation, "_detection", "validation: figures")
    clock.wrap(trainer.Training, "_save", "checkpoint")
    clock.wrap(trainer.RunLogger, "log", "results.csv")
    clock.wrap(trainer.BalanceLog, "append", "balance.csv")
    build, copy, step = train.build_learner, trainer.inference_copy, trainer.Training.step

    def learner(*arguments: Any) -> Learner:
        made = build(*arguments)
        clock.wrap(made.optimizer, "step", "step")
        clock.wrap(made.optimizer, "zero_grad", "step")
        clock.wrap(made.balancer, "step", "step")
        return made

    def network(*arguments: Any) -> Any:
        with clock.count("validation: network"):
            made = copy(*arguments)
        made.register_forward_pre_hook(lambda *_: clock.now.__setitem__("started", time.perf_counter()))

        def ended(*_: Any) -> None:
            clock.now["validation: network"] += time.perf_counter() - clock.now.pop("started")

        made.register_forward_hook(ended)
        return made

    def epoch(training: trainer.Training) -> None:
        start = time.perf_counter()
        step(training)
        clock.epoch(time.perf_counter() - start)

    train.build_learner, trainer.inference_copy, trainer.Training.step = learner, network, epoch  # type: ignore[method-assign,assignment]


if __name__ == "__main__":
    sys.exit(run_script(main, parse(FLAGS, __doc__ or "")))
