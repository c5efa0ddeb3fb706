"""Trainings that several processes share: each is made once, and a dead worker's goes to another."""

from __future__ import annotations

import builtins
import contextlib
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.torchrun import wait_for
from utils.config import ROOT
from utils.log import InputError, Interrupted
from utils.study import RUN, check_installed, open_study, work

NAMES = [f"static-seed{seed}" for seed in range(6)]

# What a worker in another process does: it notes each training that it makes, in a file of its own. What takes long is
# imported before it says that it is ready, and it waits for what must have happened, as a loaded machine may take long.
WORKER = """
import os, sqlite3, sys, time
from pathlib import Path
import optuna, sqlalchemy
from tests.torchrun import wait_until
from utils.study import open_study, work

folder, own, what, grace = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
names = sys.argv[5:]

def alive():
    with sqlite3.connect(folder / "study.db", timeout=60) as database:
        return database.execute("select count(*) from trial_heartbeats").fetchone()[0] > 0

def train(name):
    if what == "dies":
        wait_until(alive)  # one that has given no sign of life is never thought dead
        (folder / "taken").write_text(name)
        os._exit(9)
    with (folder / own).open("a") as file:
        file.write(name + "\\n")
    wait_until(lambda: (folder / {"one": "two", "two": "one"}[own]).exists())  # each is to make some
    return 0.5

(folder / f"{own}.ready").write_text("")
wait_until((folder / "go").exists)
work(open_study(f"sqlite:///{folder / 'study.db'}", names, heartbeat=1, grace=grace), names, train, pause=0.1)
"""
LONG = 600  # seconds of silence, where no process is to be thought dead
SHORT = 2


def storage(folder: Path) -> str:
    return f"sqlite:///{folder / 'study.db'}"


def worker(folder: Path, own: str, what: str, names: list[str], grace: int = LONG) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", WORKER, str(folder), own, what, str(grace), *names]
    with (folder / f"{own}.log").open("w") as log:
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)


def maker(made: list[str], value: float = 0.5) -> Callable[[str], float]:
    """A training that only notes its name."""

    def train(name: str) -> float:
        made.append(name)
        return value

    return train


def finish(folder: Path, names: list[str], train: Callable[[str], float], grace: int = LONG) -> None:
    """As compare.py does it, with signs of life every second."""
    work(open_study(storage(folder), names, heartbeat=1, grace=grace), names, train, pause=0.1)


def test_every_training_is_made_once_and_its_figure_is_in_the_study(tmp_path: Path) -> None:
    made: list[str] = []
    finish(tmp_path, NAMES[:3], maker(made, 0.25))
    assert made == NAMES[:3]  # in the order in which they were asked for
    trials = open_study(storage(tmp_path), []).get_trials()
    assert [(trial.user_attrs[RUN], trial.value) for trial in trials] == [(name, 0.25) for name in NAMES[:3]]
    finish(tmp_path, NAMES[:3], maker(made))
    assert made == NAMES[:3]
    finish(tmp_path, NAMES[:4], maker(made))  # a grid that has grown
    assert made == NAMES[:4]


def test_two_processes_share_a_study_and_each_training_is_made_once(tmp_path: Path) -> None:
    workers = [worker(tmp_path, own, "works", NAMES) for own in ("one", "two")]
    for process, own in zip(workers, ("one", "two"), strict=True):
        wait_for((tmp_path / f"{own}.ready").exists, process)
    (tmp_path / "go").write_text("")  # both at once
    assert [process.wait(300) for process in workers] == [0, 0], [log.read_text() for log in tmp_path.glob("*.log")]
    made = {own: (tmp_path / own).read_text().split() for own in ("one", "two")}
    assert Counter(made["one"] + made["two"]) == Counter(NAMES)
    assert made["one"] and made["two"]


def test_two_that_take_a_training_at_the_same_moment_take_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from optuna.storages._rdb.models import TrialModel

    studies = [open_study(storage(tmp_path), NAMES[:2]) for _ in range(2)]
    original, both = TrialModel.find_or_raise_by_id, threading.Barrier(2)

    def find(*arguments: Any, **keywords: Any) -> Any:
        found = original(*arguments, **keywords)
        if keywords.get("for_update"):
            with contextlib.suppress(threading.BrokenBarrierError):
                both.wait(timeout=2)  # until the other one has read, too, unless it has to wait for this one
        return found

    monkeypatch.setattr(TrialModel, "find_or_raise_by_id", find)
    with ThreadPoolExecutor(2) as pool:
        taken = [trial.number for trial in pool.map(lambda study: study.ask(), studies)]
    assert sorted(taken) == [0, 1]


