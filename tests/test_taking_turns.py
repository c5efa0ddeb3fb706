"""utils.taking_turns: whose turn it is, one set of files from two, and processes that fail or are killed."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import queue
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from tests.test_checkpoint import pair
from utils import checkpoint, taking_turns
from utils.devices import RandomStream
from utils.files import write_json
from utils.interrupt import Interrupts
from utils.log import InputError, Interrupted
from utils.loggers import COLUMNS, read_results
from utils.taking_turns import PARTS, PairFiles, Task, merged, side_by_side, take_turns
from utils.trainer import Training

Work = Callable[[str, Path, Mapping[str, Any]], None]


def row(epoch: int, seconds: float, **figures: float) -> dict[str, float]:
    """A part's row of the log; what is not given is NaN."""
    own = {"epoch": float(epoch), "epochs": 3.0, "seconds": seconds, "leakage/patients": 0.5}
    return {**dict.fromkeys(COLUMNS, math.nan), **own, **{name.replace("__", "/"): v for name, v in figures.items()}}


class Recorded:
    """Stands in for a training: it counts epochs and writes down whose turn it was."""

    def __init__(self, name: str, epochs: int, turns: list[str], made: int = 0) -> None:
        self.name, self._until, self._turns, self.epochs = name, epochs, turns, made

    @property
    def done(self) -> bool:
        return self.epochs >= self._until

    def begin(self) -> None:
        self._turns.append(f"{self.name} begins")

    def step(self) -> None:
        self.epochs += 1
        self._turns.append(f"{self.name} {self.epochs}")

    def finish(self) -> None:
        self._turns.append(f"{self.name} ends")


def turns(folder: Path, detector: tuple[int, int], classifier: tuple[int, int]) -> list[str]:
    """Whose turns it was, given (epochs, made) of both."""
    found: list[str] = []
    tasks = {
        name: Task(cast(Training, Recorded(name[0], epochs, found, made)), RandomStream(0))
        for name, (epochs, made) in {"detector": detector, "classifier": classifier}.items()
    }
    take_turns(tasks, PairFiles(folder, False))
    return found


def test_the_part_that_is_behind_is_next_and_one_that_stops_early_waits_for_the_other(tmp_path: Path) -> None:
    begin, end = ["d begins", "c begins"], ["d ends", "c ends"]
    assert turns(tmp_path, (2, 0), (2, 0)) == [*begin, "d 1", "c 1", "d 2", "c 2", *end]
    assert turns(tmp_path, (3, 0), (1, 0)) == [*begin, "d 1", "c 1", "d 2", "d 3", *end]
    assert turns(tmp_path, (3, 2), (3, 0)) == [*begin, "c 1", "c 2", "d 3", "c 3", *end]
    assert turns(tmp_path, (2, 2), (2, 2)) == [*begin, *end]


def test_a_row_has_the_boxes_of_the_one_and_the_view_of_the_other() -> None:
    boxes = row(0, 5.0, train__box_loss=0.1, x__lr0=0.01, train__view_loss=9.0, metrics__view_accuracy=9.0)
    views = row(0, 3.0, train__view_loss=0.7, x__lr0=0.5, metrics__view_accuracy=0.8, train__box_loss=9.0)
    (together,) = merged([boxes], [views], False)
    assert (together["train/box_loss"], together["x/lr0"]) == (0.1, 0.01)
    assert (together["train/view_loss"], together["metrics/view_accuracy"]) == (0.7, 0.8)
    assert (together["epoch"], together["epochs"], together["leakage/patients"]) == (0, 3, 0.5)
    assert list(together) == list(COLUMNS)


@pytest.mark.parametrize(("parallel", "seconds"), [(False, [8.0, 13.0, 19.0]), (True, [5.0, 10.0, 16.0])])
def test_an_epoch_that_one_has_not_made_is_empty_and_seconds_are_those_of_both(
    parallel: bool, seconds: list[float]
) -> None:
    boxes = [row(epoch, spent, train__box_loss=1.0) for epoch, spent in enumerate([5.0, 10.0, 16.0])]
    views = [row(0, 3.0, train__view_loss=0.7)]
    together = merged(boxes, views, parallel)
    assert [found["seconds"] for found in together] == seconds
    assert [found["epoch"] for found in together] == [0, 1, 2]
    assert [math.isnan(found["train/view_loss"]) for found in together] == [False, True, True]
    turned = merged([], views, parallel)
    assert len(turned) == 1 and math.isnan(turned[0]["train/box_loss"]) and turned[0]["seconds"] == 3
    assert merged([], [], parallel) == []


def write_parts(folder: Path, best: Mapping[str, int], epoch: int = 2) -> None:
    """Both parts' folders as after ``epoch``, with their best epochs."""
    source = folder / "source"
    source.mkdir(exist_ok=True)
    for name, found in pair(source).items():
        for file, own in (("last", epoch), ("best", best[name])):
            path = folder / name / "weights" / f"{file}.pt"
            path.parent.mkdir(parents=True, exist_ok=True)
            checkpoint.save(path, {**found.content, "epoch": own, "best_epoch": best[name], "options": {"a": 1}})


