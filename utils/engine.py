"""One epoch of training: a plain function that is handed everything it uses."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from models.balancer import TASKS, Balancer
from models.border import Cut, find_border
from models.dual import Trainable
from models.step_gradients import StepFigures, StepGradients
from utils.dataset import Batch
from utils.devices import Compute, to_float
from utils.epoch import BAD_STEPS, EpochProgress, MeanLosses, NotFiniteError, Waiting
from utils.log import progress as progress_bar
from utils.loss import JointLoss
from utils.optim import RunningMean, set_rates
from utils.processes import ALONE, Processes
from utils.schedule import Schedule


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
    network: Trainable,
    loader: DataLoader[Batch],
    criterion: JointLoss,
    optimizer: torch.optim.Optimizer,
    balancer: Balancer,
    running_mean: RunningMean,
    schedule: Schedule,
    compute: Compute,
    epoch: int,
    clip_grad_norm: float = 10.0,
    multi_scale: MultiScale | None = None,
    record: Callable[[dict[str, float]], None] | None = None,
    interference_every: int = 0,
    progress: EpochProgress | None = None,
    after_step: Callable[[EpochProgress], None] | None = None,
    processes: Processes = ALONE,
) -> EpochProgress:
    """Train on every batch of the loader once.

    The total is batch x sum of weight x loss; its gradient passes the border between trunk and heads as the balancer
    says. Gradients are summed over the schedule's number of batches, and over all processes; the last step of the epoch
    takes what is there, so that nothing is carried from one epoch to the next.

    Args:
        loader: of what is left of the epoch.
        epoch: 0-based; places the epoch in the schedule.
        clip_grad_norm: gradients are scaled down to this norm; 0 leaves them.
        record: given a row of figures after each step of the optimizer, see :func:`balance_row`.
        interference_every: steps between two that also measure each task's gradient over the whole trunk; 0: never.
        progress: of the epoch before it was cut off; is brought up to date.
        after_step: called after each step, taken or skipped; may save, and may raise to end the epoch there.
        processes: that hold each batch together.

    Raises:
        NotFiniteError: :data:`BAD_STEPS` steps in a row could not be taken.
    """
    network.train()
    border = find_border(network)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state = progress or EpochProgress()
    batches = len(loader)
    step, waiting = StepGradients(len(border.branches), processes.sum), Waiting(compute.device)
    bar = progress_bar(loader, f"epoch {epoch + 1}/{schedule.epochs}", batches, "batch", initial=state.batches)
    for number, batch in enumerate(bar, state.batches):
        iteration = epoch * batches + number
        rates = schedule.at(iteration, epoch)
        set_rates(optimizer, rates)
        processes.seed(iteration)
        images = to_float(batch.images, compute)
        if multi_scale is not None:
            images = multi_scale(images, iteration)
        with compute.autocast():
            cut = Cut(network, border, images, processes.sum)
        losses = criterion(cut.output.raw, cut.output.view, batch.boxes, batch.views)
        waiting.add(losses.columns(), batch.indices)
        # weights change between optimizer steps only, so that one step's gradients share them
        weights = balancer.weights.clone()
        whole = interference_every > 0 and running_mean.updates % interference_every == 0
        tasks = losses.by_task()
        gradients = cut.backward(tasks, weights.tolist(), balancer.at_border, losses.frames, whole)
        step.add(torch.stack(tasks), gradients, losses.frames, losses.frames)
        del cut, losses, tasks, gradients  # what they hold of the graph is not to outlast the next forward pass
        if waiting.batches >= rates.accumulate or number == batches - 1:
            processes.sum_gradients(parameters)
            figures = step.figures()
            norm = nn.utils.clip_grad_norm_(parameters, clip_grad_norm or math.inf)
            good = bool(norm.isfinite()) and bool(figures.losses.isfinite().all())
            waiting.settle(state, good, processes)
            if good:
                optimizer.step()
                processes.average_statistics(network)
                running_mean.update(network)
                balancer.step(figures.losses, figures.norms)
                if record is not None:
                    layers = border.shared if interference_every else ()
                    record(balance_row(epoch, running_mean.updates, figures, weights, balancer, layers))
            else:
                restore_buffers(network, running_mean.network)
            optimizer.zero_grad(set_to_none=True)
            step, waiting = StepGradients(len(border.branches), processes.sum), Waiting(compute.device)
            if state.in_a_row >= BAD_STEPS:
                raise NotFiniteError(state.in_a_row, state.bad_frames)
            if after_step is not None:
                after_step(state)
        if not bar.disable and bar.last_print_n == bar.n and state.counted:  # it has just been drawn: no more often
            bar.set_postfix_str(_words(state.losses), refresh=False)
    bar.close()
    return state


@torch.no_grad()
def restore_buffers(network: nn.Module, healthy: nn.Module) -> None:
    """Replace running statistics that a bad batch has made infinite or NaN by the averaged network's."""
    averaged = dict(healthy.named_buffers())
    for name, buffer in network.named_buffers():
        if not buffer.isfinite().all():
            buffer.copy_(averaged[name])


def balance_row(
    epoch: int, step: int, figures: StepFigures, weights: Tensor, balancer: Balancer, layers: Sequence[int] = ()
) -> dict[str, float]:
    """A row of balance.csv; what was not measured is NaN.

    Args:
        epoch: 0-based.
        step: of the optimizer, counted from 1 over the whole training.
        weights: (T,) that the step was made with.
        balancer: after it has seen the step.
        layers: that are compared one by one, now and then; a column each.
    """
    columns = {
        "loss": figures.losses, "initial_loss": balancer.initial_losses, "rate": balancer.rates,
        "norm": figures.norms, "target": balancer.targets, "weight": weights,
    }  # fmt: skip
    row: dict[str, float] = {"epoch": epoch, "step": step}
    for name, values in columns.items():
        row |= {f"{name}/{task}": value for task, value in zip(TASKS, values.tolist(), strict=False)}
    row |= {"cosine/weight": figures.at_weight, "cosine/features": figures.at_features}
    row |= {"cosine/trunk": figures.over_trunk}
    return row | {f"cosine/{layer}": figures.by_layer.get(layer, math.nan) for layer in layers}


def _words(losses: MeanLosses) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in losses._asdict().items())
