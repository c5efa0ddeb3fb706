"""Differences between methods: closed forms, a plain loop over drawn patients, and what counts as beyond the noise."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from tests.simulated import at, outcomes, repeated
from utils.assessment import assess
from utils.intervals import drawn_figures, interval
from utils.outcomes import Outcomes
from utils.paired import FEWEST_UNITS, Difference, Measured, difference, estimate
from utils.report import metrics
from utils.weighted import Key

ACCURACY: Key = ("view", "accuracy")


def drawn_patients(patients: int, draws: int, seed: int) -> list[list[int]]:
    """How often each patient is drawn, in each draw."""
    rng = np.random.default_rng(seed)
    chosen: list[list[int]] = rng.multinomial(patients, [1 / patients] * patients, draws).tolist()
    return chosen


def plain_figures(whole: Outcomes, key: Key, draws: int, seed: int) -> list[float]:
    """A figure of frames copied as often as their patient is drawn, draw by draw."""
    patients = len(set(whole.patients or ()))
    chosen = drawn_patients(patients, draws, seed)
    return [at(metrics(assess(repeated(whole, times), draws=0), {}), key) for times in chosen]


def measured(whole: Outcomes, key: Key, draws: int = 400) -> Measured:
    """A figure with its draws, as compare.py takes both."""
    return Measured(at(metrics(assess(whole, draws=0), {}), key), drawn_figures(whole, draws, seed=0)[key])


def pair(patients: int = 8) -> tuple[Outcomes, Outcomes]:
    """Two networks on the same frames: the second reads every patient's views a little worse."""
    better = outcomes(1, patients, frames=10, detections=3, skill=np.linspace(0.1, 0.9, patients))
    seen = better.views.copy()
    for patient in range(patients):
        own = [row for row, name in enumerate(better.patients or ()) if name == f"p{patient:02d}"]
        right = [row for row in own if better.views[row].argmax() == better.true_views[row]]
        for row in right[: 1 + patient % 2]:
            seen[row] = np.eye(3)[(better.true_views[row] + 1) % 3]
    return better, replace(better, views=seen)


@pytest.mark.parametrize("key", [ACCURACY, ("view", "macro_f1"), ("recall",)], ids=lambda key: "/".join(key))
def test_the_interval_of_a_difference_is_that_of_drawing_patients_of_both_methods_together(key: Key) -> None:
    first, second = pair()[0], outcomes(2, frames=10, detections=3, operating=0.0)
    first = replace(first, operating=np.zeros(80))
    draws = [plain_figures(whole, key, 60, seed=0) for whole in (first, second)]
    expected = interval(np.array(draws[0]) - np.array(draws[1]), 8)
    found = difference({0: measured(first, key, 60)}, {0: measured(second, key, 60)}, 8)
    assert expected is not None and found.patients == pytest.approx(expected, abs=1e-9)
    assert found.seeds is None and found.pairs == 1


def test_the_mean_over_seeds_is_drawn_together_too() -> None:
    wholes = [outcomes(seed, frames=6, detections=2) for seed in range(4)]
    runs = [measured(whole, ACCURACY, 50) for whole in wholes]
    draws = [np.array(plain_figures(whole, ACCURACY, 50, seed=0)) for whole in wholes]
    found = difference({0: runs[0], 1: runs[1]}, {0: runs[2], 1: runs[3]}, 8)
    expected = interval((draws[0] + draws[1] - draws[2] - draws[3]) / 2, 8)
    assert expected is not None and found.patients == pytest.approx(expected, abs=1e-9)
    assert found.value == pytest.approx(sum(run.value for run in runs[:2]) / 2 - sum(r.value for r in runs[2:]) / 2)
    single = estimate(runs[:2], 8)
    assert single.patients == pytest.approx(interval((draws[0] + draws[1]) / 2, 8))


@pytest.mark.parametrize("count", [2, 3, 5])
def test_the_interval_over_seeds_is_students_of_the_differences_seed_by_seed(count: int) -> None:
    rng = np.random.default_rng(count)
    first, second = rng.normal(0.6, 0.05, count), rng.normal(0.5, 0.05, count)
    one, other = ({seed: Measured(value) for seed, value in enumerate(own)} for own in (first, second))
    found = difference(one, other, 8)
    low, high = ttest_1samp(first - second, 0).confidence_interval(0.95)
    assert found.seeds == pytest.approx((low, high))
    assert found.value == pytest.approx((first - second).mean()) and found.pairs == count
    assert found.patients is None and found.beyond_noise == (low > 0 or high < 0)


def test_seeds_whose_differences_are_the_same_by_chance_have_no_interval() -> None:
    one, other = ({0: Measured(a), 1: Measured(b)} for a, b in ((30 / 40, 31 / 40), (29 / 40, 30 / 40)))
    found = difference(one, other, 8)
    assert found.seeds is None and found.value == pytest.approx(1 / 40) and not found.beyond_noise


