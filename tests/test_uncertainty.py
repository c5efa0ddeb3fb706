"""models.uncertainty against autograd and torch's Adam."""

from __future__ import annotations

import math

import pytest
import torch

from models.uncertainty import Uncertainty


def test_weights_are_those_that_autograd_and_adam_come_to() -> None:
    balancer = Uncertainty((1.0, 0.5), lr=0.01)
    s = torch.tensor([0.0, math.log(2)], requires_grad=True)
    adam = torch.optim.Adam([s], lr=0.01)
    random = torch.Generator().manual_seed(0)
    for _ in range(100):
        losses = torch.rand(2, generator=random) * torch.tensor([3.0, 0.2])
        balancer.step(losses, torch.full((2,), math.nan))
        adam.zero_grad()
        ((-s).exp() * losses + s / 2).sum().backward()
        adam.step()
        torch.testing.assert_close(balancer.weights, (-s).exp().detach(), rtol=1e-5, atol=1e-6)


def test_a_loss_that_stays_comes_to_the_weight_of_half_its_inverse() -> None:
    balancer = Uncertainty((1.0, 1.0), lr=0.01)
    for _ in range(2000):
        balancer.step(torch.tensor([2.0, 0.25]), torch.ones(2))
    assert balancer.weights.tolist() == pytest.approx([0.25, 2.0], rel=1e-2)


def test_a_loss_that_is_not_finite_changes_nothing() -> None:
    balancer = Uncertainty((1.0, 1.0))
    balancer.step(torch.tensor([math.nan, 1.0]), torch.ones(2))
    assert balancer.weights.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("keywords", [{"weights": (1.0, 0.0)}, {"weights": (1.0, 1.0), "lr": 0.0}], ids=str)
def test_settings_out_of_range_are_refused(keywords: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="above 0"):
        Uncertainty(**keywords)  # type: ignore[arg-type]


def test_a_loss_of_zero_draws_no_weight_to_infinity() -> None:
    balancer = Uncertainty((1.0, 1.0), lr=1.0)
    for _ in range(200):
        balancer.step(torch.tensor([0.0, 1.0]), torch.ones(2))
    assert balancer.weights.isfinite().all() and float(balancer.weights[0]) == pytest.approx(math.exp(20))
