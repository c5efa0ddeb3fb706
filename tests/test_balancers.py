"""models.balancers: the table of names, and what holds for every balancer in it."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import pytest
import torch

from models.balancer import TASKS, Balancer
from models.balancers import BALANCERS, BalanceSettings, build_balancer
from models.gradnorm import UPDATES, GradNorm
from models.surgery import METHODS

SETTINGS = BalanceSettings(weights=(1.0, 0.1), alpha=0.5, history=[(1.8, 0.2), (1.6, 0.4)])


def build(name: str) -> Balancer:
    if name in METHODS:
        pytest.importorskip("torchjd")
    return build_balancer(name, SETTINGS)


def train(balancer: Balancer, first: int, last: int) -> list[list[float]]:
    """Steps of a seeded training, ten an epoch; norms over twelve orders of magnitude, some of them no numbers."""
    weights = []
    for step in range(first, last):
        random = torch.Generator().manual_seed(step)
        losses = torch.rand(2, generator=random) + 0.1
        norms = 10 ** (torch.rand(2, generator=random) * 12 - 6)
        if step % 7 == 3:
            norms[step % 2] = (math.nan, math.inf, 0.0)[step % 3]
        balancer.step(losses, norms)
        if step % 10 == 9:
            balancer.end_epoch()
        weights.append(balancer.weights.tolist())
    return weights


@pytest.mark.parametrize("name", BALANCERS)
def test_a_state_that_went_through_a_file_goes_on_as_if_nothing_had_happened(name: str) -> None:
    whole, first, second = build(name), build(name), build(name)
    expected = train(whole, 0, 60)
    train(first, 0, 33)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    assert second.weights.tolist() == first.weights.tolist()
    assert train(second, 33, 60) == expected[33:]
    assert torch.equal(second.rates, whole.rates)


@pytest.mark.parametrize("name", BALANCERS)
def test_weights_are_finite_and_none_is_lost(name: str) -> None:
    balancer = build(name)
    assert balancer.weights.dtype == torch.float32 and not balancer.weights.requires_grad
    for weights in train(balancer, 0, 200):
        assert len(weights) == len(TASKS) and all(map(math.isfinite, weights))
        if name.startswith("single"):
            assert sorted(weights) == [0.0, 1.0]
        else:
            assert min(weights) > 0
        if name.startswith("gradnorm"):
            assert sum(weights) == pytest.approx(2, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "weights"),
    [("static", [1.0, 0.1]), ("equal", [1.0, 1.0]), ("gradnorm", [1.0, 1.0]), ("gradnorm_static", [1.7, 0.3]),
     ("detached", [1.0, 0.1]), ("single_det", [1.0, 0.0]), ("single_view", [0.0, 1.0]), ("dwa", [1.0, 1.0]),
     ("uncertainty", [1.0, 1.0]), ("upgrad", [1.0, 0.1])],
)  # fmt: skip
def test_each_starts_with_its_weights(name: str, weights: list[float]) -> None:
    assert build(name).weights.tolist() == pytest.approx(weights)


def test_settings_reach_the_rates_of_every_balancer() -> None:
    for name in BALANCERS:
        if name not in METHODS:
            settings = BalanceSettings((1.0, 0.1), initial_losses=(2.0, 3.0), history=[(1.0, 1.0)])
            assert build_balancer(name, settings).initial_losses.tolist() == [2.0, 3.0], name


@pytest.mark.parametrize("update", UPDATES)
def test_settings_reach_gradnorm(update: str) -> None:
    settings = BalanceSettings((1.0, 0.1), alpha=1.5, lr=0.003, update=update, initial_steps=2)
    built = build_balancer("gradnorm", settings)
    plain = GradNorm(alpha=1.5, lr=0.003, update=update, initial_steps=2)
    assert train(built, 0, 20) == train(plain, 0, 20)
    for other in ({"alpha": 0.0}, {"lr": 0.025}, {"initial_steps": 10}):
        if update == "gradient" or "lr" not in other:  # the direct update has no learning rate
            changed = build_balancer("gradnorm", replace(settings, **other))
            assert train(changed, 0, 20) != train(build_balancer("gradnorm", settings), 0, 20), other


def test_an_unknown_balancer_is_refused_with_the_known_names() -> None:
    with pytest.raises(ValueError, match=r"balance: expected one of .*static.*gradnorm.*, got 'fixed'"):
        build_balancer("fixed", SETTINGS)
