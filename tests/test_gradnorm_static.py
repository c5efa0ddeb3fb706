"""models.gradnorm_static: the mean of a history, brought to the tasks' number."""

from __future__ import annotations

import math

import pytest
import torch

from models.gradnorm_static import GradNormStatic


def test_the_weights_are_the_mean_of_the_history_and_stay() -> None:
    balancer = GradNormStatic([(1.0, 1.0), (1.8, 0.2), (1.7, 0.3)])
    for _ in range(5):
        assert balancer.weights.tolist() == pytest.approx([1.5, 0.5])
        balancer.step(torch.rand(2), torch.rand(2))


def test_a_history_of_another_sum_is_brought_to_the_number_of_tasks() -> None:
    assert GradNormStatic([(3.0, 1.0)]).weights.tolist() == pytest.approx([1.5, 0.5])


@pytest.mark.parametrize("history", [[], [(1.0, math.nan)], [(-1.0, 3.0)], [(0.0, 0.0)]], ids=str)
def test_a_history_that_gives_no_weights_is_refused(history: list[tuple[float, float]]) -> None:
    with pytest.raises(ValueError, match="history: expected a row of weights a step"):
        GradNormStatic(history)
