"""models.dwa: weights from epoch means, by the paper's formula."""

from __future__ import annotations

import math

import pytest
import torch

from models.dwa import DynamicWeightAverage

NORMS = torch.full((2,), math.nan)


def epoch(balancer: DynamicWeightAverage, *losses: list[float]) -> None:
    for row in losses:
        balancer.step(torch.tensor(row), NORMS)
    balancer.end_epoch()


def test_weights_follow_from_the_last_two_epochs() -> None:
    balancer = DynamicWeightAverage(2)
    epoch(balancer, [0.5, 2.0], [1.5, 0.0])  # means 1 and 1
    assert balancer.weights.tolist() == [1.0, 1.0]
    epoch(balancer, [1.0, 4.0])
    expected = 2 * torch.softmax(torch.tensor([1.0, 4.0]) / 2, 0)
    torch.testing.assert_close(balancer.weights, expected)
    total = (balancer.weights * torch.tensor([3.0, 5.0])).sum()
    torch.testing.assert_close(total, (expected * torch.tensor([3.0, 5.0])).sum())
    epoch(balancer, [1.0, 4.0])  # no change since: even weights
    torch.testing.assert_close(balancer.weights, torch.ones(2))


def test_a_task_whose_loss_falls_more_slowly_gets_more() -> None:
    balancer = DynamicWeightAverage(2)
    epoch(balancer, [1.0, 1.0])
    epoch(balancer, [0.9, 0.2])
    assert balancer.weights[0] > 1 > balancer.weights[1] and float(balancer.weights.sum()) == pytest.approx(2)


def test_a_higher_temperature_evens_the_weights() -> None:
    spread = []
    for temperature in (0.5, 2.0, 50.0):
        balancer = DynamicWeightAverage(2, temperature)
        epoch(balancer, [1.0, 1.0])
        epoch(balancer, [1.0, 3.0])
        spread.append(float(balancer.weights[1] - balancer.weights[0]))
    assert spread[0] > spread[1] > spread[2] > 0


def test_losses_of_zero_and_epochs_without_a_step_leave_finite_weights() -> None:
    balancer = DynamicWeightAverage(2)
    balancer.end_epoch()
    for _ in range(3):
        epoch(balancer, [0.0, 1.0], [math.nan, 1.0])
    torch.testing.assert_close(balancer.weights, torch.ones(2))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_step_whose_losses_are_not_finite_does_not_count(bad: float) -> None:
    balancer = DynamicWeightAverage(2)
    epoch(balancer, [1.0, 1.0], [bad, 9.0])
    epoch(balancer, [9.0, bad], [1.0, 4.0])
    torch.testing.assert_close(balancer.weights, 2 * torch.softmax(torch.tensor([1.0, 4.0]) / 2, 0))


def test_a_temperature_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="temperature: expected a number above 0, got 0"):
        DynamicWeightAverage(2, 0)


def test_no_task_is_left_without_weight() -> None:
    balancer = DynamicWeightAverage(2)
    epoch(balancer, [1.0, 1.0])
    epoch(balancer, [1.0, 1000.0])
    assert float(balancer.weights[0]) > 0
