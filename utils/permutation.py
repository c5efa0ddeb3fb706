"""The permutation control: labels shuffled between patients, after which figures must be those of chance.

Each patient's frames get the labels of another patient's, over all parts of a dataset alike. A network that is trained
and validated on such labels can only be right by recognising patients it was trained on: figures above chance show
that the split, not the network, is good.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from utils.config import DatasetConfig
from utils.groups import clips, patients
from utils.log import InputError
from utils.split_files import list_images


def shuffled_labels(config: DatasetConfig, seed: int) -> Mapping[Path, Path]:
    """For every frame of a dataset, the frame whose labels it gets.

    The frames of a patient, in the order of their names, get those of another patient, evenly spread: the giver's clips
    in random order (a common order of views in the study would survive else), a clip's frames in theirs, so that
    neighbouring frames keep neighbouring labels. Without a ``group`` pattern, each frame counts as a patient.

    Raises:
        InputError: fewer than two patients.
    """
    files = sorted({path for part in config.splits for path in list_images(config, part)}, key=_by_name)
    owners = patients(config, files) or [str(path) for path in files]
    own_clips = clips(config, files) or owners
    studies: dict[str, dict[str, list[Path]]] = {}
    for path, owner, clip in zip(files, owners, own_clips, strict=True):
        studies.setdefault(owner, {}).setdefault(clip, []).append(path)
    if len(studies) < 2:
        raise InputError(f"{config.file}: --permute-labels: expected frames of 2 or more patients, got {len(studies)}")
    rng = np.random.default_rng(seed)
    order = rng.permutation(sorted(studies)).tolist()
    given: dict[Path, Path] = {}
    for taker, giver in zip(order, [*order[1:], order[0]], strict=True):  # a cycle: nobody keeps his own
        labels = [path for clip in rng.permutation(sorted(studies[giver])).tolist() for path in studies[giver][clip]]
        frames = sorted((path for clip in studies[taker].values() for path in clip), key=_by_name)
        given |= {path: labels[place * len(labels) // len(frames)] for place, path in enumerate(frames)}
    return given


def _by_name(path: Path) -> tuple[str, Path]:
    """Order by name: the parts of a dataset may lie in folders of their own."""
    return path.name, path
