"""Figures of views: by hand, and against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    brier_score_loss,
    f1_score,
    log_loss,
)

from utils.view_metrics import (
    BINS,
    Floats,
    Integers,
    accuracy,
    balanced_accuracy,
    calibration,
    fit_temperature,
    macro_f1,
    tempered,
    view_confusion,
    view_figures,
)


def frames(seed: int, count: int = 400, sharpness: float = 1.0) -> tuple[Floats, Integers]:
    """Views (F,) drawn from probabilities (F, 3), which are then made ``sharpness`` times as sure as they should be."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, (count, 3))
    true = np.array([rng.choice(3, p=row) for row in softmax(logits, 1)])
    return softmax(logits * sharpness, 1), true


def test_view_figures_by_hand() -> None:
    """Three views; the last is never predicted, and two frames carry none."""
    true = [0, 0, 0, 1, 1, 2, -1, -1]
    predicted = [0, 0, 1, 1, 0, 0, 2, 1]
    got = view_figures(predicted, true, 3)
    assert got.confusion.tolist() == [[2, 1, 1], [1, 1, 0], [0, 0, 0]]  # row predicted, column true
    assert got.frames == 6 and got.accuracy == pytest.approx(3 / 6)
    assert got.precision == pytest.approx([2 / 4, 1 / 2, 0])
    assert got.recall == pytest.approx([2 / 3, 1 / 2, 0])
    assert got.f1 == pytest.approx([4 / 7, 1 / 2, 0])
    assert got.macro_f1 == pytest.approx((4 / 7 + 1 / 2) / 3)


def test_macro_f1_leaves_out_views_that_neither_occur_nor_are_predicted() -> None:
    assert view_figures([0, 0, 1], [0, 0, 1], 5).macro_f1 == 1.0
    got = view_figures([0, 3], [0, 0], 5)
    assert got.f1 == pytest.approx([2 / 3, 0, 0, 0, 0]) and got.macro_f1 == pytest.approx(1 / 3)


@pytest.mark.parametrize("true", [[], [-1, -1]])
def test_without_a_labelled_frame_view_figures_are_zero(true: list[int]) -> None:
    got = view_figures([1] * len(true), true, 3)
    assert got.frames == 0 and got.accuracy == 0 and got.macro_f1 == 0
    assert not got.precision.any() and not got.recall.any() and not got.f1.any()


def test_all_views_right_is_one_everywhere() -> None:
    got = view_figures(np.array([2, 0, 1, 1]), np.array([2, 0, 1, 1]), 3)
    assert got.accuracy == got.macro_f1 == 1 and (got.precision == 1).all() and (got.recall == 1).all()


@pytest.mark.parametrize("seed", range(5))
def test_figures_of_views_are_scikit_learns(seed: int) -> None:
    probabilities, true = frames(seed)
    predicted = probabilities.argmax(1)
    got = view_figures(predicted, true, 3)
    assert got.accuracy == pytest.approx(accuracy_score(true, predicted))
    assert got.balanced_accuracy == pytest.approx(balanced_accuracy_score(true, predicted))
    assert got.macro_f1 == pytest.approx(f1_score(true, predicted, average="macro"))


def test_balanced_accuracy_of_always_the_same_view_is_chance() -> None:
    got = view_figures([1] * 100, [1] * 90 + [0] * 5 + [2] * 5, 3)
    assert got.accuracy == 0.9 and got.balanced_accuracy == pytest.approx(1 / 3)


def test_figures_of_many_matrices_are_those_of_each() -> None:
    many = np.stack([view_confusion(p.argmax(1), t, 3) for p, t in (frames(seed, 50) for seed in range(4))])
    for figure in (accuracy, balanced_accuracy, macro_f1):
        assert figure(many).tolist() == [float(figure(one)) for one in many]
    assert np.isnan(balanced_accuracy(np.zeros((2, 3, 3)))).all()


