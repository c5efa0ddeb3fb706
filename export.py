"""Export a checkpoint to TorchScript, ONNX or OpenVINO; val.py and detect.py run the result.

python export.py --weights runs/train/exp/weights/best.pt --include onnx openvino
python export.py --weights runs/train/exp/weights/best.pt --include openvino --int8 --data my_data.yaml
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from models.dual import Dual, WithBoxes
from models.ensemble import Ensemble
from models.yolo import Network, Output
from utils import card, extras
from utils.agreement import Deviation, deviation, sample
from utils.card import Form
from utils.checkpoint import Checkpoint, check_boxes, one_checkpoint
from utils.devices import Compute, select_compute
from utils.exports import (
    LOWEST_OPSET,
    Deployed,
    Plan,
    Suppression,
    is_openvino_file,
    write_onnx,
    write_openvino,
    write_torchscript,
)
from utils.flags import DOWNLOAD, IMGSZ, Flag, check_range, from_keywords, parse
from utils.letterbox import whole_strides
from utils.log import LOGGER, InputError, run_script
from utils.quantise import calibration_frames, fixed, onnx_quantiser, openvino_quantiser
from utils.runtimes import described, open_weights, start
from utils.sessions import as_predictions

NO_TENSORFLOW = "no TensorFlow format is written"
FLAGS = (
    Flag("weights", "", "checkpoint of a training, also YOLOv5's own", nargs="+"),
    DOWNLOAD,
    Flag("include", ("torchscript",), "formats: torchscript, onnx, openvino", nargs="+"),
    Flag(IMGSZ, None, "height and width in pixels, or one for both; the training's unless given", int, nargs="+"),
    # --b and --c below mean these in YOLOv5, and go on meaning them beside --bf16 and --calibration
    Flag("batch-size b", 1, "images at once", int),
    Flag("device", "cpu", "that TorchScript is made for: cpu, or a GPU's number"),
    Flag("half", False, "fp16 weights"),
    Flag("bf16", False, "bf16 layers (TorchScript, OpenVINO)"),
    Flag("int8", False, "8-bit convolutions, calibrated on --data or --calibration (ONNX, OpenVINO)"),
    Flag("dynamic", False, "leave batch, height and width open; with --nms height and width"),
    Flag("simplify", False, "run onnxslim over the ONNX graph"),
    Flag("opset", None, f"of ONNX, at least {LOWEST_OPSET}; the exporter's unless given", int),
    Flag("nms", False, "put the suppression into the graph"),
    Flag("agnostic-nms", False, "with --nms: boxes of different classes suppress each other, too"),
    Flag("conf-thres c", 0.25, "with --nms: boxes of less confidence are dropped", float),
    Flag("iou-thres", 0.45, "with --nms: of two boxes that overlap more, the less confident is dropped", float),
    Flag("max-det", 300, "with --nms: boxes kept a frame", int),
    Flag("data", "", "with --int8: dataset yaml whose train part calibrates"),
    Flag("calibration", "", "with --int8: folder, glob, .txt list, image or video that calibrates; beats --data"),
    Flag("exist-ok", False, "overwrite files of an earlier export"),
    Flag("verbose", False, "show the exporters' own reports"),
    Flag("traceback", False, "show where an error arose"),
    Flag("optimize", False, "", refused="torch's optimiser for phones is no longer developed"),
    Flag("keras", False, "", refused=NO_TENSORFLOW),
    Flag("inplace", False, "", refused="the networks have no such setting"),
    Flag("workspace", 4, "", int, refused="TensorRT engines are not written"),
    Flag("topk-per-class", 100, "", int, refused=NO_TENSORFLOW),
    Flag("topk-all", 100, "", int, refused=NO_TENSORFLOW),
)  # fmt: skip
WRITERS: dict[str, Callable[[Plan, Path], None]] = {
    "torchscript": write_torchscript, "onnx": write_onnx, "openvino": write_openvino,
}  # fmt: skip
PACKAGES = {"torchscript": (), "onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("openvino",)}
QUANTISERS = {"onnx": ("onnxruntime.quantization",), "openvino": ("nncf",)}
UNAVAILABLE = {
    ("torchscript", "int8"): "TorchScript has no int8 here; ONNX and OpenVINO have",
    ("torchscript", "fp16"): "torch's fp16 on a processor is many times slower than fp32; --bf16, or --device 0",
    ("onnx", "bf16"): "ONNX Runtime has no bf16 convolution; TorchScript and OpenVINO have",
}
OF_NMS = ("agnostic_nms", "conf_thres", "iou_thres", "max_det")
LIMITS = {"fp32": Deviation(0.01, 1e-4), "fp16": Deviation(4, 0.06), "bf16": Deviation(30, 0.1)}  # more is said


def main(options: argparse.Namespace) -> list[Path]:
    """Export as the options say; returns the files and folders that were written."""
    precision = check(options)
    weights = one_checkpoint(options.weights)
    found = open_weights(weights, options.download)
    if not isinstance(found, Checkpoint):
        raise InputError(f"{found.path}: expected a checkpoint to export, got an export")
    check_boxes(found)
    compute = select_compute(options.device, amp=False)
    if compute.device.type == "mps":
        raise InputError("--device mps: expected cpu or a GPU's number")
    targets = {kind: target(found.path, kind, precision) for kind in options.include}
    for kind, path in targets.items():
        check_target(path, kind, options.exist_ok)
    network = found.build().float()
    assert isinstance(network, (Network, Dual, Ensemble))  # what finds no boxes is refused above
    height, width = sides(options, found, network.max_stride)
    frames = []
    if precision == "int8":
        frames = calibration_frames(options, found, max(height, width), network.max_stride)
        frames = frames if options.dynamic else fixed(frames, height, width)
        if not frames:
            raise InputError(f"--int8: none of the frames fits into {height} x {width} pixels")
    if options.dynamic and options.nms:
        LOGGER.warning("--dynamic --nms: height and width stay open, the batch is fixed at %d", options.batch_size)
    paths = []
    for kind, path in targets.items():
        on = compute if kind == "torchscript" else Compute(torch.device("cpu"), None)
        plan = planned(options, found, network, (options.batch_size, height, width), precision, on)
        if precision == "int8":
            quantiser = onnx_quantiser if kind == "onnx" else openvino_quantiser
            plan = replace(plan, quantiser=quantiser(frames, options.batch_size))
        begin = time.perf_counter()
        WRITERS[kind](plan, path)
        report(plan, path, on, time.perf_counter() - begin)
        paths.append(path)
    quoted = shlex.quote(str(paths[0]))
    print(f"\nValidate:  python val.py --weights {quoted} --data DATA.yaml")
    print(f"Detect:    python detect.py --weights {quoted} --source FRAMES")
    return paths


def check(options: argparse.Namespace) -> str:
    """Find what cannot be done before any of it is begun; returns the precision that is asked for.

    Raises:
        InputError: unknown formats, flags that do not go together, packages that are not installed.
    """
    for kind in options.include:
        if kind not in WRITERS:
            raise InputError(f"--include {kind}: expected {', '.join(WRITERS)}; no other format is written")
    options.include = list(dict.fromkeys(options.include))
    check_range(options, "batch_size max_det", 1)
    check_range(options, "conf_thres iou_thres", 0, 1)
    asked = [name for name in ("half", "bf16", "int8") if getattr(options, name)]
    if len(asked) > 1:
        raise InputError(f"--{' --'.join(asked)}: expected one of them")
    precision = {"half": "fp16", "bf16": "bf16", "int8": "int8"}[asked[0]] if asked else "fp32"
    for kind in options.include:
        on_gpu = options.device not in ("", "cpu")
        if (kind, precision) in UNAVAILABLE and not (on_gpu and (kind, precision) == ("torchscript", "fp16")):
            raise InputError(f"--include {kind} --{asked[0]}: {UNAVAILABLE[kind, precision]}")
    _check_companions(options)
    if options.imgsz is not None and len(options.imgsz) > 2:
        raise InputError(f"--imgsz: expected height and width, or one number, got {len(options.imgsz)}")
    for kind in options.include:
        extras.require([*PACKAGES[kind], *(QUANTISERS[kind] if options.int8 else ())], f"--include {kind}")
    if options.simplify:
        extras.require(["onnxslim"], "--simplify")
    if options.opset is not None:
        highest = extras.load("onnx", "--opset").defs.onnx_opset_version()
        check_range(options, "opset", LOWEST_OPSET, highest)
    return precision


def _check_companions(options: argparse.Namespace) -> None:
    """Raise an InputError for a flag that does nothing without another one."""
    alone = {
        "--nms": [name for name in OF_NMS if not options.nms],
        "--int8": [name for name in ("data", "calibration") if not options.int8],
        "--include onnx": [name for name in ("simplify", "opset") if "onnx" not in options.include],
        "--include torchscript": [] if "torchscript" in options.include or options.device == "cpu" else ["device"],
    }
    for needed, names in alone.items():
        for name in names:
            if name in options.typed and getattr(options, name) not in (False, None, ""):
                raise InputError(f"--{name.replace('_', '-')}: does nothing without {needed}")
    if options.int8 and not options.data and not options.calibration:
        raise InputError(
            "--int8: expected --data or --calibration, frames like those the network will see; got neither"
        )


def sides(options: argparse.Namespace, found: Checkpoint, stride: int) -> tuple[int, int]:
    """Height and width in whole strides.

    Raises:
        InputError: fixed sides into which no frame fits that is padded as in training.
    """
    asked = options.imgsz or [found.image_size]
    height, width = (whole_strides(side, stride) for side in (asked[0], asked[-1]))
    if not options.dynamic and height != width and not found.rect:
        raise InputError(
            f"--imgsz {height} {width}: expected one number, since the training padded frames to squares, or --dynamic"
        )
    if not options.dynamic and height == width and found.rect:
        LOGGER.warning(
            "%s: its frames were padded to whole strides only; in a fixed square of %d they are padded further, and "
            "figures may differ; --dynamic, or --imgsz with the height and width of padded frames, keeps them",
            found.path, height,
        )  # fmt: skip
    return height, width


def check_target(path: Path, kind: str, exist_ok: bool) -> None:
    """Raise an InputError where nothing can be written, or something would be lost."""
    if not os.access(path.absolute().parent, os.W_OK):
        raise InputError(f"{path.parent}: expected a folder that can be written to")
    if not path.exists():
        return
    if not exist_ok:
        raise InputError(f"{path}: is there already; --exist-ok overwrites it")
    if path.is_dir() != (kind == "openvino"):
        raise InputError(f"{path}: expected an earlier export, got {'a folder' if path.is_dir() else 'a file'}")
    others = [file.name for file in path.iterdir() if not is_openvino_file(file)] if path.is_dir() else []
    if others:
        raise InputError(f"{path}: expected the files of an earlier export, got also {others[0]}, which would be lost")


def target(weights: Path, kind: str, precision: str) -> Path:
    """The file or folder beside the checkpoint, named as YOLOv5's."""
    stem = f"{weights.stem}_int8" if precision == "int8" else weights.stem
    return weights.with_name(stem + {"torchscript": ".torchscript", "onnx": ".onnx"}.get(kind, "_openvino_model"))


