"""The loop over epochs: train, validate, log, save, stop."""

from __future__ import annotations

import datetime
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from models.balancer import TASKS
from models.border import alone
from utils import checkpoint
from utils.balance_log import BalanceLog
from utils.batches import EpochBatches
from utils.config import ROOT, Hyperparameters, plain
from utils.dataset import Batch, EchoDataset
from utils.devices import Compute
from utils.engine import MultiScale, train_one_epoch
from utils.epoch import EpochProgress, NotFiniteError
from utils.evaluation import Evaluation, Thresholds, evaluate, inference_copy
from utils.interrupt import Interrupts
from utils.learner import Learner
from utils.log import LOGGER, InputError, Interrupted
from utils.loggers import RunLogger
from utils.operating import OperatingPoint
from utils.processes import ALONE, Processes

BAD_FILES_NAMED = 64  # of the steps that were not finite, at most


@dataclass(frozen=True)
class Plan:
    """What a training does, apart from the network.

    Attributes:
        folder: of the run.
        names, view_names: of box classes and views; empty for what the network does not learn.
        image_size: pixels of the longer side.
        rect: whether frames are padded to whole strides only.
        patience: epochs without a better fitness after which training stops; 0 never stops.
        save_period: also keep ``epochN.pt`` every so many epochs; under 1 never.
        save_steps: also bring ``last.pt`` up to date every so many steps of the optimizer; 0: after an epoch only.
        save_every_epoch, validate_every_epoch: else the last epoch only.
        image_weights: draw frames by how badly their classes are found.
        interference_every: steps between two that measure the tasks' gradients over the whole trunk; 0: never.
        thresholds: of the validation.
        leakage: columns of the log that say what validation has in common with training.
        remembered: what checkpoints say of the training data beside the network: ``trained_on``, ``permuted_labels``.
        options: of the script, to be stored in checkpoints.
        start_epoch, progress, seconds, best_fitness, best_epoch, frame_weights: where a resumed training goes on.
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
    save_steps: int = 0
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
    progress: EpochProgress | None = None
    seconds: float = 0.0
    best_fitness: float = -1.0
    best_epoch: int = 0
    frame_weights: NDArray[np.float64] | None = None
    ended: bool = False

    def fitness(self, evaluation: Evaluation) -> float:
        """By which the best epoch is chosen: YOLOv5's fitness of the boxes; of a classifier alone the macro-F1."""
        if self.names:
            return evaluation.detection.fitness
        return evaluation.view.macro_f1 if evaluation.view else 0.0

    def figures(self, evaluation: Evaluation) -> dict[str, float]:
        """What a checkpoint says of its worth."""
        found = {"map50": evaluation.detection.map50, "map": evaluation.detection.map} if self.names else {}
        view = evaluation.view
        return found | ({"view_accuracy": view.accuracy, "view_macro_f1": view.macro_f1} if view else {})

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
        evaluation: of the last epoch; None where a resumed training had none left to make.
        epochs: how many were trained, earlier parts of a resumed run included.
        best_epoch: 1-based, of ``best.pt``; this and the epochs by part, where its parts have each their own.
        seconds: the training took, earlier parts included.
        peak_memory: bytes of RAM that this process held at most.
    """

    evaluation: Evaluation | None
    epochs: int | Mapping[str, int]
    best_epoch: int | Mapping[str, int]
    seconds: float
    peak_memory: int


class Training:
    """The loop over epochs, a :meth:`step` each, so that several trainings can take turns in one process.

    It leaves ``results.csv`` and checkpoints in the run folder; of several processes, the main one does.

    Args:
        interrupts: that end the training where it stands, once that is saved.
    """

    def __init__(
        self, learner: Learner, train_loader: DataLoader[Batch], val_loader: DataLoader[Batch], plan: Plan,
        compute: Compute, interrupts: Interrupts | None = None, processes: Processes = ALONE,
    ) -> None:  # fmt: skip
        self._learner, self.plan, self._compute = learner, plan, compute
        self._interrupts, self._processes = interrupts or Interrupts(), processes
        self._train_loader, self._val_loader = train_loader, val_loader
        batches, val_set = train_loader.batch_sampler, val_loader.dataset
        assert isinstance(batches, EpochBatches) and isinstance(val_set, EchoDataset)
        self._batches: EpochBatches = batches
        self._val_set: EchoDataset = val_set
        batches.keys.weights = plan.frame_weights
        joint = bool(plan.names and plan.view_names) and learner.criterion.view is not None
        self._logger: RunLogger | None = None
        self._balance: BalanceLog | None = None
        self._seconds: float = plan.seconds
        if processes.main:
            (plan.folder / "weights").mkdir(exist_ok=True)
            self._logger = RunLogger(plan.folder, plan.start_epoch)
            self._balance = BalanceLog(plan.balance, learner.running_mean.updates) if joint else None
            self._seconds = max(self._seconds, self._logger.seconds)
        self._progress: EpochProgress = plan.progress or EpochProgress()
        self._best_fitness: float = plan.best_fitness
        self._best_epoch: int = plan.best_epoch
        self._evaluation: Evaluation | None = None
        self._started: float = time.perf_counter()
        self.epochs: int = plan.start_epoch  # made so far
        self.done: bool = plan.ended or self.epochs >= learner.schedule.epochs

    def begin(self) -> None:
        """Save the network as it is before the first epoch, so that a checkpoint is there from the start."""
        if not self.plan.last.exists():
            self._save(-1, None, False)

    def step(self) -> None:
        """Train and validate for an epoch, log it, save it.

        Raises:
            Interrupted: a signal came; ``last.pt`` is of where the epoch stands.
            InputError: losses are no numbers any more.
        """
        self._started = time.perf_counter()
        learner, plan, epoch = self._learner, self.plan, self.epochs
        self._batches.keys.epoch, self._batches.first = epoch, self._progress.batches
        try:
            progress = train_one_epoch(
                learner, self._train_loader, self._compute, epoch, plan.multi_scale,
                self._balance.append if self._balance else None, plan.interference_every, self._progress,
                self._after_step, self._processes,
            )  # fmt: skip
            last = epoch == learner.schedule.epochs - 1
            evaluation = None
            if plan.validate_every_epoch or last:
                with self._interrupts.at_once():
                    evaluation = validate(learner, self._val_loader, plan, self._compute, self._processes)
        except NotFiniteError as error:
            raise self._not_finite(error) from error
        except Interrupted:
            self._save(epoch - 1, None, False, self._progress)
            raise
        if progress.skipped:
            LOGGER.warning("epoch %d: %d steps skipped, their gradient was not finite", epoch + 1, progress.skipped)
        learner.balancer.end_epoch()
        fitness = plan.fitness(evaluation) if evaluation else self._best_fitness
        # equal counts as better, as in YOLOv5: an early stage at fitness 0 is no lack of progress
        improved = evaluation is not None and fitness >= self._best_fitness
        if improved:
            self._best_fitness, self._best_epoch = fitness, epoch
        stopping = evaluation is not None and 0 < plan.patience <= epoch - self._best_epoch
        if evaluation and plan.image_weights and isinstance(self._train_loader.dataset, EchoDataset):
            self._batches.keys.weights = frame_weights(self._train_loader.dataset, evaluation, len(plan.names))
        self._seconds = self._spent()
        self._log(_row(epoch, learner, plan, progress, evaluation))
        self._progress = EpochProgress(in_a_row=progress.in_a_row, bad_frames=progress.bad_frames)
        self.epochs, self._evaluation, self.done = epoch + 1, evaluation, last or stopping
        if plan.save_every_epoch or self.done:
            self._save(epoch, evaluation, improved or epoch == 0)
        if stopping:
            LOGGER.info("No better fitness for %d epochs: stopped after epoch %d", plan.patience, epoch + 1)

    def _spent(self) -> float:
        """Seconds of the training up to now; starts the clock again."""
        now = time.perf_counter()
        spent, self._started = self._seconds + now - self._started, now
        return spent

    def _after_step(self, progress: EpochProgress) -> None:
        """Save where the epoch stands, every so many steps; leave if a signal has come to any process."""
        if self._processes.any(bool(self._interrupts.signal)):
            raise Interrupted(self._interrupts.signal or signal.SIGTERM)
        every, updates = self.plan.save_steps, self._learner.running_mean.updates
        if every and not progress.in_a_row and updates % every == 0:
            self._seconds = self._spent()
            self._save(self.epochs - 1, None, False, progress)

    def _not_finite(self, error: NotFiniteError) -> InputError:
        """The error that ends the training, once the files of the last batches are named."""
        dataset = self._train_loader.dataset
        assert isinstance(dataset, EchoDataset)
        for frame in error.frames[-BAD_FILES_NAMED:]:
            LOGGER.warning("in a step that was not finite: %s", dataset.files[frame])
        kept = f", with --weights {self.plan.last}, the last good state" if self.plan.last.exists() else ""
        return InputError(f"epoch {self.epochs + 1}: {error}: begin anew with a lower lr0 or --no-amp{kept}")

    def _log(self, row: Mapping[str, float]) -> None:
        if self._logger is None:
            return
        epochs = self._learner.schedule.epochs
        self._logger.log({**row, **self.plan.leakage, "epochs": epochs, "seconds": self._seconds})
        if self._balance is not None:
            self._logger.log_steps(self._balance.flush())

    def _save(
        self, epoch: int, evaluation: Evaluation | None, improved: bool, progress: EpochProgress | None = None
    ) -> None:
        """Write the checkpoints.

        Args:
            epoch: the last that is complete.
            progress: of the epoch after it, where that has begun.
        """
        if not self._processes.main:
            return
        if not self.plan.save_every_epoch and epoch >= 0 and progress is None:
            improved, self._best_epoch = True, epoch  # what is saved last is all there is
        content = _content(self._learner, self.plan, epoch, self._best_fitness, self._best_epoch, evaluation)
        content["operating"] = OperatingPoint.of(evaluation, self._val_set).content() if evaluation else None
        content["finished"] = self.done
        content["progress"] = asdict(progress) if progress else None
        content["seconds"] = self._seconds if progress is None else self._spent()
        on_gpu = self._compute.device.type == "cuda"  # dropout draws from the generator of its device
        content["random_gpu"] = torch.cuda.get_rng_state(self._compute.device) if on_gpu else None
        weights = self._batches.keys.weights
        content["frame_weights"] = None if weights is None else torch.from_numpy(weights)
        period = self.plan.save_period if progress is None else -1
        _save(content, self.plan, epoch, improved, period)

    def finish(self) -> Outcome:
        """Close the logs and strip ``best.pt``, once the last step is made."""
        if self._logger is not None:
            self._logger.close()
        if self._balance is not None:
            self._balance.close()
        if self._learner.balancer.skipped:
            LOGGER.warning(
                "%d steps changed no task's weight: a gradient norm was 0 or not finite", self._learner.balancer.skipped
            )
        if self._processes.main:
            checkpoint.strip(self.plan.best)
        return Outcome(self._evaluation, self.epochs, self._best_epoch + 1, self._seconds, peak_memory())


def fit(training: Training) -> Outcome:
    """Train to the schedule's end."""
    training.begin()
    while not training.done:
        training.step()
    return training.finish()


