"""utils/stratify.py: groups stay together, strata stay near the whole, and equal seeds give equal divisions."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold

from utils.log import InputError
from utils.stratify import distance, folds, holdout

PATIENTS = 40


def simulated(seed: int) -> tuple[list[str], list[tuple[int, int]]]:
    """Groups and strata (class, view) of 40 patients of 2 to 100 frames, each with preferences of its own."""
    rng = np.random.default_rng(seed)
    groups: list[str] = []
    strata: list[tuple[int, int]] = []
    for patient in range(PATIENTS):
        frames = min(2 + int(rng.geometric(1 / 25)), 100)
        classes = rng.choice(4, frames, p=rng.dirichlet([0.3] * 4))
        views = rng.choice(3, frames, p=rng.dirichlet([0.5] * 3))
        groups += [f"p{patient:02}"] * frames
        strata += list(zip(classes.tolist(), views.tolist(), strict=True))
    return groups, strata


@functools.cache
def simulated_folds(seed: int) -> list[NDArray[np.int64]]:
    """Five folds of them, found once for all tests."""
    return folds(*simulated(seed), 5)


def variation(part: NDArray[Any], strata: Sequence[Any]) -> float:
    """Total variation distance of a part's strata from those of all frames, counted one by one."""
    inside = [strata[index] for index in part]
    return sum(abs(inside.count(s) / len(inside) - strata.count(s) / len(strata)) for s in set(strata)) / 2


def assert_divided(parts: Sequence[NDArray[Any]], groups: Sequence[Any]) -> None:
    """Every frame is in one part, no group is in two, and no part is empty."""
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(groups)))
    owners = [{groups[index] for index in part} for part in parts]
    assert all(owners)
    assert sum(map(len, owners)) == len(set(groups))


@pytest.mark.parametrize("seed", range(12))
def test_folds_keep_each_group_together_and_use_each_frame_once(seed: int) -> None:
    rng = np.random.default_rng(seed)
    total = int(rng.integers(2, 15))
    groups = [*range(total), *rng.integers(0, total, int(rng.integers(0, 60))).tolist()]
    strata = rng.integers(0, int(rng.integers(1, 9)), len(groups)).tolist()
    count = total if seed % 3 == 0 else int(rng.integers(2, total + 1))
    parts = folds(groups, strata, count, seed)
    assert len(parts) == count
    assert_divided(parts, groups)
    assert all((np.diff(part) > 0).all() for part in parts)


@pytest.mark.parametrize("count", [2, 5, 7])
def test_no_fold_is_empty_where_every_frame_is_a_group_and_a_stratum_of_its_own(count: int) -> None:
    assert_divided(folds(range(7), range(7), count), range(7))


def test_frames_of_one_patient_need_not_follow_each_other() -> None:
    groups = ["a", "b", "c", "d"] * 5
    assert_divided(folds(groups, [0, 1] * 10, 2), groups)


def test_alike_patients_are_divided_evenly() -> None:
    groups = [patient for patient in range(10) for _ in range(4)]
    strata = [(patient % 2, frame % 2) for patient in range(10) for frame in range(4)]
    for part in folds(groups, strata, 5):
        assert len(part) == 8
        assert variation(part, strata) == 0


@pytest.mark.parametrize("seed", range(4))
def test_strata_of_folds_are_near_the_whole(seed: int) -> None:
    groups, strata = simulated(seed)
    parts = simulated_folds(seed)
    assert np.mean([variation(part, strata) for part in parts]) < 0.25
    assert max(variation(part, strata) for part in parts) < 0.35
    assert all(0.15 < len(part) / len(groups) < 0.25 for part in parts)


def test_strata_of_folds_are_nearer_to_the_whole_than_without_stratification() -> None:
    ours, plain = [], []
    for seed in range(4):
        groups, strata = simulated(seed)
        ours += [variation(part, strata) for part in simulated_folds(seed)]
        plain += [variation(part, strata) for _, part in GroupKFold(5).split(groups, None, groups)]
    assert np.mean(ours) < 0.7 * np.mean(plain)


def test_equal_seeds_give_equal_folds_and_another_seed_gives_others() -> None:
    again, other = (folds(*simulated(0), 5, seed) for seed in (0, 4))
    assert all(map(np.array_equal, simulated_folds(0), again))
    assert not all(map(np.array_equal, simulated_folds(0), other))


