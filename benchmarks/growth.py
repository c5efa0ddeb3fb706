"""Does an image cost the same in training when there are ten times as many?

    python benchmarks/growth.py

Images a second of train_speed.py's fast way, over whole epochs of N and of 10 N phantom frames, at a small size, where
whatever grows with the number of frames would show most; and the seconds that opening the frames takes, by frame.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measure import JSON, Row, answer, in_turns, phantom_yaml, ratio, report
from benchmarks.train_speed import FAST, learned
from utils.config import load_dataset_config
from utils.dataset import EchoDataset, build_loader
from utils.engine import train_one_epoch
from utils.flags import IMGSZ, THREADS, Flag, parse
from utils.log import run_script

FLAGS = (
    Flag("cfg", "models/yolov5n.yaml", "network yaml"),
    Flag(IMGSZ, 96, "pixels", int),
    Flag("batch-size", 16, "frames", int),
    Flag("patients", 12, "phantom patients, 24 frames each in the smaller set", int),
    Flag("images", 1920, "that are trained on at least, in whole epochs", int),
    Flag("rounds", 3, "in which each is timed once", int),
    Flag("only", "", "dataset yaml that a child process measures"),
    Flag("device", "", "cpu or a GPU's number"),
    THREADS,
    JSON,
    Flag("traceback", False, "show where an error arose"),
)


def main(options: argparse.Namespace) -> None:
    """Time both sets in turns and print the table."""
    if options.only:
        print(json.dumps(measured(options)))
        return
    found: dict[int, list[Row]] = {1: [], 10: []}
    with tempfile.TemporaryDirectory() as name:
        data: dict[int, Path] = {}
        for factor in found:
            (Path(name) / str(factor)).mkdir()
            data[factor] = phantom_yaml(
                Path(name) / str(factor), patients=options.patients, frames=8 * factor, height=96, width=128
            )

        def timed(factor: int) -> float:
            given = ["--images", str(options.images)]
            given += ["--cfg", options.cfg, "--imgsz", str(options.imgsz), "--threads", str(options.threads)]
            child = ["--only", str(data[factor]), "--batch-size", str(options.batch_size), "--device", options.device]
            found[factor].append(answer([str(Path(__file__)), *child, *given]))
            return float(found[factor][-1]["images a second"])

        figures = in_turns(
            {str(factor): lambda factor=factor: timed(factor) for factor in found},
            options.rounds,
            "sets",  # type: ignore[misc]
        )
    rows = [
        {
            "frames": found[factor][0]["frames"],
            "images/s": statistics.median(figures[str(factor)]),
            "ratio": ratio(figures[str(factor)], figures["1"]),
            "opening ms a frame": 1000 * statistics.median(row["opening"] / row["frames"] for row in found[factor]),
        }
        for factor in found
    ]
    report("growth", rows, options.json)


def measured(options: argparse.Namespace) -> Row:
    """Whole epochs over all frames, after a short one, until so many images have been trained on."""
    config = load_dataset_config(Path(options.only))
    start = time.perf_counter()
    dataset = EchoDataset(config, "train", options.imgsz)
    opening = time.perf_counter() - start
    learner, compute = learned(FAST, options)
    loader = build_loader(dataset, options.batch_size, 8, shuffle=True)
    loader.batch_sampler.keys.length = 4 * options.batch_size  # type: ignore[union-attr]
    train_one_epoch(learner, loader, compute, epoch=0)
    loader.batch_sampler.keys.length = len(dataset)  # type: ignore[union-attr]
    epochs = math.ceil(options.images / len(dataset))
    start = time.perf_counter()
    for epoch in range(1, 1 + epochs):
        train_one_epoch(learner, loader, compute, epoch)
    seconds = time.perf_counter() - start
    return {"frames": len(dataset), "images a second": epochs * len(dataset) / seconds, "opening": opening}


if __name__ == "__main__":
    sys.exit(run_script(main, parse(FLAGS, __doc__ or "")))
