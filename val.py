"""Validate a checkpoint: mAP, P, R, F1 of boxes; accuracy, F1 and confusion of views.

python val.py --weights runs/train/exp/weights/best.pt --data data/phantom.yaml
python val.py --weights runs/train/exp/weights/best.pt --data my_data.yaml --task test --save-json
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import Any

from utils import outcomes
from utils.checkpoint import Trained, checkpoints
from utils.config import DatasetConfig, from_here, from_root
from utils.dataset import EchoDataset
from utils.devices import Compute, keep_memory, select_compute
from utils.ensembles import open_all
from utils.evaluation import Evaluation
from utils.files import new_run_folder, write_json, write_text
from utils.flags import BOOTSTRAP, CLIP_WINDOW, COMMON, DOWNLOAD, IMGSZ, Flag, from_keywords, parse
from utils.log import LOGGER, run_script
from utils.outputs import UniqueNames, coco_labels, coco_rows, image_ids, label_rows
from utils.pictures import write_batch_pictures
from utils.report import write_figures
from utils.runtimes import check_precision, check_sizes
from utils.table import table
from utils.validation import Validation, checked_dataset, validate

TASKS = ("train", "val", "test", "speed", "study")
# names of one letter mean in YOLOv5 what they mean here, and go on meaning it beside flags that are new
FLAGS = (
    Flag("weights", "", "checkpoint of a training, also YOLOv5's own, or an export; of several, the mean", nargs="+"),
    DOWNLOAD,
    Flag("data", "data/phantom.yaml", "dataset yaml"),
    Flag("batch-size b", 32, "frames a batch", int),
    Flag(IMGSZ, None, "pixels of the frames' longer side; the training's unless given", int),
    Flag("conf-thres c", 0.001, "boxes of less confidence are dropped", float),
    Flag("iou-thres", 0.6, "of two boxes that overlap more, the less confident is dropped", float),
    Flag("max-det", 300, "boxes kept a frame", int),
    Flag("task t", "val", "split; or speed, at detect.py's thresholds; or study, at several sizes", choices=TASKS),
    Flag("workers", 8, "processes that load frames, at most one a core", int),
    Flag("project", "runs/val", "folder of the runs", from_here),
    Flag("name n", "exp", "folder of this run"),
    Flag("single-cls", False, "take all boxes as one class"),
    Flag("verbose", False, "also print figures by class where there are many"),
    Flag("save-txt", False, "write boxes as label files"),
    Flag("save-conf", False, "with --save-txt: add the confidence to each row"),
    Flag("save-json", False, "write boxes as COCO results, predictions.json, and labels, annotations.json"),
    Flag("half", False, "mixed precision, as --amp"),
    Flag("strict-data", False, "any fault in a data file is an error"),
    Flag("strict-groups", False, "patients or frames the network was trained on, and patients not named, are an error"),
    CLIP_WINDOW,
    Flag("calibrate", False, "also give the views' calibration at the temperature that was fitted on validation"),
    BOOTSTRAP,
    *COMMON,
    Flag("augment a", False, "", refused="its flips change anatomy; figures are of frames as they are"),
    Flag("save-hybrid", False, "", refused="it mixes labels into the predictions, so that its figures mean nothing"),
    Flag("dnn", False, "", refused="ONNX files run in ONNX Runtime, whose results are checked at export"),
)  # fmt: skip
MANY_CLASSES = 30
SPEED_THRESHOLDS = {"conf_thres": 0.25, "iou_thres": 0.45}
STUDY_SIZES = range(256, 1536 + 128, 128)  # pixels, YOLOv5's


def main(options: argparse.Namespace) -> dict[str, Any]:
    """Validate as the options say; returns the content of metrics.json."""
    weights = checkpoints(options.weights)
    if options.task == "speed":
        options = argparse.Namespace(**{**vars(options), **SPEED_THRESHOLDS})
    split = options.task if options.task in ("train", "val", "test") else "val"
    found = open_all(weights, options.download)
    config = checked_dataset(options, found)
    amp = True if options.half else options.amp
    check_precision(found, amp)
    keep_memory()
    compute = select_compute(options.device, amp)
    if options.task == "study":
        return study(found, config, compute, options)
    validation = validate(
        found, config, split, options.imgsz, compute, options, options.bootstrap, clip_window=options.clip_window
    )
    content = validation.content
    folder = new_run_folder(from_root(options.project), options.name, options.exist_ok)
    write_results(folder, validation, options)
    imgsz, computed = content["settings"]["imgsz"], content["settings"]["compute"]
    print(f"\n{found.title} on {config.file} {split}, {imgsz} pixels ({computed})\n")
    print(table(content, options.verbose or len(config.names) <= MANY_CLASSES))
    print(f"\nResults in {folder}")
    return content


def study(found: Trained, config: DatasetConfig, compute: Compute, options: argparse.Namespace) -> dict[str, Any]:
    """Validate at several image sizes; writes YOLOv5's study file, a row a size, and returns the last one's content.

    The columns are P, R, mAP50, mAP50-95; box, objectness and class loss; milliseconds of preprocessing, inference
    and NMS. Of exports and ensembles, which give no losses, those are nan.
    """
    rows = []
    sizes = STUDY_SIZES if options.imgsz is None else [options.imgsz]
    check_sizes(found, sizes)
    for size in sizes:
        content = validate(found, config, "val", size, compute, options, 0, clip_window=options.clip_window).content
        figures = [content[key] for key in ("precision", "recall", "map50", "map")]
        losses = [content.get("loss", {}).get(key, math.nan) for key in ("box", "obj", "cls")]
        rows.append([*figures, *losses, *content["speed_ms"].values()])
        LOGGER.info("%4d pixels: mAP50 %.3f, %.1f ms a frame", size, content["map50"], sum(rows[-1][-3:]))
    folder = new_run_folder(from_root(options.project), options.name, options.exist_ok)
    path = folder / f"study_{config.file.stem}_{found.path.stem}.txt"
    write_text(path, "".join(" ".join(f"{value:10.4g}" for value in row) + "\n" for row in rows))
    print(f"Results in {path}")
    return content


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
        order = [frame.index for frame in result.predictions]
        ids = image_ids([dataset.files[i] for i in order])
        rows = [coco_rows(frame.boxes.numpy(), image) for image, frame in zip(ids, result.predictions, strict=True)]
        write_json(folder / "predictions.json", [row for of_frame in rows for row in of_frame])
        shapes, labels = [dataset.originals[i] for i in order], [dataset.labels[i].boxes for i in order]
        files = validation.assessment.outcomes.files
        write_json(folder / "annotations.json", coco_labels(ids, files, shapes, labels, names))
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
