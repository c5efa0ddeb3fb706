"""Two trainings that share nothing, as one run: they take turns or run side by side, and leave one set of files.

Each has its own folder below the run's, with its own log and checkpoints, from which it goes on by itself. What the
run shows (``results.csv``, ``weights/last.pt``, ``weights/best.pt``) is put together from those after every epoch.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils import checkpoint
from utils.checkpoint import PARTS, Checkpoint
from utils.devices import RandomStream
from utils.files import LAST, write_json, write_text
from utils.interrupt import Interrupts
from utils.log import InputError, Interrupted, one_line, progress, setup
from utils.loggers import COLUMNS, format_results, read_history, read_results
from utils.processes import ALONE, Processes
from utils.resume import read_or_predecessor
from utils.trainer import Training, peak_memory

# Columns of the log that the classifier fills; the others are the detector's.
OF_CLASSIFIER = ("train/view_loss", "val/view_loss", "metrics/view_accuracy", "metrics/view_macro_f1")
POLL = 0.5  # seconds between two looks at other processes
Row = dict[str, float]


@dataclass(frozen=True)
class Task:
    """A training and the random numbers that are its own."""

    training: Training
    stream: RandomStream

    def step(self) -> None:
        """Make an epoch."""
        with self.stream:
            self.training.step()


class PairFiles:
    """The files of a run of two trainings, put together from theirs.

    Args:
        folder: of the run; the parts' are below it.
        parallel: whether they run at the same time, so that seconds are not summed.
        processes: that train together; the main one writes.
    """

    def __init__(self, folder: Path, parallel: bool, processes: Processes = ALONE) -> None:
        self._folder, self._parallel, self._processes = folder, parallel, processes
        self._best: dict[str, int] = {}  # the epochs that the files are of
        self._last: dict[str, int] = {}
        if processes.main:
            (folder / "weights").mkdir(exist_ok=True)

    def part(self, name: str) -> Path:
        """The folder of a part."""
        return self._folder / name

    def clear(self) -> None:
        """Make the parts' folders; what an earlier run left (``--exist-ok``) is not to be gone on with."""
        for folder in (self._folder, *map(self.part, PARTS)):
            (folder / "weights").mkdir(parents=True, exist_ok=True)
            for name in ("results.csv", "training_history.json", "outcomes.npz", "log.txt"):
                (folder / name).unlink(missing_ok=True)
            for path in (folder / "weights").glob("*.pt"):
                path.unlink()

    def rows(self) -> dict[str, list[Row]]:
        """The epochs that each part has made."""
        folders = {name: self.part(name) for name in PARTS}
        return {
            name: read_history(folder / "training_history.json") or read_results(folder / "results.csv")
            for name, folder in folders.items()
        }

    @property
    def begun(self) -> bool:
        """Whether the run has a checkpoint."""
        return (self._folder / LAST).is_file()

    def write(self) -> None:
        """Bring the run's log and checkpoints to where the parts are."""
        last = self.read("last") if self._processes.main else None
        if last is None:
            return
        rows = self.rows()
        # a row that waits for a part would look complete to who reads along; one that stopped early is not waited for
        waited = [len(rows[name]) for name, part in last.items() if not part.content["finished"]]
        together = merged(rows["detector"], rows["classifier"], self._parallel)[: min(waited, default=None)]
        write_text(self._folder / "results.csv", format_results(together))
        write_json(self._folder / "training_history.json", together)
        best = {name: int(part.content["best_epoch"]) for name, part in last.items()}
        if all(part.content["epoch"] >= 0 for part in last.values()) and best != self._best:
            self._write("best", self.read("best"))
            self._best = best
        for path in self.part("detector").glob("weights/epoch*.pt"):  # of --save-period
            if not (self._folder / "weights" / path.name).exists():
                self._write(path.stem, self.read(path.stem))
        made = {name: int(part.content["epoch"]) for name, part in last.items()}
        if made != self._last or not self.begun:
            self._write("last", last)  # after best.pt, so that what it says of that is true
            self._last = made

    def mend(self) -> None:
        """Let a part whose last.pt is damaged go on from the save before it."""
        for name in PARTS:
            last = self.part(name) / LAST
            if last.is_file() and (found := read_or_predecessor(last)).path != last:
                found.path.replace(last)

    def read(self, name: str) -> dict[str, Checkpoint] | None:
        """Both parts' last or best checkpoint; None until both are there."""
        paths = {part: self.part(part) / "weights" / f"{name}.pt" for part in PARTS}
        if not all(path.is_file() for path in paths.values()):
            return None
        return {part: checkpoint.read(path, mapped=True) for part, path in paths.items()}

    def _write(self, name: str, parts: Mapping[str, Checkpoint] | None) -> None:
        if parts is not None:
            content = checkpoint.paired(parts)
            if name == "best":
                content.pop("options", None)
            checkpoint.save(self._folder / "weights" / f"{name}.pt", content, keep=name == "last")


