"""Squeeze-and-excitation in torchvision's ResNet blocks.

Squeeze-and-excitation (Hu et al. 2018, arXiv 1709.01507) is a gate per channel from the average over all positions. In
a residual block it acts before the sum. It starts from one of the two gates of :mod:`models.attention`: with the
paper's, each block would start from half of what ImageNet's weights make it give.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import SqueezeExcitation

from models.attention import check_gate
from models.common import global_mean


class _DoubledSigmoid(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sigmoid() * 2


class SE(SqueezeExcitation):
    """torchvision's squeeze-and-excitation with a choice of gate; the shape stays.

    Args:
        channels: of the features.
        reduction: channels over hidden units.
        gate: "identity" or "paper", see the module's text.
    """

    def __init__(self, channels: int, reduction: int = 16, gate: str = "identity") -> None:
        super().__init__(channels, channels // reduction)
        self.start(gate)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.fc2(self.activation(self.fc1(global_mean(x))))
        return x * self.scale_activation(gate)

    def start(self, gate: str) -> None:
        """Put the gate to its beginning. A network that initialises all its convolutions calls this after that."""
        check_gate(gate)
        self.scale_activation = nn.Sigmoid() if gate == "paper" else _DoubledSigmoid()
        if gate == "identity":
            nn.init.zeros_(self.fc2.weight)
            assert self.fc2.bias is not None
            nn.init.zeros_(self.fc2.bias)


class SEBottleneck(Bottleneck):
    """ResNet's bottleneck with squeeze-and-excitation before the residual sum; torchvision's state names stay."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.se = SE(self.bn3.num_features)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.se(self.bn3(self.conv3(x))) + shortcut)


class SEBasicBlock(BasicBlock):
    """ResNet's two-layer block, likewise."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.se = SE(self.bn2.num_features)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.se(self.bn2(self.conv2(x))) + shortcut)
