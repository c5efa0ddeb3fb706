"""utils.entry: what a script's options lead to, before the training itself."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

import train
from models.yolo import Network
from tests.test_resume import cut
from utils import entry
from utils.checkpoint import Checkpoint
from utils.entry import enter
from utils.flags import from_keywords
from utils.processes import ALONE, Processes

Call = tuple[argparse.Namespace, Checkpoint | None, Processes]


def entered(processes: Processes = ALONE, **keywords: Any) -> tuple[Path, list[Call]]:
    """What ``enter`` returns, and what it called the training with."""
    calls: list[Call] = []

    def one(*call: Any) -> Path:
        calls.append(call)
        return Path("run")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entry, "joined", lambda: processes)
        return enter(from_keywords(train.FLAGS, keywords), train.FLAGS, one), calls


def test_a_training_that_begins_has_the_options_as_they_are() -> None:
    folder, ((options, resumed, processes),) = entered(epochs=7)
    assert (folder, options.epochs, resumed, processes) == (Path("run"), 7, None, ALONE)


def test_a_training_that_goes_on_has_its_own_options(joint: Network, tmp_path: Path) -> None:
    found = cut(joint, tmp_path / "exp" / "weights" / "last.pt")
    _, ((options, resumed, _),) = entered(resume=str(found.path), batch_size=3, workers=1)
    assert resumed is not None and resumed.path == found.path
    assert (options.epochs, options.batch_size, options.workers) == (9, 4, 1)


def test_after_a_restart_the_run_that_this_launch_began_goes_on(joint: Network, tmp_path: Path) -> None:
    again = Processes(launch="here", restarts=1)
    assert entered(again, project=str(tmp_path))[1][0][1] is None  # it had not come to a folder
    found = cut(joint, tmp_path / "exp" / "weights" / "last.pt")
    (tmp_path / "exp" / "launch.json").write_text('{"launch": "here"}')
    _, ((options, resumed, _),) = entered(again, project=str(tmp_path))
    assert resumed is not None and resumed.path == found.path and options.epochs == 9
    cut(joint, found.path, finished=True)
    (tmp_path / "exp" / "metrics.json").write_text("{}")
    assert entered(again, project=str(tmp_path)) == (tmp_path / "exp", [])  # nothing is left to do
