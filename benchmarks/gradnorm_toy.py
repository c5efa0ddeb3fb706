"""Does GradNorm help two tasks that differ in a scale of 100? The toy of its paper (arXiv 1711.02257, section 4).

    python benchmarks/gradnorm_toy.py
    python benchmarks/gradnorm_toy.py --decay --figure runs/gradnorm_toy_decay.png

Task i is the regression y_i = sigma_i tanh((B + eps_i) x), sigma 1 and 100, of 250 inputs and 100 outputs, B of
variance 10 and eps_i of 3.5; a trunk of four layers of 100 ReLU units carries a linear head a task. Prints the sum over
the tasks of L / L(0) on held-out data, for equal weights and for GradNorm at each learning rate; each method counts at
the best of its rates. Draws that sum and the weights over the steps, and writes json beside the figure.

What the paper leaves open is chosen here, and the outcome depends on it: x has a length near 1, Adam a constant rate,
the trunk He's initial weights, the heads torch's. Then the trunk's restlessness for the large task keeps the small one
from being learned, and GradNorm mends that. Where the rate falls to 0 (--decay), or heads begin with larger weights,
equal weights do as well or better, since Adam's steps do not depend on a loss's scale.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from models.balancer import Balancer
from models.equal import Equal
from models.gradnorm import GradNorm
from utils.canvas import COLOURS, SMALL, STYLES, finish, new_figure, save
from utils.config import from_here, from_root
from utils.files import write_json
from utils.flags import Flag, check_range, parse
from utils.log import run_script

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCALES = (1.0, 100.0)  # sigma_i
INPUTS, OUTPUTS, UNITS, LAYERS = 250, 100, 100, 4
SHARED_VARIANCE, OWN_VARIANCE = 10.0, 3.5  # of the elements of B and eps_i
BATCH, HELD_OUT = 100, 1000  # examples
EVALUATIONS = 60  # of a training
METHODS = ("equal", "gradnorm")
FLAGS = (
    Flag("steps", 2500, "of each training", int),
    Flag("rates", (0.002, 0.005), "learning rates of Adam for the network", float, nargs="+"),
    Flag("seeds", 2, "trainings for each method and rate", int),
    Flag("alpha", 0.12, "of GradNorm", float),
    Flag("balance-lr", 0.01, "of GradNorm; the paper's 0.025 at times throws a weight of 0.001 to its floor", float),
    Flag("decay", False, "let the learning rate fall to 0 by a cosine"),
    Flag("figure", "runs/gradnorm_toy.png", "where the figure is written", from_here),
    Flag("traceback", False, "show where an error arose"),
)


class Data:
    """Examples without end.

    Args:
        generator: of the tasks' matrices, then of the examples.
    """

    def __init__(self, generator: torch.Generator) -> None:
        shared = torch.randn(INPUTS, OUTPUTS, generator=generator) * math.sqrt(SHARED_VARIANCE)
        own = torch.randn(len(SCALES), INPUTS, OUTPUTS, generator=generator) * math.sqrt(OWN_VARIANCE)
        self._matrices, self._generator = shared + own, generator

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Inputs (count, 250) of variance 1, and targets (T, count, 100): x of the formula is the input / sqrt(250)."""
        inputs = torch.randn(count, INPUTS, generator=self._generator)
        return inputs, torch.tensor(SCALES)[:, None, None] * torch.tanh(inputs / math.sqrt(INPUTS) @ self._matrices)


