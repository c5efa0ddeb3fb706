"""From what is asked for (flags, hyp, dataset) to the parts of a training: network, anchors, loaders, learner, plan."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from models.balancer import Balancer
from models.dual import Trainable
from models.sync_norm import synchronised
from models.yolo import Network
from utils.anchors import GOOD_RECALL, box_sizes, find_anchors, recall
from utils.augment import changes_meaning
from utils.config import (
    DatasetConfig,
    Hyperparameters,
    class_names,
    find_file,
    hyperparameters_from,
    load_yaml,
)
from utils.dataset import Batch, EchoDataset, build_loader
from utils.devices import Compute
from utils.engine import MultiScale
from utils.evaluation import Thresholds
from utils.learner import Learner
from utils.log import LOGGER, InputError
from utils.loss import JointLoss
from utils.optim import RunningMean, build_optimizer
from utils.parts import Parts
from utils.plan import Plan, Standing
from utils.processes import Processes
from utils.run_folder import FROM_HYP, stored_options
from utils.schedule import Schedule, accumulation, warmup_iterations
from utils.starting import Start, start_from, with_classes
from utils.trainer import validating


def merged_hyperparameters(options: argparse.Namespace) -> Hyperparameters:
    """The hyp file's, with the flags that were typed over them."""
    path = find_file(options.hyp, "hyp", flag="--hyp")
    typed = {name: getattr(options, name) for name in FROM_HYP if name in options.typed}
    content = load_yaml(path)
    hyp = hyperparameters_from(content, path)  # what is wrong with the file is told under its name
    if typed:
        hyp = hyperparameters_from({**content, **typed}, Path("command line"))
    if hyp.copy_paste:
        LOGGER.warning("%s: copy_paste has no effect: it needs outlines, and labels are boxes here", options.hyp)
    if hyp.classification_enabled and changes_meaning(hyp):
        LOGGER.warning("%s: flips, hue and mosaic change anatomy or the meaning of Doppler colour", options.hyp)
    return hyp


def build_network(
    config: DatasetConfig, options: argparse.Namespace, hyp: Hyperparameters, start: Start | None
) -> Network:
    """The network of ``--cfg``, with the weights of ``start`` as far as they fit."""
    path = find_file(options.cfg, "models", "models/hub", flag="--cfg")
    description = load_yaml(path)
    if round(hyp.anchors):
        description = {**description, "anchors": round(hyp.anchors)}
    try:
        network = Network(
            description, nc=len(class_names(config, options.single_cls)), nv=len(config.view_names) or None,
            with_view=hyp.classification_enabled, view_dropout=hyp.view_dropout,
        )  # fmt: skip
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
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


def freeze(network: Network, layers: Sequence[int]) -> None:
    """Stop the gradient of the first N layers, or of each layer in a list of several."""
    frozen = set(range(layers[0])) if len(layers) == 1 else set(layers)
    if min(layers) < 0 or not frozen <= set(range(len(network.model))):
        raise InputError(f"--freeze: expected layers from 0 to {len(network.model) - 1}, got {list(layers)}")
    for index in frozen:
        network.model[index].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise InputError(f"--freeze: expected some layer left to train, got all {len(network.model)} frozen")


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


def place_network(network: Trainable, options: argparse.Namespace, compute: Compute, processes: Processes) -> None:
    """Move a network to where it is trained, alike in all processes."""
    compute.place(network)
    if options.sync_bn and processes.size > 1:
        synchronised(network)
    processes.share_state(network)


def open_loaders(
    parts: Parts, options: argparse.Namespace, hyp: Hyperparameters, compute: Compute, processes: Processes
) -> tuple[DataLoader[Batch], DataLoader[Batch]]:
    """Batches of ``--batch-size`` frames to train on, in another order each epoch, and of twice as many to validate."""
    pin = compute.device.type == "cuda"
    train_loader = build_loader(
        parts.train, options.batch_size, options.workers, hyp.seed, not options.rect, pin, processes, divided=True
    )
    shared = validating(hyp, processes)
    return train_loader, build_loader(parts.val, options.batch_size * 2, options.workers, processes=shared)


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
