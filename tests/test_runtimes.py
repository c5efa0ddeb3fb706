"""Weights of any kind behind one face."""

from __future__ import annotations

from pathlib import Path

import torch

from models.dual import build_network
from models.yolo import fused
from tests.test_checkpoint import content, network
from utils import checkpoint
from utils.devices import select_compute
from utils.runtimes import image_size, open_weights, start


def test_a_checkpoint_runs_as_its_averaged_network_fused(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "a.pt", content(network()))
    found = open_weights(tmp_path / "a.pt")
    runner = start(found, select_compute("cpu", amp=False))
    plain = build_network(found.content["description"])
    plain.load_state_dict(found.content["ema"])
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(runner(images).boxes, fused(plain)(images).boxes)
    assert image_size(found, runner, None) == found.image_size and image_size(found, runner, 100) == 128
