"""Exported networks in the runtime of their format, behind the interface of a network that can be called."""

from __future__ import annotations

import json
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.yolo import Output
from utils import extras
from utils.boxes import xyxy_to_xywh
from utils.card import CONFIG, METADATA, Export
from utils.card import read as read_card
from utils.devices import Compute
from utils.files import DAMAGED_ZIP
from utils.letterbox import PADDING
from utils.log import LOGGER, InputError, one_line, printable
from utils.yaml_file import parse_yaml

MAX_CARD_BYTES = 100_000_000  # 72 bytes a training frame


class Session(ABC):
    """An exported network, ready to be called as :class:`utils.runtimes.Runner`.

    Attributes:
        export: its card.
        max_stride: pixels of which image sides are multiples.
        compute: where the caller's tensors are.
    """

    runtime: str  # name and version

    def __init__(self, export: Export, compute: Compute) -> None:
        self.export, self.compute, self.max_stride = export, compute, export.form.stride
        self.place = "CPU"
        self._warned = False
        if export.form.nms is not None:
            settings = ", ".join(f"{key} {value}" for key, value in export.form.nms.items())
            LOGGER.info("%s: holds a suppression of its own, which comes first: %s", export.path, settings)

    def __str__(self) -> str:
        return f"{self.runtime}, {self.place}, {self.export.form.precision}"

    @abstractmethod
    def run(self, images: Tensor) -> list[Tensor]:
        """Images of a size and number that the file takes -> its outputs, on any device."""

    @torch.inference_mode()
    def __call__(self, images: Tensor, /) -> Output:
        """Images (B, 3, H, W) in [0, 1] -> decoded boxes, the logarithm of the views' probabilities, no raw maps."""
        with torch.autocast(images.device.type, enabled=False):
            fitted = self._fitted(images.float())
            size = self.export.form.batch or len(fitted)
            parts = [self._part(fitted[start : start + size], size) for start in range(0, len(fitted), size)]
            found = [torch.cat(outputs).to(images.device).float() for outputs in zip(*parts, strict=True)]
        self._check(found)
        boxes, view = found[0], found[1].clamp(min=1e-38).log() if self.export.view_names else None
        return Output(
            [], view, boxes if self.export.form.nms is None else as_predictions(boxes, len(self.export.names))
        )

    def _check(self, found: Sequence[Tensor]) -> None:
        """Raise an InputError where outputs are not those of the card's classes and views."""
        export = self.export
        values = 6 if export.form.nms is not None else 5 + len(export.names)
        shapes = [tuple(output.shape) for output in found]
        views = not export.view_names or (len(found) > 1 and found[1].shape[1:] == (len(export.view_names),))
        if not found or found[0].ndim != 3 or found[0].shape[2] != values or not views:
            raise InputError(
                f"{export.path}: expected outputs of {len(export.names)} classes and {len(export.view_names)} views, "
                f"as its card says, got shapes {shapes}"
            )

    def _part(self, images: Tensor, size: int) -> list[Tensor]:
        """The outputs of at most ``size`` images; fewer are filled up."""
        missing = size - len(images)
        filled = torch.cat((images, images[-1:].expand(missing, -1, -1, -1))) if missing else images
        return [output[: len(images)] for output in self.run(filled.contiguous())]

    def _fitted(self, images: Tensor) -> Tensor:
        """Images padded to a fixed size, with grey at right and bottom, where boxes stay as they are."""
        shape = self.export.form.shape
        if shape is None or tuple(images.shape[2:]) == shape[1:]:
            return images
        down, right = shape[1] - images.shape[2], shape[2] - images.shape[3]
        if down < 0 or right < 0:
            raise InputError(
                f"{self.export.path}: expected frames of at most {shape[1]} x {shape[2]} pixels, its fixed size, got "
                f"{images.shape[2]} x {images.shape[3]}; export with --dynamic, or with a larger --imgsz"
            )
        if not self._warned:
            LOGGER.warning(
                "%s: frames of %d x %d are padded to its fixed %d x %d, which the training did not: boxes "
                "and views may differ; export with --dynamic",
                self.export.path, *images.shape[2:], *shape[1:],
            )  # fmt: skip
            self._warned = True
        return F.pad(images, (0, right, 0, down), value=PADDING / 255)

    def _unreadable(self, error: Exception) -> InputError:
        return unreadable(self.export.path, error)


def as_predictions(rows: Tensor, nc: int) -> Tensor:
    """(B, max_det, 6) detections -> (B, max_det, 5 + nc) as before a suppression, which leaves them as they are."""
    classes = F.one_hot(rows[..., 5].long().clamp(0, nc - 1), nc).to(rows.dtype)
    return torch.cat((xyxy_to_xywh(rows[..., :4]), rows[..., 4:5], classes), -1)


def unreadable(path: Path, error: Exception) -> InputError:
    """The error of a damaged file."""
    return InputError(
        f"{path}: expected an exported network, got a file that cannot be read: {printable(one_line(error), 200)}"
    )


