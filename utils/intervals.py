"""95% intervals of all figures, by bootstrap over patients.

Frames of one patient resemble each other, so what is drawn, with replacement, is whole patients (the cluster bootstrap;
Davison and Hinkley 1997, section 3.8). A draw is a weight for each patient: how often it was drawn. Every figure here
is computed from weights, so that no frame is copied.

Few patients make percentile intervals too narrow. The percentiles are therefore those of Hesterberg (2015, "What
teachers should know about the bootstrap"): expanded as Student's t is wider than the normal distribution.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from utils.log import progress
from utils.outcomes import Outcomes
from utils.presence import codes, presence
from utils.view_metrics import Floats, Integers
from utils.weighted import Key, Sample

LEVEL = 0.95
DRAWS = 2000
CHUNK = 50  # draws whose weights are held at once


@dataclass(frozen=True)
class Intervals:
    """Intervals of an evaluation's figures.

    Attributes:
        unit: what was drawn: "patients", or where the dataset does not name them "clips", or else "frames".
        units: how many there are.
        values: low and high end by figure. A figure that is undefined in most draws, or the same in all, has none.
    """

    unit: str
    units: int
    draws: int
    values: Mapping[Key, tuple[float, float]]


def intervals(outcomes: Outcomes, draws: int = DRAWS, seed: int = 0) -> Intervals:
    """Bootstrap all figures of :class:`utils.weighted.Sample`; one unit alone, or no draw asked for, gives none."""
    unit, names, _ = units_of(outcomes)
    found = {key: interval(drawn, len(names)) for key, drawn in drawn_figures(outcomes, draws, seed).items()}
    values = {key: ends for key, ends in found.items() if ends is not None}
    if draws and len(names) > 1 and unit == "patients":
        values |= _of_patients(outcomes)
    return Intervals(unit, len(names), draws, values)


def drawn_figures(outcomes: Outcomes, draws: int, seed: int) -> dict[Key, Floats]:
    """Every figure (draws,) in each draw, NaN where it is undefined; nothing of one unit alone.

    Two evaluations of the same frames get the same draws from the same seed, so that their figures are paired.
    """
    unit, names, unit_of = units_of(outcomes)
    if not draws or len(names) < 2:
        return {}
    sample = Sample(outcomes, unit_of, len(names), by_patient=unit == "patients")
    chunks = [sample.figures(weights) for weights in _draws(len(names), draws, seed)]
    return {key: np.concatenate([chunk[key] for chunk in chunks]) for key in chunks[0]}


def interval(drawn: Floats, units: int) -> tuple[float, float] | None:
    """Both ends over the draws; None of what is undefined in most of them, or the same in all."""
    known = drawn[~np.isnan(drawn)]
    if len(known) <= len(drawn) / 2 or np.ptp(known) <= 1e-9:
        return None
    tail = expanded_tail(units)
    low, high = np.quantile(known, (tail, 1 - tail)).tolist()
    return low, high


def units_of(outcomes: Outcomes) -> tuple[str, Sequence[str], Integers]:
    """The largest units that the dataset names, and each frame's."""
    for unit, of_frame in (("patients", outcomes.patients), ("clips", outcomes.clips)):
        if of_frame is not None:
            return (unit, *codes(of_frame))
    names = sorted(outcomes.files)  # in whatever order they were looked at, so that methods are paired frame by frame
    return "frames", names, np.argsort(np.argsort(np.array(outcomes.files), kind="stable"), kind="stable")


def _of_patients(outcomes: Outcomes) -> dict[Key, tuple[float, float]]:
    """Exact binomial intervals (Clopper and Pearson 1934) of the patients' sensitivity and specificity.

    Patients are independent of each other, so nothing need be drawn; and where all of few patients are right, draws
    would only repeat that.
    """
    from scipy.stats import binomtest

    assert outcomes.patients is not None
    pooled = presence(outcomes, outcomes.patients)
    found: dict[Key, tuple[float, float]] = {}
    for figure, whole, right in (
        ("sensitivity", pooled.true, pooled.found),
        ("specificity", ~pooled.true, ~pooled.found),
    ):
        for name, of, hits in zip(outcomes.names, whole.sum(0), (whole & right).sum(0), strict=True):
            if of:
                ends = binomtest(int(hits), int(of)).proportion_ci(LEVEL)
                found["patients", "per_class", name, figure] = (float(ends.low), float(ends.high))
    return found


def _draws(units: int, draws: int, seed: int) -> Iterator[Floats]:
    """Weights (CHUNK, units) at a time, each row summing to ``units``."""
    rng = np.random.default_rng(seed)
    for start in progress(range(0, draws, CHUNK), "intervals", unit=f"x{CHUNK} draws", leave=False, delay=1.0):
        yield rng.multinomial(units, np.full(units, 1 / units), min(CHUNK, draws - start)).astype(float)


def expanded_tail(units: int) -> float:
    """The share of draws below an interval, Phi(-sqrt(n / (n - 1)) t(n - 1)); 0.025 for many units, less for few."""
    from scipy.stats import norm, t

    quantile = t.ppf((1 + LEVEL) / 2, units - 1)
    return float(norm.cdf(-np.sqrt(units / (units - 1)) * quantile))
