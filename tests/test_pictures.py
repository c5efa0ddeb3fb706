"""utils.pictures: boxes stand where the labels say, predictions where the network saw them, and views are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.phantoms import NAMES, VIEW_NAMES, write_frame, write_yaml
from utils import pictures
from utils.batches import Key
from utils.config import load_dataset_config
from utils.dataset import EchoDataset
from utils.evaluation import Evaluation, FramePrediction, Speed
from utils.metrics import detection_figures
from utils.pictures import view_text, write_batch_pictures, write_training_pictures


@pytest.fixture
def data(tmp_path: Path) -> EchoDataset:
    """A frame of 48 x 64 pixels with an MR box, view A4C."""
    write_frame(tmp_path, "val/a.png", (48, 64), [(1, 16, 12, 48, 36)], 2)
    return EchoDataset(load_dataset_config(write_yaml(tmp_path, train="images/val")), "val", 64)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What is handed to the drawing: boxes and view text, a picture each."""
    calls: list[tuple[Any, ...]] = []

    def recorded(image: Any, boxes: Any, names: Any, view: str | None) -> Any:
        calls.append((np.round(boxes, 2).tolist(), view))
        return image

    monkeypatch.setattr(pictures, "draw", recorded)
    return calls


def test_labels_and_sure_predictions_are_drawn_in_the_files_pixels(
    data: EchoDataset, drawn: list[tuple[Any, ...]], tmp_path: Path
) -> None:
    boxes = torch.tensor([[10.0, 11, 30, 31, 0.9, 3], [0, 0, 5, 5, 0.1, 0]])
    found = FramePrediction(0, boxes, torch.tensor([0.1, 0.7, 0.2]), np.zeros((2, 10), bool))
    figures = detection_figures(np.zeros((0, 10), bool), np.zeros(0), np.zeros(0), np.zeros(0))
    result = Evaluation(figures, None, None, np.zeros((5, 5), np.int64), [found], Speed(0, 0, 0))
    write_batch_pictures(data, result, NAMES, VIEW_NAMES, tmp_path, batch_size=4)
    nan = pytest.approx(np.nan, nan_ok=True)
    assert drawn == [([[16, 12, 48, 36, nan, 1]], "A4C"), ([[10, 11, 30, 31, pytest.approx(0.9), 3]], "PSAX 0.70")]
    assert {path.name for path in tmp_path.glob("*.jpg")} == {"val_batch0_labels.jpg", "val_batch0_pred.jpg"}


def test_a_training_picture_shows_the_padded_frame(
    data: EchoDataset, drawn: list[tuple[Any, ...]], tmp_path: Path
) -> None:
    write_training_pictures(data, [Key(0, 0)], NAMES, tmp_path / "train_batch0.jpg")
    nan = pytest.approx(np.nan, nan_ok=True)
    assert drawn == [([[16, 20, 48, 44, nan, 1]], "A4C")]  # 8 pixels above and below make a square
    assert (tmp_path / "train_batch0.jpg").is_file()


def test_the_view_is_named_with_its_probability() -> None:
    names = ("PLAX", "PSAX", "A4C")
    assert view_text(torch.tensor([0.2, 0.5, 0.3]), names) == "PSAX 0.50"
    assert view_text(None, names) is None
