"""One epoch of training, and one step of it: plain code that is handed everything it uses."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from models.balancer import TASKS
from models.border import Border, Cut, find_border
from models.step_gradients import StepFigures, StepGradients
from utils.dataset import Batch
from utils.devices import Compute, to_float
from utils.epoch import BAD_STEPS, EpochProgress, MeanLosses, NotFiniteError, Waiting
from utils.learner import Learner
from utils.log import progress as progress_bar
from utils.optim import set_rates
from utils.processes import ALONE, Processes


@dataclass(frozen=True)
class MultiScale:
    """Batches resized at random between half and one and a half times their size, by (seed, iteration)."""

    seed: int
    stride: int

    def __call__(self, images: Tensor, iteration: int) -> Tensor:
        """(B, 3, H, W) -> (B, 3, H', W') with sides of whole strides."""
        factor = np.random.default_rng((self.seed, iteration)).uniform(0.5, 1.5)
        size = [max(round(side * factor / self.stride), 1) * self.stride for side in images.shape[2:]]
        return F.interpolate(images, size=size, mode="bilinear", align_corners=False)


def train_one_epoch(
    learner: Learner,
    loader: DataLoader[Batch],
    compute: Compute,
    epoch: int,
    multi_scale: MultiScale | None = None,
    record: Callable[[dict[str, float]], None] | None = None,
    interference_every: int = 0,
    progress: EpochProgress | None = None,
    after_step: Callable[[EpochProgress], None] | None = None,
    processes: Processes = ALONE,
) -> EpochProgress:
    """Train on every batch of the loader once.

    Gradients are summed over the schedule's number of batches, and over all processes; the last step of the epoch takes
    what is there, so that nothing is carried from one epoch to the next.

    Args:
        loader: of what is left of the epoch.
        epoch: 0-based; places the epoch in the schedule.
        record: given a row of figures after each step of the optimizer, see :func:`balance_row`.
        interference_every: steps between two that also measure each task's gradient over the whole trunk; 0: never.
        progress: of the epoch before it was cut off; is brought up to date.
        after_step: called after each step, taken or skipped; may save, and may raise to end the epoch there.
        processes: that hold each batch together.

    Raises:
        NotFiniteError: :data:`BAD_STEPS` steps in a row could not be taken.
    """
    learner.network.train()
    border, state, batches = find_border(learner.network), progress or EpochProgress(), len(loader)
    step = Step(learner, border, compute, processes)
    bar = progress_bar(loader, f"epoch {epoch + 1}/{learner.schedule.epochs}", batches, "batch", initial=state.batches)
    for number, batch in enumerate(bar, state.batches):
        iteration = epoch * batches + number
        rates = learner.schedule.at(iteration, epoch)
        set_rates(learner.optimizer, rates)
        processes.seed(iteration)
        images = to_float(batch.images, compute)
        if multi_scale is not None:
            images = multi_scale(images, iteration)
        step.add(batch, images, interference_every > 0 and learner.running_mean.updates % interference_every == 0)
        if step.batches >= rates.accumulate or number == batches - 1:
            figures = step.take(state)
            if figures is not None and record is not None:
                layers = border.shared if interference_every else ()
                record(balance_row(epoch, learner, figures, step.weights, layers))
            if state.in_a_row >= BAD_STEPS:
                raise NotFiniteError(state.in_a_row, state.bad_frames)
            step = Step(learner, border, compute, processes)
            if after_step is not None:
                after_step(state)
        if not bar.disable and bar.last_print_n == bar.n and state.counted:  # it has just been drawn: no more often
            bar.set_postfix_str(_words(state.losses), refresh=False)
    bar.close()
    return state


class Step:
    """One step of the optimizer: the batches whose gradients it sums, then the step itself.

    The total of a batch is batch x sum of weight x loss; its gradient passes the border between trunk and heads as the
    balancer says.

    Attributes:
        weights: (T,) of the tasks; they change between steps only, so that one step's gradients share them.
    """

    def __init__(self, learner: Learner, border: Border, compute: Compute, processes: Processes) -> None:
        self._learner, self._border, self._compute, self._processes = learner, border, compute, processes
        self._gradients = StepGradients(len(border.branches), processes.sum)
        self._waiting = Waiting(compute.device)
        self.weights = learner.balancer.weights.clone()

    @property
    def batches(self) -> int:
        """How many it has summed."""
        return self._waiting.batches

    def add(self, batch: Batch, images: Tensor, whole_trunk: bool) -> None:
        """Go through a batch, forward and backward.

        Args:
            images: of the batch, (B, 3, H, W) in [0, 1] on the device.
            whole_trunk: also measure each task's gradient over the whole trunk.
        """
        learner, processes = self._learner, self._processes
        with self._compute.autocast():
            cut = Cut(learner.network, self._border, images, processes.sum)
        losses = learner.criterion(cut.output.raw, cut.output.view, batch.boxes, batch.views)
        self._waiting.add(losses.columns(), batch.indices)
        tasks = losses.by_task()
        at_border = learner.balancer.at_border
        gradients = cut.backward(tasks, self.weights.tolist(), at_border, losses.frames, whole_trunk)
        self._gradients.add(torch.stack(tasks), gradients, losses.frames, losses.frames)

    def take(self, state: EpochProgress) -> StepFigures | None:
        """Step, unless a gradient is not finite; returns what the tasks asked for, or None where no step was taken.

        Args:
            state: of the epoch, brought up to date.
        """
        learner, processes = self._learner, self._processes
        parameters = learner.parameters
        processes.sum_gradients(parameters)
        figures = self._gradients.figures()
        norm = nn.utils.clip_grad_norm_(parameters, learner.clip_grad_norm or math.inf)
        good = bool(norm.isfinite()) and bool(figures.losses.isfinite().all())
        sums = self._waiting.settle(state, good, processes)
        if sums[-1] == 0:  # no frame of the step says what its view is: nobody knows the loss that it has there
            figures = replace(figures, losses=torch.cat((figures.losses[:-1], figures.losses.new_tensor([math.nan]))))
        if good:
            learner.optimizer.step()
            processes.average_statistics(learner.network)
            learner.running_mean.update(learner.network)
            learner.balancer.step(figures.losses, figures.norms)
        else:
            restore_buffers(learner.network, learner.running_mean.network)
        learner.optimizer.zero_grad(set_to_none=True)
        return figures if good else None


@torch.no_grad()
def restore_buffers(network: nn.Module, healthy: nn.Module) -> None:
    """Replace running statistics that a bad batch has made infinite or NaN by the averaged network's."""
    averaged = dict(healthy.named_buffers())
    for name, buffer in network.named_buffers():
        if not buffer.isfinite().all():
            buffer.copy_(averaged[name])


def balance_row(
    epoch: int, learner: Learner, figures: StepFigures, weights: Tensor, layers: Sequence[int] = ()
) -> dict[str, float]:
    """A row of balance.csv; what was not measured is NaN.

    Args:
        epoch: 0-based.
        learner: after the step; steps of the optimizer are counted from 1 over the whole training.
        weights: (T,) that the step was made with.
        layers: that are compared one by one, now and then; a column each.
    """
    balancer = learner.balancer
    columns = {
        "loss": figures.losses, "initial_loss": balancer.initial_losses, "rate": balancer.rates,
        "norm": figures.norms, "target": balancer.targets, "weight": weights,
    }  # fmt: skip
    row: dict[str, float] = {"epoch": epoch, "step": learner.running_mean.updates}
    for name, values in columns.items():
        row |= {f"{name}/{task}": value for task, value in zip(TASKS, values.tolist(), strict=False)}
    row |= {"cosine/weight": figures.at_weight, "cosine/features": figures.at_features}
    row |= {"cosine/trunk": figures.over_trunk}
    return row | {f"cosine/{layer}": figures.by_layer.get(layer, math.nan) for layer in layers}


def _words(losses: MeanLosses) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in losses._asdict().items())
