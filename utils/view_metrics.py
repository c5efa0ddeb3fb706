"""Figures of the view head: accuracy and its kin from a confusion matrix; calibration of its probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.labels import UNLABELLED

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
BINS = 15  # of the calibration error, as in Guo et al. 2017
LEAST_PROBABILITY = 1e-12  # under it float32 softmax gives 0, whose logarithm would be infinite
TEMPERATURES = (0.05, 20.0)  # where the best one is looked for


def accuracy(confusion: Floats | Integers) -> Floats:
    """Share of frames whose view is right, of matrices (..., nv, nv), row predicted, column true; NaN without any."""
    return share(np.trace(confusion, axis1=-2, axis2=-1), confusion.sum((-2, -1)))


def recalls(confusion: Floats | Integers) -> Floats:
    """(..., nv), the share of each true view that is found; NaN for a view that does not occur."""
    return share(np.diagonal(confusion, axis1=-2, axis2=-1), confusion.sum(-2))


def balanced_accuracy(confusion: Floats | Integers) -> Floats:
    """Mean recall over the views that occur; 1 / nv is chance, however unequal the views are."""
    return _mean_of_known(recalls(confusion))


def f1_scores(confusion: Floats | Integers) -> Floats:
    """(..., nv); NaN for a view that neither occurs nor is predicted."""
    return share(2 * np.diagonal(confusion, axis1=-2, axis2=-1), confusion.sum(-1) + confusion.sum(-2))


def macro_f1(confusion: Floats | Integers) -> Floats:
    """Mean F1 over the views that occur or were predicted, as scikit-learn's."""
    return _mean_of_known(f1_scores(confusion))


def share(part: NDArray[Any], whole: NDArray[Any]) -> Floats:
    """Part of the whole, element by element; NaN where there is no whole."""
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=np.asarray(whole) > 0)


def _mean_of_known(values: Floats) -> Floats:
    """Mean over the last axis of what is a number; NaN where nothing is."""
    known = ~np.isnan(values)
    return share(np.where(known, values, 0).sum(-1), known.sum(-1))


@dataclass(frozen=True)
class ViewFigures:
    """Figures of the view head over the frames that carry a view.

    Attributes:
        confusion: (nv, nv) counts, row predicted, column true.
    """

    confusion: Integers

    @property
    def frames(self) -> int:
        """How many frames carry a view."""
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        """Share of frames whose view is right; 0 without any."""
        return float(np.nan_to_num(accuracy(self.confusion)))

    @property
    def balanced_accuracy(self) -> float:
        """See :func:`balanced_accuracy`; 0 without any frame."""
        return float(np.nan_to_num(balanced_accuracy(self.confusion)))

    @property
    def precision(self) -> Floats:
        """(nv,); 0 for a view that was never predicted."""
        return np.nan_to_num(share(self.confusion.diagonal(), self.confusion.sum(1)))

    @property
    def recall(self) -> Floats:
        """(nv,); 0 for a view that does not occur."""
        return np.nan_to_num(recalls(self.confusion))

    @property
    def f1(self) -> Floats:
        """(nv,)."""
        return np.nan_to_num(f1_scores(self.confusion))

    @property
    def macro_f1(self) -> float:
        """See :func:`macro_f1`; 0 without any frame."""
        return float(np.nan_to_num(macro_f1(self.confusion)))


def view_confusion(predicted: Sequence[int] | Integers, true: Sequence[int] | Integers, nv: int) -> Integers:
    """(nv, nv) counts, row predicted, column true; frames whose true view is -1 are left out."""
    predicted, true = np.asarray(predicted, np.int64), np.asarray(true, np.int64)
    labelled = true != UNLABELLED
    confusion = np.zeros((nv, nv), np.int64)
    np.add.at(confusion, (predicted[labelled], true[labelled]), 1)
    return confusion


def view_figures(predicted: Sequence[int] | Integers, true: Sequence[int] | Integers, nv: int) -> ViewFigures:
    """Compare views of frames; those whose true view is -1 are left out."""
    return ViewFigures(view_confusion(predicted, true, nv))