def test_only_seeds_that_both_have_are_pairs() -> None:
    first = {seed: Measured(value) for seed, value in {0: 0.5, 1: 0.6, 2: 0.8}.items()}
    second = {seed: Measured(value) for seed, value in {1: 0.5, 2: 0.6, 7: 0.1}.items()}
    found = difference(first, second, 8)
    low, high = ttest_1samp([0.1, 0.2], 0).confidence_interval(0.95)
    assert found.pairs == 2 and found.seeds == pytest.approx((low, high))
    alone = difference({0: Measured(1.0)}, {1: Measured(2.0)}, 8)
    assert (alone.value, alone.seeds, alone.pairs, alone.beyond_noise) == (-1.0, None, 0, False)


def test_a_method_is_never_beyond_the_noise_of_itself() -> None:
    run = measured(outcomes(3), ACCURACY)
    for seeds in (1, 3):
        own = dict.fromkeys(range(seeds), run)
        found = difference(own, own, 8)
        assert found.value == 0 and not found.beyond_noise
        assert found.seeds in (None, (0.0, 0.0))


def test_pairing_finds_a_small_loss_of_every_patient_that_lies_within_the_noise_of_each_method_alone() -> None:
    better, worse = (measured(whole, ACCURACY) for whole in pair())
    found = difference({0: better}, {0: worse}, 8)
    assert found.beyond_noise and found.patients is not None and found.patients[0] > 0
    back = difference({0: worse}, {0: better}, 8)
    assert back.beyond_noise and back.patients == pytest.approx((-found.patients[1], -found.patients[0]))
    # the same draws of one method, shuffled: as if its patients had been drawn apart from the other's
    assert worse.drawn is not None
    apart = replace(worse, drawn=np.random.default_rng(0).permutation(worse.drawn))
    assert not difference({0: better}, {0: apart}, 8).beyond_noise


@pytest.mark.parametrize(
    ("value", "patients", "seeds", "beyond"),
    [
        (0.1, (0.1, 0.2), (0.05, 0.3), True),
        (-0.1, (-0.2, -0.1), (-0.3, -0.05), True),
        (0.1, (0.1, 0.2), (-0.05, 0.3), False),
        (0.1, (-0.1, 0.2), (0.05, 0.3), False),
        (0.1, (0.1, 0.2), (-0.3, -0.05), False),
        (0.1, (-0.2, -0.1), (-0.3, -0.05), False),
        (0.1, (0.1, 0.2), None, True),
        (0.1, None, (0.05, 0.3), True),
        (0.1, (0.0, 0.2), None, False),
        (0.1, None, None, False),
    ],
)
def test_every_interval_that_is_known_must_lie_on_the_differences_side_of_zero(
    value: float, patients: tuple[float, float] | None, seeds: tuple[float, float] | None, beyond: bool
) -> None:
    assert Difference(value, patients, seeds, 2).beyond_noise == beyond


def test_only_seeds_that_both_have_are_compared_where_they_have_any() -> None:
    first = {0: Measured(0.50), 1: Measured(0.51), 2: Measured(0.99)}
    second = {0: Measured(0.60), 1: Measured(0.62)}
    found = difference(first, second, 10)
    assert found.value == pytest.approx(-0.105) and found.pairs == 2
    apart = difference({0: Measured(0.5)}, {1: Measured(0.7)}, 10)
    assert apart.value == pytest.approx(-0.2) and (apart.pairs, apart.seeds) == (0, None)


def test_few_patients_say_nothing_of_a_difference() -> None:
    first, second = Measured(0.9, np.linspace(0.8, 1.0, 100)), Measured(0.1, np.linspace(0.0, 0.2, 100))
    assert difference({0: first}, {0: second}, FEWEST_UNITS - 1).patients is None
    assert difference({0: first}, {0: second}, FEWEST_UNITS).patients is not None


def test_an_estimate_is_mean_and_standard_deviation_over_seeds() -> None:
    found = estimate([Measured(0.2), Measured(0.4), Measured(0.9)], 8)
    assert (found.value, found.spread) == (pytest.approx(0.5), pytest.approx(np.std([0.2, 0.4, 0.9], ddof=1)))
    assert found.patients is None
    one = estimate([measured(outcomes(0), ACCURACY)], 8)
    assert math.isnan(one.spread) and one.patients is not None and one.patients[0] < one.value < one.patients[1]


def test_draws_of_some_seeds_only_are_no_interval() -> None:
    run = measured(outcomes(0), ACCURACY)
    assert estimate([run, replace(run, drawn=None)], 8).patients is None
    assert difference({0: run, 1: replace(run, drawn=None)}, {0: run, 1: run}, 8).patients is None


def test_a_difference_that_is_the_same_in_every_draw_is_beyond_the_noise_unless_it_is_none() -> None:
    first, second = Measured(0.9, np.full(100, 0.9)), Measured(0.1, np.full(100, 0.1))
    assert difference({0: first}, {0: second}, 10).beyond_noise
    assert not difference({0: first}, {0: first}, 10).beyond_noise
