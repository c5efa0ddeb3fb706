"""Frames divided into folds and hold-outs that keep groups whole and have alike strata: numbers alone, no files."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.log import InputError

CANDIDATES = 20  # ways to make the folds, of which the closest to the whole is taken
HOLDOUT_CANDIDATES = 2  # likewise, for each number of folds that a hold-out is put together from
MOST_FOLDS = 20
MOST_UNIONS = 500  # of a hold-out's folds that are tried; beyond that, so many at random
SAMPLED = 0.8  # of the frames that a candidate looks at
CLOSE = 0.01  # distance from the whole at which the search ends
Indices = NDArray[np.int64]


def folds(groups: Sequence[Hashable], strata: Sequence[Hashable], count: int, seed: int = 0) -> list[Indices]:
    """Divide frames into ``count`` folds; no group is in two of them, and each is as much like the whole as it can be.

    scikit-learn's greedy assignment leaves little to chance: where no two groups are alike, every seed gives the same
    folds. So candidates differ in the frames they look at, too (all of them, or a random four fifths), and the one of
    the least mean :func:`distance` counts.

    Args:
        groups: of each frame, such as its patient.
        strata: of each frame, whose shares shall be alike in all folds.
        count: at least 2, at most the number of groups.
        seed: equal seeds give equal folds.

    Returns:
        The frames' indices in each fold, ascending; each frame is in one.

    Raises:
        InputError: ``count`` is out of range.
    """
    group, stratum = numbered(groups), numbered(strata)
    total, whole = _total(group), np.bincount(stratum)
    if not 2 <= count <= total:
        raise InputError(f"--folds: expected 2 to {total}, the number of groups (patients), got {count}")
    candidates = _candidates(group, stratum, count, seed, CANDIDATES)
    best = _closest(
        (float(distance(_table(fold, stratum, count), whole, 1 / count).mean()), fold) for fold in candidates
    )
    return [np.flatnonzero(best == number) for number in range(count)]


def holdout(
    groups: Sequence[Hashable], strata: Sequence[Hashable], shares: Sequence[float], seed: int = 0
) -> list[Indices]:
    """Hold out one or two parts of the frames, in whole groups, as much like the whole as can be.

    A part is a union of p of q folds, p / q near its share; of all q up to 20 and the unions of their folds, the one
    of the least :func:`distance` counts. The second of two parts is cut off first, the first from the rest.

    Args:
        groups, strata, seed: as for :func:`folds`.
        shares: of all frames, between 0 and 1, together below 1.

    Returns:
        Ascending indices of the frames of each part; neither a part nor what is left is empty.

    Raises:
        InputError: ``shares`` are out of range, or there are too few groups.
    """
    if len(shares) not in (1, 2) or not all(0 < share < 1 for share in shares) or not sum(shares) < 1:
        words = " ".join(map(str, shares))
        raise InputError(f"--holdout: expected one or two shares between 0 and 1, together below 1, got {words}")
    group, stratum = numbered(groups), numbered(strata)
    parts: list[Indices] = []
    rest = np.arange(len(group))
    for number, share in reversed(list(enumerate(shares, 1))):
        own = numbered(group[rest].tolist())
        held = rest[_held_out(own, stratum[rest], share * len(group), number, seed)]
        rest, parts = np.setdiff1d(rest, held), [held, *parts]
    return parts


def distance(part: NDArray[Any], whole: NDArray[Any], share: float) -> NDArray[np.float64]:
    """How far a part (..., strata) is from ``share`` of the whole (strata,) with the same histogram; both count frames.

    Total variation distance of the two histograms, plus the part's error in size, divided by the size it should have:
    0.1 are a tenth of its frames in the wrong stratum, or a tenth too many. An empty part is infinitely far.
    """
    size, wanted = part.sum(-1), share * whole.sum()
    histogram = part / np.maximum(size, 1)[..., None]
    variation = np.abs(histogram - whole / whole.sum()).sum(-1) / 2
    return np.where(size > 0, variation + np.abs(size / wanted - 1), math.inf)


def numbered(values: Iterable[Hashable]) -> Indices:
    """Each value's number, by first appearance."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values], np.int64)


