"""The optimizer in YOLOv5's three groups, and the running mean of the weights that is validated and saved."""

from __future__ import annotations

import copy

import torch
from torch import nn

from models.dual import Trainable
from utils.schedule import Rates, ema_decay

OPTIMIZERS = ("SGD", "Adam", "AdamW")


def build_optimizer(network: nn.Module, name: str, lr: float, momentum: float, decay: float) -> torch.optim.Optimizer:
    """An optimizer over biases, other weights (the only ones that decay), and normalisation weights, in that order.

    Args:
        network: whose parameters that require a gradient are taken.
        name: one of :data:`OPTIMIZERS`.
        lr: learning rate.
        momentum: of SGD (Nesterov), or beta 1 of Adam.
        decay: weight decay; decoupled for AdamW.
    """
    normalisations = tuple(kind for kind in vars(nn).values() if isinstance(kind, type) and "Norm" in kind.__name__)
    biases: list[nn.Parameter] = []
    weights: list[nn.Parameter] = []
    scales: list[nn.Parameter] = []
    for module in network.modules():
        for key, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            group = biases if key == "bias" else scales if isinstance(module, normalisations) else weights
            group.append(parameter)
    groups = [
        {"params": biases, "weight_decay": 0.0},
        {"params": weights, "weight_decay": decay},
        {"params": scales, "weight_decay": 0.0},
    ]
    # fused: one pass over the weights for decay, momentum and step, where torch has that for all they lie on
    devices = {parameter.device.type for group in (biases, weights, scales) for parameter in group}
    fused = devices <= {"cpu", "cuda"}
    if name == "SGD":
        return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0, fused=fused)
    kind = {"Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW}[name]
    return kind(groups, lr=lr, betas=(momentum, 0.999), fused=fused)


def set_rates(optimizer: torch.optim.Optimizer, rates: Rates) -> None:
    """Give an optimizer of :func:`build_optimizer` the learning rates and the momentum of an iteration."""
    for group, lr in zip(optimizer.param_groups, (rates.bias_lr, rates.lr, rates.lr), strict=True):
        group["lr"] = lr
        if "momentum" in group:  # Adam's beta 1 is not warmed up, as in YOLOv5
            group["momentum"] = rates.momentum


class RunningMean:
    """Exponential moving average of a network's weights and buffers.

    Attributes:
        network: the averaged copy, in evaluation mode.
        updates: how many steps went into it.
    """

    def __init__(self, network: Trainable, updates: int = 0) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.updates = updates

    @torch.no_grad()
    def update(self, network: Trainable) -> None:
        """Move towards the network's present weights; counters are copied as they are."""
        self.updates += 1
        step = 1 - ema_decay(self.updates)
        state = network.state_dict()
        means, targets = [], []
        for name, mean in self.network.state_dict().items():
            if mean.is_floating_point():
                means.append(mean)
                targets.append(state[name])
            else:
                mean.copy_(state[name])
        torch._foreach_lerp_(means, targets, step)  # one call for all, as torch.optim does it