def planned(
    options: argparse.Namespace, found: Checkpoint, network: WithBoxes, shape: tuple[int, int, int], precision: str,
    compute: Compute,
) -> Plan:  # fmt: skip
    """What a file of these options is to be."""
    suppression = None
    if options.nms:
        suppression = Suppression(options.conf_thres, options.iou_thres, options.max_det, options.agnostic_nms)
    plan = Plan(
        network, {}, shape, network.max_stride, options.dynamic, precision, suppression, str(compute.device),
        opset=options.opset, simplify=options.simplify, verbose=options.verbose,
    )  # fmt: skip
    form = Form(
        stride=plan.stride,
        shape=None if plan.dynamic else shape,
        batch=None if plan.open_batch else shape[0],
        precision=precision,
        nms=None if suppression is None else vars(suppression),
        device=compute.device.type,
    )
    return replace(plan, card=card.written(found, form))


def report(plan: Plan, path: Path, compute: Compute, seconds: float) -> None:
    """Load what was written, compare it with the checkpoint and print a line."""
    written = open_weights(path)
    session = start(written, compute)
    shapes = [plan.shape]
    if plan.dynamic:
        shapes.append((plan.shape[0] + plan.open_batch, plan.shape[1] + plan.stride, plan.shape[2]))
    reference, largest = plan.deployed(), Deviation(0.0, 0.0)
    for shape in shapes:
        images = sample(shape)
        got = session(images.to(compute.device))
        largest = largest.joined(deviation(expected(reference, images), got, plan.suppression is not None))
    words = f"{size_of(path) / 1e6:.1f} MB, {seconds:.1f} s, {described(session, compute)}"
    print(f"{path}  {words}; from the checkpoint: {largest}")
    limit = LIMITS.get(plan.precision)
    if limit is None:
        LOGGER.info("%s: what int8 costs, benchmarks/formats.py says in figures of your data", path)
    elif largest.joined(limit) != limit:
        LOGGER.warning("%s: deviates from its checkpoint more than rounding explains: %s", path, largest)


def size_of(path: Path) -> int:
    """Bytes of an exported file or folder."""
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.iterdir()))


@torch.inference_mode()
def expected(reference: Deployed, images: torch.Tensor) -> Output:
    """The checkpoint's outputs in the form in which a session gives them."""
    boxes, *view = reference(images)
    if reference.suppression is not None:
        boxes = as_predictions(boxes, reference.network.nc)
    return Output([], view[0].log() if view else None, boxes)


def run(**keywords: Any) -> list[Path]:
    """Export from a notebook: ``run(weights="best.pt", include=["onnx"])``; returns the files that were written."""
    return main(from_keywords(FLAGS, keywords))


if __name__ == "__main__":
    sys.exit(run_script(main, parse(FLAGS, __doc__ or "")))
