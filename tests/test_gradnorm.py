"""models.gradnorm against figures of others, autograd's double backward, and its paper's toy."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmarks.gradnorm_toy import FLAGS, METHODS, main, make_balancer, train_toy
from models.gradnorm import FLOOR, UPDATES, GradNorm
from utils.flags import parse

ROWS = torch.tensor([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]]).norm(dim=1).tolist()


def converged(
    norms: list[float], rates: tuple[float, float] = (1.0, 1.0), alpha: float = 0.0, start: tuple[float, ...] = (1, 1)
) -> list[float]:
    """Weights after 8,000 steps on gradients that do not change."""
    balancer = GradNorm(alpha=alpha, lr=1e-3, weights=start, initial_losses=(1.0, 1.0))
    losses = torch.tensor(rates, dtype=torch.float64)
    for _ in range(8000):
        balancer.step(losses, torch.tensor(norms))
    return balancer.weights.tolist()


@pytest.mark.parametrize("start", [(1.0, 1.0), (1.9, 0.1), (0.1, 1.9)])
def test_frozen_gradients_are_balanced_from_any_start(start: tuple[float, float]) -> None:
    assert converged(ROWS, start=start) == pytest.approx([1.1847, 0.8153], abs=2e-3)


@pytest.mark.parametrize(
    ("norms", "rates", "alpha", "expected"),
    [
        ([math.sqrt(5), 5.0], (1.0, 1.0), 0.0, [1.38197, 0.61803]),
        ([1.0, 3.0], (1.5, 0.5), 1.5, [1.866, 0.134]),
    ],
)
def test_frozen_gradients_come_to_known_weights(
    norms: list[float], rates: tuple[float, float], alpha: float, expected: list[float]
) -> None:
    assert converged(norms, rates, alpha) == pytest.approx(expected, abs=2e-3)


def test_norms_far_apart_leave_both_weights_positive() -> None:
    weights = converged([1e-3, 1e3])
    assert min(weights) > 0 and sum(weights) == pytest.approx(2)


def test_a_weighted_sums_gradient_is_the_sum_of_weighted_gradients() -> None:
    p0 = torch.tensor([1.0, 2.0], requires_grad=True)
    p1, p2 = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])
    losses = [((torch.tensor([-1.0, 1.0]) * p0) * p).sum() for p in (p1, p2)]
    balancer = GradNorm()
    norms = torch.stack([torch.autograd.grad(loss, p0, retain_graph=True)[0].norm() for loss in losses])
    assert norms.tolist() == pytest.approx([math.sqrt(5), 5.0])
    for _ in range(20):
        balancer.step(torch.stack(losses), norms)
    w1, w2 = balancer.weights.tolist()
    assert w1 > 1 > w2
    (w1 * losses[0] + w2 * losses[1]).backward()
    assert p0.grad is not None
    assert p0.grad.tolist() == pytest.approx([-(w1 + 3 * w2), 2 * w1 + 4 * w2])


@pytest.mark.parametrize("update", ["gradient", "direct"])
def test_the_task_that_learns_more_slowly_gets_more_weight(update: str) -> None:
    balancer = GradNorm(alpha=1.0, update=update, initial_losses=(1.0, 1.0))
    for _ in range(10):
        balancer.step(torch.tensor([0.9, 0.3]), torch.tensor([1.0, 1.0]))
    slow, fast = balancer.weights.tolist()
    assert slow > 1 > fast
    even = GradNorm(alpha=0.0, update=update, initial_losses=(1.0, 1.0))
    even.step(torch.tensor([0.9, 0.3]), torch.tensor([1.0, 1.0]))
    assert even.weights.tolist() == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.5])
def test_the_closed_gradient_is_that_of_a_double_backward_pass(alpha: float) -> None:
    torch.manual_seed(0)
    first, last, heads = nn.Linear(6, 8), nn.Linear(8, 8), [nn.Linear(8, 2), nn.Linear(8, 3)]
    features = last(first(torch.randn(16, 6)).tanh()).tanh()
    shared = last.weight
    losses = torch.stack([heads[0](features).square().mean(), (heads[1](features) - 3).square().mean()])
    weights = torch.tensor([1.3, 0.7], requires_grad=True)
    plain = [torch.autograd.grad(loss, shared, retain_graph=True)[0].norm() for loss in losses]
    balancer = GradNorm(alpha=alpha, lr=1e-12, weights=(1.3, 0.7), initial_losses=(0.5, 9.0), smoothing=0.0)
    balancer.step(losses.detach(), torch.stack(plain))  # sets the targets, and moves the weights by next to nothing
    norms = torch.stack(
        [
            torch.autograd.grad(w * loss, shared, create_graph=True)[0].norm()
            for w, loss in zip(weights, losses, strict=True)
        ]
    )
    ratio = losses.detach() / torch.tensor([0.5, 9.0])
    targets = (norms.mean() * (ratio / ratio.mean()) ** alpha).detach()
    (norms - targets).abs().sum().backward()
    assert weights.grad is not None
    torch.testing.assert_close(balancer.targets, targets, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(balancer.weight_gradient(torch.stack(plain)), weights.grad, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 1.5])
def test_steps_are_those_of_the_papers_algorithm_by_autograd_and_adam(alpha: float) -> None:
    first = torch.tensor([2.0, 0.5])
    balancer = GradNorm(alpha=alpha, initial_losses=first.tolist(), smoothing=0.0, limits=(0.0, 10.0))
    weights = torch.ones(2, requires_grad=True)
    adam = torch.optim.Adam([weights], lr=0.025)
    random = torch.Generator().manual_seed(0)
    for _ in range(100):
        losses, norms = torch.rand(2, generator=random) + 0.1, torch.rand(2, generator=random) + 0.1
        balancer.step(losses, norms)
        ratio = losses / first
        targets = (weights * norms).mean().detach() * (ratio / ratio.mean()) ** alpha
        adam.zero_grad()
        (weights * norms - targets).abs().sum().backward()
        adam.step()
        with torch.no_grad():
            weights *= 2 / weights.sum()
        torch.testing.assert_close(balancer.targets, targets, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(balancer.weights, weights.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 1.5])
@pytest.mark.parametrize("tasks", [2, 3])
@pytest.mark.parametrize("update", UPDATES)
def test_weights_are_positive_and_sum_to_the_tasks_after_any_norms(update: str, tasks: int, alpha: float) -> None:
    balancer = GradNorm(tuple("abc"[:tasks]), alpha, update=update)
    random = torch.Generator().manual_seed(0)
    for _ in range(300):
        balancer.step(torch.rand(tasks, generator=random), 10 ** (torch.rand(tasks, generator=random) * 12 - 6))
        assert float(balancer.weights.min()) > 0 and balancer.weights.shape == (tasks,)
        assert float(balancer.weights.sum()) == pytest.approx(tasks, abs=1e-5)
    assert balancer.skipped == 0


def test_the_direct_update_is_its_formula() -> None:
    balancer = GradNorm(alpha=0.5, update="direct", initial_losses=(1.0, 1.0), smoothing=0.0)
    balancer.step(torch.tensor([1.5, 0.5]), torch.tensor([2.0, 8.0]))
    raw = [5.0 * 1.5**0.5 / 2, 5.0 * 0.5**0.5 / 8]
    assert balancer.weights.tolist() == pytest.approx([2 * value / sum(raw) for value in raw])


@pytest.mark.parametrize("norms", [[math.nan, 1.0], [1.0, math.inf], [0.0, 1.0]])
def test_a_step_without_usable_norms_is_counted_and_changes_nothing(norms: list[float]) -> None:
    balancer = GradNorm(alpha=1.0, initial_losses=(1.0, 1.0))
    balancer.step(torch.tensor([0.9, 0.5]), torch.tensor([1.0, 3.0]))
    weights, rates = balancer.weights.clone(), balancer.rates.clone()
    balancer.step(torch.tensor([0.1, 0.5]), torch.tensor(norms))
    balancer.step(torch.tensor([math.nan, 0.5]), torch.tensor([1.0, 1.0]))
    assert torch.equal(balancer.weights, weights) and torch.equal(balancer.rates, rates)
    assert balancer.skipped == 2 and balancer.targets.isnan().all()
    other = GradNorm()
    other.load_state_dict(balancer.state_dict())
    assert other.skipped == 2


def test_no_weight_falls_to_zero() -> None:
    balancer = GradNorm(lr=1.0)
    for _ in range(50):
        balancer.step(torch.ones(2), torch.tensor([1e-9, 1e9]))
        assert float(balancer.weights.min()) >= FLOOR / 2 and float(balancer.weights.sum()) == pytest.approx(2)


def test_weights_stay_in_one_tensor_that_no_graph_holds() -> None:
    balancer = GradNorm()
    losses = torch.rand(2, requires_grad=True)
    before = balancer.weights
    balancer.step(losses, torch.rand(2, requires_grad=True) + 0.5)
    assert not balancer.weights.requires_grad and balancer.weights is before
    balancer.load_state_dict(balancer.state_dict())
    assert balancer.weights is before  # Adam moves this one


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"update": "newton"}, "update: expected one of gradient, direct, got 'newton'"),
        ({"alpha": -0.1}, "alpha >= 0"),
        ({"lr": 0.0}, "lr > 0"),
        ({"weights": (1.0,)}, "weights: expected 2 positive numbers"),
        ({"weights": (1.0, 0.0)}, "weights: expected 2 positive numbers"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(keywords: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        GradNorm(**keywords)  # type: ignore[arg-type]


def test_on_the_papers_toy_the_sum_of_relative_losses_ends_below_equal_weights() -> None:
    equal, balanced = (train_toy(make_balancer(name), seed=0, steps=1000, rate=0.001) for name in METHODS)
    assert float(balanced.final.sum()) < 0.9 * float(equal.final.sum())
    assert balanced.weights[-1, 0] > 1 > balanced.weights[-1, 1] > 0  # the targets of the second are 100 times as large


def test_more_than_two_tasks_are_balanced_too() -> None:
    balancer = GradNorm(tasks=("a", "b", "c"), lr=1e-3)
    for _ in range(4000):
        balancer.step(torch.ones(3), torch.tensor([1.0, 2.0, 4.0]))
    pulls: Tensor = balancer.weights * torch.tensor([1.0, 2.0, 4.0])
    assert pulls.tolist() == pytest.approx([12 / 7] * 3, rel=0.01)


def test_the_toys_last_line_is_the_ratio_of_the_sums(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figure = tmp_path / "new" / "toy.png"
    ratio = main(parse(FLAGS, "", f"--steps 4 --seeds 1 --rates 0.001 0.1 --figure {figure}".split()))
    lines = capsys.readouterr().out.splitlines()
    sums = {(row.split()[0], row.split()[1]): float(row.split()[2]) for row in lines[1:5]}
    best = {method: min(sums[method, rate] for rate in ("0.001", "0.1")) for method in METHODS}
    assert ratio == pytest.approx(best["gradnorm"] / best["equal"], abs=2e-3)
    assert lines[-1] == f"gradnorm/equal {ratio:.3f}"
    assert figure.stat().st_size > 10_000 and figure.with_suffix(".json").is_file()


@pytest.mark.parametrize("norms", [[1e-6, 1e6], [1e-30, 1e10]])
def test_the_direct_update_keeps_the_floor(norms: list[float]) -> None:
    balancer = GradNorm(update="direct")
    balancer.step(torch.ones(2), torch.tensor(norms))
    assert balancer.weights.tolist() == pytest.approx([2.0, FLOOR], rel=1e-3)


def test_two_that_were_loaded_from_one_state_do_not_disturb_each_other() -> None:
    source, first, second = GradNorm(), GradNorm(), GradNorm()
    source.step(torch.ones(2), torch.tensor([1.0, 3.0]))
    state = source.state_dict()
    first.load_state_dict(state)
    for _ in range(5):
        first.step(torch.ones(2), torch.tensor([9.0, 1.0]))
    second.load_state_dict(state)
    for balancer in (source, second):
        balancer.step(torch.ones(2), torch.tensor([1.0, 3.0]))
    assert second.weights.tolist() == source.weights.tolist()
