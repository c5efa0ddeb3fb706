"""Train two networks that share nothing: YOLOv5s with CBAM for the boxes, ResNet-50 with attention for the view.

python train_dual_backbone.py --img 256 --epochs 12 --classifier resnet18
python train_dual_backbone.py --data my_data.yaml --img 640 --batch 16 --epochs 100 --parallel
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

import train
from models.balancer import Balancer
from models.dual import PARTS, RESNETS, Dual, Trainable
from models.yolo import Network, classifier_description
from utils import checkpoint
from utils.building import (
    build_learner,
    build_network,
    fit_anchors,
    freeze,
    make_plan,
    merged_hyperparameters,
    open_loaders,
    place_network,
)
from utils.checkpoint import Checkpoint
from utils.complexity import log_summary
from utils.config import DatasetConfig, Hyperparameters, find_file, from_root, load_yaml
from utils.devices import Compute, RandomStream, cores, keep_memory, select_compute
from utils.entry import enter
from utils.flags import Flag, check_range, from_keywords, parse
from utils.interrupt import Interrupts
from utils.launch import placed, run_folder
from utils.learner import Learner
from utils.log import LOGGER, InputError, run_script
from utils.loss import JointLoss
from utils.optim import OPTIMIZERS
from utils.parts import Parts, checked_dataset, open_parts
from utils.plan import Outcome, Plan, Standing
from utils.pretrained import IMAGENET, imagenet_file, read_weights
from utils.processes import ALONE, Processes
from utils.resume import read_or_predecessor, resumable
from utils.run_folder import forget_figures, stored_options, write_end, write_start
from utils.starting import Start, read_start, start_from
from utils.taking_turns import PairFiles, Task, side_by_side, take_turns
from utils.trainer import Training, peak_memory, validate
from utils.training_checkpoint import restore

NOTHING_SHARED = "the two networks share nothing, so there is nothing to balance"
OF_JOINT = ("balance", "balance-from", "interference-every")
FLAGS = (
    *(
        dataclasses.replace(flag, refused=NOTHING_SHARED) if flag.names in OF_JOINT else flag
        for flag in train.FLAGS
        if flag.names not in ("patience", "download")
    ),
    # --pa means patience in YOLOv5, and goes on meaning that beside --parallel
    *(dataclasses.replace(flag, names="patience pa") for flag in train.FLAGS if flag.names == "patience"),
    Flag("classifier", "resnet50", f"{', '.join(RESNETS)}; or yolov5s (n m l x), or a network yaml: its backbone"),
    Flag("classifier-weights", "", f"file to start the classifier from: a checkpoint, or torchvision's; or {IMAGENET}"),
    Flag("classifier-optimizer", "AdamW", "", choices=OPTIMIZERS),
    Flag("download", False, f"fetch --weights yolov5s.pt and the like, and those of --classifier-weights {IMAGENET}"),
    Flag("parallel", False, "train the two at the same time, in a process each"),
)


def main(options: argparse.Namespace) -> Path:
    """Train as the options say and return the run's folder."""
    return enter(options, FLAGS, train_both, pair=True)


@dataclass(frozen=True)
class Setting:
    """All that the training of a part begins with."""

    options: argparse.Namespace
    hyp: Hyperparameters
    config: DatasetConfig
    compute: Compute
    parts: Parts
    networks: Mapping[str, Trainable]
    streams: Mapping[str, RandomStream]
    processes: Processes


def train_both(options: argparse.Namespace, resumed: Checkpoint | None = None, processes: Processes = ALONE) -> Path:
    """One training of the two, or the rest of one; returns the run's folder."""
    if options.parallel and processes.size > 1:
        raise InputError("--parallel: expected one process, which starts two; torchrun has started more")
    setting = prepared(options, resumed, processes)
    for name in PARTS:
        log_summary(setting.networks[name], setting.parts.image_size, name.capitalize())
    # what can be wrong with the input has been found by now: only then is there a folder
    folder = resumed.path.parents[1] if resumed else run_folder(
        from_root(options.project), options.name, options.exist_ok, processes
    )  # fmt: skip
    LOGGER.info("Run: %s (%s)", folder, setting.compute)
    plan = whole_plan(setting, folder)
    files = PairFiles(folder, options.parallel, processes)
    if resumed:
        forget_figures(plan, processes)
        if processes.main:
            files.mend()
    elif processes.main:
        write_start(folder, options, setting.hyp, setting.parts, plan.names)
        files.clear()
    with Interrupts() as interrupts, resumable(plan.last, "train_dual_backbone.py", processes):
        children = train_parts(setting, files, interrupts)
        with interrupts.at_once():
            outcome = validated(setting, files, plan, children)
            if processes.main:
                write_end(outcome, setting.parts, plan, options)
    return folder


