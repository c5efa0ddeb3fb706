"""The loop over epochs: train, validate, log, save, stop."""

from __future__ import annotations

import datetime
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from models.balancer import TASKS, Balancer
from models.yolo import Network
from utils import checkpoint, outcomes
from utils.balance_log import BalanceLog
from utils.config import ROOT, Hyperparameters, plain
from utils.dataset import Batch, EchoDataset, EpochSampler
from utils.devices import Compute
from utils.engine import EpochResult, Evaluation, MultiScale, Thresholds, evaluate, inference_copy, train_one_epoch
from utils.log import LOGGER, InputError
from utils.loggers import RunLogger
from utils.loss import JointLoss
from utils.operating import OperatingPoint
from utils.optim import RunningMean
from utils.schedule import Schedule


@dataclass
class Learner:
    """A network and all that changes with it while it learns."""

    network: Network
    running_mean: RunningMean
    optimizer: torch.optim.Optimizer
    balancer: Balancer
    criterion: JointLoss
    schedule: Schedule


@dataclass(frozen=True)
class Plan:
    """What a training does, apart from the network.

    Attributes:
        folder: of the run.
        names, view_names: of box classes and views.
        image_size: pixels of the longer side.
        rect: whether frames are padded to whole strides only.
        patience: epochs without a better fitness after which training stops; 0 never stops.
        save_period: also keep ``epochN.pt`` every so many epochs; under 1 never.
        save_every_epoch, validate_every_epoch: else the last epoch only.
        image_weights: draw frames by how badly their classes are found.
        interference_every: steps between two that measure the tasks' gradients over the whole trunk; 0: never.
        thresholds: of the validation.
        leakage: columns of the log that say what validation has in common with training.
        remembered: what checkpoints say of the training data beside the network: ``trained_on``, ``permuted_labels``.
        options: of the script, to be stored in checkpoints.
        start_epoch, best_fitness, best_epoch, frame_weights: where a resumed training goes on.
        ended: a resumed training was cut off after its last epoch: nothing is left but to validate.
    """

    folder: Path
    names: Sequence[str]
    view_names: Sequence[str]
    image_size: int
    rect: bool
    hyp: Hyperparameters
    patience: int = 0
    save_period: int = -1
    save_every_epoch: bool = True
    validate_every_epoch: bool = True
    image_weights: bool = False
    multi_scale: MultiScale | None = None
    interference_every: int = 0
    thresholds: Thresholds = field(default_factory=Thresholds)
    leakage: Mapping[str, float] = field(default_factory=dict)
    remembered: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] | None = None
    start_epoch: int = 0
    best_fitness: float = -1.0
    best_epoch: int = 0
    frame_weights: NDArray[np.float64] | None = None
    ended: bool = False

    @property
    def last(self) -> Path:
        """The latest checkpoint, from which training can go on."""
        return self.folder / "weights" / "last.pt"

    @property
    def balance(self) -> Path:
        """How the tasks pulled at what they share, a row a step; see :mod:`utils.balance_log`."""
        return self.folder / "balance.csv"

    @property
    def outcomes(self) -> Path:
        """What the last epoch made of every validation frame; see :mod:`utils.outcomes`."""
        return self.folder / "outcomes.npz"

    @property
    def best(self) -> Path:
        """The checkpoint of the best fitness, stripped at the end."""
        return self.folder / "weights" / "best.pt"


@dataclass(frozen=True)
class Outcome:
    """How a training ended.

    Attributes:
        evaluation: of the last epoch.
        epochs: how many were trained, earlier parts of a resumed run included.
        best_epoch: 1-based, of ``best.pt``.
        seconds: this process's training took.
        peak_memory: bytes of RAM that this process held at most.
    """

    evaluation: Evaluation
    epochs: int
    best_epoch: int
    seconds: float
    peak_memory: int


