"""Checkpoints as YOLOv5 pickles them, from a network of ours whose classes stand for YOLOv5's of the same names."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.yolo import Network

NAMES = ("AR", "MR", "PR", "TR")


def pickled(
    path: Path,
    network: nn.Module,
    description: dict[str, Any] | None,
    names: Sequence[str] | dict[int, str] | None = NAMES,
    half: bool = True,
    **content: Any,
) -> Path:
    """Write ``network`` with the attributes that YOLOv5 hangs on its own."""
    network = copy.deepcopy(network)
    network = network.half() if half else network
    attributes = {"yaml": description, "names": names}
    for name, value in attributes.items():
        if value is not None:
            setattr(network, name, value)
    made = {
        "epoch": 7, "best_fitness": 0.5, "model": network, "ema": None, "updates": None, "optimizer": None,
        "opt": {"imgsz": 64, "batch_size": 2}, "git": None, "date": "2026-01-02T03:04:05", **content,
    }  # fmt: skip
    torch.save(made, path)
    return path


def stock(description: dict[str, Any], seed: int = 0) -> Network:
    """A seeded network whose batch normalisations are not those of a fresh one."""
    torch.manual_seed(seed)
    network = Network(description)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network
