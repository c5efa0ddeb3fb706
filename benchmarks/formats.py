"""What does each exported format cost and keep? Size, speed, accuracy and deviation, on the same frames in one run.

    python benchmarks/formats.py --weights runs/train/exp/weights/best.pt --data my_data.yaml
    python benchmarks/formats.py --weights best.pt --data my_data.yaml --formats onnx openvino --threads 1

Every file is exported for one frame at a time at a fixed size, int8 calibrated on the train part. Milliseconds are the
median over the part's frames, one by one, filters and suppression not counted; mAP50 and view accuracy are val.py's.
Deviations are the largest from the checkpoint in fp32, of views and of the boxes that detect.py would show before its
suppression (confidence 0.25).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import export
import val
from models.yolo import Output
from utils.agreement import Deviation, deviation
from utils.checkpoint import one_checkpoint
from utils.config import DatasetConfig, from_here, from_root
from utils.devices import Compute, cpu_has_bf16, select_compute
from utils.files import new_run_folder
from utils.flags import IMGSZ, THREADS, Flag, from_keywords, parse
from utils.log import InputError, progress, run_script
from utils.runtimes import Runner, described, image_size, open_weights, start
from utils.validation import checked_dataset, open_split, validate

FORMATS = ("checkpoint", "torchscript", "onnx", "openvino")
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
SHOWN = 0.25  # confidence from which on detect.py shows a box
SWITCHES = {"fp16": "half", "bf16": "bf16", "int8": "int8"}
FLAGS = (
    Flag("weights", "", "checkpoint of a training", nargs="+"),
    Flag("data", "", "dataset yaml"),
    Flag(IMGSZ, None, "pixels of the frames' longer side; the training's unless given", int),
    Flag("task", "val", "split", choices=("train", "val", "test")),
    Flag("formats", FORMATS, "to compare", nargs="+", choices=FORMATS),
    Flag("precisions", PRECISIONS, "to compare", nargs="+", choices=PRECISIONS),
    Flag("frames", 100, "that are timed and compared, at most", int),
    Flag("project", "runs/formats", "folder of the exports", from_here),
    Flag("name", "exp", "folder of this run's exports"),
    THREADS,
    Flag("traceback", False, "show where an error arose"),
)


@dataclass(frozen=True)
class Row:
    """A format in a precision: megabytes, milliseconds a frame, figures, deviation, and what computed."""

    kind: str
    precision: str
    size: float
    milliseconds: float
    map50: float
    view: float | None
    deviation: Deviation
    computed: str


def main(options: argparse.Namespace) -> list[Row]:
    """Export and measure each combination that there is, then print the table."""
    source = one_checkpoint(options.weights)
    if not options.data:
        raise InputError("--data: expected a dataset yaml, got none")
    exact = select_compute("cpu", False, options.threads)
    pairs = [
        (kind, precision) for kind in options.formats for precision in options.precisions if available(kind, precision)
    ]
    found = open_weights(source)
    config = checked_dataset(_settings(options), found)
    reference = start(found, exact)
    frames = _frames(options, found, config, reference)
    expected = [_called(reference, exact, frame) for frame in frames]
    folder = new_run_folder(from_root(options.project), options.name)
    weights = folder / source.name
    shutil.copy(source, weights)
    rows = []
    for kind, precision in progress(pairs, "formats", unit="format"):
        path, compute = weights, exact
        if kind == "checkpoint":
            compute = Compute(exact.device, torch.bfloat16 if precision == "bf16" else None)
        else:
            asked = {SWITCHES[precision]: True} if precision in SWITCHES else {}
            data = {"data": options.data} if precision == "int8" else {}
            size = image_size(found, reference, options.imgsz)
            with contextlib.redirect_stdout(io.StringIO()):  # what it wrote is in the table
                (path,) = export.run(weights=str(weights), include=[kind], imgsz=[size], exist_ok=True, **asked, **data)
        rows.append(_measured(options, path, kind, precision, compute, config, frames, expected))
    print_table(rows)
    return rows


def available(kind: str, precision: str) -> bool:
    """Whether there is such a combination on this machine."""
    if kind == "checkpoint":
        return precision == "fp32" or (precision == "bf16" and cpu_has_bf16())
    return (kind, precision) not in export.UNAVAILABLE


def _settings(options: argparse.Namespace) -> argparse.Namespace:
    settings = {"weights": options.weights, "data": options.data, "batch_size": 8, "workers": 0, "bootstrap": 0}
    return from_keywords(val.FLAGS, settings)


def _frames(options: argparse.Namespace, found: Any, config: DatasetConfig, network: Runner) -> list[Tensor]:
    """Frames (1, 3, H, W) in [0, 1] of the split, spread evenly."""
    size = image_size(found, network, options.imgsz)
    dataset = open_split(found, config, options.task, size, network.max_stride, _settings(options))
    chosen = np.unique(np.linspace(0, len(dataset) - 1, min(options.frames, len(dataset))).round().astype(int))
    return [dataset[int(index)][0][None].float() / 255 for index in chosen]


@torch.inference_mode()
def _called(network: Runner, compute: Compute, images: Tensor) -> Output:
    with compute.autocast():
        return network(images)


def _measured(
    options: argparse.Namespace, path: Path, kind: str, precision: str, compute: Compute, config: DatasetConfig,
    frames: list[Tensor], expected: list[Output],
) -> Row:  # fmt: skip
    found = open_weights(path)
    network = start(found, compute)
    for frame in frames[:3]:
        _called(network, compute, frame)  # warmed up
    seconds, largest = [], Deviation(0.0, 0.0)
    for frame, output in zip(frames, expected, strict=True):
        begin = time.perf_counter()
        got = _called(network, compute, frame)
        seconds.append(time.perf_counter() - begin)
        largest = largest.joined(deviation(output, got, confidence=SHOWN))
    content = validate(found, config, options.task, options.imgsz, compute, _settings(options), draws=0).content
    return Row(
        kind=kind,
        precision=precision,
        size=export.size_of(path) / 1e6,
        milliseconds=1000 * float(np.median(seconds)),
        map50=content["map50"],
        view=content["view"]["accuracy"] if "view" in content else None,
        deviation=largest,
        computed=described(network, compute),
    )


def print_table(rows: list[Row]) -> None:
    """One line a format and precision."""
    print(
        f"\n{'format':<13}{'type':<6}{'MB':>7}{'ms':>8}{'mAP50':>8}{'view':>7}{'box px':>10}{'prob.':>10}  computed by"
    )
    for row in rows:
        view = "-" if row.view is None else f"{row.view:.3f}"
        print(
            f"{row.kind:<13}{row.precision:<6}{row.size:>7.1f}{row.milliseconds:>8.1f}{row.map50:>8.3f}{view:>7}"
            f"{row.deviation.pixels:>10.2g}{row.deviation.probability:>10.2g}  {row.computed}"
        )


if __name__ == "__main__":
    sys.exit(run_script(main, parse(FLAGS, __doc__ or "")))
