"""What does a step with GradNorm cost, beside one with fixed weights and beside the naive way?

    python benchmarks/gradnorm_cost.py
    python benchmarks/gradnorm_cost.py --no-amp --rounds 25

Each round times the three on the same batch, one after the other in changing order; the medians of the rounds' ratios
count. A step is forward pass, losses, backward pass, clipping and the optimizer. The naive way asks autograd for each
task's gradient at the last shared weight from its loss down, through the whole branch, before the backward pass of the
sum. What is measured over the whole trunk every so many steps (``--interference-every``) is not part of it.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.interference import joint_description
from models.border import Cut, find_border
from models.gradnorm import GradNorm
from models.step_gradients import StepGradients
from models.yolo import Network
from utils.config import ROOT, load_hyperparameters
from utils.devices import Compute, seed_everything, select_compute
from utils.flags import COMMON, IMGSZ, Flag, parse
from utils.log import progress, run_script
from utils.loss import JointLoss
from utils.optim import build_optimizer

FLAGS = (
    Flag("size", "s", "of the network", choices=tuple("nsmlx")),
    Flag(IMGSZ, 320, "pixels", int),
    Flag("batch-size", 16, "frames", int),
    Flag("rounds", 25, "of one step each; fewer than 25 are noise", int),
    Flag("view-layer", 9, "layer that the view head reads", int),
    *COMMON,
)
WARM_UP = 3  # rounds that are not counted


class Steps:
    """The three ways of making a step, each on a copy of the same network."""

    def __init__(self, network: Network, image_size: int, batch: int, compute: Compute) -> None:
        self.compute = compute
        self.hyp = load_hyperparameters(ROOT / "hyp" / "joint_training_rules.yaml")
        random = torch.Generator().manual_seed(0)
        self.images = torch.rand(batch, 3, image_size, image_size, generator=random)
        self.images = self.images.to(compute.device, memory_format=torch.channels_last)
        self.boxes = torch.rand(batch, 6, generator=random) * 0.5 + 0.2
        self.boxes[:, 0], self.boxes[:, 1] = torch.arange(batch), torch.arange(batch) % network.nc
        self.views = torch.arange(batch) % network.nv  # as the boxes, on the processor, where the losses want them
        self.ways: dict[str, Callable[[], Tensor]] = {}
        for name, way in (("static", self.static), ("gradnorm", self.gradnorm), ("naive", self.naive)):
            self.ways[name] = way(copy.deepcopy(network), image_size)

    def static(self, network: Network, image_size: int) -> Callable[[], Tensor]:
        """Fixed weights: one backward pass of the weighted sum."""
        criterion, finish = JointLoss.of(network, self.hyp, image_size), self._finisher(network)

        def step() -> Tensor:
            with self.compute.autocast():
                output = network(self.images)
            losses = criterion(output.raw, output.view, self.boxes, self.views).by_task()
            (len(self.images) * (losses[0] + losses[1])).backward()
            return finish()

        return step

    def gradnorm(self, network: Network, image_size: int) -> Callable[[], Tensor]:
        """As the engine does it: cut at the border."""
        criterion, finish = JointLoss.of(network, self.hyp, image_size), self._finisher(network)
        balancer, border = GradNorm(lr=1e-9), find_border(network)  # hardly moving, so that all three do the same work

        def step() -> Tensor:
            with self.compute.autocast():
                cut = Cut(network, border, self.images)
            losses = criterion(cut.output.raw, cut.output.view, self.boxes, self.views).by_task()
            seen = StepGradients(2)
            gradients = cut.backward(losses, balancer.weights.tolist(), balancer.at_border, len(self.images))
            seen.add(torch.stack(losses), gradients, len(self.images), len(self.images))
            finish()
            figures = seen.figures()
            balancer.step(figures.losses, figures.norms)
            return figures.norms

        return step

    def naive(self, network: Network, image_size: int) -> Callable[[], Tensor]:
        """A gradient for each task from its loss down to the last shared weight, then that of the sum."""
        criterion, finish = JointLoss.of(network, self.hyp, image_size), self._finisher(network)
        name = find_border(network).weight
        assert name is not None
        weight = network.get_parameter(name)
        balancer = GradNorm(lr=1e-9)

        def step() -> Tensor:
            with self.compute.autocast():
                output = network(self.images)
            losses = criterion(output.raw, output.view, self.boxes, self.views).by_task()
            norms = torch.stack([torch.autograd.grad(loss, weight, retain_graph=True)[0].norm() for loss in losses])
            det, view = balancer.weights.tolist()
            (len(self.images) * (det * losses[0] + view * losses[1])).backward()
            finish()
            balancer.step(torch.stack(losses).detach(), norms)
            return norms.cpu()

        return step

    def _finisher(self, network: Network) -> Callable[[], Tensor]:
        optimizer = build_optimizer(network, "SGD", 1e-9, 0.9, 0.0)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]

        def finish() -> Tensor:
            norm = nn.utils.clip_grad_norm_(parameters, 10.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            return norm.cpu()

        return finish


def main(options: argparse.Namespace) -> None:
    """Time the rounds and print the medians."""
    compute = select_compute(options.device, options.amp)
    seed_everything(0)
    network = Network(joint_description(options.size, options.view_layer), view_dropout=0.0).train()
    network.to(compute.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    steps = Steps(network, options.imgsz, options.batch_size, compute)
    seconds: dict[str, list[float]] = {name: [] for name in steps.ways}
    norms: dict[str, Tensor] = {}
    for number in progress(range(options.rounds + WARM_UP), "rounds", unit="round"):
        names = list(steps.ways)
        for name in names[number % 3 :] + names[: number % 3]:
            start = time.perf_counter()
            norms[name] = steps.ways[name]()  # ends with a figure on the CPU, so that the device is done
            seconds[name].append(time.perf_counter() - start)
    print(f"\nyolov5{options.size}, batch {options.batch_size} at {options.imgsz}, {compute}, {options.rounds} rounds")
    counted = {name: times[WARM_UP:] for name, times in seconds.items()}
    for name, times in counted.items():
        print(f"{name:<9} median {1000 * statistics.median(times):8.1f} ms a step")
    apart = (norms["gradnorm"] - norms["naive"]).abs().max() / norms["naive"].max()
    print(f"norms of detection and view {norms['gradnorm'].tolist()}, the naive way's differ by {apart:.1e}")
    for name in ("naive", "gradnorm"):
        ratios = [mine / static for mine, static in zip(counted[name], counted["static"], strict=True)]
        print(f"{name}/static {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    sys.exit(run_script(main, parse(FLAGS, __doc__ or "")))
