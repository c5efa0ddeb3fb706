"""How long does ``val.py`` take as a whole command, import included, against the plain path?

    python benchmarks/val_speed.py --weights runs/train/exp/weights/best.pt
    python benchmarks/val_speed.py --weights best.pt --data my_data.yaml --imgsz 640

Both run in turns, in processes of their own, on the same frames: 300 phantom frames unless data are given.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measure import JSON, Row, in_turns, phantom_yaml, ratio, report, seconds
from utils.checkpoint import one_checkpoint
from utils.config import find_file
from utils.flags import IMGSZ, Flag, parse
from utils.log import run_script

FLAGS = (
    Flag("weights", "", "checkpoint of a training", nargs="+"),
    Flag("data", "", "dataset yaml; 300 phantom frames unless given"),
    Flag(IMGSZ, 640, "pixels of the frames' longer side", int),
    Flag("rounds", 3, "in which each is timed once", int),
    JSON,
    Flag("traceback", False, "show where an error arose"),
)
PLAIN = str(Path(__file__).with_name("plain.py"))
COMMANDS = {"plain": [PLAIN, "val"], "val.py": ["val.py"]}


def main(options: argparse.Namespace) -> None:
    """Time the commands and print the table."""
    weights = one_checkpoint(options.weights).resolve()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = find_file(options.data, "data", flag="--data") if options.data else phantom_yaml(folder, patients=75)
        more = ["--weights", str(weights), "--data", str(data), "--imgsz", str(options.imgsz), "--exist-ok"]

        def timed(way: str) -> float:
            return seconds([*COMMANDS[way], *more, "--project", str(folder), "--name", way.removesuffix(".py")])

        figures = in_turns({way: lambda way=way: timed(way) for way in COMMANDS}, options.rounds, "commands")  # type: ignore[misc]
        found = {way: read(folder / way.removesuffix(".py")) for way in COMMANDS}
    rows = [
        {
            "command": way,
            "frames": found[way]["frames"],
            "seconds": statistics.median(figures[way]),
            "ratio": ratio(figures["plain"], figures[way]),
            "network ms": found[way]["speed_ms"]["inference"],
            "mAP50": round(found[way]["map50"], 4),
            "deviation": abs(found[way]["map50"] - found["plain"]["map50"]),
        }
        for way in COMMANDS
    ]
    report("val_speed", rows, options.json)


def read(folder: Path) -> Row:
    """The metrics.json of a run."""
    content: Row = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return content


if __name__ == "__main__":
    sys.exit(run_script(main, parse(FLAGS, __doc__ or "")))
