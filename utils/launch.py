"""A training as torchrun launches it, in several processes: where each computes, and which folder is theirs."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import torch

from utils.checkpoint import Checkpoint
from utils.devices import cores
from utils.files import new_run_folder, write_json
from utils.log import LOGGER
from utils.processes import Processes
from utils.resume import read_or_predecessor

MARK = "launch.json"  # in a run's folder: which start of torchrun it belongs to


def placed(device: str, threads: int, processes: Processes) -> tuple[str, int]:
    """``--device`` and ``--threads`` of this process: a GPU of its own if there are any, else its part of the cores."""
    if processes.local_size == 1:
        return device, threads
    if device == "" and torch.cuda.is_available():
        device = str(processes.local_rank)
    return device, threads or max(cores() // processes.local_size, 1)


def quiet_unless_main(processes: Processes) -> None:
    """Let one process speak for all of what all of them would say; errors come from each."""
    if not processes.main:
        LOGGER.setLevel(logging.ERROR)


def run_folder(project: Path, name: str, exist_ok: bool, processes: Processes) -> Path:
    """The folder of a run that begins, the same in all processes; after a restart, the one that was begun in."""
    folder = None
    if processes.main:
        folder = _begun_in(project, processes) or new_run_folder(project, name, exist_ok)
        if processes.launch:
            write_json(folder / MARK, {"launch": processes.launch, "processes": processes.size})
    return Path(processes.of_main(str(folder)))


def begun_before(project: Path, processes: Processes) -> Checkpoint | None:
    """The checkpoint of the run that this launch had begun before a process was killed; None if there is none yet."""
    path = None
    if processes.main and (folder := _begun_in(project, processes)):
        own = folder / "weights" / "last.pt"
        found = [own] if own.is_file() else list(folder.glob("*/weights/last.pt"))  # of folds
        path = max(found, key=lambda file: file.stat().st_mtime, default=None)
    path = processes.of_main(path)
    return read_or_predecessor(path) if path else None


def _begun_in(project: Path, processes: Processes) -> Path | None:
    """The newest folder below ``project`` that this launch has marked, if it was started before."""
    if not processes.restarts:
        return None
    marks = sorted(project.glob(f"*/{MARK}"), key=lambda file: file.stat().st_mtime, reverse=True)
    for mark in marks:
        try:
            if json.loads(mark.read_text(encoding="utf-8"))["launch"] == processes.launch:
                return mark.parent
        except (OSError, ValueError, KeyError, TypeError):
            continue  # not ours to judge: a folder of another run
    return None
