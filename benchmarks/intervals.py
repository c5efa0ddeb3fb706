"""How much faster is the bootstrap by weights than by copying the drawn patients' frames?

python benchmarks/intervals.py --frames 300 --patients 30

Simulated outcomes of a network that marks every frame with many boxes of low confidence, as in validation. The plain
way copies the frames of the drawn patients and computes the figures anew; it is timed on fewer draws.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.simulated import outcomes, repeated
from utils.assessment import assess
from utils.config import from_here, from_root
from utils.files import new_run_folder, write_json
from utils.flags import Flag, check_range, parse
from utils.intervals import DRAWS, intervals
from utils.log import progress, run_script

PLAIN_DRAWS = 10
FLAGS = (
    Flag("frames", 300, "frames of all patients together", int),
    Flag("patients", 30, "patients", int),
    Flag("detections", 300, "detections a frame", int),
    Flag("project", "runs/benchmarks", "folder of the runs", from_here),
    Flag("name", "intervals", "folder of this run"),
    Flag("traceback", False, "show where an error arose"),
)


def main(options: argparse.Namespace) -> dict[str, Any]:
    """Time both ways in one run; prints a table and writes json."""
    check_range(options, "frames patients detections", 2)
    whole = outcomes(0, options.patients, options.frames // options.patients, options.detections)
    start = time.perf_counter()
    found = intervals(whole, DRAWS)
    weighted = (time.perf_counter() - start) / DRAWS
    rng, even = np.random.default_rng(0), np.full(options.patients, 1 / options.patients)
    start = time.perf_counter()
    for _ in progress(range(PLAIN_DRAWS), "copied frames", unit="draw"):
        assess(repeated(whole, rng.multinomial(options.patients, even).tolist()), draws=0)
    copied = (time.perf_counter() - start) / PLAIN_DRAWS
    content = {
        "frames": len(whole), "patients": options.patients, "detections": len(whole.frame),
        "figures": len(found.values), "seconds_of_2000_draws": weighted * 2000,
        "ms_a_draw_weighted": weighted * 1000, "ms_a_draw_copied": copied * 1000, "ratio": copied / weighted,
    }  # fmt: skip
    folder = new_run_folder(from_root(options.project), options.name)
    write_json(folder / "intervals.json", content)
    print(f"{len(whole)} frames, {len(whole.frame)} detections, {len(found.values)} figures with intervals")
    print(
        f"weighted {weighted * 1000:.2f} ms a draw, copied {copied * 1000:.1f} ms a draw: {copied / weighted:.0f} times"
    )
    print(f"2,000 draws: {weighted * 2000:.1f} s")
    print(f"Results in {folder}")
    return content


if __name__ == "__main__":
    sys.exit(run_script(main, parse(FLAGS, __doc__ or "")))