def validate(
    learner: Learner, loader: DataLoader[Batch], plan: Plan, compute: Compute, processes: Processes = ALONE
) -> Evaluation:
    """Evaluate the averaged weights."""
    network = inference_copy(learner.running_mean.network, compute)
    nc, nv, dataset = len(plan.names), len(plan.view_names), loader.dataset
    assert isinstance(dataset, EchoDataset)
    sharing = validating(plan.hyp, processes)
    evaluation = evaluate(
        network, loader, nc, nv, compute, plan.thresholds, learner.criterion.over(alone), processes=sharing,
        window=dataset.window(plan.hyp.clip_window),
    )  # fmt: skip
    # what each has found by itself may differ in the last digit, and what follows from it must not
    return evaluation if sharing is processes else processes.of_main(evaluation)


def validating(hyp: Hyperparameters, processes: Processes) -> Processes:
    """The processes that share a validation: all, unless a frame's neighbours may be in another's batches.

    Then each validates the whole part.
    """
    return ALONE if hyp.clip_window else processes


def _row(
    epoch: int, learner: Learner, plan: Plan, progress: EpochProgress, evaluation: Evaluation | None
) -> dict[str, float]:
    row = {"epoch": float(epoch)}
    row |= {f"train/{name}_loss": value for name, value in progress.losses._asdict().items()}
    row |= {f"x/lr{i}": group["lr"] for i, group in enumerate(learner.optimizer.param_groups)}
    if plan.names:
        row |= {f"weight/{task}": float(w) for task, w in zip(TASKS, learner.balancer.weights, strict=False)}
    if evaluation is not None:
        figures = evaluation.detection
        if plan.names:
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
        "figures": {} if evaluation is None else plan.figures(evaluation),
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


