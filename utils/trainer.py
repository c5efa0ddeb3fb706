"""The loop over epochs: train, validate, log, save, stop."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Mapping

import numpy as np
import psutil
from torch import nn
from torch.utils.data import DataLoader

from models.balancer import TASKS
from models.border import alone
from utils import checkpoint
from utils.balance_log import BalanceLog
from utils.batches import EpochBatches
from utils.config import Hyperparameters
from utils.dataset import Batch, EchoDataset
from utils.devices import Compute
from utils.engine import train_one_epoch
from utils.epoch import EpochProgress, NotFiniteError
from utils.evaluation import Evaluation, evaluate, inference_copy
from utils.interrupt import Interrupts
from utils.learner import Learner
from utils.log import LOGGER, InputError, Interrupted
from utils.loggers import RunLogger
from utils.loss import JointLoss
from utils.operating import OperatingPoint
from utils.plan import Outcome, Plan, Standing
from utils.processes import ALONE, Processes
from utils.sampling import class_weights
from utils.training_checkpoint import content_of, write

BAD_FILES_NAMED = 64  # of the steps that were not finite, at most


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
        standing = plan.standing
        if standing.frame_weights is not None and len(standing.frame_weights) != len(batches.keys):
            raise InputError(
                f"{plan.last}: frame_weights: expected {len(batches.keys)}, a weight for each training frame, got "
                f"{len(standing.frame_weights)}; the data have changed since"
            )
        batches.keys.weights = standing.frame_weights
        joint = bool(plan.names and plan.view_names) and learner.criterion.view is not None
        self._logger: RunLogger | None = None
        self._balance: BalanceLog | None = None
        self._seconds: float = standing.seconds
        if processes.main:
            (plan.folder / "weights").mkdir(exist_ok=True)
            self._logger = RunLogger(plan.folder, standing.epochs)
            self._balance = BalanceLog(plan.balance, learner.running_mean.updates) if joint else None
            self._seconds = max(self._seconds, self._logger.seconds)
        self._progress: EpochProgress = standing.progress or EpochProgress()
        self._best_fitness: float = standing.best_fitness
        self._best_epoch: int = standing.best_epoch
        self._evaluation: Evaluation | None = None
        self._started: float = time.perf_counter()
        self.epochs: int = standing.epochs  # made so far
        self.done: bool = standing.ended or self.epochs >= learner.schedule.epochs

    def begin(self) -> None:
        """Save the network as it is before the first epoch, so that a checkpoint is there from the start."""
        if not self.plan.last.exists() and not self.epochs and self.plan.standing.progress is None:
            self._save()

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
                    averaged = learner.running_mean.network
                    evaluation = validate(
                        averaged, learner.criterion, self._val_loader, plan, self._compute, self._processes
                    )
        except NotFiniteError as error:
            raise self._not_finite(error) from error
        except Interrupted:
            self._keep_time()
            self._save(progress=self._progress)
            raise
        except RuntimeError as error:
            # the same signal has ended a loader's process, or another one that trains: this step is not to be saved
            if not self._interrupts.signal:
                raise
            raise Interrupted(self._interrupts.signal) from error
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
            ap = np.full(
                len(plan.names), evaluation.detection.map
            )  # a class that validation lacks counts as their mean
            ap[evaluation.detection.classes] = evaluation.detection.ap.mean(1)
            self._batches.keys.weights = class_weights(self._train_loader.dataset, ap)
        self._keep_time()
        self._log(_row(epoch, learner, plan, progress, evaluation))
        self._progress = EpochProgress(in_a_row=progress.in_a_row, bad_frames=progress.bad_frames)
        self.epochs, self._evaluation, self.done = epoch + 1, evaluation, last or stopping
        if plan.save_every_epoch or self.done:
            self._save(evaluation, improved or epoch == 0)
        if stopping:
            LOGGER.info("No better fitness for %d epochs: stopped after epoch %d", plan.patience, epoch + 1)

    def _keep_time(self) -> None:
        """Add what has passed since the last call, or since the epoch's start."""
        now = time.perf_counter()
        self._seconds, self._started = self._seconds + now - self._started, now

    def _after_step(self, progress: EpochProgress) -> None:
        """Save where the epoch stands, every so many steps; leave if a signal has come to any process."""
        if self._processes.any(bool(self._interrupts.signal)):
            raise Interrupted(self._interrupts.signal or signal.SIGTERM)
        every, updates = self.plan.save_steps, self._learner.running_mean.updates
        if every and not progress.in_a_row and updates % every == 0:
            self._keep_time()
            self._save(progress=progress)

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
        self, evaluation: Evaluation | None = None, improved: bool = False, progress: EpochProgress | None = None
    ) -> None:
        """Write the checkpoints.

        Args:
            progress: of the epoch that has begun; None between epochs.
        """
        if not self._processes.main:
            return
        if not self.plan.save_every_epoch and self.epochs and progress is None:
            improved, self._best_epoch = True, self.epochs - 1  # what is saved last is all there is
        standing = Standing(
            self.epochs, progress, self._seconds, self._best_fitness, self._best_epoch, self._batches.keys.weights,
            self.done,
        )  # fmt: skip
        figures = self.plan.figures(evaluation) if evaluation else {}
        operating = OperatingPoint.of(evaluation, self._val_set) if evaluation else None
        content = content_of(self._learner, self.plan, standing, self._compute.device, figures, operating)
        write(content, self.plan, improved)

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
    network: nn.Module, criterion: JointLoss, loader: DataLoader[Batch], plan: Plan, compute: Compute,
    processes: Processes = ALONE,
) -> Evaluation:  # fmt: skip
    """Evaluate a network, such as one of averaged weights, on the whole part; the same in all processes."""
    nc, nv, dataset = len(plan.names), len(plan.view_names), loader.dataset
    assert isinstance(dataset, EchoDataset)
    sharing = validating(plan.hyp, processes)
    evaluation = evaluate(
        inference_copy(network, compute), loader, nc, nv, compute, plan.thresholds, criterion.over(alone),
        processes=sharing, window=dataset.window(plan.hyp.clip_window),
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


def peak_memory() -> int:
    """Bytes of RAM this process has held at most."""
    try:
        import resource
    except ImportError:  # Windows has no such counter for the past, only for now
        return int(psutil.Process().memory_info().rss)
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held if sys.platform == "darwin" else held * 1024  # bytes there, KiB elsewhere