class TorchScriptSession(Session):
    """A TorchScript file, in torch itself, on the kind of device that it was traced on."""

    def __init__(self, export: Export, compute: Compute) -> None:
        super().__init__(export, compute)
        self.runtime = f"TorchScript, torch {extras.version(torch)}"
        traced = export.form.device
        if traced == "cuda" and compute.device.type != "cuda":
            raise InputError(f"{export.path}: was exported with --device 0 and needs a GPU; export with --device cpu")
        if traced == "cpu" and compute.device.type != "cpu":
            LOGGER.warning("%s: runs on the CPU; export with --device 0 for a GPU", export.path)
        self.device = compute.device if traced == "cuda" else torch.device("cpu")
        self.place = torch.cuda.get_device_name(self.device) if traced == "cuda" else "CPU"
        try:
            with extras.quiet():
                self.module = torch.jit.load(str(export.path), map_location=self.device).eval()
        except (RuntimeError, ValueError, OSError, EOFError) as error:
            raise self._unreadable(error) from None

    def run(self, images: Tensor) -> list[Tensor]:
        outputs = self.module(images.to(self.device))
        return list(outputs) if isinstance(outputs, tuple) else [outputs]


class OnnxSession(Session):
    """An ONNX file in ONNX Runtime."""

    def __init__(self, export: Export, compute: Compute) -> None:
        super().__init__(export, compute)
        onnxruntime = extras.load("onnxruntime", str(export.path))
        self.runtime = f"ONNX Runtime {extras.version(onnxruntime)}"
        providers: list[Any] = ["CPUExecutionProvider"]
        if compute.device.type == "cuda":
            if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
                providers.insert(0, ("CUDAExecutionProvider", {"device_id": compute.device.index or 0}))
            else:
                LOGGER.warning("%s: runs on the CPU; pip install onnxruntime-gpu for the GPU", export.path)
        self.session = open_onnx(export.path, providers, threads=torch.get_num_threads())
        self.place = "GPU" if self.session.get_providers()[0].startswith("CUDA") else "CPU"
        self.outputs = [output.name for output in self.session.get_outputs()]

    def run(self, images: Tensor) -> list[Tensor]:
        found = self.session.run(self.outputs, {self.session.get_inputs()[0].name: images.cpu().numpy()})
        return [torch.from_numpy(np.asarray(output)) for output in found]


def open_onnx(path: Path, providers: list[Any], threads: int = 1, optimised: bool = True) -> Any:
    """ONNX Runtime's session of a file."""
    onnxruntime = extras.load("onnxruntime", str(path))
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.inter_op_num_threads = threads, 1
    settings.log_severity_level = 4  # its warnings are of the graph's making, which no user can change
    if not optimised:
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(str(path), settings, providers=providers)
    except Exception as error:  # its exceptions derive from nothing narrower
        raise unreadable(path, error) from None


class OpenVinoSession(Session):
    """An OpenVINO folder, on the processor."""

    def __init__(self, export: Export, compute: Compute) -> None:
        super().__init__(export, compute)
        openvino = extras.load("openvino", str(export.path))
        self.runtime = f"OpenVINO {extras.version(openvino)}"
        if compute.device.type != "cpu":
            LOGGER.warning("%s: OpenVINO runs on the CPU", export.path)
        settings = {
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            # left to itself, the plugin computes in bf16 where the processor has it
            "INFERENCE_PRECISION_HINT": "bf16" if export.form.precision == "bf16" else "f32",
        }
        try:
            model = openvino.Core().read_model(str(xml_of(export.path)))
            self.model = openvino.Core().compile_model(model, "CPU", settings)
        except RuntimeError as error:
            raise self._unreadable(error) from None

    def run(self, images: Tensor) -> list[Tensor]:
        found = self.model(images.cpu().numpy())
        return [torch.from_numpy(np.array(output)) for output in found.values()]  # its buffers are used again


SESSIONS: dict[str, type[Session]] = {
    "torchscript": TorchScriptSession, "onnx": OnnxSession, "openvino": OpenVinoSession,
}  # fmt: skip


def kind_of(path: Path) -> str | None:
    """The format of an exported network by its name; None of any other."""
    if path.suffix == ".xml" or path.name.endswith("_openvino_model"):
        return "openvino"
    return {".torchscript": "torchscript", ".onnx": "onnx"}.get(path.suffix)


def xml_of(folder: Path) -> Path:
    """The graph in an OpenVINO folder."""
    files = sorted(folder.glob("*.xml"))
    if len(files) != 1:
        raise InputError(f"{folder}: expected a folder with one .xml, got {len(files)}")
    return files[0]


def read(path: Path, kind: str) -> Export:
    """The card of an exported network.

    Raises:
        InputError: absent, damaged, without our card, or its runtime is not installed.
    """
    if kind == "openvino" and path.suffix == ".xml":
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        path = path.parent
    if not (path.is_dir() if kind == "openvino" else path.is_file()):
        raise InputError(f"{path}: no such exported network")
    readers = {"torchscript": _torchscript_card, "onnx": _onnx_card, "openvino": _openvino_card}
    return read_card(readers[kind](path), path, kind)


def _torchscript_card(path: Path) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(f"/extra/{CONFIG}")]
            if not names or archive.getinfo(names[0]).file_size > MAX_CARD_BYTES:
                return {}
            return json.loads(archive.read(names[0]).decode("utf-8"))
    except DAMAGED_ZIP as error:
        raise unreadable(path, error) from None


def _onnx_card(path: Path) -> Any:
    session = open_onnx(path, ["CPUExecutionProvider"], optimised=False)
    return session.get_modelmeta().custom_metadata_map


def _openvino_card(folder: Path) -> Any:
    path = folder / METADATA
    if not path.is_file():
        raise InputError(f"{path}: no such file; an OpenVINO export of this program has it")
    try:
        if path.stat().st_size > MAX_CARD_BYTES:
            raise ValueError(f"{path.stat().st_size} bytes are too many")
        return parse_yaml(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise unreadable(path, error) from None
