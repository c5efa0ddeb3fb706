"""How often an epoch draws each training frame: all alike, so that clips or patients are, or by its boxes' classes.

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


def class_weights(dataset: EchoDataset, ap: NDArray[np.floating]) -> NDArray[np.float64]:
    """The weight of each frame (F,) with ``--image-weights``: the sum over its boxes of rarity x (1 - AP)^2.

    Args:
        ap: (nc,) average precision of each class in the last validation; 0 before the first, as in YOLOv5.
    """
    weight = np.maximum(1 - ap, 0.01) ** 2 / np.maximum(dataset.class_counts(), 1)
    weight /= weight.sum()
    of_frames = np.array([weight[label.boxes[:, 0].astype(int)].sum() for label in dataset.labels])
    # background frames hold no class; the smallest weight of the others keeps them in the game
    return np.where(of_frames > 0, of_frames, of_frames[of_frames > 0].min(initial=1.0))
