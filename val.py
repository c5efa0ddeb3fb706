"""Validate a checkpoint: mAP, P, R, F1 of boxes; accuracy, F1 and confusion of views.

python val.py --weights runs/train/exp/weights/best.pt --data data/phantom.yaml
python val.py --weights runs/train/exp/weights/best.pt --data my_data.yaml --task test --save-json
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils import checkpoint, outcomes
from utils.assessment import Assessment, assess
from utils.checkpoint import one_checkpoint
from utils.config import DatasetConfig, find_file, from_root, load_dataset_config
from utils.dataset import EchoDataset, build_loader, prepare
from utils.devices import Compute, select_compute
from utils.engine import Evaluation, Thresholds, evaluate, inference_copy
from utils.files import new_run_folder, write_json, write_text
from utils.flags import BOOTSTRAP, COMMON, IMGSZ, Flag, check_range, from_keywords, parse
from utils.leakage import Fingerprint, compare
from utils.letterbox import whole_strides
from utils.log import LOGGER, InputError, run_script
from utils.loss import JointLoss
from utils.operating import OperatingPoint
from utils.outputs import UniqueNames, coco_rows, label_rows
from utils.parts import PERMUTED, refuse, report
from utils.permutation import shuffled_labels
from utils.pictures import write_batch_pictures
from utils.preprocess import Preprocessor
from utils.report import metrics, write_figures
from utils.table import table

TASKS = ("train", "val", "test", "speed", "study")
FLAGS = (
    Flag("weights", "", "checkpoint of train.py", nargs="+"),
    Flag("data", "data/phantom.yaml", "dataset yaml"),
    Flag("batch-size", 32, "frames a batch", int),
    Flag(IMGSZ, None, "pixels of the frames' longer side; the training's unless given", int),
    Flag("conf-thres", 0.001, "boxes of less confidence are dropped", float),
    Flag("iou-thres", 0.6, "of two boxes that overlap more, the less confident is dropped", float),
    Flag("max-det", 300, "boxes kept a frame", int),
    Flag("task", "val", "split; or speed, at detect.py's thresholds; or study, at several sizes", choices=TASKS),
    Flag("workers", 8, "processes that load frames, at most one a core", int),
    Flag("project", "runs/val", "folder of the runs"),
    Flag("name", "exp", "folder of this run"),
    Flag("single-cls", False, "take all boxes as one class"),
    Flag("verbose", False, "also print figures by class where there are many"),
    Flag("save-txt", False, "write boxes as label files"),
    Flag("save-conf", False, "with --save-txt: add the confidence to each row"),
    Flag("save-json", False, "write boxes as COCO results, predictions.json"),
    Flag("half", False, "mixed precision, as --amp"),
    Flag("strict-data", False, "any fault in a data file is an error"),
    Flag("strict-groups", False, "patients or frames the network was trained on, and patients not named, are an error"),
    Flag("calibrate", False, "also give the views' calibration at the temperature that was fitted on validation"),
    BOOTSTRAP,
    *COMMON,
    Flag("augment", False, "", refused="its flips change anatomy; figures are of frames as they are"),
    Flag("save-hybrid", False, "", refused="it mixes labels into the predictions, so that its figures mean nothing"),
    Flag("dnn", False, "", refused="only checkpoints of train.py are run"),
)  # fmt: skip
MANY_CLASSES = 30
SPEED_THRESHOLDS = {"conf_thres": 0.25, "iou_thres": 0.45}
STUDY_SIZES = range(256, 1536 + 128, 128)  # pixels, YOLOv5's


def main(options: argparse.Namespace) -> dict[str, Any]:
    """Validate as the options say; returns the content of metrics.json."""
    weights = one_checkpoint(options.weights)
    if options.task == "speed":
        options = argparse.Namespace(**{**vars(options), **SPEED_THRESHOLDS})
    split = options.task if options.task in ("train", "val", "test") else "val"
    found = checkpoint.read(weights)
    config = checked_dataset(options, found)
    compute = select_compute(options.device, True if options.half else options.amp)
    if options.task == "study":
        return study(found, config, compute, options)
    size = found.image_size if options.imgsz is None else options.imgsz
    validation = validate(found, config, split, size, compute, options, options.bootstrap)
    content = validation.content
    folder = new_run_folder(from_root(options.project), options.name, options.exist_ok)
    write_results(folder, validation, options)
    print(f"\n{found.path} on {config.file} {split}, {content['settings']['imgsz']} pixels ({compute})\n")
    print(table(content, options.verbose or len(config.names) <= MANY_CLASSES))
    print(f"\nResults in {folder}")
    return content


def study(
    found: checkpoint.Checkpoint, config: DatasetConfig, compute: Compute, options: argparse.Namespace
) -> dict[str, Any]:
    """Validate at several image sizes; writes YOLOv5's study file, a row a size, and returns the last one's content.

    The columns are P, R, mAP50, mAP50-95; box, objectness and class loss; milliseconds of preprocessing, inference
    and NMS.
    """
    rows = []
    for size in STUDY_SIZES if options.imgsz is None else [options.imgsz]:
        content = validate(found, config, "val", size, compute, options, draws=0).content
        figures = [content[key] for key in ("precision", "recall", "map50", "map")]
        losses = [content["loss"][key] for key in ("box", "obj", "cls")]
        rows.append([*figures, *losses, *content["speed_ms"].values()])
        LOGGER.info("%4d pixels: mAP50 %.3f, %.1f ms a frame", size, content["map50"], sum(rows[-1][-3:]))
    folder = new_run_folder(from_root(options.project), options.name, options.exist_ok)
    path = folder / f"study_{config.file.stem}_{found.path.stem}.txt"
    write_text(path, "".join(" ".join(f"{value:10.4g}" for value in row) + "\n" for row in rows))
    print(f"Results in {path}")
    return content


def checked_dataset(options: argparse.Namespace, found: checkpoint.Checkpoint) -> DatasetConfig:
    """The dataset of ``--data``, if its classes and views are those of the checkpoint."""
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
    found: checkpoint.Checkpoint, config: DatasetConfig, split: str, size: int, stride: int, options: argparse.Namespace
) -> EchoDataset:
    """The split, filtered and padded as in training: to squares, or in rectangular batches of whole strides.

    Of a network that was trained on labels shuffled between patients, its labels are shuffled alike.
    """
    permutation = found.content.get("permuted_labels")
    dataset = EchoDataset(
        config, split, size, single_class=options.single_cls, strict=options.strict_data,
        preprocessor=Preprocessor.of(found.hyp),
        label_of=None if permutation is None else shuffled_labels(config, permutation),
    )  # fmt: skip
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
    found: checkpoint.Checkpoint, config: DatasetConfig, split: str, size: int, compute: Compute,
    options: argparse.Namespace, draws: int,
) -> Validation:  # fmt: skip
    """Evaluate a split at an image size."""
    check_range(options, "bootstrap", 0)
    limits = thresholds(options)
    network = found.build().to(compute.device)
    size = whole_strides(size, network.max_stride)
    copy = inference_copy(network, compute)
    nv = len(found.view_names) if config.view_names else 0

    def opened(part: str) -> EchoDataset:
        return open_split(found, config, part, size, network.max_stride, options)

    def evaluated(dataset: EchoDataset, operating: float | None) -> Evaluation:
        loader = build_loader(dataset, options.batch_size, options.workers)
        criterion = JointLoss.of(network, found.hyp, size)
        nc = len(dataset.names)
        return evaluate(copy, loader, nc, nv, compute, limits, criterion, dataset.split, operating)

    dataset = opened(split)
    leakage, warnings = check_leakage(found, dataset, options)
    point, source = OperatingPoint.from_content(found.content.get("operating"), found.path), "validation in training"
    if point is None and split != "val":
        LOGGER.info("%s: its training stored no operating confidence: it is found on val first", found.path)
        val_set = opened("val")
        point, source = OperatingPoint.of(evaluated(val_set, None), val_set), "val of this dataset"
    if options.calibrate and point is not None and point.temperature is None:
        raise InputError(f"{found.path}: --calibrate: expected a temperature fitted on validation, got none")
    evaluation = evaluated(dataset, None if point is None else point.confidence)
    if point is None:
        point, source = OperatingPoint.of(evaluation, dataset), "this part, which flatters"
    settings = {
        "weights": str(found.path), "data": str(config.file), "split": split, "imgsz": size, "rect": found.rect,
        "batch_size": options.batch_size, **dataclasses.asdict(limits), "confidence_from": source,
        "compute": str(compute),
    }  # fmt: skip
    assessment = assess(
        outcomes.outcomes_of(evaluation, dataset, found.view_names), draws, found.hyp.seed,
        point.temperature if options.calibrate else None,
    )  # fmt: skip
    content = metrics(assessment, settings, warnings, leakage, evaluation)
    return Validation(dataset, evaluation, assessment, content, warnings)


def check_leakage(
    found: checkpoint.Checkpoint, dataset: EchoDataset, options: argparse.Namespace
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
    found: checkpoint.Checkpoint, dataset: EchoDataset, options: argparse.Namespace
) -> tuple[Fingerprint | None, list[str]]:
    """The fingerprint that a checkpoint carries, or else that of the dataset's train part, with a warning."""
    content = found.content.get("trained_on")
    if content is not None:
        return Fingerprint.from_content(content, found.path), []
    try:
        train_set = open_split(found, dataset.config, "train", dataset.size, 1, options)
    except InputError as error:
        return None, [f"the checkpoint does not say what it was trained on, and train cannot be read: {error}"]
    told = "the checkpoint does not say what it was trained on: compared with this dataset's train part"
    return Fingerprint.of(train_set), [told]


