"""The border between what the tasks share and what is theirs: found in the graph, cut in training, measured at.

The trunk's backward pass is linear in what enters it. So one forward pass, cut at the border, tells everything: each
task's own backward pass ends at leaves of its own, which hold its gradient at the border; the norms at the last shared
weight follow from there by a product with one layer's Jacobian; one backward pass of their weighted sum does the rest.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from models.common import Conv
from models.yolo import Network, Output


@dataclass(frozen=True)
class Border:
    """Where the tasks of a network part.

    Attributes:
        shared: layers that both tasks depend on, ascending; none in a detector alone.
        branches: for each task, the layers that are its own, ascending.
        crossing: for each task, the shared layers that its branch reads.
        weight: state name of the last shared convolution's weight W; None where nothing is shared. In the default
            network it is ``model.9.cv2.conv.weight``, which sees what passes layer 9, not the skips from 4 and 6.
        weight_layer: the layer that W is in.
    """

    shared: tuple[int, ...]
    branches: tuple[tuple[int, ...], ...]
    crossing: tuple[tuple[int, ...], ...]
    weight: str | None
    weight_layer: int

    @property
    def common(self) -> tuple[int, ...]:
        """The shared layers that every branch reads."""
        return tuple(sorted(set.intersection(*map(set, self.crossing))))


def find_border(network: nn.Module) -> Border:
    """The border of a network between its heads; one that is not made of a yaml's layers has a single task."""
    if not isinstance(network, Network):
        return Border((), ((),), ((),), None, -1)
    heads = [head for head in (network.detect_index, network.view_index) if head is not None]
    needed = [_ancestors(network, head) for head in heads]
    shared = set.intersection(*needed) if len(heads) > 1 else set()
    branches = [sorted(layers - shared) for layers in needed]
    crossing = [sorted({s for layer in branch for s in network.sources[layer]} & shared) for branch in branches]
    weight, weight_layer = None, -1
    for weight_layer in sorted(shared, reverse=True):  # one without a convolution (Concat) leaves it to the one before
        name = last_convolution(network.model[weight_layer])
        if name is not None:
            weight = f"model.{weight_layer}.{name}.weight"
            break
    return Border(tuple(sorted(shared)), tuple(map(tuple, branches)), tuple(map(tuple, crossing)), weight, weight_layer)


def _ancestors(network: Network, layer: int) -> set[int]:
    """A layer and all that it depends on, without the images."""
    found: set[int] = set()
    waiting = [layer]
    while waiting:
        index = waiting.pop()
        if index >= 0 and index not in found:
            found.add(index)
            waiting += network.sources[index]
    return found


def last_convolution(layer: nn.Module) -> str | None:
    """Name within a layer of the convolution its output is made by; None for one that has none.

    Blocks number their convolutions cv1, cv2, ... in the order of use; attention after them is not counted.
    """
    if isinstance(layer, Conv):
        return "conv"
    if isinstance(layer, nn.Sequential):
        inner = last_convolution(layer[-1])
        return None if inner is None else f"{len(layer) - 1}.{inner}"
    numbered = [name for name, _ in layer.named_children() if re.fullmatch(r"cv\d", name)]
    return f"{max(numbered)}.conv" if numbered else None


def alone(tensor: Tensor) -> Tensor:
    """The sum of a tensor over the processes of a training that has one: the tensor itself."""
    return tensor


@dataclass(frozen=True)
class Gradients:
    """What the tasks ask of the shared part, in gradients of scale x unweighted loss.

    Attributes:
        weight: by task, dL_i/dW.
        features: (T, T) inner products of the tasks' gradients at the features that every branch reads; zero for a task
            without one.
        trunk: by task and shared layer, dL_i/d parameters of the layer; empty unless asked for.
    """

    weight: Mapping[int, Tensor]
    features: Tensor
    trunk: Mapping[int, Mapping[int, Sequence[Tensor]]]