def fit(
    learner: Learner, train_loader: DataLoader[Batch], val_loader: DataLoader[Batch], plan: Plan, compute: Compute
) -> Outcome:
    """Train to the schedule's end; leaves ``results.csv`` and checkpoints in the run folder."""
    (plan.folder / "weights").mkdir(exist_ok=True)
    started = time.perf_counter()
    logger = RunLogger(plan.folder, plan.start_epoch)
    balance = BalanceLog(plan.balance, plan.start_epoch) if plan.view_names else None
    best_fitness, best_epoch = plan.best_fitness, plan.best_epoch
    sampler, val_set = train_loader.sampler, val_loader.dataset
    assert isinstance(sampler, EpochSampler) and isinstance(val_set, EchoDataset)
    sampler.weights = plan.frame_weights
    epochs = learner.schedule.epochs
    epoch, evaluation = plan.start_epoch - 1, None
    for epoch in range(plan.start_epoch, 0 if plan.ended else epochs):
        sampler.epoch = epoch
        result = train_one_epoch(
            learner.network, train_loader, learner.criterion, learner.optimizer, learner.balancer,
            learner.running_mean, learner.schedule, compute, epoch, plan.hyp.clip_grad_norm, plan.multi_scale,
            balance.append if balance else None, plan.interference_every,
        )  # fmt: skip
        _check(result, epoch, plan)
        last = epoch == epochs - 1
        evaluation = _validate(learner, val_loader, plan, compute) if plan.validate_every_epoch or last else None
        fitness = evaluation.detection.fitness if evaluation else best_fitness
        # equal counts as better, as in YOLOv5: an early stage at fitness 0 is no lack of progress
        improved = evaluation is not None and fitness >= best_fitness
        if improved:
            best_fitness, best_epoch = fitness, epoch
        stopping = evaluation is not None and 0 < plan.patience <= epoch - best_epoch
        if evaluation and plan.image_weights and isinstance(train_loader.dataset, EchoDataset):
            sampler.weights = frame_weights(train_loader.dataset, evaluation, len(plan.names))
        logger.log(_row(epoch, learner, result, evaluation) | plan.leakage)
        if balance is not None:
            logger.log_steps(balance.flush())
        if plan.save_every_epoch or last or stopping:
            if not plan.save_every_epoch:
                improved, best_epoch = True, epoch  # what is saved last is all there is
            content = _content(learner, plan, epoch, best_fitness, best_epoch, evaluation)
            content["operating"] = OperatingPoint.of(evaluation, val_set).content() if evaluation else None
            content["finished"] = last or stopping
            content["frame_weights"] = None if sampler.weights is None else torch.from_numpy(sampler.weights)
            _save(content, plan, epoch, improved or epoch == 0)
        if stopping:
            LOGGER.info("No better fitness for %d epochs: stopped after epoch %d", plan.patience, epoch + 1)
            break
    logger.close()
    if balance is not None:
        balance.close()
    if learner.balancer.skipped:
        LOGGER.warning(
            "%d steps changed no task's weight: a gradient norm was 0 or not finite", learner.balancer.skipped
        )
    if evaluation is None:
        evaluation = _validate(learner, val_loader, plan, compute)
    outcomes.save(plan.outcomes, outcomes.outcomes_of(evaluation, val_set, plan.view_names))
    checkpoint.strip(plan.best)
    return Outcome(evaluation, epoch + 1, best_epoch + 1, time.perf_counter() - started, peak_memory())


def _check(result: EpochResult, epoch: int, plan: Plan) -> None:
    """Stop when an epoch's losses are no numbers any more; the checkpoints stay as the last good epoch left them."""
    if result.skipped:
        LOGGER.warning("epoch %d: %d steps skipped, their gradient was not finite", epoch + 1, result.skipped)
    learned = result.losses if plan.view_names else result.losses[:3]
    if not np.isfinite(learned).all():
        kept = f"; the epoch before it is in {plan.last}" if plan.last.exists() else ""
        raise InputError(f"epoch {epoch + 1}: the loss is not finite: try a lower lr0 or --no-amp{kept}")


def _validate(learner: Learner, loader: DataLoader[Batch], plan: Plan, compute: Compute) -> Evaluation:
    network = inference_copy(learner.running_mean.network, compute)
    nc, nv = len(plan.names), len(plan.view_names)
    return evaluate(network, loader, nc, nv, compute, plan.thresholds, learner.criterion)


