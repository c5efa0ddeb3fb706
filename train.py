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

from models.balancer import Balancer
from models.balancers import BALANCERS
from models.dual import Trainable
from models.sync_norm import synchronised
from models.yolo import Network
from utils.anchors import GOOD_RECALL, box_sizes, find_anchors, recall
from utils.augment import changes_meaning
from utils.balancing import check_balance, choose_balancer
from utils.checkpoint import Checkpoint
from utils.complexity import log_summary
from utils.config import (
    DatasetConfig,
    Hyperparameters,
    class_names,
    find_file,
    from_root,
    hyperparameters_from,
    load_yaml,
)
from utils.dataset import EchoDataset, build_loader
from utils.devices import keep_memory, seed_everything, select_compute
from utils.engine import MultiScale
from utils.entry import enter
from utils.evaluation import Thresholds
from utils.flags import BOOTSTRAP, COMMON, DOWNLOAD, IMGSZ, THREADS, Flag, check_range, from_keywords, parse
from utils.frames import CACHE_MODES
from utils.interrupt import Interrupts
from utils.launch import placed, run_folder
from utils.learner import Learner
from utils.log import LOGGER, InputError, run_script
from utils.loss import JointLoss
from utils.optim import OPTIMIZERS, RunningMean, build_optimizer
from utils.parts import Parts, checked_dataset, open_parts
from utils.plan import Plan, Standing
from utils.processes import ALONE, Processes
from utils.resume import resumable
from utils.run_folder import FROM_HYP, forget_figures, stored_options, write_end, write_start
from utils.schedule import Schedule, accumulation, warmup_iterations
from utils.starting import Start, read_start, start_from, with_classes
from utils.trainer import Training, fit, validate, validating
from utils.training_checkpoint import restore

NO_TRACKER = "runs are logged to files and TensorBoard only"

FLAGS = (
    Flag("weights", "", "checkpoint to start from, also YOLOv5's own; empty starts from random weights"),
    DOWNLOAD,
    Flag("cfg", "models/yolov5s.yaml", "network yaml, from models/ or models/hub/ by its bare name"),
    Flag("data", "data/phantom.yaml", "dataset yaml"),
    Flag("hyp", "hyp/joint_training_rules.yaml", "hyperparameter yaml"),
    Flag("epochs", 100, "length of the training", int),
    Flag("batch-size ba", 16, "frames a batch", int),
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
    THREADS,
    Flag("project", "runs/train", "folder of the runs"),
    Flag("name", "exp", "folder of this run"),
    Flag("cos-lr", False, "half a cosine for the learning rate (hyp: cos_lr)"),
    Flag("label-smoothing", None, "of box classes (hyp: label_smoothing; 0 if neither says)", float),
    Flag("patience", None, "epochs without improvement, then stop; 0 never (hyp: patience; 100 if neither says)", int),
    Flag("freeze", (0,), "layers to freeze: the first N, or several layers' numbers", int, nargs="+"),
    # --save and shorter mean the period in YOLOv5, and go on meaning that beside --save-steps
    Flag("save-period sa sav save", -1, "also keep a checkpoint every so many epochs", int),
    Flag("save-steps", 0, "also bring last.pt up to date every so many steps of the optimizer; 0: epochs only", int),
    Flag("sync-bn", False, "batch normalisation over the frames of all processes of torchrun"),
    Flag("seed", None, "of all random numbers (hyp: seed; 0 if neither says)", int),
    Flag("strict-data", False, "any fault in a data file is an error"),
    Flag(
        "balance",
        None,
        "how the tasks are balanced, see docs/training-strategy.md (hyp: balance; static if neither says)",
        choices=[*BALANCERS],
    ),
    Flag("balance-from", "", "run folder, or its balance.csv, whose mean weights --balance gradnorm_static keeps"),
    Flag("interference-every", 50, "compare the tasks over the whole trunk every so many steps; 0: never", int),
    BOOTSTRAP,
    Flag(
        "strict-groups",
        False,
        "patients or near-identical frames in both parts, and patients not named, are an error",
    ),
    Flag("folds", "", "folder of utils.splits: train on every fold in turn, then pool their figures"),
    Flag("permute-labels", False, "control: labels shuffled between patients, so that figures must be those of chance"),
    *COMMON,
    Flag("evolve", None, "", nargs="?", refused="hyperparameters are searched outside of a training", const=True),
    Flag("local_rank", None, "", refused="torchrun tells each process which one it is"),
    Flag("quad", False, "", refused="it changes what a batch is; use a larger --batch-size"),
    Flag("bucket", None, "", refused="nothing is fetched from or sent to a network"),
    Flag("entity", None, "", refused=NO_TRACKER),
    Flag("upload_dataset", None, "", nargs="?", const=True, refused=NO_TRACKER),
    Flag("bbox_interval", None, "", refused=NO_TRACKER),
    Flag("artifact_alias", None, "", refused=NO_TRACKER),
)


def main(options: argparse.Namespace) -> Path:
    """Train as the options say and return the run's folder."""
    return enter(options, FLAGS, train)


