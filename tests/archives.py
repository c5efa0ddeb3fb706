"""A small archive of stills and videos, detect.py on it as a user starts it, and its results compared. No test."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import psutil

from utils.config import ROOT
from utils.devices import cores
from utils.draw import save
from utils.ledger import PROGRESS

PROCESSES = 2


def make_archive(folder: Path, stills: int = 12, videos: Iterable[int] = (25, 15), side: int = 80) -> Path:
    """Noise, in which an untrained network finds a lot: so many stills, and a video for each number of frames."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(stills):
        save(folder / f"f{number}.png", random.integers(0, 256, (side, side, 3), np.uint8))
    for number, frames in enumerate(videos):
        path = str(folder / f"f{3 + number}b.avi")
        video = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"MJPG"), 25, (side, side))
        for _ in range(frames):
            video.write(random.integers(0, 256, (side, side, 3), np.uint8))
        video.release()
    return folder


def command(weights: Path, source: Path, project: Path, *more: str, processes: int = PROCESSES) -> list[str]:
    """What a user types; by torchrun where there are several processes.

    One frame at a time, as sums are rounded otherwise where other frames stand beside it.
    """
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    return [
        sys.executable, *(torchrun if processes > 1 else []), str(ROOT / "detect.py"), "--weights", str(weights),
        "--source", str(source), "--project", str(project), "--device", "cpu", "--no-amp", "--conf", "0.5", "--max-det",
        "5", "--save-txt", "--save-view", "--save-csv", "--save-conf", "--save-crop", "--batch-size", "1", *more,
    ]  # fmt: skip


def environment(processes: int = PROCESSES) -> dict[str, str]:
    """As many threads for each process as torchrun's have: their number may change the last digit of a sum."""
    outside = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    return outside | ({} if processes > 1 else {"OMP_NUM_THREADS": str(max(1, cores() // PROCESSES))})


def start(arguments: list[str], processes: int = PROCESSES) -> subprocess.Popen[str]:
    """Start in a session of its own."""
    return subprocess.Popen(
        arguments, cwd=ROOT, env=environment(processes), text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def markers(run: Path) -> dict[str, tuple[int, int]]:
    """What tells each finished-marker from one that was written anew: its file's number and time."""
    found = (run / PROGRESS / "finished").glob("*.json")
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}


def results(run: Path) -> dict[str, bytes]:
    """All files of a run and their bytes, without the ledger."""
    paths = (path for path in sorted(run.rglob("*")) if path.is_file())
    return {
        str(path.relative_to(run)): path.read_bytes() for path in paths if path.relative_to(run).parts[0] != PROGRESS
    }


def wait_for_markers(run: Path, count: int, process: subprocess.Popen[str], seconds: float = 300) -> None:
    """Wait until so many files are finished, or the process has ended.

    Each process marks its first file at once; how many more it finishes before it marks them is up to the disk.
    """
    end = time.monotonic() + seconds
    while len(markers(run)) < count and process.poll() is None:
        if time.monotonic() > end:
            kill_all(process)
            raise AssertionError(f"{run}: expected {count} finished files in {seconds:g} s, got {len(markers(run))}")
        time.sleep(0.005)


def kill_all(process: subprocess.Popen[str]) -> None:
    """SIGKILL for a process and all below it, which may have sessions of their own."""
    everyone = [process.pid]
    with contextlib.suppress(psutil.NoSuchProcess):
        everyone += [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
    for number in everyone:
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    process.communicate()