def test_files_are_put_together_once_both_parts_have_theirs(tmp_path: Path) -> None:
    files, weights = PairFiles(tmp_path, False), tmp_path / "weights"
    files.write()
    assert read_results(tmp_path / "results.csv") == [] and files.read("last") is None and not any(weights.iterdir())
    write_parts(tmp_path, {"detector": -1, "classifier": -1}, epoch=-1)
    files.write()
    assert [path.name for path in weights.iterdir()] == ["last.pt"]  # no epoch is made: none is the best
    write_parts(tmp_path, {"detector": 2, "classifier": 0})
    for name, spent in (("detector", 5.0), ("classifier", 3.0)):
        write_json(tmp_path / name / "training_history.json", [row(0, spent)])
    files.write()
    last, best = (checkpoint.read(weights / f"{name}.pt") for name in ("last", "best"))
    assert last.is_pair and best.is_pair
    assert last.content["epochs"] == {"detector": 3, "classifier": 3}
    assert best.content["epochs"] == {"detector": 3, "classifier": 1}
    assert "options" in last.content and "options" not in best.content
    assert [found["seconds"] for found in read_results(tmp_path / "results.csv")] == [8]
    assert json.loads((tmp_path / "training_history.json").read_text())[0]["seconds"] == 8


def test_the_best_checkpoint_is_written_when_a_part_has_a_better_epoch_only(tmp_path: Path) -> None:
    files, best = PairFiles(tmp_path, False), tmp_path / "weights" / "best.pt"
    write_parts(tmp_path, {"detector": 1, "classifier": 0})
    files.write()
    best.unlink()
    files.write()
    assert not best.exists()
    write_parts(tmp_path, {"detector": 1, "classifier": 2})
    files.write()
    assert checkpoint.read(best).content["epochs"] == {"detector": 2, "classifier": 3}


def test_what_an_earlier_run_left_in_its_folders_is_cleared(tmp_path: Path) -> None:
    write_parts(tmp_path, {"detector": 1, "classifier": 0})
    files = PairFiles(tmp_path, False)
    files.write()
    assert (tmp_path / "weights" / "best.pt").exists() and (tmp_path / "results.csv").exists()
    files.clear()
    for folder in (tmp_path, *map(files.part, PARTS)):
        assert not (folder / "results.csv").exists() and not any((folder / "weights").iterdir())


def speaks(name: str, folder: Path, options: Mapping[str, Any]) -> None:
    print(f"{name} with {options['epochs']} epochs")


def refuses(name: str, folder: Path, options: Mapping[str, Any]) -> None:
    raise InputError(f"{name}:\nexpected more")


def fills_the_disk(name: str, folder: Path, options: Mapping[str, Any]) -> None:
    raise OSError(28, "No space left on device", "last.pt")


def refuses_or_waits(name: str, folder: Path, options: Mapping[str, Any]) -> None:
    """The classifier cannot go on; the detector would for a long time."""
    if name == "classifier":
        refuses(name, folder, options)
    waits(name, folder, options)


def waits(name: str, folder: Path, options: Mapping[str, Any]) -> None:
    time.sleep(300)


def dies_or_waits(name: str, folder: Path, options: Mapping[str, Any]) -> None:
    if name == "classifier":
        os._exit(3)
    waits(name, folder, options)


@pytest.mark.parametrize(
    ("work", "said", "error"),
    [
        (speaks, "detector with 3 epochs\n", ""),
        (refuses, "", "detector: expected more"),
        (fills_the_disk, "", "last.pt: No space left on device; free some space"),
    ],
)
def test_a_parts_process_writes_a_log_of_its_own_and_reports_its_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], work: Work, said: str, error: str
) -> None:
    results: queue.Queue[tuple[str, int, str]] = queue.Queue()
    before = sys.stdout, sys.stderr
    try:
        taking_turns._in_process(work, "detector", tmp_path, {"epochs": 3}, results)
    finally:
        sys.stdout, sys.stderr = before
    assert (tmp_path / "log.txt").read_text() == said
    name, held, told = results.get_nowait()
    assert name == "detector" and held > 0 and told.startswith(error) and bool(told) == bool(error)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("work", "words"),
    [
        (refuses_or_waits, r"classifier: classifier: expected more"),
        (dies_or_waits, r"classifier: its process ended with code 3"),
    ],
)
def test_a_process_that_ends_early_is_one_line_and_stops_the_other(tmp_path: Path, work: Work, words: str) -> None:
    files = PairFiles(tmp_path, True)
    files.clear()
    started = time.monotonic()
    with pytest.raises(InputError, match=words) as caught:
        side_by_side(work, list(PARTS), {}, files, 1, Interrupts())
    assert "\n" not in str(caught.value)
    assert time.monotonic() - started < 120  # not the 300 seconds that the other one would take
    assert multiprocessing.active_children() == []


def test_a_signal_while_the_runs_files_are_written_lets_that_be_finished_and_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, original = PairFiles(tmp_path, True), PairFiles.write
    files.clear()
    written: list[bool] = []  # for each call, whether it came to its end

    def write(self: PairFiles) -> None:
        written.append(False)
        if len(written) == 2:  # the first one of the loop; the signal reaches the parts' processes, too
            for process in multiprocessing.active_children():
                process.terminate()
                process.join()
            signal.raise_signal(signal.SIGTERM)
        original(self)
        written[-1] = True

    monkeypatch.setattr(PairFiles, "write", write)
    with Interrupts() as interrupts, pytest.raises(Interrupted):
        side_by_side(waits, list(PARTS), {}, files, 1, interrupts)
    assert written == [True, True, True]  # before, within and after
    assert multiprocessing.active_children() == []


def test_with_no_part_left_to_train_the_runs_files_are_still_brought_up_to_date(tmp_path: Path) -> None:
    write_parts(tmp_path, {"detector": 2, "classifier": 0})
    assert (
        side_by_side(speaks, [], {}, PairFiles(tmp_path, True), 3, Interrupts()) == 0
    )  # bytes of processes that there were none of
    assert checkpoint.read(tmp_path / "weights" / "last.pt").content["epochs"] == {"detector": 3, "classifier": 3}