class Toy(nn.Module):
    """Shared layers, and a linear head for each task.

    Attributes:
        last_shared: the weight at which gradients are measured.
    """

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        widths = [INPUTS] + [UNITS] * LAYERS
        linear = [nn.Linear(a, b) for a, b in pairwise(widths)]
        self.trunk = nn.Sequential(*[part for layer in linear for part in (layer, nn.ReLU())])
        self.heads = nn.ModuleList(nn.Linear(UNITS, OUTPUTS) for _ in SCALES)
        self.last_shared = linear[-1].weight
        for layer in linear:  # He's: with torch's own the signal fades in the trunk
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            nn.init.zeros_(layer.bias)
        for head in self.heads:  # torch's own, from this generator
            for parameter in head.parameters():
                nn.init.uniform_(parameter, -1 / math.sqrt(UNITS), 1 / math.sqrt(UNITS), generator=generator)

    def losses(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """(T,) mean squared errors."""
        features = self.trunk(inputs)
        return torch.stack([(head(features) - y).square().mean() for head, y in zip(self.heads, targets, strict=True)])


@dataclass(frozen=True)
class History:
    """A training, as far as it is compared.

    Attributes:
        steps: (E,) that had been made at each evaluation.
        ratios: (E, T) L / L(0) on data held out.
        weights: (E, T) of the tasks.
    """

    steps: list[int]
    ratios: Tensor
    weights: Tensor

    @property
    def final(self) -> Tensor:
        """(T,) L / L(0) at the end: the mean of the last sixth of the evaluations, since single ones jump."""
        return self.ratios[-max(len(self.ratios) // 6, 1) :].mean(0)


def make_balancer(method: str, alpha: float = 0.12, lr: float = 0.01) -> Balancer:
    return Equal(len(SCALES)) if method == "equal" else GradNorm(("small", "large"), alpha, lr)


def train_toy(balancer: Balancer, seed: int, steps: int, rate: float, decay: bool = False) -> History:
    """Train the toy with a balancer; a seed gives the same tasks, network and examples to each.

    Args:
        rate: of Adam; constant, or with ``decay`` falling to 0 by a cosine.
    """
    generator = torch.Generator().manual_seed(seed)
    data, network = Data(generator), Toy(generator)
    held_out = data.draw(HELD_OUT)
    optimizer = torch.optim.Adam(network.parameters(), rate)
    shape = (lambda step: (1 + math.cos(math.pi * step / steps)) / 2) if decay else (lambda step: 1.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, shape)
    with torch.no_grad():
        before = network.losses(*held_out)
    every = max(steps // EVALUATIONS, 1)
    places, ratios, weights = [0], [before / before], [balancer.weights.clone()]
    for step in range(1, steps + 1):
        losses = network.losses(*data.draw(BATCH))
        norms = torch.full_like(losses, math.nan)
        if isinstance(balancer, GradNorm):  # no other looks at them
            norms = torch.stack([_gradient(loss, network.last_shared).norm() for loss in losses])
        optimizer.zero_grad()
        (balancer.weights.clone() @ losses).backward()  # a copy: the balancer changes its own in place
        optimizer.step()
        schedule.step()
        balancer.step(losses, norms)
        if step % every == 0:
            with torch.no_grad():
                ratios.append(network.losses(*held_out) / before)
            places.append(step)
            weights.append(balancer.weights.clone())
    return History(places, torch.stack(ratios), torch.stack(weights))


def _gradient(loss: Tensor, weight: Tensor) -> Tensor:
    return torch.autograd.grad(loss, weight, retain_graph=True)[0]


def main(options: argparse.Namespace) -> float:
    """Train all, print the table, draw the figure; returns GradNorm's sum as a share of equal weights'."""
    check_range(options, "steps seeds", 1)
    torch.set_num_threads(1)  # the network is too small for more
    print(f"{'method':<10}{'rate':>8}{'sum':>8}{'sigma 1':>9}{'sigma 100':>11}{'w sigma 1':>11}{'w sigma 100':>13}")
    best: dict[str, tuple[float, float, list[History]]] = {}
    rows = []
    for method in METHODS:
        for rate in options.rates:
            made = [
                train_toy(
                    make_balancer(method, options.alpha, options.balance_lr), seed, options.steps, rate, options.decay
                )
                for seed in range(options.seeds)
            ]
            final, weights = mean_of([history.final for history in made]), mean_of([h.weights[-1] for h in made])
            total = float(final.sum())
            print(f"{method:<10}{rate:>8g}{total:>8.3f}{final[0]:>9.3f}{final[1]:>11.3f}", end="")
            print(f"{weights[0]:>11.4f}{weights[1]:>13.5f}", flush=True)
            rows.append({
                "method": method, "rate": rate, "sums": [float(history.final.sum()) for history in made],
                "final": final.tolist(), "weights": weights.tolist(),
            })  # fmt: skip
            if method not in best or total < best[method][0]:
                best[method] = total, rate, made
    ratio = best["gradnorm"][0] / best["equal"][0]
    path = from_root(options.figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path.with_suffix(".json"), {"steps": options.steps, "ratio": ratio, "rows": rows})
    save(toy_figure({f"{method}, rate {rate:g}": made for method, (_, rate, made) in best.items()}), path)
    print(f"Figure in {path}")
    print(f"gradnorm/equal {ratio:.3f}")
    return ratio


def mean_of(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(tensors)).mean(0)


def toy_figure(trainings: dict[str, list[History]]) -> Figure:
    """Sums of L / L(0) and weights over the steps, means over the seeds; the sums of single seeds are faint.

    Args:
        trainings: by what the legend calls them, one a seed.
    """
    figure = new_figure(9.0, 3.4)
    sums, weights = figure.subplots(1, 2)
    for number, (name, made) in enumerate(trainings.items()):
        looks = {"color": COLOURS[number], "linestyle": STYLES[number]}
        for history in made:
            sums.plot(history.steps, history.ratios.sum(1).numpy(), alpha=0.25, linewidth=0.8, **looks)
        sums.plot(made[0].steps, mean_of([h.ratios for h in made]).sum(1).numpy(), label=name, **looks)
        mean, method = mean_of([h.weights for h in made]), name.split(",")[0]
        if torch.equal(mean[:, 0], mean[:, 1]):
            weights.plot(made[0].steps, mean[:, 0].numpy(), label=f"{method}, both tasks", **looks)
            continue
        for task, (scale, width) in enumerate(zip(SCALES, (1.2, 2.4), strict=True)):
            label = f"{method}, sigma {scale:g}"
            weights.plot(made[0].steps, mean[:, task].numpy(), label=label, linewidth=width, **looks)
    sums.set(title="sum of L / L(0) on held-out data", xlabel="step")
    weights.set(title="task weights", xlabel="step", yscale="log")
    for axes in (sums, weights):
        axes.legend(fontsize=SMALL, frameon=False)
        finish(axes, grid=True)
    return figure


if __name__ == "__main__":
    sys.exit(run_script(main, parse(FLAGS, __doc__ or "")))