@dataclass(frozen=True)
class Calibration:
    """How far a view head's probabilities can be taken at their word.

    Attributes:
        count: (b,) frames whose highest probability falls into each of b equal bins of 0..1, (low, high].
        confidence: (b,) mean highest probability there; NaN in an empty bin.
        right: (b,) share of right views there; NaN in an empty bin.
        ece: expected calibration error (Guo et al. 2017, eq. 3): mean over frames of |right - confidence| of their bin.
        brier: mean over frames of the sum over views of (probability - 1 if true else 0)^2 (Brier 1950): 0 to 2.
        log_loss: mean over frames of -log of the true view's probability; ln nv is chance.
        temperature: by which logits were divided; 1 leaves them.
    """

    count: Floats
    confidence: Floats
    right: Floats
    ece: float
    brier: float
    log_loss: float
    temperature: float = 1.0


def calibration(probabilities: Floats, true: Integers, temperature: float = 1.0) -> Calibration:
    """Calibration over the frames that carry a view.

    Args:
        probabilities: (F, nv).
        true: (F,), -1 where unlabelled.
        temperature: see :func:`tempered`.
    """
    probabilities, true = tempered(probabilities, temperature)[true != UNLABELLED], true[true != UNLABELLED]
    columns = calibration_columns(probabilities, true)
    count, confidence, right = columns.bins.sum(0).T
    frames = max(len(true), 1)
    return Calibration(
        count=count,
        confidence=share(confidence, count),
        right=share(right, count),
        ece=float(expected_calibration_error(columns.bins.sum(0))),
        brier=float(columns.brier.sum() / frames),
        log_loss=float(columns.log_loss.sum() / frames),
        temperature=temperature,
    )


@dataclass(frozen=True)
class CalibrationColumns:
    """What each of F frames adds to the figures of a calibration, so that sums over any of them give theirs.

    Attributes:
        bins: (F, b, 3) in the bin of its highest probability: 1, that probability, 1 if right.
        brier, log_loss: (F,).
    """

    bins: Floats
    brier: Floats
    log_loss: Floats


def calibration_columns(probabilities: Floats, true: Integers) -> CalibrationColumns:
    """Of frames that all carry a view: probabilities (F, nv), true (F,)."""
    frames = np.arange(len(true))
    highest = probabilities.max(1, initial=0)
    place = np.clip(np.ceil(highest * BINS).astype(int) - 1, 0, BINS - 1)
    bins = np.zeros((len(true), BINS, 3))
    bins[frames, place] = np.stack((np.ones(len(true)), highest, probabilities.argmax(1) == true), 1)
    one_hot = np.eye(probabilities.shape[1])[true]
    of_true = probabilities[frames, true].clip(LEAST_PROBABILITY)
    return CalibrationColumns(bins, ((probabilities - one_hot) ** 2).sum(1), -np.log(of_true))


def expected_calibration_error(bins: Floats) -> Floats:
    """Of sums (..., b, 3) of :class:`CalibrationColumns` bins; NaN without frames."""
    count, confidence, right = np.moveaxis(bins, -1, 0)
    return share(np.abs(right - confidence).sum(-1), count.sum(-1))


def tempered(probabilities: Floats, temperature: float) -> Floats:
    """softmax(logits / temperature), from the probabilities of temperature 1; (F, nv)."""
    if temperature == 1:
        return probabilities
    scaled = np.log(probabilities.clip(LEAST_PROBABILITY)) / temperature
    scaled = np.exp(scaled - scaled.max(1, keepdims=True, initial=-np.inf))
    return scaled / scaled.sum(1, keepdims=True)


def fit_temperature(probabilities: Floats, true: Integers) -> float:
    """The temperature of least log loss (Guo et al. 2017, section 4.2); 1 where no frame carries a view.

    Targets are smoothed as Platt (1999) does it, (n + 1) / (n + nv) for the true view of n frames: where all views are
    right, there would be no least loss else, and the temperature would run to 0.

    Args:
        probabilities: (F, nv) at temperature 1.
        true: (F,), -1 where unlabelled.
    """
    from scipy.optimize import minimize_scalar

    labelled = true != UNLABELLED
    if not labelled.any():
        return 1.0
    probabilities, n, nv = probabilities[labelled], int(labelled.sum()), probabilities.shape[1]
    targets = (n * np.eye(nv)[true[labelled]] + 1) / (n + nv)

    def log_loss(log_temperature: float) -> float:
        scaled = tempered(probabilities, float(np.exp(log_temperature)))
        return float(-(targets * np.log(scaled.clip(LEAST_PROBABILITY))).sum(1).mean())

    low, high = np.log(TEMPERATURES).tolist()
    return float(np.exp(minimize_scalar(log_loss, bounds=(low, high), method="bounded").x))
