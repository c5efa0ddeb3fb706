"""A checkpoint evaluated on a split of a dataset: the one evaluator behind every figure that is compared."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from utils import outcomes
from utils.assessment import Assessment, assess
from utils.card import Export
from utils.checkpoint import Trained, check_boxes
from utils.config import DatasetConfig, Hyperparameters, find_file, load_dataset_config
from utils.dataset import EchoDataset, build_loader, prepare
from utils.devices import Compute
from utils.evaluation import Evaluation, Thresholds, evaluate
from utils.flags import check_range
from utils.leakage import Fingerprint, compare
from utils.log import LOGGER, InputError
from utils.loss import JointLoss
from utils.operating import OperatingPoint, warn_of_window
from utils.parts import PERMUTED, refuse, report
from utils.permutation import shuffled_labels
from utils.preprocess import Preprocessor
from utils.report import metrics
from utils.runtimes import described, gives_maps, image_size, start, window_size


def checked_dataset(options: argparse.Namespace, found: Trained) -> DatasetConfig:
    """The dataset of ``--data``, if its classes and views are those of the checkpoint."""
    check_boxes(found)
    config = load_dataset_config(find_file(options.data, "data", flag="--data"))
    pairs = [("view_names", config.view_names, found.view_names)] if config.view_names and found.view_names else []
    if not options.single_cls:
        pairs.append(("names", config.names, found.names))
    for kind, here, there in pairs:
        if len(here) != len(there):
            raise InputError(f"{config.file}: {kind}: expected {list(there)}, as {found.path} has, got {list(here)}")
        if here != there:
            LOGGER.warning("%s: %s are %s, the checkpoint's %s", config.file, kind, list(here), list(there))
    prepare(config)
    return config


def open_split(
    found: Trained, config: DatasetConfig, split: str, size: int, stride: int, options: argparse.Namespace
) -> EchoDataset:
    """The split clip by clip, filtered and padded as in training: to squares, or in batches of whole strides.

    Of a network that was trained on labels shuffled between patients, its labels are shuffled alike.
    """
    permutation = found.content.get("permuted_labels")
    dataset = EchoDataset(
        config, split, size, single_class=options.single_cls, strict=options.strict_data,
        preprocessor=Preprocessor.of(found.hyp),
        label_of=None if permutation is None else shuffled_labels(config, permutation),
    )  # fmt: skip
    dataset.arrange_by_clip()
    if found.rect:
        dataset.arrange_by_shape(options.batch_size, stride)
    return dataset


def thresholds(options: argparse.Namespace) -> Thresholds:
    """Of non-maximum suppression."""
    check_range(options, "batch_size max_det", 1)
    check_range(options, "conf_thres iou_thres", 0, 1)
    return Thresholds(options.conf_thres, options.iou_thres, options.max_det, single_class=options.single_cls)


@dataclass(frozen=True)
class Validation:
    """A split, what a network made of it, and the figures of that."""

    dataset: EchoDataset
    evaluation: Evaluation
    assessment: Assessment
    content: dict[str, Any]  # of metrics.json
    warnings: list[str]


def validate(
    found: Trained, config: DatasetConfig, split: str, size: int | None, compute: Compute,
    options: argparse.Namespace, draws: int, loss_hyp: Hyperparameters | None = None, clip_window: int | None = None,
) -> Validation:  # fmt: skip
    """Evaluate a split at an image size.

    Args:
        size: pixels of the frames' longer side; the training's if None.
        loss_hyp: whose gains and smoothing the losses have, where they are to be compared; the training's own if None.
        clip_window: see :mod:`utils.neighbours`; the training's if None.
    """
    check_range(options, "bootstrap", 0)
    limits = thresholds(options)
    network = start(found, compute)
    size = image_size(found, network, size)
    nv = len(found.view_names) if config.view_names else 0
    frames = window_size(found, clip_window)

    def opened(part: str) -> EchoDataset:
        return open_split(found, config, part, size, network.max_stride, options)

    def evaluated(dataset: EchoDataset, operating: float | None) -> Evaluation:
        loader = build_loader(dataset, options.batch_size, options.workers)
        module: Any = network
        criterion = JointLoss.of(module, loss_hyp or found.hyp, size) if gives_maps(network) else None
        nc = len(dataset.names)
        return evaluate(
            network, loader, nc, nv, compute, limits, criterion, dataset.split, operating, window=dataset.window(frames)
        )

    dataset = opened(split)
    leakage, warnings = check_leakage(found, dataset, options)
    inside = found.form.nms if isinstance(found, Export) else None
    warnings += suppressed_before(inside, limits)
    point, source = OperatingPoint.from_content(found.content.get("operating"), found.path), "validation in training"
    if point is None and split != "val":
        LOGGER.info("%s: no operating confidence is stored: it is found on val first", found.title)
        val_set = opened("val")
        point, source = OperatingPoint.of(evaluated(val_set, None), val_set), "val of this dataset"
    if options.calibrate and point is not None and point.temperature is None:
        raise InputError(f"{found.title}: --calibrate: expected a temperature fitted on validation, got none")
    if options.calibrate:
        warn_of_window(found.hyp.clip_window, frames)
    evaluation = evaluated(dataset, None if point is None else point.confidence)
    if point is None:
        point, source = OperatingPoint.of(evaluation, dataset), "this part, which flatters"
    settings = {
        "weights": found.title, "data": str(config.file), "split": split, "imgsz": size, "rect": found.rect,
        "batch_size": options.batch_size, **dataclasses.asdict(limits), "confidence_from": source,
        "nms_inside": inside, "clip_window": frames,
        "compute": described(network, compute),
    }  # fmt: skip
    assessment = assess(
        outcomes.outcomes_of(evaluation, dataset, found.view_names), draws, found.hyp.seed,
        point.temperature if options.calibrate else None,
    )  # fmt: skip
    content = metrics(assessment, settings, warnings, leakage, evaluation)
    return Validation(dataset, evaluation, assessment, content, warnings)


def suppressed_before(inside: Mapping[str, Any] | None, limits: Thresholds) -> list[str]:
    """The warning that an export's own suppression, if there is one, has kept boxes from this evaluation."""
    if inside is None:
        return []
    said = (
        f"confidence {inside['conf_thres']:g}, IoU {inside['iou_thres']:g}, {inside['max_det']} boxes a frame, "
        f"one class a box{', of all classes alike' if inside['agnostic'] else ''}"
    )
    return [
        f"the export's own suppression came first ({said}): figures are not those of the checkpoint at confidence "
        f"{limits.conf:g}, IoU {limits.iou:g}, {limits.max_det} boxes"
    ]