def train(options: argparse.Namespace, resumed: Checkpoint | None = None, processes: Processes = ALONE) -> Path:
    """One training, or the rest of one; returns the run's folder."""
    check_range(options, "interference_every save_steps", 0)
    hyp = resumed.hyp if resumed else merged_hyperparameters(options)
    if not resumed:
        check_balance(hyp, options.hyp, options.balance_from)
    keep_memory()
    device, threads = placed(options.device, options.threads, processes)
    compute = select_compute(device, options.amp, threads)
    seed_everything(hyp.seed)
    config = checked_dataset(options, hyp)
    start: Start | None = resumed
    if options.weights and not resumed:
        start = read_start(Path(options.weights).expanduser(), options.download)
    network = build_network(config, options, hyp, start) if resumed is None else resumed_network(resumed)
    freeze(network, options.freeze)
    parts = open_parts(config, options, hyp, network.max_stride, [start] if start else [])
    if not options.noautoanchor and not resumed:
        fit_anchors(network, parts.train, hyp, parts.image_size)
    log_summary(network, parts.image_size)
    compute.place(network)
    if options.sync_bn and processes.size > 1:
        synchronised(network)
    processes.share_state(network)

    pin = compute.device.type == "cuda"
    train_loader = build_loader(
        parts.train, options.batch_size, options.workers, hyp.seed, not options.rect, pin, processes, divided=True
    )
    shared = validating(hyp, processes)
    val_loader = build_loader(parts.val, options.batch_size * 2, options.workers, processes=shared)
    criterion = JointLoss.of(network, hyp, parts.image_size).over(processes.sum)
    balancer = choose_balancer(network, hyp, criterion, options.balance_from, bool(resumed))
    learner = build_learner(network, hyp, options, len(train_loader), criterion, balancer, options.optimizer)
    # what can be wrong with the input has been found by now: only then is there a folder
    folder = resumed.path.parents[1] if resumed else run_folder(
        from_root(options.project), options.name, options.exist_ok, processes
    )  # fmt: skip
    LOGGER.info("Run: %s (%s)", folder, compute)
    plan = make_plan(folder, config, options, hyp, parts, network.max_stride)
    plan = dataclasses.replace(plan, interference_every=options.interference_every)
    if resumed:
        plan = restore(learner, plan, resumed)
        forget_figures(plan, processes)
    elif processes.main:
        write_start(folder, options, hyp, parts, plan.names)
    with Interrupts() as interrupts, resumable(plan.last, "train.py"):
        outcome = fit(Training(learner, train_loader, val_loader, plan, compute, interrupts, processes))
        with interrupts.at_once():
            if outcome.evaluation is None:
                evaluation = validate(learner, val_loader, plan, compute, processes)
                outcome = dataclasses.replace(outcome, evaluation=evaluation)
            if processes.main:
                write_end(outcome, parts, plan, options)
    return folder


def merged_hyperparameters(options: argparse.Namespace) -> Hyperparameters:
    """The hyp file's, with the flags that were typed over them."""
    path = find_file(options.hyp, "hyp", flag="--hyp")
    typed = {name: getattr(options, name) for name in FROM_HYP if name in options.typed}
    hyp = hyperparameters_from({**load_yaml(path), **typed}, path)
    if hyp.copy_paste:
        LOGGER.warning("%s: copy_paste has no effect: it needs outlines, and labels are boxes here", options.hyp)
    if hyp.classification_enabled and changes_meaning(hyp):
        LOGGER.warning("%s: flips, hue and mosaic change anatomy or the meaning of Doppler colour", options.hyp)
    return hyp


def build_network(
    config: DatasetConfig, options: argparse.Namespace, hyp: Hyperparameters, start: Start | None
) -> Network:
    """The network of ``--cfg``, with the weights of ``start`` as far as they fit."""
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
    if start is not None:
        names = class_names(config, options.single_cls)
        state = with_classes(network, start.part("detector"), start.names, names, start.path)
        if "cfg" in options.typed or round(hyp.anchors):  # then the anchors asked for stay, as in YOLOv5
            state = {name: tensor for name, tensor in state.items() if not name.endswith(".anchors")}
        start_from(network, state, start.path)
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


def resumed_network(resumed: Checkpoint) -> Network:
    """The network of a run that goes on; its present weights are restored later."""
    network = resumed.build()
    if not isinstance(network, Network):
        raise InputError(f"{resumed.path}: expected a run of this script, got one of two networks or of another kind")
    return network


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
    network: Trainable, hyp: Hyperparameters, options: argparse.Namespace, iterations: int, criterion: JointLoss,
    balancer: Balancer, optimizer: str,
) -> Learner:  # fmt: skip
    """Optimizer and schedule around a network, for ``--epochs`` of so many iterations each."""
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
        optimizer=build_optimizer(network, optimizer, hyp.lr0, hyp.momentum, decay),
        balancer=balancer,
        criterion=criterion,
        schedule=schedule,
        clip_grad_norm=hyp.clip_grad_norm,
    )


def make_plan(
    folder: Path, config: DatasetConfig, options: argparse.Namespace, hyp: Hyperparameters, parts: Parts, stride: int
) -> Plan:
    """What the options ask of the loop over epochs."""
    return Plan(
        folder=folder,
        names=class_names(config, options.single_cls),
        view_names=config.view_names if hyp.classification_enabled else (),
        image_size=parts.image_size,
        rect=options.rect,
        hyp=hyp,
        patience=hyp.patience,
        save_period=options.save_period,
        save_steps=options.save_steps,
        save_every_epoch=not options.nosave,
        validate_every_epoch=not options.noval,
        image_weights=options.image_weights,
        multi_scale=MultiScale(hyp.seed, stride) if options.multi_scale else None,
        thresholds=Thresholds(single_class=options.single_cls),
        leakage=parts.leakage.columns(),
        standing=Standing(frame_weights=parts.frame_weights),
        remembered={
            "trained_on": parts.trained_on.content(),
            **({"untold": list(parts.untold)} if parts.untold else {}),
            "permuted_labels": hyp.seed if options.permute_labels else None,
        },
        options={**stored_options(options), "typed": sorted(options.typed)},
    )


def run(**keywords: Any) -> Path:
    """Train from a notebook: ``run(data="my_data.yaml", imgsz=320)``; returns the run's folder."""
    return main(from_keywords(FLAGS, keywords))


if __name__ == "__main__":
    sys.exit(run_script(main, parse(FLAGS, __doc__ or "")))