def test_a_training_whose_worker_died_is_made_by_another_one(tmp_path: Path) -> None:
    (tmp_path / "go").write_text("")
    assert worker(tmp_path, "one", "dies", NAMES[:2], SHORT).wait(300) == 9
    taken = (tmp_path / "taken").read_text()
    made: list[str] = []
    finish(tmp_path, NAMES[:2], maker(made), SHORT)
    assert Counter(made) == Counter(NAMES[:2])
    assert made[-1] == taken  # it was put back once its worker had been silent for long enough
    states = Counter(trial.state.name for trial in open_study(storage(tmp_path), []).get_trials())
    assert states == {"COMPLETE": 2, "FAIL": 1}


def test_a_training_that_fails_says_why_and_starting_again_goes_on_with_it(tmp_path: Path) -> None:
    made: list[str] = []

    def train(name: str) -> float:
        if name == NAMES[1]:
            raise InputError("its folder: expected more space")
        return maker(made)(name)

    with pytest.raises(InputError, match=r"^its folder: expected more space$"):
        finish(tmp_path, NAMES[:3], train)
    assert made == NAMES[:1]
    finish(tmp_path, NAMES[:3], maker(made))
    assert Counter(made) == Counter(NAMES[:3])


def test_a_training_that_a_signal_ended_waits_for_the_next_process(tmp_path: Path) -> None:
    made: list[str] = []

    def train(name: str) -> float:
        if name == NAMES[1]:
            raise Interrupted(signal.SIGTERM, "the same command goes on")
        return maker(made)(name)

    with pytest.raises(Interrupted, match="the same command goes on"):
        finish(tmp_path, NAMES[:3], train)
    assert made == NAMES[:1]
    states = Counter(trial.state.name for trial in open_study(storage(tmp_path), []).get_trials())
    assert states == {"COMPLETE": 1, "PRUNED": 1, "WAITING": 2}
    finish(tmp_path, NAMES[:3], maker(made))
    assert Counter(made) == Counter(NAMES[:3])


@pytest.mark.parametrize("number", [2, 3])
def test_trainings_that_several_processes_put_in_are_made_once(tmp_path: Path, number: int) -> None:
    study = open_study(storage(tmp_path), NAMES[:2])
    for _ in range(number - 1):  # of processes that looked before this one had put its own in
        for name in NAMES[:2]:
            study.enqueue_trial({}, user_attrs={RUN: name})
    made: list[str] = []
    work(study, NAMES[:2], maker(made), pause=0.1)
    assert made == NAMES[:2]


def test_what_failed_elsewhere_for_good_is_named(tmp_path: Path) -> None:
    study = open_study(storage(tmp_path), NAMES[:2])
    for state in ("FAIL", "COMPLETE"):
        trial = study.ask()
        study.tell(trial, 0.5 if state == "COMPLETE" else None, state=None if state == "COMPLETE" else _failed())
    with pytest.raises(InputError, match=f"^{NAMES[0]}: expected to be finished elsewhere, but failed there"):
        work(study, NAMES[:2], maker([]), pause=0.01)


def _failed() -> Any:
    from optuna.trial import TrialState

    return TrialState.FAIL


def test_without_optuna_one_line_names_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    original = builtins.__import__

    def without(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name.partition(".")[0] == "optuna":
            raise ImportError("No module named 'optuna'")
        return original(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"^--grid: expected the package optuna: pip install 'optuna"):
        check_installed()


def test_a_training_that_is_no_longer_asked_for_is_dropped_and_put_in_again_when_it_is(tmp_path: Path) -> None:
    made: list[str] = []
    open_study(storage(tmp_path), ["a", "b"])
    work(open_study(storage(tmp_path), ["b"]), ["b"], maker(made), pause=0.01)
    assert made == ["b"]
    work(open_study(storage(tmp_path), ["a", "b"]), ["a", "b"], maker(made), pause=0.01)
    assert made == ["b", "a"]


def test_two_comparisons_in_one_storage_know_nothing_of_each_other(tmp_path: Path) -> None:
    made: list[str] = []
    for title in ("one", "two"):
        study = open_study(storage(tmp_path), ["a"], title=title)
        work(study, ["a"], maker(made), pause=0.01)
    assert made == ["a", "a"]


@pytest.mark.parametrize("place", ["sqlite:////nowhere/at/all/study.db", "nonsense", "nosuch://host/db"])
def test_a_storage_that_cannot_be_opened_is_one_line(place: str) -> None:
    with pytest.raises(InputError, match=f"^--storage {place}: expected a database") as caught:
        open_study(place, NAMES)
    assert "\n" not in str(caught.value)
