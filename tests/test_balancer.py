"""models.balancer: training rates against a plain loop, and weights that stay."""

from __future__ import annotations

import math

import pytest
import torch

from models.balancer import Balancer, TrainingRates


def losses(steps: int = 40, seed: int = 0) -> torch.Tensor:
    """(steps, 2) falling losses of two tasks, with noise."""
    noise = torch.rand(steps, 2, generator=torch.Generator().manual_seed(seed)) * 0.3 + 0.85
    fall = torch.stack((torch.linspace(4, 1, steps), torch.linspace(1, 0.8, steps)), 1)
    return (fall * noise).double()


def test_rates_are_those_of_a_plain_loop() -> None:
    rates = TrainingRates(2, initial_steps=5, smoothing=0.8)
    seen = losses()
    for step, row in enumerate(seen, 1):
        found = rates.update(row)
        if step <= 5:
            assert found.tolist() == [1.0, 1.0]
            torch.testing.assert_close(rates.initial_losses, seen[:step].mean(0))
            continue
        shares = torch.tensor([0.8 ** (step - 1 - i) for i in range(step)], dtype=torch.float64)
        smoothed = (shares[:, None] * seen[:step]).sum(0) / shares.sum()
        ratio = smoothed / seen[:5].mean(0)
        torch.testing.assert_close(found, ratio / ratio.mean())
    assert found[0] < 1 < found[1]  # the second has come less far


def test_first_losses_that_are_known_count_from_the_first_step() -> None:
    rates = TrainingRates(2, initial_losses=(2.0, math.log(3)), smoothing=0.0)
    assert rates.update(torch.tensor([3.0, 0.5 * math.log(3)])).tolist() == pytest.approx([1.5, 0.5])
    assert rates.initial_losses.tolist() == pytest.approx([2.0, math.log(3)])


def test_one_first_loss_may_be_known_and_the_other_measured() -> None:
    rates = TrainingRates(2, initial_steps=2, initial_losses=(None, 1.0), smoothing=0.0)
    for loss in (3.0, 5.0):
        assert rates.update(torch.tensor([loss, 0.5])).tolist() == [1.0, 1.0]
    assert rates.initial_losses.tolist() == [4.0, 1.0]
    assert rates.update(torch.tensor([4.0, 0.5])).tolist() == pytest.approx([4 / 3, 2 / 3])


def test_rates_stay_within_their_limits() -> None:
    rates = TrainingRates(2, initial_losses=(1.0, 1.0), smoothing=0.0, limits=(0.5, 1.2))
    assert rates.update(torch.tensor([100.0, 1e-9])).tolist() == [1.2, 0.5]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_losses_that_are_not_finite_change_nothing(bad: float) -> None:
    rates, other = TrainingRates(2, 3), TrainingRates(2, 3)
    for step, row in enumerate(losses(20)):
        rates.update(row)
        other.update(row)
        if step % 4 == 0:
            rates.update(torch.tensor([bad, 1.0]))
    assert torch.equal(rates.values, other.values)


def test_losses_of_zero_divide_nothing() -> None:
    rates = TrainingRates(2, initial_losses=(1.0, 1.0), smoothing=0.0)
    assert rates.update(torch.zeros(2)).tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"initial_losses": (1.0,)}, "initial_losses: expected 2 positive"),
        ({"initial_losses": (1.0, 0.0)}, "initial_losses: expected 2 positive"),
        ({"initial_steps": 0}, "initial_steps >= 1"),
        ({"smoothing": 1.0}, "below 1"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(keywords: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TrainingRates(2, **keywords)  # type: ignore[arg-type]


@pytest.mark.parametrize("weights", [(1.0, 0.1), (0.0, 3.0)])
def test_static_weights_stay_as_they_are_and_the_rates_are_kept(weights: tuple[float, ...]) -> None:
    balancer, rates = Balancer(weights), TrainingRates(2)
    for row in losses():
        balancer.step(row, torch.tensor([5.0, 0.1]))
        rates.update(row)
        assert balancer.weights.tolist() == pytest.approx(list(weights))
    assert torch.equal(balancer.rates, rates.values)
    assert balancer.targets.isnan().all()
    assert balancer.at_border(lambda: pytest.fail("inner products cost time: not asked for here")).tolist() == [1, 1]


def test_a_state_is_a_copy() -> None:
    state = Balancer((0.7, 0.3)).state_dict()
    other = Balancer((1.0, 1.0))
    other.load_state_dict(state)
    state["weights"].zero_()
    assert other.weights.tolist() == pytest.approx([0.7, 0.3])


def test_a_task_whose_first_losses_are_zero_has_no_rate() -> None:
    rates = TrainingRates(2, initial_steps=2)
    for loss in (0.0, 0.0, 0.5, 0.7):
        assert rates.update(torch.tensor([loss, 1.0])).tolist() == [1.0, 1.0]


def test_a_state_without_rates_as_the_first_version_wrote_it_is_taken() -> None:
    balancer = Balancer((1.0, 1.0))
    balancer.load_state_dict({"weights": torch.tensor([1.0, 0.1])})
    assert balancer.weights.tolist() == pytest.approx([1.0, 0.1]) and balancer.rates.tolist() == [1.0, 1.0]
    detector = Balancer((1.0,))
    detector.load_state_dict({"weights": torch.tensor([1.0, 0.1])})
    assert detector.weights.tolist() == [1.0]
