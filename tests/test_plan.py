"""utils.plan: what an epoch is worth, by what the network learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.tiny import hyperparameters
from utils.evaluation import Evaluation, Speed
from utils.metrics import detection_figures
from utils.plan import Plan
from utils.view_metrics import view_figures

NAMES, VIEWS = ("AR", "MR"), ("PLAX", "PSAX", "A4C")
JOINT = Plan(Path("run"), NAMES, VIEWS, 64, False, hyperparameters())


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    """One of two classes found, two of three views right."""
    boxes = detection_figures(np.ones((1, 10), bool), np.array([0.9]), np.array([0.0]), np.array([0.0, 1.0]))
    view = view_figures([0, 1, 2], [0, 1, 1], 3)
    return Evaluation(boxes, view, None, np.zeros((3, 3), np.int64), [], Speed(0, 0, 0))


def test_boxes_choose_the_best_epoch_and_views_where_there_are_no_boxes(evaluation: Evaluation) -> None:
    assert evaluation.view is not None
    assert JOINT.fitness(evaluation) == evaluation.detection.fitness > 0
    assert replace(JOINT, names=()).fitness(evaluation) == evaluation.view.macro_f1 != evaluation.detection.fitness
    assert replace(JOINT, names=()).fitness(replace(evaluation, view=None)) == 0.0


def test_a_checkpoint_tells_the_figures_of_what_it_has_learned(evaluation: Evaluation) -> None:
    assert JOINT.figures(evaluation) == {
        "map50": pytest.approx(0.4975, abs=0.01), "map": pytest.approx(0.4975, abs=0.01),
        "view_accuracy": pytest.approx(2 / 3), "view_macro_f1": pytest.approx((1 + 2 / 3) / 3),
    }  # fmt: skip
    assert JOINT.figures(replace(evaluation, view=None)).keys() == {"map50", "map"}
    assert replace(JOINT, names=()).figures(evaluation).keys() == {"view_accuracy", "view_macro_f1"}