def _row(epoch: int, learner: Learner, result: EpochResult, evaluation: Evaluation | None) -> dict[str, float]:
    row = {"epoch": float(epoch)}
    row |= {f"train/{name}_loss": value for name, value in result.losses._asdict().items()}
    row |= {f"x/lr{i}": group["lr"] for i, group in enumerate(learner.optimizer.param_groups)}
    row |= {f"weight/{task}": float(w) for task, w in zip(TASKS, learner.balancer.weights, strict=False)}
    if evaluation is not None:
        figures = evaluation.detection
        row |= {
            "metrics/precision": figures.mean_precision,
            "metrics/recall": figures.mean_recall,
            "metrics/mAP_0.5": figures.map50,
            "metrics/mAP_0.5:0.95": figures.map,
            "metrics/F1": figures.mean_f1,
        }
        if evaluation.losses is not None:
            row |= {f"val/{name}_loss": value for name, value in evaluation.losses._asdict().items()}
        if evaluation.view is not None:
            row["metrics/view_accuracy"] = evaluation.view.accuracy
            row["metrics/view_macro_f1"] = evaluation.view.macro_f1
    return row


def _content(
    learner: Learner, plan: Plan, epoch: int, best_fitness: float, best_epoch: int, evaluation: Evaluation | None
) -> dict[str, Any]:
    """A checkpoint after ``epoch``, with all that :func:`restore` needs."""
    return {
        "description": learner.network.description,
        "names": list(plan.names),
        "view_names": list(plan.view_names),
        "image_size": plan.image_size,
        "rect": plan.rect,
        "hyp": plain(asdict(plan.hyp)),
        "epoch": epoch,
        "best_fitness": best_fitness,
        "best_epoch": best_epoch,
        "figures": {} if evaluation is None else {"map50": evaluation.detection.map50, "map": evaluation.detection.map},
        **plan.remembered,
        "ema": learner.running_mean.network.state_dict(),
        "updates": learner.running_mean.updates,
        "network": learner.network.state_dict(),
        "optimizer": learner.optimizer.state_dict(),
        "balancer": learner.balancer.state_dict(),
        "random": torch.get_rng_state(),
        "options": dict(plan.options or {}),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "git": git_commit(),
    }


def _save(content: Mapping[str, Any], plan: Plan, epoch: int, is_best: bool) -> None:
    if is_best:  # before last.pt, which says which epoch is the best: a kill in between must not make that untrue
        checkpoint.save(plan.best, content)
    checkpoint.save(plan.last, content)
    if plan.save_period > 0 and epoch % plan.save_period == 0:
        checkpoint.save(plan.folder / "weights" / f"epoch{epoch}.pt", content)


def restore(learner: Learner, content: Mapping[str, Any], path: Path) -> None:
    """Put a learner back to where a checkpoint of :func:`fit` was written.

    Raises:
        InputError: a stripped checkpoint, which lacks the optimizer.
    """
    missing = [key for key in ("network", "optimizer", "balancer", "random") if key not in content]
    if missing:
        raise InputError(
            f"{path}: expected a checkpoint to resume from (last.pt), got one without {', '.join(missing)}"
        )
    learner.network.load_state_dict(content["network"])
    learner.running_mean.network.load_state_dict(content["ema"])
    learner.running_mean.updates = content["updates"]
    learner.optimizer.load_state_dict(content["optimizer"])
    learner.balancer.load_state_dict(content["balancer"])
    torch.set_rng_state(content["random"])


def frame_weights(dataset: EchoDataset, evaluation: Evaluation, nc: int) -> NDArray[np.float64]:
    """Weight of each frame in sampling: the sum over its boxes of their class's rarity x (1 - AP)^2."""
    ap = np.zeros(nc)
    ap[evaluation.detection.classes] = evaluation.detection.ap.mean(1)
    weight = np.maximum(1 - ap, 0.01) ** 2 / np.maximum(dataset.class_counts(), 1)
    weight /= weight.sum()
    of_frames = np.array([weight[label.boxes[:, 0].astype(int)].sum() for label in dataset.labels])
    # background frames hold no class; the smallest weight of the others keeps them in the game
    return np.where(of_frames > 0, of_frames, of_frames[of_frames > 0].min(initial=1.0))


def peak_memory() -> int:
    """Bytes of RAM this process has held at most."""
    try:
        import resource
    except ImportError:  # Windows has no such counter for the past, only for now
        return int(psutil.Process().memory_info().rss)
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held if sys.platform == "darwin" else held * 1024  # bytes there, KiB elsewhere


def git_commit() -> str:
    """The repository's commit, or nothing where it is no git checkout."""
    command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
