"""train.py on a processor without bf16, computed in fp32 but rounded to bf16 wherever autocast would.

    python benchmarks/rounded.py --img 160 --epochs 24 --no-amp     (any flags of train.py)

Weights, features and gradients of convolutions, linear layers, normalisations, activations and attention are rounded,
in training and in validation; sums within a layer are fp32's, as in hardware that accumulates in fp32. So bf16.py
--rounded can look anywhere at what rounding does to a training. It is slower than fp32: no speed is measured with it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import train
from models.attention import CBAM, ChannelAttention, SpatialAttention
from models.common import Bottleneck
from utils.flags import parse
from utils.log import run_script

ROUNDED = (nn.BatchNorm2d, nn.SiLU, Bottleneck, ChannelAttention, SpatialAttention, CBAM)


class _Rounded(torch.autograd.Function):
    """The nearest bf16 numbers, of a tensor and of its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.bfloat16().float()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0].bfloat16().float()


def rounded(x: Tensor) -> Tensor:
    """A tensor in fp32 that holds bf16 numbers, and will have such a gradient."""
    return _Rounded.apply(x)


def convolved(self: nn.Conv2d, x: Tensor) -> Tensor:
    """``nn.Conv2d.forward`` between rounded tensors."""
    bias = None if self.bias is None else rounded(self.bias)
    weight = rounded(self.weight)
    return rounded(F.conv2d(rounded(x), weight, bias, self.stride, self.padding, self.dilation, self.groups))


def transformed(self: nn.Linear, x: Tensor) -> Tensor:
    """``nn.Linear.forward`` between rounded tensors."""
    return rounded(F.linear(rounded(x), rounded(self.weight), rounded(self.bias)))


def round_everywhere() -> None:
    """Let all layers of this process round."""
    nn.Conv2d.forward = convolved  # type: ignore[method-assign]
    nn.Linear.forward = transformed  # type: ignore[method-assign]
    for kind in ROUNDED:
        kind.forward = _then_rounded(kind.forward)  # type: ignore[method-assign]


def _then_rounded(forward: Callable[[Any, Tensor], Tensor]) -> Callable[[Any, Tensor], Tensor]:
    return lambda self, x: rounded(forward(self, x))


if __name__ == "__main__":
    round_everywhere()
    sys.exit(run_script(train.main, parse(train.FLAGS, __doc__ or "")))