def write_results(folder: Path, validation: Validation, options: argparse.Namespace) -> None:
    """metrics.json, outcomes.npz, figures, and the predictions in the forms that were asked for."""
    result, dataset = validation.evaluation, validation.dataset
    names, view_names = validation.assessment.outcomes.names, validation.assessment.outcomes.view_names
    write_json(folder / "metrics.json", validation.content)
    outcomes.save(folder / "outcomes.npz", validation.assessment.outcomes)
    if dataset.problems:
        write_text(folder / "data_problems.txt", "".join(f"{problem}\n" for problem in dataset.problems))
    write_figures(validation.assessment, folder, validation.warnings)
    write_batch_pictures(dataset, result, names, view_names, folder, options.batch_size)
    if options.save_json:
        rows = [
            row for frame in result.predictions for row in coco_rows(frame.boxes.numpy(), dataset.files[frame.index])
        ]
        write_json(folder / "predictions.json", rows)
    if options.save_txt:
        write_label_files(folder / "labels", result, dataset, options.save_conf)


def write_label_files(folder: Path, result: Evaluation, dataset: EchoDataset, with_confidence: bool) -> None:
    """One label file a frame with boxes, named after the frame."""
    folder.mkdir(exist_ok=True)
    unique = UniqueNames()
    for frame in result.predictions:
        if len(frame.boxes):
            rows = label_rows(frame.boxes.numpy(), dataset.originals[frame.index], with_confidence)
            write_text(folder / f"{unique(dataset.files[frame.index])}.txt", "".join(f"{row}\n" for row in rows))


def run(**keywords: Any) -> dict[str, Any]:
    """Validate from a notebook: ``run(weights="best.pt", data="my_data.yaml")``; returns metrics.json's content."""
    return main(from_keywords(FLAGS, keywords))


if __name__ == "__main__":
    sys.exit(run_script(main, parse(FLAGS, __doc__ or "")))