def test_equal_seeds_give_equal_holdouts() -> None:
    groups, strata = list("aabbccddeeffgg") * 3, [0, 1, 2] * 14
    first, again = (holdout(groups, strata, [0.2, 0.3], 5) for _ in range(2))
    assert all(map(np.array_equal, first, again))


def test_the_search_finds_better_folds_than_its_first_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    def mean(seed: int, parts: Sequence[NDArray[np.int64]]) -> float:
        groups, strata = simulated(seed)
        return float(np.mean([variation(part, strata) + abs(len(part) / (len(groups) / 5) - 1) for part in parts]))

    best = [mean(seed, simulated_folds(seed)) for seed in range(3)]
    monkeypatch.setattr("utils.stratify.CANDIDATES", 1)
    assert np.mean(best) < 0.95 * np.mean([mean(seed, folds(*simulated(seed), 5)) for seed in range(3)])


@pytest.mark.parametrize("count", [-1, 0, 1, 4])
def test_folds_are_at_least_two_and_at_most_as_many_as_groups(count: int) -> None:
    with pytest.raises(InputError, match=f"^--folds: expected 2 to 3, the number of groups .*, got {count}$"):
        folds(["a", "b", "c", "c"], [0, 1, 0, 1], count)


@pytest.mark.parametrize("shares", [[0.8], [0.1, 0.3]])
def test_held_out_parts_have_about_their_shares_of_frames_and_strata(shares: list[float]) -> None:
    groups, strata = simulated(0)
    parts = holdout(groups, strata, shares)
    rest = np.setdiff1d(np.arange(len(groups)), np.concatenate(parts))
    assert_divided([*parts, rest], groups)
    for part, share in zip(parts, shares, strict=True):
        assert abs(len(part) / len(groups) - share) < 0.1 * share
        assert (np.diff(part) > 0).all()
    assert all(variation(part, strata) < 0.2 for part in (*parts, rest))


@pytest.mark.parametrize("seed", range(8))
def test_neither_part_of_a_holdout_is_empty(seed: int) -> None:
    rng = np.random.default_rng(seed)
    total = int(rng.integers(2, 6))
    groups = [*range(total), *rng.integers(0, total, 5).tolist()]
    strata = rng.integers(0, 3, len(groups)).tolist()
    (held,) = holdout(groups, strata, [float(rng.choice([0.001, 0.3, 0.999]))], seed)
    assert_divided([held, np.setdiff1d(np.arange(len(groups)), held)], groups)


@pytest.mark.parametrize(
    ("sizes", "shares"), [((90, 5, 5), [0.2, 0.1]), ((60, 20, 20), [0.2, 0.4]), ((10, 10, 10), [0.45, 0.5])]
)
def test_two_parts_of_three_groups_have_one_each(sizes: tuple[int, ...], shares: list[float]) -> None:
    groups = [group for group, size in enumerate(sizes) for _ in range(size)]
    strata = [number % 3 for number in range(len(groups))]
    parts = holdout(groups, strata, shares)
    assert_divided([*parts, np.setdiff1d(np.arange(len(groups)), np.concatenate(parts))], groups)


@pytest.mark.parametrize("shares", [[], [0.0], [1.0], [-0.2], [1.5], [float("nan")], [0.5, 0.5], [0.1] * 3])
def test_shares_are_one_or_two_between_0_and_1_and_below_1_together(shares: list[float]) -> None:
    words = " ".join(map(str, shares))
    expected = f"^--holdout: expected one or two shares between 0 and 1, together below 1, got {words}$"
    with pytest.raises(InputError, match=expected):
        holdout(["a", "b", "c", "d"], [0, 1, 0, 1], shares)


@pytest.mark.parametrize(("groups", "shares"), [("aa", [0.5]), ("abb", [0.3, 0.3]), ("", [0.5])])
def test_too_few_groups_cannot_be_divided(groups: str, shares: list[float]) -> None:
    least = len(shares) + 1
    with pytest.raises(InputError, match=rf"^--holdout: expected at least {least} groups .*, got [012]$"):
        holdout(groups, groups, shares)


def test_distance_of_hand_made_parts() -> None:
    whole = np.array([40, 60])
    parts = np.array([[8, 12], [12, 8], [16, 24], [4, 6], [10, 0], [0, 0]])
    assert distance(parts, whole, 0.2).tolist() == pytest.approx([0, 0.2, 1, 0.5, 1.1, float("inf")])
