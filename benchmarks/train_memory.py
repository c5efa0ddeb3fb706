"""How much memory does a joint training hold at most, against the plain path?

    python benchmarks/train_memory.py
    python benchmarks/train_memory.py --imgsz 640 --batch-size 8

The ways are those of train_speed.py; of its figures this shows the memory: the process's peak, worker processes not
counted, which the plain path has and the fast one has not. On a GPU, the GPU's.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measure import report
from benchmarks.train_speed import FLAGS, compared
from utils.flags import parse
from utils.log import run_script


def main(options: argparse.Namespace) -> None:
    """Train both ways for a few steps each."""
    options.steps, options.rounds = 6, 1
    rows = compared(options, ["plain", "fast"])
    report("train_memory", [{key: row[key] for key in ("way", "MB", "MB ratio")} for row in rows], options.json)


if __name__ == "__main__":
    sys.exit(run_script(main, parse(FLAGS, __doc__ or "")))