class Cut:
    """One forward pass of a network, cut at its border.

    Args:
        network: in training mode; gives :class:`models.yolo.Output`.
        border: of the network.
        images: (B, 3, H, W).
        summed: gives the sum of a tensor over all processes that each hold some of the frames; may change the tensor.

    Attributes:
        output: of the network, as without the cut.
    """

    def __init__(
        self, network: nn.Module, border: Border, images: Tensor, summed: Callable[[Tensor], Tensor] = alone
    ) -> None:
        self._border, self._summed = border, summed
        self._leaves: list[dict[int, Tensor]] = []  # a leaf of its own for each task, also where both read one layer
        self.output: Output
        if not border.shared:
            self._leaves = [{} for _ in border.branches]
            self.output = network(images)
            return
        assert isinstance(network, Network)
        self._network = network
        self._trunk = network.run(border.shared, {-1: images})
        outputs: dict[int, object] = {}
        for branch, crossing in zip(border.branches, border.crossing, strict=True):
            leaves = {i: self._trunk[i].detach().requires_grad_(self._trunk[i].requires_grad) for i in crossing}
            self._leaves.append(leaves)
            outputs |= network.run(branch, {-1: images, **leaves})
        self.output = network.output(outputs)

    def backward(
        self,
        losses: Sequence[Tensor],
        weights: Sequence[float],
        at_border: Callable[[Callable[[], Tensor]], Tensor],
        scale: float = 1.0,
        by_layer: bool = False,
    ) -> Gradients | None:
        """Add the gradient of scale x sum of weight x loss to the parameters'.

        Args:
            losses: of the tasks, unweighted; a task of weight 0 has no backward pass.
            weights: of the tasks.
            at_border: factors of the weighted gradients where they enter the trunk, see
                :meth:`models.balancer.Balancer.at_border`.
            scale: of the losses, such as the batch size; a gradient scaler's would be in it.
            by_layer: also take each task's gradient through the whole trunk, which costs a backward pass of it a task
                and changes no gradient.

        Returns:
            What each task asked of the shared part; None where nothing is shared, or nothing of it learns.
        """
        learned = [i for i, weight in enumerate(weights) if weight > 0 and losses[i].requires_grad]
        if not learned:
            return None
        torch.stack([losses[i] * (scale * weights[i]) for i in learned]).sum().backward()
        entering = {i: {k: leaf.grad for k, leaf in self._leaves[i].items() if leaf.grad is not None} for i in learned}
        if not any(entering.values()):
            return None
        found = self._measure(entering, weights, by_layer)
        factors = at_border(lambda: self._summed(self._products(entering, self._trunk)) / scale**2).tolist()
        total: dict[int, Tensor] = {}
        for i, gradients in entering.items():
            for k, gradient in gradients.items() if factors[i] else ():
                part = gradient if factors[i] == 1 else gradient * factors[i]
                total[k] = total[k] + part if k in total else part
        if total:
            torch.autograd.backward([self._trunk[k] for k in total], list(total.values()))
        return found

    def _products(self, entering: Mapping[int, Mapping[int, Tensor]], layers: Collection[int]) -> Tensor:
        """(T, T) inner products of gradients at the border, over some of the layers there."""
        tasks = len(self._border.branches)
        device = next(iter(self._trunk.values())).device
        products = torch.zeros(tasks, tasks, device=device)
        for i, of_i in entering.items():
            for j, of_j in entering.items():
                if i <= j:
                    parts = [dot(of_i[k], of_j[k]) for k in of_i if k in of_j and k in layers]
                    products[i, j] = products[j, i] = sum(parts, start=products.new_zeros(()))
        return products

    def _measure(
        self, entering: Mapping[int, Mapping[int, Tensor]], weights: Sequence[float], by_layer: bool
    ) -> Gradients:
        border = self._border
        weight = self._network.get_parameter(border.weight) if border.weight else None
        of_weight: dict[int, Tensor] = {}
        of_trunk: dict[int, dict[int, list[Tensor]]] = {}
        parameters = {k: [p for p in self._network.model[k].parameters() if p.requires_grad] for k in border.shared}
        for i, gradients in entering.items():
            ends = [k for k in gradients if k >= border.weight_layer]
            if ends and weight is not None and weight.requires_grad:
                of_weight[i] = self._through(ends, gradients, [weight])[0] / weights[i]
            if by_layer:
                flat = iter(self._through(list(gradients), gradients, list(chain(*parameters.values()))))
                of_trunk[i] = {k: [next(flat) / weights[i] for _ in own] for k, own in parameters.items() if own}
        features = self._products(entering, border.common)
        undo = features.new_tensor([1 / weight if i in entering else 0.0 for i, weight in enumerate(weights)])
        return Gradients(of_weight, features * torch.outer(undo, undo), of_trunk)

    def _through(self, ends: Sequence[int], gradients: Mapping[int, Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
        """Gradients at parameters of the trunk, for gradients at its ends; the graph stays for the next."""
        found = torch.autograd.grad(
            [self._trunk[k] for k in ends], list(inputs), [gradients[k] for k in ends], retain_graph=True,
            allow_unused=True, materialize_grads=True,
        )  # fmt: skip
        return list(found)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product in fp32, whatever the types."""
    return (a.float() * b.float()).sum()
