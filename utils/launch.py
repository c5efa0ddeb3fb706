"""A script as torchrun launches it, in several processes: where each computes, who speaks, whose folder it is."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import cv2
import torch

from utils.checkpoint import Checkpoint
from utils.devices import cores
from utils.files import LAST, new_run_folder, write_json
from utils.log import LOGGER
from utils.processes import Processes
from utils.resume import read_or_predecessor

MARK = "launch.json"  # in a run's folder: which start of torchrun it belongs to


def placed(device: str, threads: int, processes: Processes, shared: bool = False) -> tuple[str, int]:
    """``--device`` and ``--threads`` of this process: a GPU of its own if there are any, and its part of the cores.

    OpenCV, which no flag is for, is given its part here.

    Args:
        device, threads: as the user typed them, which counts; "" and 0 where nothing was typed.
        shared: processes may share a GPU where there are more of them; those that send each other tensors cannot.
    """
    if processes.local_size == 1:
        return device, threads
    if device == "" and torch.cuda.is_available():
        device = str(processes.local_rank % torch.cuda.device_count() if shared else processes.local_rank)
    part = max(cores() // processes.local_size, 1)
    cv2.setNumThreads(part)
    if os.environ.get("OMP_NUM_THREADS", "1") != "1":  # torchrun sets 1 where the user has set nothing
        return device, threads
    return device, threads or part


def quiet_unless_main(processes: Processes, heard: int = logging.ERROR) -> None:
    """Let one process speak for all of what all of them would say.

    Args:
        heard: level of what comes from each all the same: warnings, too, where each works on files of its own.
    """
    if not processes.main:
        LOGGER.setLevel(heard)


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
        own = folder / LAST
        found = [own] if own.is_file() else list(folder.glob(f"*/{LAST}"))  # of folds
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