@pytest.mark.parametrize("seed", range(3))
def test_brier_score_and_log_loss_are_scikit_learns(seed: int) -> None:
    probabilities, true = frames(seed)
    got = calibration(probabilities, true)
    assert got.log_loss == pytest.approx(log_loss(true, probabilities))
    assert got.brier == pytest.approx(brier_score_loss(true, probabilities, labels=[0, 1, 2], scale_by_half=False))


def test_the_calibration_error_by_hand() -> None:
    """Two frames at .62, one right; one at .9, right; one unlabelled frame does not count."""
    probabilities = np.array([[0.62, 0.3, 0.08], [0.3, 0.62, 0.08], [0.05, 0.05, 0.9], [1, 0, 0]])
    got = calibration(probabilities, np.array([0, 2, 2, -1]))
    assert got.ece == pytest.approx((2 * abs(0.5 - 0.62) + abs(1 - 0.9)) / 3)
    assert got.count.sum() == 3 and got.count.shape == (BINS,)
    place = int(np.flatnonzero(got.count == 2)[0])
    assert (got.confidence[place], got.right[place]) == (pytest.approx(0.62), 0.5)
    assert np.isnan(got.right[got.count == 0]).all()


@pytest.mark.parametrize("probability", [1 / BINS, 0.2, 0.4, 0.6, 0.8, 1.0])
def test_a_probability_on_the_edge_of_two_bins_belongs_to_the_lower_one(probability: float) -> None:
    rest = (1 - probability) / 20
    row = np.array([[probability, *[rest] * 20]])
    count = calibration(row, np.array([0])).count
    assert np.flatnonzero(count).tolist() == [max(round(max(probability, rest) * BINS) - 1, 0)]


def test_probabilities_at_their_word_have_a_small_error_and_boasting_ones_a_large_one() -> None:
    assert calibration(*frames(0, 20000)).ece < 0.015
    assert calibration(*frames(0, 20000, sharpness=4)).ece > 0.1


@pytest.mark.parametrize("sharpness", [0.4, 1.0, 3.0])
def test_the_temperature_undoes_what_made_the_probabilities_too_sure(sharpness: float) -> None:
    probabilities, true = frames(1, 20000, sharpness)
    temperature = fit_temperature(probabilities, true)
    assert temperature == pytest.approx(sharpness, rel=0.05)
    assert calibration(probabilities, true, temperature).ece < 0.015
    before, after = calibration(probabilities, true), calibration(probabilities, true, temperature)
    assert after.log_loss <= before.log_loss + 1e-9 and after.temperature == temperature


def test_a_temperature_divides_the_logits_and_keeps_the_order_of_views() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (50, 3))
    got = tempered(softmax(logits, 1), 2.5)
    np.testing.assert_allclose(got, softmax(logits / 2.5, 1), rtol=1e-9)
    assert (got.argmax(1) == logits.argmax(1)).all()


def test_a_probability_of_zero_gives_no_infinite_loss_and_no_warning() -> None:
    sure = np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    got = calibration(sure, np.array([1, 0]))
    assert np.isfinite(got.log_loss) and got.brier == pytest.approx(1.0)
    assert np.isfinite(tempered(sure, 3.0)).all() and np.isfinite(fit_temperature(sure, np.array([1, 0])))


def test_where_all_views_are_right_the_temperature_stays_moderate() -> None:
    """There is no least log loss then: without smoothed targets the temperature would run to 0."""
    probabilities = np.tile([0.9, 0.05, 0.05], (163, 1))
    temperature = fit_temperature(probabilities, np.zeros(163, np.int64))
    assert 0.4 < temperature < 0.8
    assert tempered(probabilities, temperature)[0, 0] == pytest.approx(164 / 166, abs=1e-3)


def test_without_a_labelled_frame_the_temperature_is_one() -> None:
    assert fit_temperature(np.full((2, 3), 1 / 3), np.array([-1, -1])) == 1.0
    assert np.isnan(calibration(np.full((2, 3), 1 / 3), np.array([-1, -1])).ece)