def merged(detector: list[Row], classifier: list[Row], parallel: bool) -> list[Row]:
    """A row an epoch from those of both; NaN where one has not got so far, or stopped earlier."""
    rows = []
    for epoch in range(max(len(detector), len(classifier))):
        boxes, views = (own[epoch] if epoch < len(own) else None for own in (detector, classifier))
        some = boxes or views or {}
        row = {name: ((views if name in OF_CLASSIFIER else boxes) or {}).get(name, math.nan) for name in COLUMNS}
        row |= {name: some[name] for name in COLUMNS if name in ("epoch", "epochs") or name.startswith("leakage/")}
        spent = [own[min(epoch, len(own) - 1)]["seconds"] for own in (detector, classifier) if own]
        rows.append(row | {"seconds": max(spent) if parallel else sum(spent)})
    return rows


def take_turns(tasks: Mapping[str, Task], files: PairFiles) -> None:
    """Make all epochs in this process, the part that is behind first."""
    for task in tasks.values():
        with task.stream:
            task.training.begin()
    files.write()
    try:
        while waiting := [task for task in tasks.values() if not task.training.done]:
            min(waiting, key=lambda task: task.training.epochs).step()
            files.write()
    except Interrupted:
        files.write()
        raise
    for task in tasks.values():
        task.training.finish()


def side_by_side(
    work: Callable[[str, Path, Mapping[str, Any]], None], parts: list[str], options: Mapping[str, Any],
    files: PairFiles, epochs: int, interrupts: Interrupts,
) -> int:  # fmt: skip
    """Make all epochs in a process a part; returns the most RAM that these held, in bytes.

    Args:
        work: trains a part in a folder by the options; a module's function, so that another process finds it.
        parts: that have epochs left.
        epochs: of each part, for the progress bar.
        interrupts: that reach this process; it passes them on.

    Raises:
        InputError: a process ended early; the other one is stopped then, and both can be resumed.
        Interrupted: a signal came; both have saved where they stand.
    """
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    processes = {
        name: context.Process(target=_in_process, args=(work, name, files.part(name), dict(options), results))
        for name in parts
    }
    memory = 0
    files.write()  # a run may have been cut between a part's last checkpoint and its own
    try:
        for process in processes.values():
            process.start()
        nothing: tuple[int, ...] = ()
        with progress(nothing, "epochs of both", total=2 * epochs, unit="epoch") as bar:
            waiting, before = set(parts), -1
            while waiting:
                ended = [name for name in waiting if processes[name].exitcode is not None]
                try:  # what a process has said before it ended is there by now
                    name, held, error = results.get(timeout=POLL)
                except queue.Empty:
                    name, held, error = "", 0, ""
                interrupts.check()  # before a process that the same signal has reached is thought to have failed
                if ended and not name:
                    code = processes[ended[0]].exitcode
                    raise InputError(f"{files.part(ended[0])}: its process ended with code {code}")
                if error:
                    raise InputError(f"{files.part(name)}: {error}")
                memory += held
                waiting -= {name}
                made = sum(map(len, files.rows().values()))
                if made != before or not waiting or not files.begun:
                    files.write()
                    bar.update(made - bar.n)
                    before = made
        for process in processes.values():
            process.join()
        for part in PARTS:  # one that was cut just before its end has not done so
            checkpoint.strip(files.part(part) / "weights" / "best.pt")
    finally:
        running = [process for process in processes.values() if process.is_alive()]
        for process in running:
            process.terminate()  # asks it to save and leave
        for process in running:
            process.join()
        files.write()
    return memory


def _in_process(
    work: Callable[[str, Path, Mapping[str, Any]], None], name: str, folder: Path, options: Mapping[str, Any],
    results: Any,
) -> None:  # fmt: skip
    """A part's process: what it says goes into a file, so that the two do not write over each other's lines."""
    # until the training listens: Ctrl-C reaches the parent, too, which stops this process
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that a file which is being written is cleaned up
    threading.Thread(target=_end_with_parent, daemon=True).start()
    error = ""
    with (folder / "log.txt").open("a", encoding="utf-8", buffering=1) as log:
        sys.stdout = sys.stderr = log
        setup()
        try:
            work(name, folder, options)
        except (InputError, Interrupted, OSError, MemoryError) as fault:
            error = one_line(fault)
        except Exception as fault:
            traceback.print_exc(file=log)
            error = f"{type(fault).__name__}: {one_line(fault)} (a fault of this program; log.txt shows where)"
        finally:
            sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
    results.put((name, peak_memory(), error))


def _end_with_parent() -> None:
    """End this process when its parent has gone: a run that is resumed must not be trained twice."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
