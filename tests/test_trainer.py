"""utils.trainer: what a run begins with, and a loss that is no number; test_train.py runs the whole loop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models.balancer import Balancer
from models.yolo import fused
from tests.test_engine import learning
from tests.tiny import CPU, hyperparameters, tiny_network
from utils.dataset import EchoDataset, build_loader
from utils.epoch import BAD_STEPS, EpochProgress
from utils.evaluation import inference_copy
from utils.learner import Learner
from utils.log import InputError
from utils.plan import Plan, Standing
from utils.trainer import Training, fit


def learner() -> Learner:
    return learning(tiny_network(), Balancer((1.0, 0.1)))


def plan(folder: Path) -> Plan:
    names, views = ("AR", "MR", "PR", "TR"), ("PLAX", "PSAX", "A4C")
    return Plan(folder, names, views, 64, False, hyperparameters())


def test_losses_that_stay_not_finite_stop_with_one_line_and_keep_the_checkpoint(
    dataset: EchoDataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good, loader = learner(), build_loader(dataset, 4, 0)
    good.schedule = replace(good.schedule, epochs=1)
    fit(Training(good, loader, loader, plan(tmp_path), CPU))
    before = (tmp_path / "weights" / "last.pt").read_bytes()
    bad = learner()
    with torch.no_grad():
        next(bad.network.parameters()).fill_(torch.nan)
    assert len(loader) > BAD_STEPS
    with pytest.raises(
        InputError, match=r"epoch 1: 5 steps in a row with a loss .*: begin anew .*, with --weights .*last\.pt"
    ):
        fit(Training(bad, loader, loader, plan(tmp_path), CPU))
    assert (tmp_path / "weights" / "last.pt").read_bytes() == before
    named = [line for line in caplog.messages if line.startswith("in a step that was not finite: ")]
    assert named == [f"in a step that was not finite: {file}" for file in dataset.files[: 4 * BAD_STEPS]]


def test_the_inference_copy_gives_the_networks_own_answers() -> None:
    network = tiny_network().eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        plain, copy = network(images), inference_copy(network, CPU)(images)
    torch.testing.assert_close(copy.boxes, plain.boxes, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(copy.view, plain.view, rtol=1e-4, atol=1e-5)
    assert fused(network) is not network


def test_weights_of_other_frames_are_one_line(dataset: EchoDataset, tmp_path: Path) -> None:
    loader, asked = build_loader(dataset, 4, 0), plan(tmp_path)
    asked = replace(asked, standing=Standing(1, frame_weights=np.ones(len(dataset) + 1)))
    with pytest.raises(
        InputError, match=rf"last\.pt: frame_weights: expected {len(dataset)}, .* got {len(dataset) + 1}"
    ):
        Training(learner(), loader, loader, asked, CPU)


def test_a_run_that_goes_on_without_its_last_checkpoint_writes_none_before_it_has_trained(
    dataset: EchoDataset, tmp_path: Path
) -> None:
    """What it goes on from, last_previous.pt or an epoch's, stays as it is; an epoch's file is not written again."""
    loader = build_loader(dataset, 4, 0)
    asked = replace(plan(tmp_path), save_period=1)
    for standing in (Standing(1), Standing(1, EpochProgress(batches=1)), Standing(0, EpochProgress(batches=1))):
        Training(learner(), loader, loader, replace(asked, standing=standing), CPU).begin()
        assert not list((tmp_path / "weights").iterdir())
    Training(learner(), loader, loader, asked, CPU).begin()
    assert [path.name for path in (tmp_path / "weights").iterdir()] == ["last.pt"]
