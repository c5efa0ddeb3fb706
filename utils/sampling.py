"""How often an epoch draws each training frame: all alike, or so that clips or patients are drawn alike.

A patient of whom there are many frames is learned by heart, and one of few is not learned. An epoch stays as long as
there are frames; they are then drawn with replacement.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from utils.config import Hyperparameters
from utils.dataset import EchoDataset
from utils.log import InputError

SAMPLINGS = ("frames", "clips", "patients")


def check_sampling(hyp: Hyperparameters, source: str) -> None:
    """Refuse an unknown word, before anything is opened.

    Args:
        source: where the hyperparameters come from, for errors.
    """
    if hyp.sampling not in SAMPLINGS:
        raise InputError(f"{source}: sampling: expected one of {', '.join(SAMPLINGS)}, got {hyp.sampling!r}")


def sampling_weights(sampling: str, dataset: EchoDataset) -> NDArray[np.float64] | None:
    """The weight of each frame (F,), summing to 1; None where all are drawn once.

    Args:
        sampling: of :data:`SAMPLINGS`; of "patients" a patient's clips are drawn alike, too.

    Raises:
        InputError: a dataset that does not name its clips or patients.
    """
    if sampling == "frames":
        return None
    clips, patients = dataset.clips, dataset.groups
    if clips is None or (sampling == "patients" and patients is None):
        wanted = "a group pattern" if sampling == "patients" else "a group or clip pattern"
        raise InputError(f"{dataset.config.file}: sampling: {sampling}: expected {wanted} in it, got none")
    frames_of = Counter(clips)
    weights = np.array([1 / frames_of[clip] for clip in clips])
    if sampling == "patients" and patients is not None:
        clips_of = Counter(dict(zip(clips, patients, strict=True)).values())
        weights /= [clips_of[patient] for patient in patients]
    return np.asarray(weights / weights.sum())
