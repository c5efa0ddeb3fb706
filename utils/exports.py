"""A network -> files that run without this program: TorchScript, ONNX, OpenVINO.

All hold the same graph, :class:`Deployed`. Sides and batch are fixed or open, convolutions compute in fp32, fp16 or
bf16; inputs, outputs and the decoding of boxes are fp32 in all.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
import yaml
from torch import Tensor, nn

from models.dual import WithBoxes
from models.heads import Detect
from models.yolo import fused
from utils import extras
from utils.boxes import CLASS_OFFSET, xywh_to_xyxy
from utils.card import CONFIG, KEY, METADATA
from utils.files import write_whole

INPUT = "images"
OUTPUTS = ("output0", "view")
TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
MAX_BATCH, MAX_STRIDES = 4096, 256  # upper ends of what an exporter is told of open sizes
LOWEST_OPSET = 18  # of the exporter that reads torch.export's graphs


@dataclass(frozen=True)
class Suppression:
    """Thresholds of a non-maximum suppression inside the graph; see :func:`utils.boxes.non_max_suppression`."""

    conf_thres: float = 0.25
    iou_thres: float = 0.45
    max_det: int = 300
    agnostic: bool = False

    def __call__(self, predictions: Tensor) -> Tensor:
        """(B, N, 5 + nc) decoded boxes -> (B, max_det, 6): x1, y1, x2, y2, confidence, class; zeros after the last."""
        return torch.stack([self._of_image(predictions[place]) for place in range(predictions.shape[0])])

    def _of_image(self, rows: Tensor) -> Tensor:
        confidence, label = (rows[:, 5:] * rows[:, 4:5]).max(1)
        good = (rows[:, 4] > self.conf_thres) & (confidence > self.conf_thres) & rows.isfinite().all(1)
        index = good.nonzero().squeeze(1)
        boxes, confidence, label = xywh_to_xyxy(rows[:, :4])[index], confidence[index], label[index].to(rows.dtype)
        shifted = boxes if self.agnostic else boxes + label[:, None] * CLASS_OFFSET
        kept = torchvision.ops.nms(shifted, confidence, self.iou_thres)
        found = torch.cat((boxes, confidence[:, None], label[:, None]), 1)[kept]
        return torch.cat((found, found.new_zeros(self.max_det, 6)), 0)[: self.max_det]


class Deployed(nn.Module):
    """The graph of every export.

    Args:
        network: in any mode; copied and fused.
        dtype: in which its layers compute.
        suppression: inside the graph, or None.
    """

    def __init__(
        self, network: WithBoxes, dtype: torch.dtype = torch.float32, suppression: Suppression | None = None
    ) -> None:
        super().__init__()
        self.network = fused(network).float()
        heads = [module for module in self.network.modules() if isinstance(module, Detect)]
        anchors = [head.anchors.clone() for head in heads]
        # trained weights are channels-last, and with these the exporter fixes a batch that is to stay open
        self.network.to(memory_format=torch.contiguous_format)
        self.network.to(dtype)
        for head, own in zip(heads, anchors, strict=True):
            head.anchors = own  # decoding is fp32; anchors in bf16 would be off by up to 0.4%
        self.dtype, self.suppression = dtype, suppression
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images (B, 3, H, W), fp32 in [0, 1] -> what files call ``output0`` and, of a network with views, ``view``.

        ``output0`` is (B, N, 5 + nc) as YOLOv5's: centre x, y, width, height in pixels, objectness, class
        probabilities; with suppression (B, max_det, 6), see :class:`Suppression`. ``view`` is (B, nv) probabilities,
        no temperature applied.
        """
        output = self.network(images.to(self.dtype))
        boxes = output.boxes if self.suppression is None else self.suppression(output.boxes)
        return (boxes,) if output.view is None else (boxes, output.view.float().softmax(1))


@dataclass(frozen=True)
class Plan:
    """What one file is to be.

    Attributes:
        network: the checkpoint's, in any mode.
        card: metadata; see :func:`utils.card.written`.
        shape: (batch, height, width) of the example, and of the file unless open.
        stride: of the network.
        dynamic: whether height and width, and without suppression the batch, stay open.
        precision: of :data:`utils.card.PRECISIONS`.
        suppression: inside the graph, or None.
        device: that TorchScript is traced on.
        quantiser: for int8: calibrates a model.
        opset: of ONNX; None takes the exporter's.
        simplify: run onnxslim over an ONNX graph.
        verbose: show the exporters' own reports.
    """

    network: WithBoxes
    card: Mapping[str, str]
    shape: tuple[int, int, int]
    stride: int
    dynamic: bool = False
    precision: str = "fp32"
    suppression: Suppression | None = None
    device: str = "cpu"
    quantiser: Callable[[Any], Any] | None = None
    opset: int | None = None
    simplify: bool = False
    verbose: bool = False

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the graph's outputs."""
        return OUTPUTS if self.network.nv else OUTPUTS[:1]

    @property
    def open_batch(self) -> bool:
        """Whether the file takes any number of images; a suppression is unrolled over a fixed one."""
        return self.dynamic and self.suppression is None

    def deployed(self, dtype: torch.dtype = torch.float32) -> Deployed:
        """The graph with layers of a type."""
        return Deployed(self.network, dtype, self.suppression)

    def example(self) -> Tensor:
        """Images to trace with."""
        batch, height, width = self.shape
        return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def write_torchscript(plan: Plan, path: Path) -> None:
    """Write a traced graph; its file ``config.txt`` holds the card."""
    batch, height, width = plan.shape
    card: dict[str, Any] = {**plan.card, "shape": [batch, 3, height, width], "stride": plan.stride}
    card["names"] = dict(enumerate(plan_names(plan.card)))
    with extras.quiet(plan.verbose), torch.no_grad():
        example = plan.example().to(plan.device)
        traced = torch.jit.trace(plan.deployed(TYPES[plan.precision]).to(plan.device), example, check_trace=False)
        files = {CONFIG: json.dumps(card, ensure_ascii=False)}
        write_whole(path, lambda file: torch.jit.save(traced, file, _extra_files=files))


