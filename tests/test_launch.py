"""utils.launch: a process's part of a machine, who speaks, and the folder that a launch goes on in."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch

from utils import launch
from utils.launch import MARK, begun_before, placed, quiet_unless_main, run_folder
from utils.log import LOGGER, progress
from utils.processes import ALONE, Processes

FIRST, AGAIN = Processes(launch="x"), Processes(launch="x", restarts=1)


@pytest.fixture(autouse=True)
def a_machine_of_six_cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    threads = cv2.getNumThreads()
    monkeypatch.setattr(launch, "cores", lambda: 6)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    yield
    cv2.setNumThreads(threads)


def local(size: int, rank: int = 0) -> Processes:
    return Processes(rank, size, rank, size, "x")


# --- a part of a machine ---------------------------------------------------------------------------------------------


def test_a_process_that_has_a_machine_to_itself_takes_all_of_it() -> None:
    before = cv2.getNumThreads()
    assert placed("", 0, ALONE) == ("", 0) and placed("1", 3, ALONE) == ("1", 3)
    assert placed("", 0, Processes(1, 2, 0, 1, "x")) == ("", 0)
    assert cv2.getNumThreads() == before


@pytest.mark.parametrize(
    ("given", "size", "expected"), [(None, 2, 3), ("1", 4, 1), ("1", 3, 2), ("1", 9, 1), ("5", 2, 0)]
)
def test_each_process_takes_its_part_of_the_cores_where_the_user_has_said_nothing(
    given: str | None, size: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if given:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert placed("", 0, local(size)) == ("", expected)  # 0: as OMP_NUM_THREADS has it
    assert placed("", 7, local(size)) == ("", 7)
    assert cv2.getNumThreads() == max(6 // size, 1)


def test_each_process_takes_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [placed("", 0, local(2, rank))[0] for rank in range(2)] == ["0", "1"]
    assert [placed("", 0, local(4, rank), shared=True)[0] for rank in range(4)] == ["0", "1", "0", "1"]
    assert placed("", 0, local(4, 2))[0] == "2"  # which is refused: a GPU's processes could not sum tensors there
    assert placed("cpu", 0, local(4, 1), shared=True)[0] == placed("cpu", 0, local(4, 1))[0] == "cpu"


# --- who speaks ------------------------------------------------------------------------------------------------------


def test_one_process_speaks_for_all() -> None:
    LOGGER.setLevel(logging.INFO)
    quiet_unless_main(local(2, 0))
    assert LOGGER.level == logging.INFO
    quiet_unless_main(local(2, 1), heard=logging.WARNING)
    assert LOGGER.level == logging.WARNING and progress("abc", "letters").disable
    quiet_unless_main(local(2, 1))
    assert LOGGER.level == logging.ERROR


# --- whose folder ----------------------------------------------------------------------------------------------------


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has checkpoints be their paths."""
    monkeypatch.setattr(launch, "read_or_predecessor", lambda path: path)


def save(path: Path, when: int = 0) -> Path:
    path.parent.mkdir(parents=True)
    path.touch()
    os.utime(path, (when, when))
    return path


def began(project: Path, processes: Processes, when: int = 0) -> Path:
    """The folder of a run that began at a time."""
    folder = run_folder(project, "exp", False, processes)
    if processes.launch:
        os.utime(folder / MARK, (when, when))
    return folder


def test_a_run_without_torchrun_leaves_no_mark(tmp_path: Path) -> None:
    assert began(tmp_path, ALONE) == tmp_path / "exp"
    assert not list((tmp_path / "exp").iterdir())


def test_a_launch_marks_its_folder_and_goes_on_in_it(tmp_path: Path) -> None:
    folders = [began(tmp_path, FIRST, 1), began(tmp_path, FIRST, 3), began(tmp_path, Processes(launch="y"), 5)]
    assert [folder.name for folder in folders] == ["exp", "exp2", "exp3"]
    assert json.loads((tmp_path / "exp" / MARK).read_text()) == {"launch": "x", "processes": 1}
    began(tmp_path, ALONE)
    assert run_folder(tmp_path, "exp", False, AGAIN) == folders[1]  # the newest of its own
    assert run_folder(tmp_path, "exp", False, FIRST).name == "exp5"  # not started again: a new run
    assert (
        run_folder(tmp_path, "exp", False, Processes(launch="z", restarts=1)).name == "exp6"
    )  # killed before it had one


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '"x"', "\udcff", '{"launch": "y"}'])
def test_marks_that_are_none_of_ours_are_passed_over(tmp_path: Path, content: str) -> None:
    own = began(tmp_path, FIRST, 1)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / MARK).write_bytes(content.encode("utf-8", "surrogateescape"))
    assert run_folder(tmp_path, "exp", False, AGAIN) == own


def test_what_a_launch_had_begun_is_found_after_a_restart_only(tmp_path: Path, read: None) -> None:
    folder = began(tmp_path, FIRST)
    assert begun_before(tmp_path, AGAIN) is None  # no checkpoint yet
    last: Any = save(folder / "weights" / "last.pt")
    assert begun_before(tmp_path, AGAIN) == last
    assert begun_before(tmp_path, FIRST) is None and begun_before(tmp_path, ALONE) is None
    assert begun_before(tmp_path, Processes(launch="y", restarts=1)) is None


def test_of_folds_the_newest_checkpoint_is_found(tmp_path: Path, read: None) -> None:
    folder = began(tmp_path, FIRST)
    save(folder / "fold1" / "weights" / "last.pt", 5)
    newest: Any = save(folder / "fold2" / "weights" / "last.pt", 9)
    save(folder / "fold3" / "weights" / "last.pt", 7)
    assert begun_before(tmp_path, AGAIN) == newest


def test_other_processes_take_what_the_main_one_has_found(
    tmp_path: Path, read: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []

    def of_main(self: Processes, value: Any) -> Any:
        given.append(value)
        return tmp_path / "found"

    monkeypatch.setattr(Processes, "of_main", of_main)
    other = Processes(1, 2, 1, 2, "x", 1)
    found: Any = tmp_path / "found"
    assert run_folder(tmp_path, "exp", False, other) == begun_before(tmp_path, other) == found
    assert given == ["None", None] and not list(tmp_path.iterdir())