def train_parts(setting: Setting, files: PairFiles, interrupts: Interrupts) -> int:
    """Train both to their ends; returns bytes of RAM that other processes held."""
    options = setting.options
    if options.parallel:
        waiting = [name for name in PARTS if not part_ended(files, name, options.epochs)]
        given = {**stored_options(options), **typed(options)}
        return side_by_side(train_part, waiting, given, files, options.epochs, interrupts)
    take_turns({name: open_task(setting, name, files.part(name), interrupts) for name in PARTS}, files)
    return 0


def typed(options: argparse.Namespace) -> dict[str, Any]:
    """The names of the options that were typed, as checkpoints hold them."""
    return {"typed": sorted(options.typed)}


def part_ended(files: PairFiles, name: str, epochs: int) -> bool:
    """Whether a part has made all its epochs, and no more are asked for than it was begun with."""
    last = files.part(name) / "weights" / "last.pt"
    if not last.is_file():
        return False
    content = checkpoint.read(last, mapped=True).content
    return bool(content["finished"]) and epochs <= content["options"]["epochs"]


def train_part(name: str, folder: Path, stored: Mapping[str, Any]) -> None:
    """One of the two by itself, in the process that it has for itself."""
    options = argparse.Namespace(**{**stored, "typed": frozenset(stored["typed"])})
    whole = folder.parent / "weights" / "last.pt"
    options.threads = options.threads or max(cores() // 2, 1)
    with Interrupts() as interrupts:
        with interrupts.at_once():
            setting = prepared(options, read_or_predecessor(whole) if whole.is_file() else None)
            task = open_task(setting, name, folder, interrupts)
        with task.stream:
            task.training.begin()
        while not task.training.done:
            task.step()
        task.training.finish()


def prepared(options: argparse.Namespace, resumed: Checkpoint | None, processes: Processes = ALONE) -> Setting:
    """Check what the options ask for, open the data and build both networks.

    A process that trains one of them builds the other, too: image size and leakage are those of the pair.
    """
    check_range(options, "save_steps", 0)
    hyp = resumed.hyp if resumed else dual_hyperparameters(options)
    keep_memory()
    device, threads = placed(options.device, options.threads, processes)
    compute = select_compute(device, options.amp, threads)
    config = checked_dataset(options, hyp)
    starts: list[Start] = [resumed] if resumed else []
    streams = {name: RandomStream(hyp.seed) for name in PARTS}
    with streams["detector"]:
        detector = part_networks(resumed)[0] if resumed else build_detector(config, options, hyp, starts)
    with streams["classifier"]:
        classifier = part_networks(resumed)[1] if resumed else build_classifier(config, options, hyp, starts)
    freeze(detector, options.freeze)
    parts = open_parts(config, options, hyp, max(detector.max_stride, classifier.max_stride), starts)
    if not options.noautoanchor and not resumed:
        fit_anchors(detector, parts.train, hyp, parts.image_size)
    networks: dict[str, Trainable] = {"detector": detector, "classifier": classifier}
    return Setting(options, hyp, config, compute, parts, networks, streams, processes)


def dual_hyperparameters(options: argparse.Namespace) -> Hyperparameters:
    """The hyp file's for two networks, with the flags that were typed over them."""
    hyp = dataclasses.replace(merged_hyperparameters(options), balance="static")
    if not hyp.classification_enabled:
        raise InputError(f"{options.hyp}: classification_enabled: expected true for two networks, got false")
    return hyp


def part_networks(resumed: Checkpoint) -> tuple[Network, Trainable]:
    """The pair of a run that goes on; their present weights come from their own checkpoints."""
    whole = resumed.build()
    assert isinstance(whole, Dual)
    return whole.detector, whole.classifier


def build_detector(
    config: DatasetConfig, options: argparse.Namespace, hyp: Hyperparameters, starts: list[Start]
) -> Network:
    """The network of ``--cfg`` without its view head, from the weights of ``--weights`` if there are any."""
    start = read_start(Path(options.weights).expanduser(), options.download) if options.weights else None
    starts += [start] if start else []
    boxes_alone = dataclasses.replace(hyp, classification_enabled=False)
    return build_network(config, options, boxes_alone, start)


def build_classifier(
    config: DatasetConfig, options: argparse.Namespace, hyp: Hyperparameters, starts: list[Start]
) -> Trainable:
    """The network of ``--classifier``, from the weights of ``--classifier-weights`` if there are any."""
    nv = len(config.view_names)
    name = options.classifier
    classifier: Trainable
    if name in RESNETS:
        from models.classifier import Classifier  # not above, here and below: torchvision takes as long as torch itself

        classifier = Classifier(name, nv, dropout=hyp.view_dropout)
    else:
        path = find_file(name if name.endswith((".yaml", ".yml")) else f"{name}.yaml", "models/hub", "models",
                         flag="--classifier")  # fmt: skip
        classifier = Network(classifier_description(load_yaml(path)), nv=nv, view_dropout=hyp.view_dropout)
    if options.classifier_weights:
        path = Path(options.classifier_weights).expanduser()
        if options.classifier_weights == IMAGENET:
            path = imagenet_file(name, options.download)
        start_from(classifier, classifier_state(path, starts), path)
    return classifier


def classifier_state(path: Path, starts: list[Start]) -> Mapping[str, Tensor]:
    """The classifier's tensors in a file; whatever is not torchvision's is added to ``starts``."""
    found = read_weights(path)
    if isinstance(found, dict):
        from models.classifier import from_torchvision

        return from_torchvision(found)
    starts.append(found)
    return found.part("classifier")


def whole_plan(setting: Setting, folder: Path) -> Plan:
    """What the options ask of both."""
    stride = max(network.max_stride for network in setting.networks.values())
    return make_plan(folder, setting.config, setting.options, setting.hyp, setting.parts, stride)


def open_task(setting: Setting, name: str, folder: Path, interrupts: Interrupts) -> Task:
    """The training of a part, from where its own checkpoint stands if there is one."""
    options, compute, processes = setting.options, setting.compute, setting.processes
    if processes.main:
        folder.mkdir(exist_ok=True)
    network, stream = setting.networks[name], setting.streams[name]
    place_network(network, options, compute, processes)
    plan = whole_plan(setting, folder)
    if name == "detector":
        plan = dataclasses.replace(plan, view_names=())
    else:  # frames are drawn by how boxes are found, which a classifier does not know
        standing = Standing() if options.image_weights else plan.standing
        plan = dataclasses.replace(plan, names=(), image_weights=False, standing=standing)
    last = processes.of_main(plan.last if plan.last.is_file() else None)
    resumed = read_or_predecessor(last) if last else None
    with stream:
        train_loader, val_loader = open_loaders(setting.parts, options, setting.hyp, compute, processes)
        learner = part_learner(setting, name, len(train_loader))
        if resumed:
            plan = restore(learner, plan, resumed)
        return Task(Training(learner, train_loader, val_loader, plan, compute, interrupts, processes), stream)


def part_learner(setting: Setting, name: str, iterations: int) -> Learner:
    """Optimizer, schedule and loss around a part's network."""
    options, hyp, network = setting.options, setting.hyp, setting.networks[name]
    optimizer, balancer = options.optimizer, Balancer((1.0,))
    if name == "classifier":
        optimizer = options.classifier_optimizer
        hyp = dataclasses.replace(
            hyp, lr0=hyp.classifier_lr0, weight_decay=hyp.classifier_weight_decay, warmup_bias_lr=0.0
        )
        # the engine multiplies losses by the batch size, which nominal_batch undoes: so clipping sees a mean's gradient
        balancer = Balancer((1 / hyp.nominal_batch,))
    criterion = JointLoss.of(network, hyp, setting.parts.image_size).over(setting.processes.sum)
    return build_learner(network, hyp, options, iterations, criterion, balancer, optimizer)


def validated(setting: Setting, files: PairFiles, plan: Plan, children: int) -> Outcome:
    """Both together, at their last epochs, on the validation part.

    Args:
        children: bytes of RAM that other processes held.
    """
    compute, processes = setting.compute, setting.processes
    processes.of_main(None)  # which has put the file together by then
    network = checkpoint.read(plan.last).build().to(compute.device)
    criterion = JointLoss.of(network, setting.hyp, plan.image_size)
    _, loader = open_loaders(setting.parts, setting.options, setting.hyp, compute, processes)
    evaluation = validate(network, criterion, loader, plan, compute, processes)
    rows, last = files.rows(), files.read("last")
    assert last is not None
    seconds = [own[-1]["seconds"] for own in rows.values()]
    return Outcome(
        evaluation=evaluation,
        epochs={name: part.content["epoch"] + 1 for name, part in last.items()},
        best_epoch={name: part.content["best_epoch"] + 1 for name, part in last.items()},
        seconds=max(seconds) if setting.options.parallel else sum(seconds),
        peak_memory=children + peak_memory(),
    )


def run(**keywords: Any) -> Path:
    """Train from a notebook: ``run(data="my_data.yaml", imgsz=320)``; returns the run's folder."""
    return main(from_keywords(FLAGS, keywords))


if __name__ == "__main__":
    sys.exit(run_script(main, parse(FLAGS, __doc__ or "")))
