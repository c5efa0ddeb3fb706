"""int8: the frames that calibrate a network's ranges, and each runtime's own quantiser.

Only convolutions become int8, and of them not the last before a result: what follows those (decoding, softmax) spans
ranges that 256 steps cannot hold, pixels beside probabilities.
"""

from __future__ import annotations

import argparse
import itertools
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils import extras
from utils.checkpoint import Trained
from utils.config import find_file, load_dataset_config
from utils.dataset import prepare
from utils.exports import INPUT
from utils.images import read_image
from utils.letterbox import PADDING, Image, letterbox
from utils.log import LOGGER, progress
from utils.preprocess import Preprocessor
from utils.sources import open_source
from utils.split_files import list_images

MAX_FRAMES = 256  # of calibration; ranges are settled long before
FEW_FRAMES = 32
Images = NDArray[np.uint8]  # (1, 3, H, W), 0 to 255: a quarter of what goes in


def calibration_frames(options: argparse.Namespace, found: Trained, size: int, stride: int) -> list[Images]:
    """Frames that went the way of the training's: filtered, resized, padded; spread evenly, at most MAX_FRAMES.

    ``--calibration`` beats the train part of ``--data``.

    Args:
        size: pixels of the longer side.

    Raises:
        InputError: nothing to read there.
    """
    preprocessor = Preprocessor.of(found.hyp)
    images = _of_source(options.calibration) if options.calibration else _of_dataset(options.data)
    frames = []
    for image in progress(images, "calibration frames", total=None, unit="frame"):
        padded, _ = letterbox(preprocessor(image), size, stride, square=not found.rect)
        frames.append(np.ascontiguousarray(padded.transpose(2, 0, 1)[None]))
    if len(frames) < FEW_FRAMES:
        LOGGER.warning("--int8: %d frames calibrate the network; %d or more are better", len(frames), FEW_FRAMES)
    return frames


def _of_dataset(data: str) -> Iterator[Image]:
    config = load_dataset_config(find_file(data, "data", flag="--data"))
    prepare(config)
    files = list_images(config, "train")
    for number in np.unique(np.linspace(0, len(files) - 1, min(MAX_FRAMES, len(files))).round().astype(int)):
        yield read_image(files[number])


def _of_source(words: str) -> Iterator[Image]:
    source = open_source(words, flag="--calibration")
    step = math.ceil((source.total or 1) / MAX_FRAMES)
    for frame in itertools.islice(source, 0, MAX_FRAMES * step, step):
        yield frame.image


def fixed(frames: Iterable[Images], height: int, width: int) -> list[Images]:
    """Frames padded with grey at right and bottom to one size; larger ones are left out."""
    fitting = [frame for frame in frames if frame.shape[2] <= height and frame.shape[3] <= width]
    margins = [((0, 0), (0, 0), (0, height - frame.shape[2]), (0, width - frame.shape[3])) for frame in fitting]
    return [np.pad(frame, margin, constant_values=PADDING) for frame, margin in zip(fitting, margins, strict=True)]


def as_input(frame: Images, batch: int) -> NDArray[np.float32]:
    """A frame as the network takes it, so many times."""
    return np.repeat(frame.astype(np.float32) / 255, batch, axis=0)


def onnx_quantiser(frames: list[Images], batch: int) -> Callable[[Any], Any]:
    """ONNX Runtime's static quantiser: weights by channel, signed 8 bits, ranges by minimum and maximum."""

    def quantise(model: Any) -> Any:
        onnx = extras.load("onnx", "--int8")
        tools = extras.load("onnxruntime.quantization", "--int8")
        arriving = iter(progress(frames, "calibration of ONNX", unit="frame"))

        class Reader(tools.CalibrationDataReader):  # type: ignore[name-defined]
            def get_next(self) -> dict[str, NDArray[np.float32]] | None:
                frame = next(arriving, None)
                return None if frame is None else {INPUT: as_input(frame, batch)}

        with tempfile.TemporaryDirectory() as folder:
            plain, small = Path(folder) / "plain.onnx", Path(folder) / "int8.onnx"
            plain.write_bytes(model.SerializeToString())
            tools.quantize_static(
                plain, small, Reader(), quant_format=tools.QuantFormat.QDQ, per_channel=True,
                activation_type=tools.QuantType.QUInt8, weight_type=tools.QuantType.QInt8,
                op_types_to_quantize=["Conv"], nodes_to_exclude=_last_convolutions(model),
            )  # fmt: skip
            return onnx.load(str(small))

    return quantise


def _last_convolutions(model: Any) -> list[str]:
    """Names of an ONNX graph's convolutions from which no other one leads to ``output0``."""
    maker = {name: node for node in model.graph.node for name in node.output}
    waiting, seen, last = [model.graph.output[0].name], set(), []
    while waiting:
        node = maker.get(waiting.pop())
        if node is None or node.output[0] in seen:  # names of nodes may be empty
            continue
        seen.add(node.output[0])
        if node.op_type == "Conv":
            last.append(node.name)
        else:
            waiting += node.input
    return last


def openvino_quantiser(frames: list[Images], batch: int) -> Callable[[Any], Any]:
    """NNCF's post-training quantiser."""

    def quantise(model: Any) -> Any:
        nncf = extras.load("nncf", "--int8")
        bar = progress(frames, "calibration of OpenVINO", unit="frame")

        def fed(frame: Images) -> NDArray[np.float32]:
            if bar.n < len(frames):  # biases are corrected on some frames again
                bar.update()
            return as_input(frame, batch)

        data = nncf.Dataset(list(frames), fed)
        ignored = nncf.IgnoredScope(names=_tails(model), validate=False)
        with bar:
            return nncf.quantize(
                model, data, subset_size=len(frames), preset=nncf.QuantizationPreset.MIXED, ignored_scope=ignored
            )

    return quantise


def _tails(model: Any) -> list[str]:
    """Names of an OpenVINO graph's operations from the last convolutions or matrix products on to the results."""
    seen: set[str] = set()
    waiting = [result.input_value(0).get_node() for result in model.get_results()]
    while waiting:
        node = waiting.pop()
        name = node.get_friendly_name()
        if name in seen:
            continue
        seen.add(name)
        if node.get_type_name() not in ("Convolution", "MatMul"):
            waiting += [source.get_source_output().get_node() for source in node.inputs()]
    return sorted(seen)
