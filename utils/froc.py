"""FROC: the share of labelled boxes that are found, over the number of false boxes a frame.

The free-response receiver operating characteristic (Bunch et al. 1978; Chakraborty 1989) asks what a reader asks: how
much is found if so many false marks on a frame are borne? A detection is right at IoU 0.5, as for AP50.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
FALSE_BOXES = (0.25, 0.5, 1.0)  # a frame, at which sensitivity is reported


@dataclass(frozen=True)
class Froc:
    """A curve of p points, one for each confidence that occurs, from the highest on.

    Attributes:
        false_boxes: (p,) mean a frame.
        sensitivity: (p,) share of labelled boxes found.
    """

    false_boxes: Floats
    sensitivity: Floats

    def at(self, false_boxes: float) -> float:
        """The sensitivity reached with at most so many false boxes a frame; 0 if even the first threshold has more.

        NaN where no box is labelled.
        """
        within = int(np.searchsorted(self.false_boxes, false_boxes, "right"))
        if within:
            return float(self.sensitivity[within - 1])
        return math.nan if np.isnan(self.sensitivity).any() else 0.0


def froc(right: NDArray[np.bool_], confidence: Floats, labels: int, frames: int) -> Froc:
    """The curve of n detections.

    Args:
        right: (n,) at IoU 0.5.
        confidence: (n,).
        labels: number of labelled boxes; without any, sensitivity is NaN.
        frames: number of frames, those without boxes included.
    """
    order = np.argsort(-confidence, kind="stable")
    right, ends = right[order], ends_of_ties(confidence[order])
    found = right.cumsum()[ends]
    return Froc((ends + 1 - found) / max(frames, 1), found / labels if labels else np.full(len(ends), np.nan))


def ends_of_ties(confidence: Floats) -> NDArray[np.int64]:
    """Places of the last detection of each confidence, in falling order: a threshold takes all of them or none."""
    changes = np.flatnonzero(np.diff(confidence))
    return np.append(changes, len(confidence) - 1) if len(confidence) else changes
