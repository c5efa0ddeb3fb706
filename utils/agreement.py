"""How far an exported network's outputs are from its checkpoint's."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.yolo import Output


@dataclass(frozen=True)
class Deviation:
    """The largest differences.

    Attributes:
        pixels: of a box's centre, width or height.
        probability: of an objectness, a class or a view.
    """

    pixels: float
    probability: float

    def __str__(self) -> str:
        return f"boxes {self.pixels:.2g} px, probabilities {self.probability:.2g}"

    def joined(self, other: Deviation) -> Deviation:
        """The larger of both."""
        return Deviation(max(self.pixels, other.pixels), max(self.probability, other.probability))


def sample(shape: tuple[int, int, int], seed: int = 0) -> Tensor:
    """Images (B, 3, H, W) in [0, 1] of smooth noise, with edges as frames have."""
    batch, height, width = shape
    coarse = torch.rand(batch, 3, height // 8, width // 8, generator=torch.Generator().manual_seed(seed))
    images = F.interpolate(coarse, (height, width), mode="bilinear")
    images[:, :, : height // 8] = 0
    return images


def deviation(expected: Output, got: Output, suppressed: bool = False, confidence: float = 0.0) -> Deviation:
    """Of two networks' outputs for the same images.

    Args:
        suppressed: whether boxes have been through a suppression: then each expected detection is compared with the
            nearest one of its class, as those of nearly equal confidence may come in another order. One that has no
            counterpart deviates by its width, height or confidence.
        confidence: of boxes that are compared, at least, by the expected ones.
    """
    assert expected.boxes is not None and got.boxes is not None
    boxes = expected.boxes, got.boxes.to(expected.boxes.device)
    pairs = [boxes]
    if suppressed:
        images = zip(*boxes, strict=True)
        pairs = [pair for a, b in images for pair in (_nearest(a, b), _nearest(b, a))]
    elif confidence:
        chosen = boxes[0][..., 4] * boxes[0][..., 5:].amax(-1) >= confidence
        pairs = [(boxes[0][chosen], boxes[1][chosen])]
    pixels = max(_largest(a[..., :4] - b[..., :4]) for a, b in pairs)
    probability = max(_largest(a[..., 4:] - b[..., 4:]) for a, b in pairs)
    if expected.view is not None and got.view is not None:
        probability = max(
            probability, _largest(expected.view.float().softmax(1) - got.view.to(expected.view).softmax(1))
        )
    return Deviation(pixels, probability)


def _nearest(rows: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Detections (n, 5 + nc) with a confidence, and of ``others`` the nearest of the same class for each."""
    rows, others = rows[rows[:, 4] > 0], others[others[:, 4] > 0]
    if not len(rows):
        return rows, rows
    others = torch.cat((others, F.pad(rows[:, 5:], (5, 0))))  # a counterpart of zeros for whatever finds no other
    distance = torch.cdist(rows[:, :4], others[:, :4]) + 1e6 * torch.cdist(rows[:, 5:], others[:, 5:])
    return rows, others[distance.argmin(1)]


def _largest(difference: Tensor) -> float:
    """Of nothing, 0; where a number is missing (NaN), infinite."""
    return float(difference.abs().nan_to_num(nan=math.inf).max()) if difference.numel() else 0.0