def _held_out(group: Indices, stratum: Indices, frames: float, leave: int, seed: int) -> Indices:
    """Indices of one part of about so many frames; where they are all or more, what is left is as small as can be.

    Args:
        leave: groups that are left at least.
    """
    total, whole = _total(group), np.bincount(stratum)
    if total <= leave:
        raise InputError(f"--holdout: expected at least {leave + 1} groups (patients) to divide, got {total}")
    share, first = frames / len(group), np.unique(group, return_index=True)[1]

    def scored() -> Iterator[tuple[float, Indices]]:
        for count in range(2, min(MOST_FOLDS, total) + 1):
            size = min(max(round(share * count), 1), max(count - leave, 1))
            unions = _unions(count, size, np.random.default_rng((seed, count)))
            for fold in _candidates(group, stratum, count, seed, HOLDOUT_CANDIDATES):
                parts = _table(fold, stratum, count)[unions].sum(1)
                distances = distance(parts, whole, share)
                groups = np.bincount(fold[first], minlength=count)
                distances[groups[unions].sum(1) > total - leave] = math.inf
                nearest = int(distances.argmin())
                yield float(distances[nearest]), np.flatnonzero(np.isin(fold, unions[nearest]))

    return _closest(scored())


def _closest(scored: Iterable[tuple[float, Indices]]) -> Indices:
    """The candidate of the least distance; one that is close enough ends the search."""
    best, lowest = np.zeros(0, np.int64), math.inf
    for value, candidate in scored:
        if value < lowest:
            best, lowest = candidate, value
        if lowest < CLOSE:
            break
    return best


def _unions(count: int, taken: int, rng: np.random.Generator) -> Indices:
    """Ways (n, taken) to take so many of ``count`` folds: all, or some at random where they are many."""
    if math.comb(count, taken) <= MOST_UNIONS:
        return np.array(list(itertools.combinations(range(count), taken)), np.int64)
    return rng.permuted(np.tile(np.arange(count), (MOST_UNIONS, 1)), axis=1)[:, :taken]


def _candidates(group: Indices, stratum: Indices, count: int, seed: int, tries: int) -> Iterator[Indices]:
    """The fold of each frame: by a look at all frames, then at a part of them, the last by sizes alone.

    Where strata tie but for rounding, a fold can stay empty; sizes alone fill every one.
    """
    for number in range(tries):
        rng = np.random.default_rng((seed, count, number))
        yield _assigned(group, stratum, count, rng, SAMPLED if number else 1.0)
    yield _assigned(group, np.zeros_like(stratum), count, np.random.default_rng((seed, count, tries)), 1.0)


def _assigned(group: Indices, stratum: Indices, count: int, rng: np.random.Generator, sampled: float) -> Indices:
    """The fold of each frame, by scikit-learn from a random part of the frames (at least one of each group)."""
    from sklearn.model_selection import StratifiedGroupKFold

    used = rng.random(len(group)) < sampled
    used[np.unique(group, return_index=True)[1]] = True
    frames = np.flatnonzero(used)
    # Ties go by the groups' order. It is shuffled here: until scikit-learn 1.8, shuffle=True did not stratify.
    order = rng.permutation(_total(group))
    fold = np.zeros(_total(group), np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # rare strata are no news
        parts = StratifiedGroupKFold(count).split(frames, _unless_rare(stratum[frames], count), order[group[frames]])
        for number, (_, chosen) in enumerate(parts):
            fold[group[frames[chosen]]] = number
    return fold[group]


def _unless_rare(stratum: Indices, count: int) -> Indices:
    """The strata, or one for all where each has fewer frames than there are folds: scikit-learn refuses those."""
    return stratum if np.bincount(stratum).max() >= count else np.zeros_like(stratum)


def _total(group: Indices) -> int:
    return int(group.max(initial=-1)) + 1


def _table(fold: Indices, stratum: Indices, count: int) -> Indices:
    """Frames (count, strata) by fold and stratum, from both numbers of each frame."""
    columns = _total(stratum)
    return np.bincount(fold * columns + stratum, minlength=count * columns).reshape(count, columns)
