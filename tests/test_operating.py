"""The operating point: found on validation, kept in a checkpoint, refused if it is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from utils.dataset import EchoDataset
from utils.evaluation import Evaluation, FramePrediction, Speed
from utils.log import InputError
from utils.metrics import detection_figures
from utils.operating import OperatingPoint, warn_of_window
from utils.view_metrics import ViewFigures


def evaluation(dataset: EchoDataset, sureness: float) -> Evaluation:
    """One box found at .6, one false at .3; views right for two thirds of the frames, said with ``sureness``."""
    detection = detection_figures(
        np.repeat([[True], [False]], 10, axis=1), np.array([0.6, 0.3]), np.zeros(2), np.zeros(1)
    )
    frames = []
    for index in reversed(range(len(dataset))):
        seen = (dataset.labels[index].view + (index % 3 == 0)) % 3
        view = torch.full((3,), (1 - sureness) / 2)
        view[seen] = sureness
        frames.append(FramePrediction(index, torch.zeros(0, 6), view, np.zeros((0, 10), bool)))
    view_figures = ViewFigures(np.eye(3, dtype=np.int64))
    return Evaluation(detection, view_figures, None, np.zeros((5, 5), np.int64), frames, Speed(0, 0, 0))


def test_the_confidence_is_the_best_of_validation_and_the_temperature_cools_what_is_too_sure(
    dataset: EchoDataset,
) -> None:
    point = OperatingPoint.of(evaluation(dataset, 0.98), dataset)
    assert 0.3 < point.confidence < 0.6
    assert point.temperature is not None and point.temperature > 2
    timid = OperatingPoint.of(evaluation(dataset, 0.4), dataset)
    assert timid.temperature is not None and timid.temperature < 0.5


def test_another_window_than_the_temperatures_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    warn_of_window(4, 4)
    assert caplog.text == ""
    warn_of_window(4, 0)
    assert "fitted to views averaged with 4 frames on either side, here with 0" in caplog.text


def test_a_detector_alone_has_no_temperature(dataset: EchoDataset) -> None:
    with_views = evaluation(dataset, 0.9)
    alone = Evaluation(with_views.detection, None, None, with_views.confusion, [], with_views.speed)
    assert OperatingPoint.of(alone, dataset).temperature is None


@pytest.mark.parametrize("point", [OperatingPoint(0.25, 1.5), OperatingPoint(0.0, None)])
def test_a_checkpoint_gives_it_back(point: OperatingPoint, tmp_path: Path) -> None:
    torch.save(point.content(), tmp_path / "point.pt")
    content = torch.load(tmp_path / "point.pt", weights_only=True)
    assert OperatingPoint.from_content(content, tmp_path) == point
    assert OperatingPoint.from_content(None, tmp_path) is None


@pytest.mark.parametrize(
    "content",
    [{}, {"confidence": 0.5}, {"confidence": "high", "temperature": None}, {"confidence": 1.5, "temperature": None},
     {"confidence": 0.5, "temperature": 0.0}, {"confidence": float("nan"), "temperature": None}, "x"],
)  # fmt: skip
def test_anything_else_in_a_checkpoint_is_one_line(content: Any) -> None:
    with pytest.raises(InputError, match=r"best\.pt: operating: expected"):
        OperatingPoint.from_content(content, Path("best.pt"))
