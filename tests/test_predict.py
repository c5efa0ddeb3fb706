"""utils.predict: a frame gives the boxes and the view that an evaluation finds in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.test_checkpoint import content, network
from utils import checkpoint
from utils.letterbox import letterbox
from utils.predict import load


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A checkpoint of an untrained tiny network, its normalisations set by a random batch so that signals pass."""
    lively = network()
    for module in lively.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    lively(torch.rand(4, 3, 64, 64))
    checkpoint.save(tmp_path / "a.pt", content(lively))
    return tmp_path / "a.pt"


def frame(height: int = 48) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, 80, 3), np.uint8)


def test_a_prediction_is_the_plain_networks_output(weights: Path) -> None:
    predictor = load(weights, "cpu", amp=False, conf_thres=0.0, max_det=5)
    found = predictor(frame())
    padded, geometry = letterbox(frame(), 64, 32, square=True)
    plain = checkpoint.read(weights).build().eval()
    with torch.inference_mode():
        output = plain(torch.from_numpy(padded).permute(2, 0, 1)[None].float() / 255)
    assert output.view is not None and output.boxes is not None and found.view is not None
    np.testing.assert_allclose(found.view, output.view.softmax(1)[0].numpy(), atol=1e-5)
    scores = (output.boxes[0, :, 4:5] * output.boxes[0, :, 5:]).amax(1)
    best = output.boxes[0, scores.argmax()]
    centre = (found.boxes[0, :2] + found.boxes[0, 2:4]) / 2
    x = (float(best[0]) - geometry.left) / geometry.gain_x
    inside = found.boxes[0, 0] > 0 and found.boxes[0, 2] < 80
    assert found.boxes[0, 4] == pytest.approx(float(scores.max()), abs=1e-5)
    assert not inside or centre[0] == pytest.approx(x, abs=0.05)


def test_boxes_stay_within_the_frame_and_are_sorted(weights: Path) -> None:
    boxes = load(weights, "cpu", conf_thres=0.0)(frame()).boxes
    assert len(boxes) > 1
    assert (boxes[:, :4] >= 0).all() and (boxes[:, [0, 2]] <= 80).all() and (boxes[:, [1, 3]] <= 48).all()
    assert (np.diff(boxes[:, 4]) <= 0).all()


def test_classes_and_thresholds_are_heeded(weights: Path) -> None:
    assert set(load(weights, "cpu", conf_thres=0.0, classes=[2])(frame()).boxes[:, 5]) == {2.0}
    assert not len(load(weights, "cpu", conf_thres=0.99)(frame()).boxes)
    assert len(load(weights, "cpu", conf_thres=0.0, max_det=1)(frame()).boxes) == 1


def test_the_image_size_is_the_trainings_unless_given(weights: Path) -> None:
    assert load(weights, "cpu").image_size == 64
    assert load(weights, "cpu", imgsz=100).image_size == 128


def test_frames_are_padded_as_in_training(weights: Path, tmp_path: Path) -> None:
    square = load(weights, "cpu", amp=False)
    stored = dict(checkpoint.read(weights).content)
    checkpoint.save(tmp_path / "rect.pt", {**stored, "rect": True})
    rect = load(tmp_path / "rect.pt", "cpu", amp=False)
    assert (square.rect, rect.rect) == (False, True)
    first, second = square(frame(20)).view, rect(frame(20)).view
    assert first is not None and second is not None and not np.allclose(first, second)
