"""What two tasks ask of the weights they share, over one step of the optimizer: how much, and in which directions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.border import Gradients, alone, dot


@dataclass(frozen=True)
class StepFigures:
    """Losses, norms and cosines of one step; NaN where a task had no gradient, or none was measured.

    Attributes:
        losses: (T,) unweighted, mean over the step's frames.
        norms: (T,) n_i = ||dL_i/dW||, of those losses.
        at_weight: cosine between the first two tasks' gradients at W.
        at_features: the same at the features that both branches read, over all frames of the step.
        over_trunk: the same over all parameters of the shared layers.
        by_layer: the same for each shared layer alone.
    """

    losses: Tensor
    norms: Tensor
    at_weight: float
    at_features: float
    over_trunk: float
    by_layer: Mapping[int, float]


class StepGradients:
    """Sums over the batches that make one step of the optimizer.

    The norm of a mean is not the mean of norms: dL_i/dW is summed first. Of several processes each adds its share of
    losses and gradients, so that all come to the same figures.

    Args:
        tasks: their number T.
        summed: gives the sum of a tensor over all processes; may change the tensor.
    """

    def __init__(self, tasks: int, summed: Callable[[Tensor], Tensor] = alone) -> None:
        self._tasks, self._summed = tasks, summed
        self._scale = self._frames = 0.0
        self._losses = torch.zeros(tasks)
        self._weight: dict[int, Tensor] = {}
        self._features = torch.zeros(tasks, tasks)
        self._trunk: dict[int, dict[int, list[Tensor]]] = {}

    def add(self, losses: Tensor, gradients: Gradients | None, frames: int, scale: float) -> None:
        """Take in a batch.

        Args:
            losses: (T,) unweighted, this process's share.
            gradients: of :meth:`models.border.Cut.backward`.
            frames: of the batch, in all processes.
            scale: that the backward pass was given.
        """
        self._losses = self._losses.to(losses.device) + frames * losses.detach()
        self._frames += frames
        self._scale += scale
        if gradients is None:
            return
        for i, gradient in gradients.weight.items():
            self._weight[i] = self._weight[i] + gradient if i in self._weight else gradient
        self._features = self._features.to(gradients.features.device) + gradients.features
        for i, layers in gradients.trunk.items():
            mine = self._trunk.setdefault(i, {k: [torch.zeros_like(g) for g in own] for k, own in layers.items()})
            for k, own in layers.items():
                torch._foreach_add_(mine[k], list(own))

    def figures(self) -> StepFigures:
        """What the batches since the beginning come to."""
        losses = self._summed(self._losses / self._frames)
        gradients = {i: self._summed(gradient.float() / self._scale) for i, gradient in self._weight.items()}
        norms = torch.full((self._tasks,), math.nan)
        for i, gradient in gradients.items():
            norms[i] = gradient.norm()
        trunk = {i: {k: list(map(self._summed, own)) for k, own in of.items()} for i, of in self._trunk.items()}
        layers = {k: cosine(trunk[0][k], trunk[1][k]) for k in trunk[0]} if len(trunk) > 1 else {}
        whole = [[g for own in trunk[i].values() for g in own] for i in (0, 1)] if layers else [[], []]
        features = self._summed(self._features)
        return StepFigures(
            losses=losses.cpu(),
            norms=norms,
            at_weight=cosine([gradients[0]], [gradients[1]]) if len(gradients) > 1 else math.nan,
            at_features=_ratio(*features[[0, 0, 1], [1, 0, 1]].tolist()) if self._tasks > 1 else math.nan,
            over_trunk=cosine(*whole),
            by_layer=layers,
        )


def cosine(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """Cosine of the angle between two lists of tensors, each taken as one vector; NaN where one of them is zero."""
    zero = torch.zeros(())
    products = [sum((dot(x, y) for x, y in zip(*pair, strict=True)), start=zero) for pair in ((a, b), (a, a), (b, b))]
    return _ratio(*torch.stack([product.cpu() for product in products]).tolist())


def _ratio(product: float, of_a: float, of_b: float) -> float:
    below = math.sqrt(of_a) * math.sqrt(of_b) if of_a >= 0 and of_b >= 0 else math.nan
    return product / below if below else math.nan