def _save(content: Mapping[str, Any], plan: Plan, epoch: int, is_best: bool, period: int) -> None:
    if is_best:  # before last.pt, which says which epoch is the best: a kill in between must not make that untrue
        checkpoint.save(plan.best, content)
    checkpoint.save(plan.last, content, keep=True)
    if period > 0 and epoch >= 0 and epoch % period == 0:
        checkpoint.save(plan.folder / "weights" / f"epoch{epoch}.pt", content)


def restore(learner: Learner, plan: Plan, resumed: checkpoint.Checkpoint) -> Plan:
    """Put a learner back to where a checkpoint of a :class:`Training` was written, and return the plan of the rest.

    Raises:
        InputError: a stripped checkpoint, which lacks the optimizer.
    """
    content, path = resumed.content, resumed.path
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
    if content.get("random_gpu") is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(content["random_gpu"])
    weights, progress = content["frame_weights"], content.get("progress")
    return replace(
        plan, start_epoch=content["epoch"] + 1, progress=EpochProgress(**progress) if progress else None,
        seconds=content.get("seconds", 0.0), best_fitness=content["best_fitness"], best_epoch=content["best_epoch"],
        frame_weights=None if weights is None else weights.numpy(),
        ended=content["finished"] and learner.schedule.epochs <= content["options"]["epochs"],
    )  # fmt: skip


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
