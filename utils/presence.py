"""Figures of whole patients and of clips, by pooling their frames.

A patient (or clip) has a valve's regurgitation if any of its frames has a labelled box of it, and is called positive
if any of its frames has a detection of it at or above the operating confidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from utils.labels import UNLABELLED
from utils.outcomes import Outcomes
from utils.view_metrics import Floats, Integers, share


@dataclass(frozen=True)
class Presence:
    """Which valves' regurgitation U patients or clips have, and which was found.

    Attributes:
        units: (U,) their names, sorted.
        true, found: (U, k).
    """

    units: tuple[str, ...]
    true: NDArray[np.bool_]
    found: NDArray[np.bool_]

    @property
    def sensitivity(self) -> Floats:
        """(k,) share of the positive units that are found; NaN without any."""
        return share((self.true & self.found).sum(0), self.true.sum(0))

    @property
    def specificity(self) -> Floats:
        """(k,) share of the negative units in which nothing is found; NaN without any."""
        return share((~self.true & ~self.found).sum(0), (~self.true).sum(0))


def codes(units: Sequence[str]) -> tuple[tuple[str, ...], Integers]:
    """Sorted names of the units, and the number of each frame's among them."""
    names, numbers = np.unique(np.array(units, np.str_), return_inverse=True)
    return tuple(names.tolist()), numbers.astype(np.int64)


def presence(outcomes: Outcomes, units: Sequence[str]) -> Presence:
    """Pool frames into units, given for each frame."""
    names, unit_of = codes(units)
    true, found = (np.zeros((len(names), len(outcomes.names)), bool) for _ in range(2))
    true[unit_of[outcomes.label_frame], outcomes.labelled] = True
    counts = outcomes.counts
    found[unit_of[outcomes.frame[counts]], outcomes.predicted[counts]] = True
    return Presence(names, true, found)


@dataclass(frozen=True)
class ClipViews:
    """Views of U clips, each the one of the highest mean probability over the clip's frames.

    Attributes:
        clips: (U,) names.
        predicted: (U,).
        true: (U,) the view that most of its labelled frames carry (the first of equals), -1 without any.
        mixed: (U,) whether its frames carry more than one view.
    """

    clips: tuple[str, ...]
    predicted: Integers
    true: Integers
    mixed: NDArray[np.bool_]


def clip_views(outcomes: Outcomes, clips: Sequence[str]) -> ClipViews:
    """Pool frames into clips, given for each frame."""
    names, clip_of = codes(clips)
    nv = outcomes.views.shape[1]
    sums = np.zeros((len(names), nv))
    np.add.at(sums, clip_of, outcomes.views)
    labelled = outcomes.true_views != UNLABELLED
    votes = np.zeros((len(names), nv), np.int64)
    np.add.at(votes, (clip_of[labelled], outcomes.true_views[labelled]), 1)
    true = np.where(votes.any(1), votes.argmax(1), UNLABELLED)
    return ClipViews(names, sums.argmax(1), true, (votes > 0).sum(1) > 1)
