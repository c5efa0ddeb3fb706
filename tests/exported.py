"""Tiny networks with lively outputs, their checkpoints, and exports of them that several test files share."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import torch

import export
from models.classifier import Classifier
from models.dual import Dual
from models.yolo import Network, fused
from tests.test_checkpoint import content, network
from utils import checkpoint
from utils.agreement import sample
from utils.config import ROOT, load_yaml

_FOLDER = tempfile.TemporaryDirectory(prefix="echo-exports-")  # removed when the process ends
WithDetect = Network | Dual
KINDS = ("torchscript", "onnx", "openvino")


def lively(trained: WithDetect) -> WithDetect:
    """A fresh network whose outputs depend on the image: statistics of real batches, and a bold box head."""
    torch.manual_seed(1)
    with torch.no_grad():
        for module in trained.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 0.5
        for convolution in trained.detect.m:
            assert isinstance(convolution, torch.nn.Conv2d) and convolution.bias is not None
            convolution.weight.mul_(0.3)
            convolution.bias.view(trained.detect.na, -1)[:, 4:] += 4
        trained.detect.anchors.div_(8)  # for small images
        trained.train()
        for step in range(6):
            trained(sample((4, 64, 64), seed=step))
    return trained


@functools.cache
def saved(name: str) -> Path:
    """A checkpoint of a "joint" network, of the same on rectangles ("rect"), a "detector" alone or a "dual" pair."""
    torch.manual_seed(0)
    if name in ("joint", "rect"):
        made: WithDetect = network()
    else:
        detector = Network({**load_yaml(ROOT / "models" / "yolov5n.yaml"), "width_multiple": 0.125}, with_view=False)
        made = detector if name == "detector" else Dual(detector, Classifier("resnet18"))
    remembered: dict[str, Any] = {
        "trained_on": {"hash": "dhash_vertical 24", "patients": ["ab", "cd"],
                       "hashes": torch.arange(144, dtype=torch.uint8).view(2, 72)},
        "operating": {"confidence": 0.25, "temperature": 1.5}, "figures": {"map50": 0.5}, "date": "today",
    }  # fmt: skip
    views = [] if name == "detector" else ["PLAX", "PSAX", "A4C"]
    path = Path(_FOLDER.name) / name / "best.pt"
    path.parent.mkdir()
    remembered["rect"] = name == "rect"
    trained = lively(made).to(memory_format=torch.channels_last)  # as devices.Compute.place leaves what is trained
    checkpoint.save(path, {**content(trained), **remembered, "view_names": views})  # type: ignore[arg-type]
    checkpoint.strip(path)
    return path


@functools.cache
def plain(name: str) -> WithDetect:
    """The checkpoint's network as scripts run it, in fp32."""
    built = checkpoint.read(saved(name)).build()
    assert isinstance(built, (Network, Dual))
    return fused(built)


@functools.cache
def exported(kind: str, name: str = "joint", **options: Any) -> Path:
    """A file of a format; the same one for the same options."""
    folder = Path(tempfile.mkdtemp(dir=_FOLDER.name))
    weights = folder / "best.pt"
    weights.write_bytes(saved(name).read_bytes())
    (path,) = export.run(weights=str(weights), include=[kind], **options)
    return path


def size(path: Path) -> int:
    """Bytes of an exported file, or of the weights in an exported folder."""
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.iterdir()) if file.suffix != ".xml")
