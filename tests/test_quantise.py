"""int8: the frames that calibrate it, which layers stay as they are, and what it costs."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.exported import exported, plain, saved, size
from tests.scripts import phantom_yaml
from utils.agreement import sample
from utils.devices import Compute
from utils.images import read_image
from utils.letterbox import PADDING, letterbox
from utils.phantom import PhantomConfig, ensure
from utils.quantise import as_input, calibration_frames, fixed
from utils.runtimes import Runner, open_weights, start

CPU = Compute(torch.device("cpu"), None)


def session(path: Path) -> Runner:
    return start(open_weights(path), CPU)


def expected(images: Tensor) -> Any:
    with torch.no_grad():
        return plain("joint")(images)


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("frames")
    ensure(folder, PhantomConfig(patients=9, frames=2, height=96, width=128))
    return folder / "images" / "train"


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_int8_keeps_the_boxes_about_where_they_are(kind: str, frames: Path) -> None:
    path = exported(kind, imgsz=64, int8=True, calibration=str(frames))
    run, images = session(path), sample((1, 64, 64))
    right = expected(images)
    got = run(images)
    assert path.name in ("best_int8.onnx", "best_int8_openvino_model") and size(path) < 0.6 * size(
        exported(kind, imgsz=64, dynamic=True)
    )
    assert got.boxes is not None and not torch.equal(got.boxes, right.boxes)
    assert (got.boxes - right.boxes)[..., :2].abs().mean() < 2 and (got.boxes - right.boxes)[
        ..., 4:
    ].abs().mean() < 0.05


def options(**given: Any) -> argparse.Namespace:
    return argparse.Namespace(**{"calibration": "", "data": "", **given})


def test_frames_go_the_way_of_the_trainings(frames: Path) -> None:
    found = open_weights(saved("joint"))
    calibrating = calibration_frames(options(calibration=str(frames)), found, 64, 32)
    files = sorted(frames.iterdir())
    assert len(calibrating) == len(files)
    padded, _ = letterbox(read_image(files[0]), 64, 32, square=True)
    np.testing.assert_allclose(calibrating[0], padded.transpose(2, 0, 1)[None])
    assert calibrating[0].dtype == np.uint8
    rectangles = calibration_frames(options(calibration=str(frames)), replace(found, rect=True), 64, 32)
    assert calibrating[0].shape == (1, 3, 64, 64) and rectangles[0].shape == (1, 3, 64, 64)  # 96 x 128: 48 rows, padded


def test_the_train_part_calibrates_unless_frames_are_named(frames: Path, tmp_path: Path) -> None:
    found = open_weights(saved("joint"))
    yaml = phantom_yaml(tmp_path, frames=1)
    by_data = calibration_frames(options(data=str(yaml)), found, 64, 32)
    assert len(by_data) == len(list((tmp_path / "phantom" / "images" / "train").iterdir()))
    one = calibration_frames(options(data=str(yaml), calibration=str(next(frames.iterdir()))), found, 64, 32)
    assert len(one) == 1


def test_frames_are_padded_to_a_fixed_size_and_larger_ones_left_out() -> None:
    small, large = np.zeros((1, 3, 32, 64), np.uint8), np.zeros((1, 3, 96, 64), np.uint8)
    (padded,) = fixed([small, large], 64, 64)
    assert padded.shape == (1, 3, 64, 64) and (padded[:, :, :32] == 0).all()
    assert (padded[:, :, 32:] == PADDING).all()
    given = as_input(padded, 2)
    assert given.shape == (2, 3, 64, 64) and given.dtype == np.float32 and given.max() == np.float32(PADDING) / 255
