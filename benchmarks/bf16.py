"""Does a training in bf16 end where one in fp32 ends?

    python benchmarks/bf16.py
    python benchmarks/bf16.py --data my_data.yaml --cfg models/yolov5s.yaml --imgsz 320 --epochs 30 --seeds 0 1 2

Both trainings of each seed, on phantom frames unless data are given; figures are those of the last epoch on val. Of
trainings in the same type with different seeds, the spread is shown, too: that much is chance. Where the processor has
no bf16, --rounded computes in fp32 and rounds (rounded.py).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measure import JSON, Row, report, seconds
from benchmarks.val_speed import read
from utils.config import find_file
from utils.flags import IMGSZ, THREADS, Flag, parse
from utils.log import progress, run_script
from utils.report import figure_at

FLAGS = (
    Flag("data", "data/phantom.yaml", "dataset yaml"),
    Flag("cfg", "models/yolov5n.yaml", "network yaml"),
    Flag(IMGSZ, 256, "pixels of the frames' longer side", int),
    Flag("epochs", 16, "of each training", int),
    Flag("seeds", (0, 1, 2), "of the trainings, two each", int, nargs="+"),
    Flag("rounded", False, "bf16 by rounding, for processors without it"),
    THREADS,
    JSON,
    Flag("traceback", False, "show where an error arose"),
)
KINDS = ("fp32", "bf16")
FIGURES = {"mAP50": ("map50",), "mAP50-95": ("map",), "F1": ("f1",), "view": ("view", "accuracy")}


def main(options: argparse.Namespace) -> None:
    """Train, and print a row a seed."""
    data = find_file(options.data, "data", flag="--data")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        given = ["--data", str(data), "--cfg", options.cfg, "--imgsz", str(options.imgsz), "--noplots"]
        given += ["--epochs", str(options.epochs), "--threads", str(options.threads), "--bootstrap", "0"]
        for seed in progress(options.seeds, "seeds", unit="seed"):
            row: Row = {"seed": seed}
            for kind in KINDS:
                run = ["--seed", str(seed), "--project", name, "--name", f"{kind}-{seed}"]
                row[f"{kind} minutes"] = seconds([*program(kind, options.rounded), *given, *run]) / 60
                content = read(folder / f"{kind}-{seed}")
                found = {figure: figure_at(content, *place) for figure, place in FIGURES.items()}
                row |= {f"{kind} {figure}": value for figure, value in found.items() if value is not None}
            row["mAP50 bf16 - fp32"] = row["bf16 mAP50"] - row["fp32 mAP50"]
            rows.append(row)
    means = {key: statistics.mean(row[key] for row in rows) for key in rows[0] if key != "seed"}
    report("bf16", [*rows, {"seed": "mean", **means}], options.json)
    spread = {kind: statistics.pstdev(row[f"{kind} mAP50"] for row in rows) for kind in KINDS}
    print("Standard deviation of mAP50 over seeds: " + ", ".join(f"{k} {v:.4f}" for k, v in spread.items()))


def program(kind: str, by_rounding: bool) -> list[str]:
    """The script that trains in a type, and its flag."""
    if kind == "fp32" or by_rounding:
        return ["benchmarks/rounded.py" if kind == "bf16" else "train.py", "--no-amp"]
    return ["train.py", "--amp"]


if __name__ == "__main__":
    sys.exit(run_script(main, parse(FLAGS, __doc__ or "")))
