"""Differences between trainings, and whether they are larger than the noise.

Two sources of noise are known apart. Which patients happen to be in the split: the paired bootstrap over patients, in
which both methods meet the same drawn patients (see :mod:`utils.intervals`). Which random numbers a training happens to
get: the spread over seeds, as Student's interval of the differences seed by seed. A difference counts as beyond the
noise where every interval that is known excludes zero, and at least one is known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from utils.intervals import LEVEL, interval
from utils.view_metrics import Floats

Ends = tuple[float, float]
FEWEST_UNITS = 6  # patients: of fewer, all of them may lie on one side by chance, and percentiles cannot tell


@dataclass(frozen=True)
class Measured:
    """A figure of one training.

    Attributes:
        value: of all frames; NaN where the training does not learn what it measures.
        drawn: (D,) in each draw of patients, the same draws for all trainings; None where it is not drawn.
    """

    value: float
    drawn: Floats | None = None


@dataclass(frozen=True)
class Estimate:
    """A figure of a method.

    Attributes:
        value: mean over the seeds.
        spread: standard deviation over the seeds (n - 1); NaN of one.
        patients: interval of the mean over patients, if known.
    """

    value: float
    spread: float
    patients: Ends | None


@dataclass(frozen=True)
class Difference:
    """First method less second.

    Attributes:
        patients, seeds: intervals of the difference from either source of noise; None where it is not known.
        pairs: seeds that both methods have.
    """

    value: float
    patients: Ends | None
    seeds: Ends | None
    pairs: int

    @property
    def beyond_noise(self) -> bool:
        """Whether all known intervals lie on the difference's own side of zero."""
        known = [ends for ends in (self.patients, self.seeds) if ends is not None]
        return bool(known) and all(low > 0 if self.value > 0 else high < 0 for low, high in known)


def estimate(runs: Sequence[Measured], units: int) -> Estimate:
    """Of a method from its seeds.

    Args:
        units: how many patients (clips, frames) are drawn.
    """
    values = np.array([run.value for run in runs])
    spread = float(values.std(ddof=1)) if len(values) > 1 else math.nan
    drawn = _mean_drawn(runs)
    return Estimate(float(values.mean()), spread, None if drawn is None else interval(drawn, units))


def difference(first: Mapping[int, Measured], second: Mapping[int, Measured], units: int) -> Difference:
    """Of two methods, whose trainings are given by seed: of the seeds that both have, or of all if they share none."""
    common = sorted(first.keys() & second.keys())
    one, other = ([runs[seed] for seed in common or runs] for runs in (first, second))
    value = np.mean([run.value for run in one]) - np.mean([run.value for run in other])
    drawn, against = _mean_drawn(one), _mean_drawn(other)
    patients = None
    if drawn is not None and against is not None and units >= FEWEST_UNITS:
        patients = _ends(drawn - against, units)
    steps = np.array([first[seed].value - second[seed].value for seed in common])
    return Difference(float(value), patients, _students(steps), len(common))


def _ends(drawn: Floats, units: int) -> Ends | None:
    """The interval of a difference, which may well be the same in all draws."""
    known = drawn[~np.isnan(drawn)]
    if len(known) > len(drawn) / 2 and np.ptp(known) <= 1e-9:
        return float(known[0]), float(known[0])
    return interval(drawn, units)


def _mean_drawn(runs: Sequence[Measured]) -> Floats | None:
    drawn = [run.drawn for run in runs if run.drawn is not None]
    return np.mean(drawn, 0) if len(drawn) == len(runs) else None


def _students(values: Floats) -> Ends | None:
    """Student's interval of a mean; None of fewer than two values, where one is not known, and where all are the same.

    The same by chance, as figures of few frames move in coarse steps: that says nothing of how far others would lie.
    """
    if len(values) < 2 or np.isnan(values).any() or np.ptp(values) <= 1e-9:
        return None
    from scipy.stats import t

    half = float(t.ppf((1 + LEVEL) / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
    return float(values.mean()) - half, float(values.mean()) + half
