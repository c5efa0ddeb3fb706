"""Static weights, and the table of balancers' names."""

from __future__ import annotations

import io

import pytest
import torch

from models.balancers import BALANCERS, TASKS, Static, build_balancer


@pytest.mark.parametrize("weights", [(1.0, 0.1), (0.0, 3.0)])
def test_static_weights_stay_as_they_are(weights: tuple[float, ...]) -> None:
    balancer = build_balancer("static", weights)
    for losses in ([5.0, 0.1], [0.0, 100.0], [float("nan"), 1.0]):
        balancer.step(torch.tensor(losses))
        assert balancer.weights.tolist() == pytest.approx(list(weights))
    assert balancer.weights.dtype == torch.float32 and not balancer.weights.requires_grad


def test_a_state_that_went_through_a_file_continues() -> None:
    file = io.BytesIO()
    torch.save(Static((0.7, 0.3)).state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    other = Static((1.0, 1.0))
    other.load_state_dict(state)
    assert other.weights.tolist() == pytest.approx([0.7, 0.3])
    state["weights"].zero_()
    assert other.weights.tolist() == pytest.approx([0.7, 0.3])  # its own copy


@pytest.mark.parametrize("name", BALANCERS)
def test_every_balancer_starts_with_a_weight_for_each_task_and_restores_its_state(name: str) -> None:
    weights = (1.0,) * len(TASKS)
    balancer, other = build_balancer(name, weights), build_balancer(name, weights)
    assert balancer.weights.shape == (len(TASKS),)
    balancer.step(torch.tensor([2.0, 0.5]))
    other.load_state_dict(balancer.state_dict())
    assert torch.equal(other.weights, balancer.weights)


def test_an_unknown_balancer_is_refused_with_the_known_names() -> None:
    with pytest.raises(ValueError, match=r"balance: expected one of .*static.*, got 'fixed'"):
        build_balancer("fixed", (1.0, 1.0))
