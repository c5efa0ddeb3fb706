"""The two heads: Detect (boxes, from three feature levels) and ViewHead (one view a frame, from one level)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.common import Conv, global_mean


class Detect(nn.Module):
    """YOLOv5's anchor-based detection head: a 1x1 convolution a level.

    Args:
        nc: number of box classes.
        anchors: nl levels of na anchors, each ``w, h`` in pixels: nl sequences of 2 * na numbers.
        channels: input channels of each level.
        strides: pixels per cell of each level.
    """

    anchors: Tensor  # (nl, na, 2), in cells of the level; a buffer, as in YOLOv5's checkpoints

    def __init__(
        self, nc: int, anchors: Sequence[Sequence[float]], channels: Sequence[int], strides: Sequence[int]
    ) -> None:
        super().__init__()
        self.nc = nc
        self.strides = tuple(int(stride) for stride in strides)
        self.register_buffer("anchors", torch.zeros(len(channels), len(anchors[0]) // 2, 2))
        # on the processor even where the network is only being planned (device "meta"): their order is looked at
        self.set_anchors(torch.tensor(anchors, dtype=torch.float32, device="cpu").view_as(self.anchors))
        self.m = nn.ModuleList(nn.Conv2d(c, self.na * (5 + nc), 1) for c in channels)
        self._initialise_biases()

    @property
    def na(self) -> int:
        """Anchors a level."""
        return self.anchors.shape[1]

    def set_anchors(self, pixels: Tensor) -> None:
        """Take anchors (nl, na, 2) in pixels; levels given in the opposite order of the strides are turned round."""
        area = pixels.prod(-1).mean(-1)
        if (area[-1] - area[0]) * (self.strides[-1] - self.strides[0]) < 0:
            pixels = pixels.flip(0)
        self.anchors.copy_(pixels / self._stride_column(pixels))

    def anchors_in_pixels(self) -> Tensor:
        """The anchors (nl, na, 2) in pixels."""
        return self.anchors * self._stride_column(self.anchors)

    def _stride_column(self, like: Tensor) -> Tensor:
        return torch.tensor(self.strides, dtype=like.dtype, device=like.device).view(-1, 1, 1)

    def _initialise_biases(self) -> None:
        """Start from the prior of 8 objects in a 640-pixel image and a class share of 0.6 / nc (arXiv 1708.02002)."""
        with torch.no_grad():
            for convolution, stride in zip(self.m, self.strides, strict=True):
                assert isinstance(convolution, nn.Conv2d) and convolution.bias is not None
                bias = convolution.bias.view(self.na, -1)
                bias[:, 4] += math.log(8 / (640 / stride) ** 2)
                bias[:, 5:] += math.log(0.6 / (self.nc - 0.99999))

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Features (B, C_i, H_i, W_i) -> a raw map (B, na, H_i, W_i, 5 + nc) for each level."""
        maps = []
        for convolution, feature in zip(self.m, features, strict=True):
            x: Tensor = convolution(feature)
            batch, _, height, width = x.shape
            x = x.view(batch, self.na, 5 + self.nc, height, width)
            maps.append(x.permute(0, 1, 3, 4, 2).contiguous())
        return maps

    def decode(self, maps: Sequence[Tensor]) -> Tensor:
        """Raw maps -> (B, N, 5 + nc): centre x, y, width, height in pixels, objectness, class probabilities."""
        rows = []
        for raw, anchors, stride in zip(maps, self.anchors, self.strides, strict=True):
            batch, na, height, width, no = raw.shape
            raw = raw.float().sigmoid()
            y, x = torch.meshgrid(
                torch.arange(height, device=raw.device), torch.arange(width, device=raw.device), indexing="ij"
            )
            cells = torch.stack((x, y), -1).to(raw.dtype) - 0.5
            centre = (raw[..., :2] * 2 + cells) * stride
            size = (raw[..., 2:4] * 2) ** 2 * (anchors * stride).view(1, na, 1, 1, 2)
            rows.append(torch.cat((centre, size, raw[..., 4:]), -1).view(batch, na * height * width, no))
        return torch.cat(rows, 1)


class ViewHead(nn.Module):
    """Names the view of the whole frame: 1x1 convolution, global average, dropout, linear layer."""

    def __init__(self, in_channels: int, views: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv = Conv(in_channels, hidden)
        self.drop = nn.Dropout(dropout)
        self.linear = nn.Linear(hidden, views)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (B, views)."""
        return self.linear(self.drop(global_mean(self.conv(x)).flatten(1)))
