"""How many frames a second does ``detect.py`` make, one by one, from a folder and exported, against the plain path?

    python benchmarks/detect_speed.py --weights runs/train/exp/weights/best.pt
    python benchmarks/detect_speed.py --weights best.pt --data my_data.yaml --exports openvino --precisions fp32 bf16

A run is the whole of ``detect.py`` without its import: opening the weights, then decoding, filters, the network,
suppression, drawing and writing, over the frames of a dataset's val part. One by one, the next frame is begun when the
one before it is written. Ways take turns. mAP50 is val.py's at the same size, of the same weights in the same form.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import export
from benchmarks.measure import JSON, Row, answer, in_turns, phantom_yaml, ratio, report
from utils.checkpoint import one_checkpoint
from utils.config import find_file, load_dataset_config
from utils.dataset import prepare
from utils.files import write_text
from utils.flags import IMGSZ, Flag, parse
from utils.log import InputError, progress, run_script
from utils.split_files import list_images

PRECISIONS = {"fp32": [], "fp16": ["half"], "bf16": ["bf16"]}
FLAGS = (
    Flag("weights", "", "checkpoint of a training", nargs="+"),
    Flag("data", "", "dataset yaml; 300 phantom frames unless given"),
    Flag(IMGSZ, 640, "pixels of the frames' longer side", int),
    Flag("rounds", 3, "in which each way is timed once", int),
    Flag("exports", (), "formats to compare, too", nargs="+", choices=("onnx", "openvino", "torchscript")),
    Flag("precisions", ("fp32",), "of the exports", nargs="+", choices=tuple(PRECISIONS)),
    Flag("only", "", "what a child process measures"),
    Flag("source", "", "list of a child process's frames"),
    Flag("figures", False, "whether a child process also measures mAP50"),
    JSON,
    Flag("traceback", False, "show where an error arose"),
)
ONE_BY_ONE = "detect.py --batch-size 1"


def main(options: argparse.Namespace) -> None:
    """Time the ways in turns and print the table; a child process measures one of them."""
    if options.only:
        print(json.dumps(measured(options)))
        return
    weights = one_checkpoint(options.weights).resolve()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = find_file(options.data, "data", flag="--data") if options.data else phantom_yaml(folder, patients=75)
        config = load_dataset_config(data)
        prepare(config)
        frames = list_images(config, "val")
        write_text(folder / "frames.txt", "".join(f"{path}\n" for path in frames))
        ways = {"plain": weights, ONE_BY_ONE: weights, "detect.py": weights, **exported(options, weights, folder)}
        found: dict[str, Row] = {}

        def timed(way: str) -> float:
            given = ["--weights", str(ways[way]), "--data", str(data), "--imgsz", str(options.imgsz)]
            given += [] if way in found else ["--figures"]
            row = answer([str(Path(__file__)), "--only", way, "--source", str(folder / "frames.txt"), *given])
            found.setdefault(way, row)
            return len(frames) / float(row["seconds"])

        figures = in_turns({way: lambda way=way: timed(way) for way in ways}, options.rounds, "ways")  # type: ignore[misc]
    rows = [
        {
            "way": way,
            "frames/s": statistics.median(figures[way]),
            "ratio": ratio(figures[way], figures["plain"]),
            "mAP50": round(found[way]["map50"], 4),
            "deviation": abs(found[way]["map50"] - found["plain"]["map50"]),
        }
        for way in ways
    ]
    report("detect_speed", rows, options.json)


def exported(options: argparse.Namespace, weights: Path, folder: Path) -> dict[str, Path]:
    """The weights in the formats and precisions asked for, with open sizes."""
    made: dict[str, Path] = {}
    for kind in options.exports:
        for precision in progress(options.precisions, f"{kind} exports", unit="file"):
            place = folder / f"{kind}-{precision}" / "network.pt"
            place.parent.mkdir()
            place.write_bytes(weights.read_bytes())
            switches = dict.fromkeys(PRECISIONS[precision], True)
            with contextlib.redirect_stdout(io.StringIO()):
                (path,) = export.run(
                    weights=str(place), include=[kind], imgsz=[options.imgsz], dynamic=True, **switches
                )
            made[f"detect.py, {kind} {precision}"] = path
    return made


def measured(options: argparse.Namespace) -> Row:
    """One way, in this process: seconds of detect.py over the frames, and the mAP50 of val.py."""
    import detect
    import val
    from benchmarks import plain

    if options.only == "plain":
        plain.take_plain_path()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        given = {"weights": options.weights, "imgsz": options.imgsz, "project": folder}
        batch = {"batch_size": 1} if options.only in ("plain", ONE_BY_ONE) else {}
        start = time.perf_counter()
        run = detect.run(source=options.source, **given, **batch)
        taken = time.perf_counter() - start
        pictures = len([path for path in run.iterdir() if path.is_file()])
        if not pictures:
            raise InputError(f"{run}: expected pictures, got none")
        map50 = val.run(data=options.data, bootstrap=0, **given)["map50"] if options.figures else None
    return {"seconds": taken, "map50": map50}


if __name__ == "__main__":
    sys.exit(run_script(main, parse(FLAGS, __doc__ or "")))
