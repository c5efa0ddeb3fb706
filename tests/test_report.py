"""utils.report: metrics.json and the table hold the figures of an evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from utils.engine import Evaluation, FramePrediction, MeanLosses, Speed
from utils.metrics import ViewFigures, detection_figures
from utils.report import metrics, table, view_text, write_figures

NAMES, VIEWS = ("AR", "MR", "PR", "TR"), ("PLAX", "PSAX", "A4C")


@pytest.fixture
def result() -> Evaluation:
    """Two of three AR boxes and the one TR box found, one false MR box; 4 of 5 views right."""
    correct = np.array([[True] * 10, [True] * 5 + [False] * 5, [False] * 10, [True] * 10])
    detection = detection_figures(
        correct, np.array([0.9, 0.8, 0.7, 0.6]), np.array([0.0, 0.0, 1.0, 3.0]), np.array([0.0, 0.0, 0.0, 3.0])
    )
    view = ViewFigures(np.array([[2, 0, 0], [1, 1, 0], [0, 0, 1]]))
    prediction = FramePrediction(0, torch.zeros(0, 6), torch.tensor([0.2, 0.5, 0.3]))
    confusion = np.diag([2, 0, 0, 1, 0])
    return Evaluation(
        detection, view, MeanLosses(0.1, 0.2, 0.3, 0.4), confusion, [prediction] * 5, Speed(1.0, 2.0, 3.0)
    )


def test_metrics_json_has_the_keys_and_the_figures(result: Evaluation) -> None:
    content = metrics(result, NAMES, VIEWS, {"imgsz": 64})
    assert {
        "precision", "recall", "f1", "map50", "map", "per_class", "view", "speed_ms", "settings",
    } <= set(content)  # fmt: skip
    assert set(content["per_class"]) == {"AR", "TR"}
    assert content["per_class"]["AR"]["recall"] == pytest.approx(2 / 3, abs=1e-3)
    assert content["per_class"]["TR"]["map50"] == pytest.approx(0.995, abs=1e-6)
    assert content["view"]["accuracy"] == pytest.approx(0.8)
    assert content["view"]["per_class"]["PLAX"] == {
        "frames": 3, "precision": 1.0, "recall": pytest.approx(2 / 3), "f1": pytest.approx(0.8),
    }  # fmt: skip
    p, r = content["precision"], content["recall"]
    assert content["f1"] == pytest.approx(2 * p * r / (p + r))
    assert content["loss"] == {"box": 0.1, "obj": 0.2, "cls": 0.3, "view": 0.4}
    assert json.loads(json.dumps(content))["settings"] == {"imgsz": 64}


def test_a_detector_alone_has_no_view_in_its_metrics(result: Evaluation) -> None:
    alone = Evaluation(result.detection, None, None, result.confusion, result.predictions, result.speed)
    content = metrics(alone, NAMES, (), {})
    assert "view" not in content and "loss" not in content
    assert "view" not in table(content)


def test_the_table_shows_every_class_the_views_and_milliseconds(result: Evaluation) -> None:
    text = table(metrics(result, NAMES, VIEWS, {}))
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}
    assert lines["all"][1] == "4" and lines["AR"][1] == "3"
    assert lines["PLAX"][-3:] == ["2", "1", "0"]
    assert "view accuracy 0.800" in text
    assert "6.0 ms a frame" in text


def test_figures_are_written(result: Evaluation, tmp_path: Path) -> None:
    write_figures(result, NAMES, VIEWS, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "confusion_matrix.png", "view_confusion_matrix.png", "P_curve.png", "R_curve.png", "F1_curve.png",
        "PR_curve.png",
    }  # fmt: skip


def test_the_view_is_named_with_its_probability() -> None:
    assert view_text(torch.tensor([0.2, 0.5, 0.3]), VIEWS) == "PSAX 0.50"
    assert view_text(None, VIEWS) is None