def check_leakage(
    found: Trained, dataset: EchoDataset, options: argparse.Namespace
) -> tuple[dict[str, Any] | None, list[str]]:
    """What the split has in common with the frames that the network was trained on, and the warnings of it.

    Raises:
        InputError: anything at all, or that it is not known, with ``--strict-groups``.
    """
    trained, warnings = trained_on(found, dataset, options)
    leakage = None if trained is None else compare(trained, dataset)
    if leakage is not None:
        warnings += leakage.warnings
    if options.strict_groups:
        refuse(warnings, dataset.config)
    if leakage is not None:
        report(leakage)
    if found.content.get("permuted_labels") is not None:
        warnings.append(PERMUTED)
    return None if leakage is None else leakage.content(), warnings


def trained_on(
    found: Trained, dataset: EchoDataset, options: argparse.Namespace
) -> tuple[Fingerprint | None, list[str]]:
    """The fingerprint that a checkpoint carries, or else that of the dataset's train part, with a warning."""
    content = found.content.get("trained_on")
    if content is not None:
        silent = [f"{name} does not say what it was trained on" for name in found.content.get("untold") or ()]
        return Fingerprint.from_content(content, found.path), silent
    try:
        train_set = open_split(found, dataset.config, "train", dataset.size, 1, options)
    except InputError as error:
        return None, [f"the checkpoint does not say what it was trained on, and train cannot be read: {error}"]
    told = "the checkpoint does not say what it was trained on: compared with this dataset's train part"
    return Fingerprint.of(train_set), [told]
