"""CBAM, and YOLOv5's C3 that carries it.

CBAM (Woo et al. 2018, arXiv 1807.06521) is channel, then spatial attention, each a sigmoid gate in (0, 1) multiplied
onto the features. A fresh gate of the paper sits near 0.5, so two of them quarter what passes: in a network that starts
from trained weights this destroys the features at four blocks in a row. ``gate="identity"`` (the default) doubles the
sigmoid and starts its last convolution at zero, so that a fresh module is exactly the identity; ``gate="paper"`` is the
published form, and what a fork's trained CBAM needs. benchmarks/cbam_gate.py compares the two, benchmarks/results.md
holds the figures.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.common import C3, global_mean

GATES = ("identity", "paper")


def check_gate(gate: str) -> None:
    """Raise a ValueError for an unknown one."""
    if gate not in GATES:
        raise ValueError(f"gate: expected one of {', '.join(GATES)}, got {gate!r}")


def _mean_and_maximum_over_channels(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, 2, H, W); see :func:`models.common.global_mean` for why in this way."""
    fast = x.requires_grad or x.dtype == torch.bfloat16
    mean = x.sum(1, keepdim=True) / x.shape[1] if fast else x.mean(1, keepdim=True)
    if x.requires_grad:  # the gradient of amax() is slow, and that of max() lies as x does only in this order
        maximum = x.permute(0, 2, 3, 1).max(-1, keepdim=True).values.permute(0, 3, 1, 2)
    else:
        maximum = x.amax(1, keepdim=True)
    return torch.cat((mean, maximum), 1)


class ChannelAttention(nn.Module):
    """Gate per channel from a shared two-layer perceptron over average- and max-pooled features (equation 2)."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(channels // reduction, 1)
        self.f1 = nn.Conv2d(channels, hidden, 1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.f2 = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (B, C, 1, 1)."""
        # pooling layers and max() have backward passes several times faster than amax(), which shares ties out
        average, maximum = global_mean(x), F.adaptive_max_pool2d(x, 1)
        return self.f2(self.relu(self.f1(average))) + self.f2(self.relu(self.f1(maximum)))


class SpatialAttention(nn.Module):
    """Gate per position from a convolution over the channels' mean and maximum (equation 3)."""

    def __init__(self, kernel: int = 7) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, kernel, padding=kernel // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (B, 1, H, W)."""
        return self.conv(_mean_and_maximum_over_channels(x))


class CBAM(nn.Module):
    """Channel then spatial attention; the shape stays.

    Args:
        channels: of the features.
        kernel: odd size of the spatial attention's convolution.
        reduction: channels over hidden units of the channel attention.
        gate: "identity" or "paper", see the module's text.
    """

    def __init__(self, channels: int, kernel: int = 7, reduction: int = 16, gate: str = "identity") -> None:
        super().__init__()
        check_gate(gate)
        self.channel_attention = ChannelAttention(channels, reduction)
        self.spatial_attention = SpatialAttention(kernel)
        self.scale = 1.0
        if gate == "identity":
            self.scale = 2.0
            nn.init.zeros_(self.channel_attention.f2.weight)
            nn.init.zeros_(self.spatial_attention.conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = x * (self.channel_attention(x).sigmoid() * self.scale)
        return x * (self.spatial_attention(x).sigmoid() * self.scale)


class C3CBAM(C3):
    """A C3 block whose output passes a CBAM; the stock block's state names stay, ``cbam`` is added."""

    def __init__(
        self, in_channels: int, out_channels: int, n: int = 1, shortcut: bool = True, gate: str = "identity"
    ) -> None:
        super().__init__(in_channels, out_channels, n, shortcut)
        self.cbam = CBAM(out_channels, gate=gate)

    def forward(self, x: Tensor) -> Tensor:
        return self.cbam(super().forward(x))
