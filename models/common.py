"""YOLOv5's building blocks: Conv, Bottleneck, C3, SPPF, Concat.

Attribute names (``conv bn cv1 cv2 cv3 m``) are part of the checkpoint format: they are the state names of every YOLOv5
checkpoint since v6.0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval


def global_mean(x: Tensor) -> Tensor:
    """The mean over positions: (B, C, H, W) -> (B, C, 1, 1).

    On a processor torch's own mean of bf16 first makes a copy in fp32, and the gradient of any mean over the last two
    dimensions does not lie channels last as the features do, which holds up whatever meets it before the next
    convolution. A sum, accumulated in fp32, has neither fault; but its range would be too small in fp16, which exports
    may compute in, so that they keep the mean.
    """
    if x.requires_grad or x.dtype == torch.bfloat16:
        return x.sum((2, 3), keepdim=True) / (x.shape[2] * x.shape[3])
    return F.adaptive_avg_pool2d(x, 1)


class Conv(nn.Module):
    """Convolution without bias, batch normalisation, SiLU.

    Padding defaults to "same" for odd kernels at stride 1. :meth:`fuse` folds the normalisation into the convolution,
    for inference.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1, padding: int | None = None
    ) -> None:
        super().__init__()
        padding = kernel // 2 if padding is None else padding
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, bias=False)
        self.bn: nn.Module = nn.BatchNorm2d(out_channels, eps=1e-3, momentum=0.03)
        self.act = nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))

    def fuse(self) -> None:
        """Fold the running statistics of ``bn`` into ``conv``; needs evaluation mode. A second call does nothing."""
        if isinstance(self.bn, nn.BatchNorm2d):
            self.conv = fuse_conv_bn_eval(self.conv, self.bn)
            self.bn = nn.Identity()


class Bottleneck(nn.Module):
    """1x1 then 3x3 convolution, with a residual sum where ``shortcut`` and the channel counts allow it."""

    def __init__(self, in_channels: int, out_channels: int, shortcut: bool = True, expansion: float = 0.5) -> None:
        super().__init__()
        hidden = int(out_channels * expansion)
        self.cv1 = Conv(in_channels, hidden, 1)
        self.cv2 = Conv(hidden, out_channels, 3)
        self.add = shortcut and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y = self.cv2(self.cv1(x))
        return x + y if self.add else y


class C3(nn.Module):
    """Cross-stage partial block with three convolutions (CSPNet, arXiv 1911.11929) around ``n`` bottlenecks."""

    def __init__(self, in_channels: int, out_channels: int, n: int = 1, shortcut: bool = True) -> None:
        super().__init__()
        hidden = out_channels // 2
        self.cv1 = Conv(in_channels, hidden)
        self.cv2 = Conv(in_channels, hidden)
        self.cv3 = Conv(2 * hidden, out_channels)
        self.m = nn.Sequential(*(Bottleneck(hidden, hidden, shortcut, expansion=1.0) for _ in range(n)))

    def forward(self, x: Tensor) -> Tensor:
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


class SPPF(nn.Module):
    """Spatial pyramid pooling, fast form: three chained max-pools see 5, 9 and 13 pixels (for kernel 5)."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 5) -> None:
        super().__init__()
        hidden = in_channels // 2
        self.cv1 = Conv(in_channels, hidden)
        self.cv2 = Conv(4 * hidden, out_channels)
        self.m = nn.MaxPool2d(kernel, stride=1, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        pooled = [self.cv1(x)]
        for _ in range(3):
            pooled.append(self.m(pooled[-1]))
        return self.cv2(torch.cat(pooled, 1))


class Concat(nn.Module):
    """Concatenation of several layers' outputs along one dimension."""

    def __init__(self, dimension: int = 1) -> None:
        super().__init__()
        self.dimension = dimension

    def forward(self, xs: Sequence[Tensor]) -> Tensor:
        return torch.cat(tuple(xs), self.dimension)
