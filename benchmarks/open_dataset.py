"""How long does it take to open a dataset the first time, and how long when nothing in it has changed?

    python benchmarks/open_dataset.py
    python benchmarks/open_dataset.py --frames 2000 --modes ram disk none

Makes tiny frames with labels in a temporary folder, and opens both of their parts as train.py does: frames, labels,
comparison of the parts. Each mode of ``--cache`` begins with an empty cache; what was found by the first opening
(frames on disk, rows of labels, hashes) is there for the second. Imports are not counted, and the files' bytes are in
the system's memory from being written: on a slow disk, the first opening of a day takes longer.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import imagehash  # noqa: F401  (so that the first opening does not count it)
import numpy as np
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import train
from benchmarks.measure import JSON, report
from utils import frames
from utils.config import ROOT, load_hyperparameters
from utils.flags import IMGSZ, Flag, check_range, from_keywords, parse
from utils.log import progress, run_script
from utils.parts import checked_dataset, open_parts

SHAPE = (48, 64)  # height and width of a frame
NAMES, VIEW_NAMES = ("AR", "MR", "PR", "TR"), ("PLAX", "PSAX", "A4C")
HOUR = 3600.0  # seconds
FLAGS = (
    Flag("frames", 20_000, "of the train part; val has a fortieth of them", int),
    Flag("patients", 42, "of both parts", int),
    Flag(IMGSZ, 64, "pixels", int),
    Flag("modes", ("ram", "disk"), "of --cache", nargs="+", choices=frames.CACHE_MODES),
    JSON,
    Flag("traceback", False, "show where an error arose"),
)


def main(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Make the frames, open them twice in each mode, print the seconds and write them as json."""
    check_range(options, "frames imgsz", 1)
    check_range(options, "patients", 2)
    rows = []
    usual = frames.CACHE_FOLDER
    with tempfile.TemporaryDirectory() as folder:
        data = make_frames(Path(folder), options.frames, options.patients)
        try:
            for mode in options.modes:
                frames.CACHE_FOLDER = Path(folder) / f"cache-{mode}"
                first, second = (seconds_to_open(data, mode, options.imgsz) for _ in range(2))
                rows.append({"cache": mode, "frames": options.frames, "first_s": first, "second_s": second})
        finally:
            frames.CACHE_FOLDER = usual
    report("open_dataset", rows, options.json)
    return rows


def seconds_to_open(data: Path, mode: str, size: int) -> float:
    """Wall-clock seconds of opening both parts."""
    hyp = load_hyperparameters(ROOT / "hyp" / "joint_training_rules.yaml")
    options = from_keywords(train.FLAGS, {"data": str(data), "imgsz": size, "cache": mode})
    start = time.perf_counter()
    open_parts(checked_dataset(options, hyp), options, hyp, 32)
    return time.perf_counter() - start


def make_frames(folder: Path, count: int, patients: int) -> Path:
    """A dataset of so many train frames in the folder, the last seventh of its patients in val; returns its yaml.

    The files are an hour old: facts about files that changed a moment ago are not kept between starts.
    """
    rng = np.random.default_rng(0)
    of_val = max(patients // 7, 1)
    parts = {"train": (count, 1, patients - of_val), "val": (max(count // 40, 1), patients - of_val + 1, of_val)}
    for part, (frames_of_part, first, owners) in parts.items():
        images, labels = folder / "images" / part, folder / "labels" / part
        for place in (images, labels):
            place.mkdir(parents=True)
        for i in progress(range(frames_of_part), f"{part} frames", unit="frame", leave=False):
            name = f"p{first + i * owners // frames_of_part:02}-c01-f{i:05}"
            tissue = cv2.resize(rng.integers(0, 220, (6, 8), np.uint8), SHAPE[::-1])
            files = {
                images / f"{name}.png": cv2.imencode(".png", cv2.cvtColor(tissue, cv2.COLOR_GRAY2BGR))[1].tobytes(),
                labels / f"{name}.txt": _label(i).encode(),
            }
            for path, coded in files.items():
                path.write_bytes(coded)
                os.utime(path, (time.time() - HOUR,) * 2)
    content: dict[str, Any] = {
        "path": str(folder), "train": "images/train", "val": "images/val", "names": list(NAMES),
        "view_names": list(VIEW_NAMES), "group": r"^(p\d+)-",
    }  # fmt: skip
    path = folder / "data.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def _label(index: int) -> str:
    """Two boxes and a view."""
    boxes = [f"{index % 4} 0.5 0.4 {0.2 + index % 7 / 50:.4f} 0.3", f"{(index + 1) % 4} 0.3 0.6 0.2 0.1"]
    view = " ".join(str(int(column == index % len(VIEW_NAMES))) for column in range(len(VIEW_NAMES)))
    return "\n".join([*boxes, "", view, ""])


if __name__ == "__main__":
    sys.exit(run_script(main, parse(FLAGS, __doc__ or "")))