def plan_names(card: Mapping[str, str]) -> list[str]:
    """The class names of a card."""
    return list(json.loads(card[KEY])["names"])


def write_onnx(plan: Plan, path: Path) -> None:
    """Write an ONNX file, its weights within; the card is in its ``metadata_props``."""
    onnx = extras.load("onnx", "--include onnx")
    with extras.quiet(plan.verbose), torch.no_grad():
        model = _onnx_model(plan)
        if plan.simplify:
            model = extras.load("onnxslim", "--simplify").slim(model)
        if plan.quantiser is not None:
            model = plan.quantiser(model)
    for node in model.graph.node:
        del node.metadata_props[:]  # lines of source, with paths of this machine
        node.doc_string = ""
    del model.graph.metadata_props[:]
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, dict(plan.card))
    write_whole(path, lambda file: file.write(model.SerializeToString()))


def _onnx_model(plan: Plan) -> Any:
    """The graph as an ONNX ModelProto in fp32 or fp16."""
    sizes: dict[int, Any] = {}
    if plan.dynamic:
        sides = {name: torch.export.Dim(name, min=1, max=MAX_STRIDES) for name in ("rows", "columns")}
        sizes = {2: plan.stride * sides["rows"], 3: plan.stride * sides["columns"]}
    if plan.open_batch:
        sizes[0] = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    dtype = TYPES.get(plan.precision, torch.float32)
    program = torch.onnx.export(
        plan.deployed(dtype), (plan.example(),), dynamo=True, input_names=[INPUT], output_names=list(plan.outputs),
        dynamic_shapes={INPUT: sizes} if sizes else None, opset_version=plan.opset, verbose=plan.verbose,
    )  # fmt: skip
    assert program is not None
    return program.model_proto


def write_openvino(plan: Plan, folder: Path) -> None:
    """Write a folder of an .xml, a .bin and metadata.yaml, which holds the card.

    fp16 halves the .bin, and the CPU computes in fp32 from it. bf16 is the same file: its card asks the runtime to
    compute in bf16 where the processor has it.
    """
    openvino = extras.load("openvino", "--include openvino")
    batch, height, width = plan.shape
    sides = (-1, -1) if plan.dynamic else (height, width)
    shape = [-1 if plan.open_batch else batch, 3, *sides]
    with extras.quiet(plan.verbose), torch.no_grad():
        model = openvino.convert_model(plan.deployed(), example_input=plan.example(), input=[shape])
        model.inputs[0].set_names({INPUT})
        for output, name in zip(model.outputs, plan.outputs, strict=True):
            output.set_names({name})
        if plan.quantiser is not None:
            model = plan.quantiser(model)
        with new_folder(folder) as draft:
            compressed = plan.precision in ("fp16", "bf16")
            openvino.save_model(model, str(draft / f"{stem_of(folder)}.xml"), compress_to_fp16=compressed)
            del model
            text = yaml.safe_dump(
                {"stride": plan.stride, "names": dict(enumerate(plan_names(plan.card))), KEY: plan.card[KEY]},
                allow_unicode=True, sort_keys=False, width=2**20,
            )  # fmt: skip
            (draft / METADATA).write_text(text, encoding="utf-8")


def is_openvino_file(path: Path) -> bool:
    """Whether a file is of the kinds that an export leaves in its folder."""
    return path.is_file() and (path.suffix in (".xml", ".bin") or path.name == METADATA)


def stem_of(folder: Path) -> str:
    """best_openvino_model -> best; best_int8_openvino_model -> best_int8."""
    return folder.name.removesuffix("_openvino_model")


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder that is filled beside its place and then renamed, so that it is there whole or not at all."""
    draft = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        yield draft
        draft.chmod(0o755)  # mkdtemp's are for the owner alone
        if folder.exists():
            old = draft.with_name(f"{draft.name}-old")
            try:
                folder.replace(old)
                draft.replace(folder)
            except BaseException:  # Ctrl-C included: the earlier one is not left under a hidden name
                if not folder.exists():
                    old.replace(folder)
                raise
            shutil.rmtree(old)
        else:
            draft.replace(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
