"""Train the joint network: boxes of valve regurgitation, and the view, from one frame.

python train.py --hyp hyp/joint_training_rules.yaml --img 256 --epochs 12
python train.py --data my_data.yaml --cfg models/yolov5m.yaml --img 640 --batch 16 --epochs 100
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

from models.balancers import BALANCERS
from models.yolo import Network
from utils.balancing import check_balance, choose_balancer
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
from utils.config import (
    from_here,
    from_root,
)
from utils.devices import keep_memory, seed_everything, select_compute
from utils.entry import enter
from utils.flags import BOOTSTRAP, COMMON, DOWNLOAD, IMGSZ, THREADS, Flag, check_range, from_keywords, parse
from utils.frames import CACHE_MODES
from utils.interrupt import Interrupts
from utils.launch import placed, run_folder
from utils.log import LOGGER, InputError, run_script
from utils.loss import JointLoss
from utils.optim import OPTIMIZERS
from utils.parts import checked_dataset, open_parts
from utils.processes import ALONE, Processes
from utils.resume import resumable
from utils.run_folder import forget_figures, write_end, write_start
from utils.starting import Start, read_start
from utils.trainer import Training, fit, validate
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
    Flag("project", "runs/train", "folder of the runs", from_here),
    Flag("name", "exp", "folder of this run"),
    Flag("cos-lr", False, "half a cosine for the learning rate (hyp: cos_lr)"),
    Flag("label-smoothing", None, "of box classes (hyp: label_smoothing; 0 if neither says)", float),
    Flag("patience", None, "epochs without improvement, then stop; 0 never (hyp: patience; 100 if neither says)", int),
    # --f and --save and shorter mean these in YOLOv5, and go on meaning them beside --folds and --save-steps
    Flag("freeze f", (0,), "layers to freeze: the first N, or several layers' numbers", int, nargs="+"),
    Flag("save-period sa sav save save-", -1, "also keep a checkpoint every so many epochs", int),
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
    place_network(network, options, compute, processes)
    train_loader, val_loader = open_loaders(parts, options, hyp, compute, processes)
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
    with Interrupts() as interrupts, resumable(plan.last, "train.py", processes):
        outcome = fit(Training(learner, train_loader, val_loader, plan, compute, interrupts, processes))
        with interrupts.at_once():
            if outcome.evaluation is None:
                averaged = learner.running_mean.network
                evaluation = validate(averaged, criterion, val_loader, plan, compute, processes)
                outcome = dataclasses.replace(outcome, evaluation=evaluation)
            if processes.main:
                write_end(outcome, parts, plan, options)
    return folder


def resumed_network(resumed: Checkpoint) -> Network:
    """The network of a run that goes on; its present weights are restored later."""
    network = resumed.build()
    if not isinstance(network, Network):
        raise InputError(f"{resumed.path}: expected a run of this script, got one of two networks or of another kind")
    return network


def run(**keywords: Any) -> Path:
    """Train from a notebook: ``run(data="my_data.yaml", imgsz=320)``; returns the run's folder."""
    return main(from_keywords(FLAGS, keywords))


if __name__ == "__main__":
    sys.exit(run_script(main, parse(FLAGS, __doc__ or "")))
