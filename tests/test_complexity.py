"""Arithmetic of a network against YOLOv5's documented figure, counted without leaving traces in it."""

from __future__ import annotations

import copy
import logging

import pytest
import torch

from models.yolo import Network
from utils.complexity import gflops, log_summary
from utils.config import ROOT, load_yaml
from utils.log import LOGGER


def test_yolov5s_needs_the_documented_arithmetic() -> None:
    network = Network(load_yaml(ROOT / "models/hub/yolov5s.yaml"))
    assert gflops(network, 640) == pytest.approx(16.5, rel=0.02)


def test_arithmetic_grows_with_the_area(tiny: Network) -> None:
    assert gflops(tiny, 128) == pytest.approx(4 * gflops(tiny, 64), rel=0.01)


def test_counting_leaves_the_network_as_it_was(joint: Network, capfd: pytest.CaptureFixture[str]) -> None:
    before = {name: tensor.clone() for name, tensor in joint.state_dict().items()}
    attributes = {name: set(vars(part)) for name, part in joint.named_modules()}
    hooks = copy.copy(joint.model[0]._forward_hooks)
    gflops(joint, 64)
    after = joint.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)  # running statistics, too
    assert {name: set(vars(part)) for name, part in joint.named_modules()} == attributes
    assert {name for name, _ in joint.named_buffers()} <= set(before)
    assert joint.model[0]._forward_hooks == hooks and joint.training
    assert all(part.training for part in joint.modules())
    assert capfd.readouterr().out == ""


def test_the_summary_is_one_line_with_parameters_and_arithmetic(
    tiny: Network, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.model[0].requires_grad_(False)
    frozen = sum(weight.numel() for weight in tiny.model[0].parameters())
    total = sum(weight.numel() for weight in tiny.parameters())
    monkeypatch.setattr(LOGGER, "propagate", True)
    with caplog.at_level(logging.INFO, logger=LOGGER.name):
        log_summary(tiny, 64)
    (line,) = caplog.messages
    assert line.startswith(f"Network: 25 layers, {total:,} parameters ({total - frozen:,} trained), ")
    assert line.endswith(" GFLOPs at 64 pixels")
