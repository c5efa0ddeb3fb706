"""Train the joint network: boxes of valve regurgitation, and the view, from one frame.

python train.py --hyp hyp/joint_training_rules.yaml --img 256 --epochs 12
python train.py --data my_data.yaml --cfg models/yolov5m.yaml --img 640 --batch 16 --epochs 100
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from models.balancers import BALANCERS, build_balancer
from models.yolo import Network
from utils import checkpoint
from utils.anchors import GOOD_RECALL, box_sizes, find_anchors, recall
from utils.augment import Augmenter, changes_meaning
from utils.complexity import log_summary
from utils.config import (
    ROOT,
    DatasetConfig,
    Hyperparameters,
    class_names,
    find_file,
    from_root,
    hyperparameters_from,
    load_dataset_config,
    load_yaml,
    plain,
)
from utils.dataset import EchoDataset, EpochSampler, build_loader, prepare
from utils.devices import seed_everything, select_compute
from utils.engine import MultiScale, Thresholds
from utils.files import new_run_folder, write_json, write_text
from utils.flags import COMMON, IMGSZ, Flag, check_range, from_keywords, parse
from utils.frames import CACHE_MODES
from utils.letterbox import whole_strides
from utils.log import LOGGER, InputError, run_script
from utils.loss import JointLoss
from utils.optim import OPTIMIZERS, RunningMean, build_optimizer
from utils.plots import plot_labels, plot_results
from utils.preprocess import Preprocessor
from utils.report import metrics, table, write_batch_pictures, write_figures, write_training_pictures
from utils.schedule import Schedule, accumulation, warmup_iterations
from utils.trainer import Learner, Outcome, Plan, fit, restore

ONE_PROCESS = "this program trains in one process"
NO_TRACKER = "runs are logged to files and TensorBoard only"

FLAGS = (
    Flag("weights", "", "checkpoint to start from; empty starts from random weights"),
    Flag("cfg", "models/yolov5s.yaml", "network yaml, from models/ or models/hub/ by its bare name"),
    Flag("data", "data/phantom.yaml", "dataset yaml"),
    Flag("hyp", "hyp/joint_training_rules.yaml", "hyperparameter yaml"),
    Flag("epochs", 100, "length of the training", int),
    Flag("batch-size", 16, "frames a batch", int),
    Flag(IMGSZ, 640, "pixels of the frames' longer side", int),
    Flag("rect", False, "rectangular batches of frames of like shape, not shuffled"),
    Flag("resume", None, "go on with the latest run, or with the last.pt given", nargs="?", const=True),
    Flag("nosave", False, "save the last epoch only"),
    Flag("noval", False, "validate after the last epoch only"),
    Flag("noautoanchor", False, "leave anchors as they are, even if they fit the boxes badly"),
    Flag("noplots", False, "write no pictures"),
    Flag("cache", "ram", "keep decoded frames: ram, disk, or none", nargs="?", const="ram", choices=CACHE_MODES),
    Flag("image-weights", False, "draw frames by how badly their classes are found"),
    Flag("multi-scale", False, "batches of random size between half and one and a half times --imgsz"),
    Flag("single-cls", False, "take all boxes as one class"),
    Flag("optimizer", "SGD", "", choices=OPTIMIZERS),
    Flag("workers", 8, "processes that load frames, at most one a core; none for cached frames as they are", int),
    Flag("project", "runs/train", "folder of the runs"),
    Flag("name", "exp", "folder of this run"),
    Flag("cos-lr", False, "half a cosine for the learning rate (hyp: cos_lr)"),
    Flag("label-smoothing", None, "of box classes (hyp: label_smoothing; 0 if neither says)", float),
    Flag("patience", None, "epochs without improvement, then stop; 0 never (hyp: patience; 100 if neither says)", int),
    Flag("freeze", (0,), "layers to freeze: the first N, or several layers' numbers", int, nargs="+"),
    Flag("save-period", -1, "also keep a checkpoint every so many epochs", int),
    Flag("seed", None, "of all random numbers (hyp: seed; 0 if neither says)", int),
    Flag("strict-data", False, "any fault in a data file is an error"),
    *COMMON,
    Flag("evolve", None, "", nargs="?", refused="hyperparameters are searched outside of a training", const=True),
    Flag("sync-bn", False, "", refused=ONE_PROCESS),
    Flag("local_rank", None, "", refused=ONE_PROCESS),
    Flag("quad", False, "", refused="it changes what a batch is; use a larger --batch-size"),
    Flag("bucket", None, "", refused="nothing is fetched from or sent to a network"),
    Flag("entity", None, "", refused=NO_TRACKER),
    Flag("upload_dataset", None, "", nargs="?", const=True, refused=NO_TRACKER),
    Flag("bbox_interval", None, "", refused=NO_TRACKER),
    Flag("artifact_alias", None, "", refused=NO_TRACKER),
)
FROM_HYP = ("cos_lr", "label_smoothing", "patience", "seed")  # flags that a hyp file may set, too


def main(options: argparse.Namespace) -> Path:
    """Train as the options say and return the run's folder."""
    resumed = None
    if options.resume:
        resumed = checkpoint.read(latest_checkpoint(options.resume))
        options = resumed_options(resumed, options)
    hyp = resumed.hyp if resumed else merged_hyperparameters(options)
    compute = select_compute(options.device, options.amp)
    seed_everything(hyp.seed)
    config = checked_dataset(options, hyp)
    network = resumed.build() if resumed else build_network(config, options, hyp)
    freeze(network, options.freeze)
    train_set, val_set, image_size = open_data(config, options, hyp, network.max_stride)
    if not options.noautoanchor and not resumed:
        fit_anchors(network, train_set, hyp, image_size)
    log_summary(network, image_size)
    network.to(compute.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    train_loader = build_loader(
        train_set, options.batch_size, options.workers, hyp.seed, not options.rect, compute.device.type == "cuda"
    )
    val_loader = build_loader(val_set, options.batch_size * 2, options.workers)
    learner = build_learner(network, hyp, options, len(train_loader), image_size)
    # what can be wrong with the input has been found by now: only then is there a folder
    project = from_root(options.project)
    folder = resumed.path.parents[1] if resumed else new_run_folder(project, options.name, options.exist_ok)
    LOGGER.info("Run: %s (%s)", folder, compute)
    plan = make_plan(folder, config, options, hyp, image_size, network.max_stride)
    if resumed:
        restore(learner, resumed.content, resumed.path)
        weights = resumed.content["frame_weights"]
        plan = dataclasses.replace(
            plan, start_epoch=resumed.content["epoch"] + 1,
            best_fitness=resumed.content["best_fitness"], best_epoch=resumed.content["best_epoch"],
            frame_weights=None if weights is None else weights.numpy(),
        )  # fmt: skip
    else:
        write_start(folder, options, hyp, train_set, val_set, plan.names)
    outcome = fit(learner, train_loader, val_loader, plan, compute)
    write_end(outcome, val_set, plan, options)
    return folder


def latest_checkpoint(resume: str | bool) -> Path:
    """The checkpoint that ``--resume`` means: the one given, or that of the latest run cut off below runs/."""
    if resume is not True:
        path = Path(str(resume)).expanduser().resolve()
        if path.parent.name != "weights":
            raise InputError(f"--resume {resume}: expected a checkpoint in its run's folder, as in exp/weights/last.pt")
        return path
    found = sorted((ROOT / "runs").rglob("weights/last.pt"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in found:
        if not checkpoint.read(path).content.get("finished", True):
            return path
    raise InputError(f"--resume: none of {len(found)} runs below runs/ was cut off; name a last.pt")


def resumed_options(resumed: checkpoint.Checkpoint, typed: argparse.Namespace) -> argparse.Namespace:
    """The options the run was started with; those typed beside ``--resume`` that count for nothing are named."""
    stored = resumed.content.get("options")
    if not stored:
        raise InputError(f"{resumed.path}: expected a checkpoint to resume from (last.pt), got a stripped one")
    if resumed.content["finished"]:
        raise InputError(f"{resumed.path}: its training is finished; nothing to resume")
    takes_effect = {"resume", "traceback", "device", "workers"}
    ignored = sorted(typed.typed - takes_effect)
    if ignored:
        LOGGER.warning("--resume: the run goes on with its own options; ignored: %s", ", ".join(ignored))
    options = argparse.Namespace(**stored, typed=frozenset())
    for name in takes_effect & typed.typed:
        setattr(options, name, getattr(typed, name))
    return options


def merged_hyperparameters(options: argparse.Namespace) -> Hyperparameters:
    """The hyp file's, with the flags that were typed over them."""
    path = find_file(options.hyp, "hyp", flag="--hyp")
    typed = {name: getattr(options, name) for name in FROM_HYP if name in options.typed}
    hyp = hyperparameters_from({**load_yaml(path), **typed}, path)
    if hyp.balance not in BALANCERS:
        raise InputError(f"{options.hyp}: balance: expected one of {', '.join(BALANCERS)}, got {hyp.balance!r}")
    if hyp.copy_paste:
        LOGGER.warning("%s: copy_paste has no effect: it needs outlines, and labels are boxes here", options.hyp)
    if hyp.classification_enabled and changes_meaning(hyp):
        LOGGER.warning("%s: flips, hue and mosaic change anatomy or the meaning of Doppler colour", options.hyp)
    return hyp


def checked_dataset(options: argparse.Namespace, hyp: Hyperparameters) -> DatasetConfig:
    """The dataset of ``--data``, made if it is a generated one."""
    config = load_dataset_config(find_file(options.data, "data", flag="--data"))
    if not hyp.classification_enabled:
        return config
    if not config.view_names:
        raise InputError(
            f"{config.file}: no view_names, but {options.hyp} has classification_enabled: true; "
            "hyp/detection_only.yaml trains boxes alone"
        )
    return config


def open_data(
    config: DatasetConfig, options: argparse.Namespace, hyp: Hyperparameters, stride: int
) -> tuple[EchoDataset, EchoDataset, int]:
    """Training and validation split, and the image size in whole strides."""
    check_range(options, "epochs batch_size imgsz", 1)
    check_range(options, "workers", 0)
    if options.rect and options.image_weights:
        raise InputError("--rect --image-weights: expected one of them; frames drawn at random make no rectangles")
    size = whole_strides(options.imgsz, stride)
    prepare(config)
    shared: dict[str, Any] = {
        "cache": options.cache, "single_class": options.single_cls, "strict": options.strict_data, "seed": hyp.seed,
        "preprocessor": Preprocessor.of(hyp),
    }  # fmt: skip
    train_set = EchoDataset(config, "train", size, augmenter=Augmenter(hyp) if hyp.augments else None, **shared)
    val_set = EchoDataset(config, "val", size, **shared)
    if options.rect:
        train_set.arrange_by_shape(options.batch_size, stride)
        val_set.arrange_by_shape(options.batch_size * 2, stride)
    if hyp.classification_enabled and (train_set.views() < 0).all():
        raise InputError(
            f"{config.file}: train: no label file has a view row, but {options.hyp} has classification_enabled: true; "
            "hyp/detection_only.yaml trains boxes alone"
        )
    _warn_of_shared_groups(train_set, val_set)
    return train_set, val_set, size


def _warn_of_shared_groups(train_set: EchoDataset, val_set: EchoDataset) -> None:
    known, tested = train_set.groups, val_set.groups
    if known is None or tested is None:
        return
    both = set(known) & set(tested)
    if both:
        share = sum(group in both for group in tested) / len(tested)
        LOGGER.warning(
            "%d of %d patients of val are in train, too (%.0f%% of its frames): its figures flatter",
            len(both), len(set(tested)), 100 * share,
        )  # fmt: skip


def build_network(config: DatasetConfig, options: argparse.Namespace, hyp: Hyperparameters) -> Network:
    """The network of ``--cfg`` with the weights to start from."""
    description = load_yaml(find_file(options.cfg, "models", "models/hub", flag="--cfg"))
    if round(hyp.anchors):
        description = {**description, "anchors": round(hyp.anchors)}
    network = Network(
        description, nc=len(class_names(config, options.single_cls)), nv=len(config.view_names) or None,
        with_view=hyp.classification_enabled, view_dropout=hyp.view_dropout,
    )  # fmt: skip
    if hyp.classification_enabled and network.view_head is None:
        raise InputError(
            f"{options.cfg}: no ViewHead, but {options.hyp} has classification_enabled: true; "
            "take models/yolov5s.yaml, or hyp/detection_only.yaml"
        )
    if options.weights:
        start = checkpoint.read(Path(options.weights).expanduser())
        state = start.content["ema"]
        if "cfg" in options.typed or round(hyp.anchors):  # then the anchors asked for stay, as in YOLOv5
            state = {name: tensor for name, tensor in state.items() if not name.endswith(".anchors")}
        checkpoint.start_from(network, state, start.path)
    return network


def fit_anchors(network: Network, train_set: EchoDataset, hyp: Hyperparameters, image_size: int) -> None:
    """Check the anchors against the training boxes and replace them where others fit better."""
    sizes = box_sizes([label.boxes for label in train_set.labels], train_set.originals, image_size)
    old = network.detect.anchors_in_pixels()
    before = recall(sizes, old.view(-1, 2).double().numpy(), hyp.anchor_t)
    LOGGER.info("Anchors: %.1f%% of the boxes can be matched", 100 * before)
    asked = round(hyp.anchors) > 0  # then the present ones are placeholders
    if before >= GOOD_RECALL and not asked:
        return
    try:
        found = find_anchors(sizes, old.shape[0] * old.shape[1], hyp.anchor_t, np.random.default_rng(hyp.seed))
    except ValueError as error:
        LOGGER.warning("Anchors: none found, the present ones stay: %s", error)
        return
    after = recall(sizes, found, hyp.anchor_t)
    if after <= before and not asked:
        return
    network.detect.set_anchors(torch.from_numpy(found).float().view_as(old))
    rows = [[round(v, 1) for v in level] for level in found.reshape(old.shape[0], -1).tolist()]
    LOGGER.info("Anchors: replaced by %s, which match %.1f%%", rows, 100 * after)


def freeze(network: Network, layers: Sequence[int]) -> None:
    """Stop the gradient of the first N layers, or of each layer in a list of several."""
    frozen = set(range(layers[0])) if len(layers) == 1 else set(layers)
    if min(layers) < 0 or not frozen <= set(range(len(network.model))):
        raise InputError(f"--freeze: expected layers from 0 to {len(network.model) - 1}, got {list(layers)}")
    for index in frozen:
        network.model[index].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise InputError(f"--freeze: expected some layer left to train, got all {len(network.model)} frozen")


def build_learner(
    network: Network, hyp: Hyperparameters, options: argparse.Namespace, iterations: int, image_size: int
) -> Learner:
    """Optimizer, schedule, losses and balancer around a network."""
    accumulate = accumulation(options.batch_size, hyp.nominal_batch)
    decay = hyp.weight_decay * options.batch_size * accumulate / hyp.nominal_batch
    schedule = Schedule(
        lr0=hyp.lr0, lrf=hyp.lrf, epochs=options.epochs, cosine=hyp.cos_lr,
        warmup_iterations=warmup_iterations(hyp.warmup_epochs, iterations), warmup_bias_lr=hyp.warmup_bias_lr,
        warmup_momentum=hyp.warmup_momentum, momentum=hyp.momentum, accumulate=hyp.nominal_batch / options.batch_size,
    )  # fmt: skip
    return Learner(
        network=network,
        running_mean=RunningMean(network),
        optimizer=build_optimizer(network, options.optimizer, hyp.lr0, hyp.momentum, decay),
        balancer=build_balancer(hyp.balance, (1.0, hyp.classification_weight)),
        criterion=JointLoss.of(network, hyp, image_size),
        schedule=schedule,
    )


def make_plan(
    folder: Path, config: DatasetConfig, options: argparse.Namespace, hyp: Hyperparameters, image_size: int, stride: int
) -> Plan:
    """What the options ask of the loop over epochs."""
    return Plan(
        folder=folder,
        names=class_names(config, options.single_cls),
        view_names=config.view_names if hyp.classification_enabled else (),
        image_size=image_size,
        rect=options.rect,
        hyp=hyp,
        patience=hyp.patience,
        save_period=options.save_period,
        save_every_epoch=not options.nosave,
        validate_every_epoch=not options.noval,
        image_weights=options.image_weights,
        multi_scale=MultiScale(hyp.seed, stride) if options.multi_scale else None,
        thresholds=Thresholds(single_class=options.single_cls),
        options=stored_options(options),
    )


def stored_options(options: argparse.Namespace) -> dict[str, Any]:
    """The options as opt.yaml and checkpoints hold them."""
    return plain({key: value for key, value in vars(options).items() if key != "typed"})


def write_start(
    folder: Path, options: argparse.Namespace, hyp: Hyperparameters, train_set: EchoDataset, val_set: EchoDataset,
    names: Sequence[str],
) -> None:  # fmt: skip
    """The files a run begins with: its settings, its data's faults, and what the data look like."""
    settings = plain(dataclasses.asdict(hyp))
    write_text(folder / "hyp.yaml", yaml.safe_dump(settings, sort_keys=False))
    used = {**stored_options(options), **{name: settings[name] for name in FROM_HYP}, "save_dir": str(folder)}
    write_text(folder / "opt.yaml", yaml.safe_dump(used, sort_keys=False))
    problems = [*train_set.problems, *val_set.problems]
    if problems:
        write_text(folder / "data_problems.txt", "".join(f"{problem}\n" for problem in problems))
    if options.noplots:
        return
    boxes = np.concatenate([label.boxes for label in train_set.labels])
    plot_labels(boxes, train_set.views(), names, train_set.config.view_names, folder / "labels.jpg")
    keys = list(EpochSampler(len(train_set), hyp.seed, not options.rect))
    for number in range(3):
        chosen = keys[number * options.batch_size : (number + 1) * options.batch_size]
        if chosen:
            write_training_pictures(train_set, chosen, names, folder / f"train_batch{number}.jpg")


def write_end(outcome: Outcome, val_set: EchoDataset, plan: Plan, options: argparse.Namespace) -> None:
    """The files a run ends with, and its table of figures on screen."""
    settings = {
        "weights": str(plan.last), "split": "val", "epoch": outcome.epochs, "best_epoch": outcome.best_epoch,
        "imgsz": plan.image_size, "batch_size": options.batch_size * 2, **dataclasses.asdict(plan.thresholds),
        "training_seconds": round(outcome.seconds, 1), "peak_memory_bytes": outcome.peak_memory,
    }  # fmt: skip
    content = metrics(outcome.evaluation, plan.names, plan.view_names, settings)
    write_json(plan.folder / "metrics.json", content)
    if not options.noplots:
        plot_results(plan.folder / "results.csv", plan.folder / "results.png")
        write_figures(outcome.evaluation, plan.names, plan.view_names, plan.folder)
        write_batch_pictures(
            val_set, outcome.evaluation, plan.names, plan.view_names, plan.folder, options.batch_size * 2
        )
    print(f"\nLast of {outcome.epochs} epochs on {val_set.config.file} val; best.pt is of epoch {outcome.best_epoch}\n")
    print(table(content))
    print(f"\n{outcome.seconds / 60:.1f} minutes, {outcome.peak_memory / 1e9:.1f} GB of memory at most")
    print(f"Results in {plan.folder}")


def run(**keywords: Any) -> Path:
    """Train from a notebook: ``run(data="my_data.yaml", imgsz=320)``; returns the run's folder."""
    return main(from_keywords(FLAGS, keywords))


if __name__ == "__main__":
    sys.exit(run_script(main, parse(FLAGS, __doc__ or "")))
