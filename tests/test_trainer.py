"""utils.trainer: sampling weights, rows of the log, and a loss that is no number; test_train.py runs the whole loop."""

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
from utils.epoch import BAD_STEPS
from utils.evaluation import Evaluation, Speed, inference_copy
from utils.learner import Learner
from utils.log import InputError
from utils.metrics import detection_figures
from utils.plan import Plan
from utils.trainer import Training, fit, frame_weights


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


def test_frames_of_a_rare_class_that_is_found_badly_are_drawn_more(dataset: EchoDataset) -> None:
    found = np.ones((1, 10), bool)
    figures = detection_figures(found, np.array([0.9]), np.array([0.0]), np.array([0.0, 1.0]))  # AP of 0: 1, of 1: 0
    result = Evaluation(figures, None, None, np.zeros((5, 5), np.int64), [], Speed(0, 0, 0))
    weights = frame_weights(dataset, result, 4)
    assert weights.shape == (len(dataset),) and (weights > 0).all()
    only = [{int(c) for c in label.boxes[:, 0]} for label in dataset.labels]
    first = [weight for weight, classes in zip(weights, only, strict=True) if classes == {0}]
    second = [weight for weight, classes in zip(weights, only, strict=True) if classes == {1}]
    assert first and second and max(first) < min(second)
