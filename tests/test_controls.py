"""models.controls: one task alone, and a task kept out of the shared layers."""

from __future__ import annotations

import pytest
import torch

from models.controls import Detached, Single


@pytest.mark.parametrize(("learned", "weights"), [(0, [1.0, 0.0]), (1, [0.0, 1.0])])
def test_a_single_task_has_all_the_weight(learned: int, weights: list[float]) -> None:
    balancer = Single(2, learned)
    balancer.step(torch.rand(2), torch.rand(2))
    assert balancer.weights.tolist() == weights
    assert balancer.at_border(lambda: torch.eye(2)).tolist() == [1.0, 1.0]


def test_a_detached_task_keeps_its_weight_and_does_not_enter() -> None:
    balancer = Detached((1.0, 0.1))
    assert balancer.weights.tolist() == pytest.approx([1.0, 0.1])
    assert balancer.at_border(lambda: pytest.fail("inner products are not needed")).tolist() == [1.0, 0.0]
    assert Detached((1.0, 0.1, 0.2)).at_border(lambda: torch.eye(3)).tolist() == [1.0, 0.0, 0.0]
