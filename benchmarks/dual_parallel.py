"""Is it faster to train the two backbones side by side than one after the other?

    python benchmarks/dual_parallel.py
    python benchmarks/dual_parallel.py --classifier resnet50 --imgsz 320

Whole runs of train_dual_backbone.py, import included, on phantom frames, in turns: in turns with all cores, and with
``--parallel`` in two processes that share them. The weights are the same either way but for rounding.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measure import JSON, in_turns, phantom_yaml, ratio, report, seconds
from utils.flags import IMGSZ, Flag, parse
from utils.log import run_script

FLAGS = (
    Flag("classifier", "resnet18", "of train_dual_backbone.py"),
    Flag(IMGSZ, 224, "pixels of the frames' longer side", int),
    Flag("epochs", 2, "of each run", int),
    Flag("rounds", 2, "in which each is timed once", int),
    JSON,
    Flag("traceback", False, "show where an error arose"),
)
WAYS = {"one after the other": [], "side by side": ["--parallel"]}


def main(options: argparse.Namespace) -> None:
    """Time the runs and print the table."""
    with tempfile.TemporaryDirectory() as name:
        data = phantom_yaml(Path(name), patients=24)
        given = ["--data", str(data), "--classifier", options.classifier, "--imgsz", str(options.imgsz)]
        given += ["--epochs", str(options.epochs), "--project", name, "--noplots", "--bootstrap", "0"]

        def timed(way: str) -> float:
            return seconds(["train_dual_backbone.py", *given, *WAYS[way]])

        figures = in_turns({way: lambda way=way: timed(way) for way in WAYS}, options.rounds, "runs")  # type: ignore[misc]
    first = figures["one after the other"]
    rows = [
        {"way": way, "seconds": statistics.median(figures[way]), "ratio": ratio(first, figures[way])} for way in WAYS
    ]
    report("dual_parallel", rows, options.json)


if __name__ == "__main__":
    sys.exit(run_script(main, parse(FLAGS, __doc__ or "")))
