"""Intervals: coverage on simulated patients, what is drawn, and where there is none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm, t

from tests.simulated import at, outcomes, repeated
from utils.assessment import assess
from utils.intervals import drawn_figures, expanded_tail, interval, intervals, units_of
from utils.outcomes import Outcomes
from utils.presence import presence
from utils.report import metrics


def test_patients_figures_have_exact_binomial_intervals() -> None:
    """Of 8 patients all are right: 1 - .025^(1/8) is the upper end of the share that may be wrong."""
    whole = outcomes(0, patients=8, operating=2.0)  # nothing is found
    values = intervals(whole, 50).values
    positive = int(presence(whole, whole.patients or ()).true[:, 0].sum())
    assert values["patients", "per_class", "AR", "sensitivity"] == (0, pytest.approx(1 - 0.025 ** (1 / positive)))
    if positive < 8:
        assert values["patients", "per_class", "AR", "specificity"][1] == 1


def test_a_figure_that_no_draw_changes_has_no_interval() -> None:
    """All views right: the draws cannot tell how far from 1 the truth may be."""
    whole = outcomes(0, skill=[1.0] * 8)
    whole = replace(whole, views=np.eye(3)[whole.true_views])
    assert ("view", "accuracy") not in intervals(whole, 100).values


def test_few_patients_widen_the_percentiles_and_many_do_not() -> None:
    assert expanded_tail(9) == pytest.approx(norm.cdf(-np.sqrt(9 / 8) * t.ppf(0.975, 8)))
    assert expanded_tail(9) < 0.01 < expanded_tail(40) < 0.025
    assert expanded_tail(10**6) == pytest.approx(0.025, rel=1e-3)


def held(patients: int, runs: int) -> dict[str, float]:
    """How often intervals over patients, and over frames, hold the true accuracy of views on simulated patients.

    Patients differ in how well they are read: a view is known with probability .6 on average, else guessed among three.
    """
    rng = np.random.default_rng(0)
    count, truth = {"patients": 0, "frames": 0}, 0.6 + 0.4 / 3
    for run in range(runs):
        whole = outcomes(run, patients, frames=12, detections=0, skill=rng.beta(3, 2, patients))
        whole = replace(whole, label_frame=np.zeros(0, int), labelled=np.zeros(0, int))
        for unit, part in (("patients", whole), ("frames", replace(whole, patients=None, clips=None))):
            low, high = intervals(part, draws=500, seed=run).values["view", "accuracy"]
            count[unit] += low <= truth <= high
    return {unit: times / runs for unit, times in count.items()}


@pytest.mark.parametrize(("patients", "runs"), [(8, 200), (25, 100)])
def test_intervals_over_patients_hold_the_truth_about_95_times_in_100(patients: int, runs: int) -> None:
    share = held(patients, runs)
    assert 0.91 <= share["patients"] <= 0.99
    assert share["frames"] < share["patients"] - 0.05  # frames of a patient resemble each other


def test_the_unit_is_the_largest_that_the_dataset_names() -> None:
    whole = outcomes(0)
    assert (intervals(whole, 20).unit, intervals(whole, 20).units) == ("patients", 8)
    clips = intervals(replace(whole, patients=None), 20)
    assert (clips.unit, clips.units) == ("clips", 16)
    frames = intervals(replace(whole, patients=None, clips=None), 20)
    assert (frames.unit, frames.units) == ("frames", 48)
    assert not any(key[0] in ("patients", "clips") for key in frames.values)


def test_intervals_hold_the_figures_and_depend_on_the_seed_alone() -> None:
    whole = outcomes(5, patients=12, frames=8)
    content = metrics(assess(whole, draws=0), {})
    first = intervals(whole, 300, seed=1)
    assert first == intervals(whole, 300, seed=1) != intervals(whole, 300, seed=2)
    for key, (low, high) in first.values.items():
        assert low <= high
        if key in (("map50",), ("view", "accuracy"), ("froc", "0.5")):
            assert low <= at(content, key) <= high


@pytest.mark.parametrize("whole", [outcomes(0, patients=1), outcomes(0)], ids=["one patient", "no draw"])
def test_no_interval_where_none_can_be_had(whole: Outcomes) -> None:
    assert not intervals(whole, draws=0 if len(set(whole.patients or ())) > 1 else 50).values


def test_a_figure_that_most_draws_lack_has_no_interval() -> None:
    """Only one patient of eight has a PR box; a third of the draws lack him, half of 1,000 do not."""
    whole = outcomes(0, patients=8, frames=3)
    lone = np.where(whole.labelled == 2, 0, whole.labelled)
    lone[0] = 2
    found = intervals(replace(whole, labelled=lone), 1000)
    assert ("per_class", "PR", "map50") in found.values
    rare = replace(outcomes(0, patients=2, frames=3, views=False), labelled=np.full(6, 1))
    assert ("per_class", "AR", "map50") not in intervals(rare, 50).values


def test_split_without_any_box_or_detection_has_figures_of_views_alone() -> None:
    whole = outcomes(0, detections=0)
    whole = replace(whole, label_frame=np.zeros(0, int), labelled=np.zeros(0, int))
    values = intervals(whole, 50).values
    assert ("view", "accuracy") in values and ("froc", "0.5") not in values


def test_draws_are_those_of_frames_copied_as_often_as_their_patient_is_drawn() -> None:
    whole = outcomes(1, patients=6, operating=0.0)
    drawn = drawn_figures(whole, 30, seed=4)
    chosen = np.random.default_rng(4).multinomial(6, [1 / 6] * 6, 30)
    for key in (("view", "accuracy"), ("view", "macro_f1"), ("recall",), ("precision",)):
        expected = [at(metrics(assess(repeated(whole, times), draws=0), {}), key) for times in chosen.tolist()]
        np.testing.assert_allclose(drawn[key], expected, rtol=1e-9, err_msg=str(key))


def test_two_evaluations_of_the_same_patients_get_the_same_draws_in_whatever_order_their_frames_came() -> None:
    whole = outcomes(2)
    turned = repeated(whole, [1] * 8)
    back = replace(
        turned, files=turned.files[::-1], patients=(turned.patients or ())[::-1], clips=(turned.clips or ())[::-1],
        frame=len(turned) - 1 - turned.frame, label_frame=len(turned) - 1 - turned.label_frame,
        views=turned.views[::-1], true_views=turned.true_views[::-1],
    )  # fmt: skip
    one, other = (drawn_figures(part, 40, seed=0) for part in (whole, back))
    np.testing.assert_allclose(one["view", "accuracy"], other["view", "accuracy"])
    np.testing.assert_allclose(one["recall",], other["recall",])
    better = replace(whole, views=np.eye(3)[whole.true_views])
    assert (drawn_figures(better, 40, seed=0)["view", "accuracy"] == 1).all()


def test_frames_are_paired_by_name_where_no_patient_is_known() -> None:
    whole = replace(outcomes(2), patients=None, clips=None)
    order = np.random.default_rng(0).permutation(len(whole))
    place = np.argsort(order)
    turned = replace(
        whole, files=tuple(whole.files[i] for i in order), frame=place[whole.frame],
        label_frame=place[whole.label_frame], views=whole.views[order], true_views=whole.true_views[order],
        operating=whole.operating[order],
    )  # fmt: skip
    one, other = (drawn_figures(part, 40, seed=0) for part in (whole, turned))
    np.testing.assert_allclose(one["view", "accuracy"], other["view", "accuracy"])
    np.testing.assert_allclose(one["recall",], other["recall",])


def test_intervals_are_those_of_the_draws() -> None:
    whole = outcomes(3)
    found = intervals(whole, 60, seed=5)
    drawn = drawn_figures(whole, 60, seed=5)
    assert len(drawn["map50",]) == 60
    assert found.values["map50",] == interval(drawn["map50",], 8)
    assert not drawn_figures(whole, 0, seed=5) and not drawn_figures(outcomes(0, patients=1), 60, seed=5)


def test_an_interval_leaves_out_equal_tails() -> None:
    drawn = np.random.default_rng(0).permutation(np.arange(1001.0))
    tail = expanded_tail(8)
    assert interval(drawn, 8) == pytest.approx((1000 * tail, 1000 * (1 - tail)))
    half = np.where(np.arange(1001) % 2 == 0, np.nan, drawn)
    assert interval(half, 8) is None and interval(np.where(drawn < 400, np.nan, drawn), 8) is not None
    assert interval(np.full(9, 0.5), 8) is None and interval(np.array([]), 8) is None


def test_units_are_numbered_in_the_order_of_their_names() -> None:
    whole = replace(outcomes(0, patients=3, frames=1), patients=("b", "a", "b"))
    unit, names, numbers = units_of(whole)
    assert (unit, tuple(names), numbers.tolist()) == ("patients", ("a", "b"), [1, 0, 1])
