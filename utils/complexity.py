"""How large a network is: layers, parameters, arithmetic."""

from __future__ import annotations

import contextlib
import copy
import io

import torch
from torch import nn

from models.dual import AnyNetwork
from models.yolo import Network, parameter_count
from utils.log import LOGGER


def gflops(network: nn.Module, image_size: int) -> float:
    """Billions of floating-point operations (two a multiply-add) for one square image, as ultralytics-thop counts."""
    import thop

    images = torch.zeros(1, 3, image_size, image_size)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints which layers it does not know
        operations = thop.profile(copy.deepcopy(network).cpu().eval(), inputs=(images,), verbose=False)[0]
    return float(operations) * 2 / 1e9


def log_summary(network: AnyNetwork, image_size: int, name: str = "Network") -> None:
    """One line about a network: a yaml's layers, or those of other networks that hold no others."""
    leaves = sum(not list(module.children()) for module in network.modules())
    layers = len(network.model) if isinstance(network, Network) else leaves
    learned = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    LOGGER.info(
        "%s: %d layers, %s parameters (%s trained), %.1f GFLOPs at %d pixels",
        name, layers, f"{parameter_count(network):,}", f"{learned:,}", gflops(network, image_size), image_size,
    )  # fmt: skip
