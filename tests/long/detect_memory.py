"""Does detect.py's memory stay flat, and the number of its open files, over 20,000 frames?

    python tests/long/detect_memory.py
    python tests/long/detect_memory.py --weights runs/train/exp/weights/best.pt --imgsz 320 --frames 50000

The frames are four stills of noise under many names, and a video of a fifth as many frames; the network is an untrained
one unless weights are given. All that detect.py can write is written. Prints a line every so many frames, then the
slope in MB a 1,000 frames once a tenth of them is through. Exit code 1 where it is 1 MB or more, or open files grow.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import psutil

import detect
from tests.archives import make_archive
from tests.exported import saved
from utils.flags import Flag, parse
from utils.log import run_script
from utils.predict import Prediction
from utils.sources import Frame
from utils.writer import Writer

FLAGS = (
    Flag("frames", 20_000, "of the stills and the video together", int),
    Flag("weights", "", "of the network; an untrained one unless given"),
    Flag("imgsz", 64, "pixels of the frames' longer side", int),
    Flag("traceback", False, "show where an error arose"),
)
LIMIT = 1.0  # MB a 1,000 frames
WARM_UP = 0.1  # of the frames: until then allocators and caches fill
LINES = 20


def main(options: argparse.Namespace) -> None:
    """Detect, and say what memory and open files did meanwhile."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = archive(folder, options.frames)
        watch = Watch(options.frames // 400 or 1, options.frames // LINES or 1)
        take = Writer.take

        def counted(self: Writer, frame: Frame, prediction: Prediction) -> bool:
            watch.count()
            return take(self, frame, prediction)

        Writer.take = counted  # type: ignore[method-assign]
        detect.run(
            weights=options.weights or str(saved("rect")), source=str(source), project=str(folder / "runs"),
            imgsz=options.imgsz, conf_thres=0.5, max_det=5, device="cpu", save_txt=True, save_view=True, save_conf=True,
            save_csv=True, save_crop=True,
        )  # fmt: skip
        frames, memory, files = (np.array(column) for column in zip(*watch.samples, strict=True))
        late = frames > WARM_UP * options.frames
        slope, more = (float(np.polyfit(frames[late] / 1000, values[late], 1)[0]) for values in (memory, files))
        print(f"{watch.frames} frames: {slope:+.3f} MB and {more:+.3f} open files a 1,000 frames")
        if slope >= LIMIT or more * options.frames / 1000 >= 5:
            sys.exit(1)


def archive(folder: Path, frames: int) -> Path:
    """Stills that share their bytes on the disk, and a video of a fifth of the frames."""
    source = make_archive(folder / "frames", 4, [frames // 5], 32)
    for number in range(4, frames - frames // 5):
        os.link(source / f"f{number % 4}.png", source / f"f{number}.png")
    return source


class Watch:
    """Samples of (frames, memory in MB, open files) of this process, one every so many frames."""

    def __init__(self, every: int, told_every: int) -> None:
        self.every, self.told_every = every, told_every
        self.frames = 0
        self.samples: list[tuple[int, float, int]] = []
        self._process = psutil.Process()
        self._lock = threading.Lock()

    def count(self) -> None:
        """One more frame is being written."""
        with self._lock:
            self.frames += 1
            if self.frames % self.every == 0:
                self.samples.append((self.frames, self._process.memory_info().rss / 1e6, self._process.num_fds()))
            if self.frames % self.told_every == 0:
                frames, memory, files = self.samples[-1]
                print(f"{frames:6} frames: {memory:7.1f} MB, {files} open files", flush=True)


if __name__ == "__main__":
    sys.exit(run_script(main, parse(FLAGS, __doc__ or "")))
