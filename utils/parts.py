"""The training and the validation part of a dataset as a training script's options ask, checked against each other."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.augment import Augmenter
from utils.checkpoint import Trained
from utils.config import DatasetConfig, Hyperparameters, class_names, find_file, load_dataset_config
from utils.dataset import EchoDataset, prepare
from utils.flags import check_range
from utils.groups import warn_of_unmatched
from utils.labels import Problem, label_path
from utils.leakage import Fingerprint, Leakage, compare
from utils.letterbox import whole_strides
from utils.log import LOGGER, InputError
from utils.permutation import shuffled_labels
from utils.preprocess import Preprocessor
from utils.sampling import check_sampling, class_weights, sampling_weights

PERMUTED = "labels were shuffled between patients (control): these figures should be those of chance"


@dataclass(frozen=True)
class Parts:
    """What a training learns from and is validated on.

    Attributes:
        image_size: pixels of the longer side, in whole strides.
        frame_weights: how often training frames are drawn; None for all alike.
        trained_on: what a checkpoint remembers of the training part.
        leakage: what validation has in common with it.
        warnings: what readers of the figures must know.
        untold: files from which the training starts that do not say what they were trained on.
    """

    train: EchoDataset
    val: EchoDataset
    image_size: int
    frame_weights: NDArray[np.float64] | None
    trained_on: Fingerprint
    leakage: Leakage
    warnings: tuple[str, ...]
    untold: tuple[str, ...] = ()

    @property
    def problems(self) -> list[Problem]:
        """Faults in the files of both."""
        return [*self.train.problems, *self.val.problems]


def checked_dataset(options: argparse.Namespace, hyp: Hyperparameters) -> DatasetConfig:
    """The dataset of ``--data``, if it has views where they are to be learned."""
    config = load_dataset_config(find_file(options.data, "data", flag="--data"))
    if hyp.classification_enabled and not config.view_names:
        raise InputError(
            f"{config.file}: no view_names, but {options.hyp} has classification_enabled: true; "
            "hyp/detection_only.yaml trains boxes alone"
        )
    weights, views = len(hyp.view_class_weights), len(config.view_names)
    if hyp.classification_enabled and weights not in (0, views):
        raise InputError(f"{options.hyp}: view_class_weights: expected {views} numbers, one a view, got {weights}")
    return config


def open_parts(
    config: DatasetConfig, options: argparse.Namespace, hyp: Hyperparameters, stride: int,
    starts: Sequence[Trained] = (),
) -> Parts:  # fmt: skip
    """Open both parts, made if the dataset is a generated one.

    Args:
        starts: whose weights the training starts from, or goes on from: what they have seen, this network has seen.

    Raises:
        InputError: options out of range, faulty data, and what ``--strict-data`` and ``--strict-groups`` do not allow.
    """
    check_range(options, "epochs batch_size imgsz", 1)
    check_range(options, "workers bootstrap", 0)
    if options.rect and options.image_weights:
        raise InputError("--rect --image-weights: expected one of them; frames drawn at random make no rectangles")
    check_sampling(hyp, options.hyp)
    for flag in ("rect", "image_weights"):
        if getattr(options, flag) and hyp.sampling != "frames":
            shown = "--" + flag.replace("_", "-")
            raise InputError(f"{shown} and sampling: {hyp.sampling} ({options.hyp}): expected one of them")
    size = whole_strides(options.imgsz, stride)
    prepare(config)
    shared: dict[str, Any] = {
        "cache": options.cache, "single_class": options.single_cls, "strict": options.strict_data, "seed": hyp.seed,
        "preprocessor": Preprocessor.of(hyp),
        "label_of": shuffled_labels(config, hyp.seed) if options.permute_labels else None,
    }  # fmt: skip
    train_set = EchoDataset(config, "train", size, augmenter=Augmenter(hyp) if hyp.augments else None, **shared)
    val_set = EchoDataset(config, "val", size, **shared)
    val_set.arrange_by_clip()
    if hyp.clip_views:
        changed = train_set.agree_on_views()
        LOGGER.info("clip_views: %d of %d training frames get their clip's view", changed, len(train_set))
    if options.rect:
        train_set.arrange_by_shape(options.batch_size, stride)
        val_set.arrange_by_shape(options.batch_size * 2, stride)
    if hyp.classification_enabled and (train_set.views() < 0).all():
        raise InputError(
            f"{config.file}: train: no label file has a view row, but {options.hyp} has classification_enabled: true; "
            "hyp/detection_only.yaml trains boxes alone"
        )
    for part, part_set in (("train", train_set), ("val", val_set)):
        check_labelled(part_set, f"{config.file}: {part}", needed=part == "train")
    trained_on, leakage, warnings, untold = _compared(train_set, val_set, starts)
    if options.strict_groups:
        refuse(warnings, config)
    report(leakage)
    if options.permute_labels:
        warnings.append(PERMUTED)
        LOGGER.warning("%s", PERMUTED)
    warn_of_unmatched(config, [*train_set.files, *val_set.files])
    if options.image_weights:
        weights: NDArray[np.float64] | None = class_weights(
            train_set, np.zeros(len(class_names(config, options.single_cls)))
        )
    else:
        weights = sampling_weights(hyp.sampling, train_set)
    return Parts(train_set, val_set, size, weights, trained_on, leakage, tuple(warnings), tuple(untold))


def check_labelled(dataset: EchoDataset, where: str, needed: bool) -> None:
    """Warn of a part in which no box is labelled, and say where labels were looked for.

    Raises:
        InputError: where labels are needed, no view is labelled, either.
    """
    if any(len(label.boxes) for label in dataset.labels):
        return
    found = f"expected labelled boxes, got none in {len(dataset)} frames"
    text = f"{where}: {found}; the first frame's label is looked for at {label_path(dataset.files[0])}"
    if needed and (dataset.views() < 0).all():
        raise InputError(text)
    LOGGER.warning("%s", text)


def _compared(
    train_set: EchoDataset, val_set: EchoDataset, starts: Sequence[Trained]
) -> tuple[Fingerprint, Leakage, list[str], list[str]]:
    """Whom the network will have seen; what validation has in common with them, and warnings; who does not say."""
    trained_on, untold = Fingerprint.of(train_set), list[str]()
    for start in starts:
        content = start.content.get("trained_on")
        if content is None:
            untold.append(start.path.name)
        else:
            trained_on = trained_on.joined(Fingerprint.from_content(content, start.path))
            untold += start.content.get("untold") or ()  # those that it started from itself, or its members
    leakage = compare(trained_on, val_set)
    said = [f"{name}, from which the training starts, does not say what it was trained on" for name in untold]
    return trained_on, leakage, [*said, *leakage.warnings], untold


def refuse(warnings: Sequence[str], config: DatasetConfig) -> None:
    """What ``--strict-groups`` asks for: to be sure.

    Raises:
        InputError: anything is shared, or it is not known what is.
    """
    if warnings:
        raise InputError(f"{config.file}: --strict-groups: {'; '.join(warnings)}")


def report(leakage: Leakage) -> None:
    """Log what a part has in common with the training part, also if that is nothing."""
    for line in leakage.lines():
        LOGGER.log(logging.WARNING if leakage.found else logging.INFO, "%s", line)
