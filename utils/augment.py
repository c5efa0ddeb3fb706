"""Random changes of a training sample: geometry, colour, and YOLOv5's mosaic and mixup. All off unless a hyp file asks.

Every draw comes from the generator that is handed in. Flips, hue and mosaic change anatomy or the meaning of Doppler
colour; they are here because YOLOv5's own hyp files name them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from utils.config import Hyperparameters
from utils.echo_augment import change_echo
from utils.labels import UNLABELLED
from utils.letterbox import PADDING, Image, pad

MIN_SIDE = 2.0  # pixels: a smaller box after a warp is dropped,
MAX_ASPECT = 100.0  # as is a longer sliver,
MIN_AREA_KEPT = 0.1  # and a box that lost more of its area to the frame's edge


class Sample(NamedTuple):
    """A frame with its labels.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        boxes: (n, 5) float32: class, then corners in pixels of the image.
        view: its view, or ``UNLABELLED``.
    """

    image: Image
    boxes: NDArray[np.float32]
    view: int


Fetch = Callable[[int], Sample]


@dataclass(frozen=True)
class Augmenter:
    """What a hyp file asks for: in YOLOv5's order mosaic or padding, warp, mixup, colour, flips; then echo's own."""

    hyp: Hyperparameters

    def __call__(
        self, sample: Sample, target: tuple[int, int], rng: np.random.Generator, fetch: Fetch | None, count: int
    ) -> Sample:
        """Augment a sample.

        Args:
            sample: an unpadded frame, not larger than the target.
            target: (height, width) of the result.
            rng: source of every random number.
            fetch: gives other samples for mosaic and mixup by index; None leaves those two out.
            count: how many samples ``fetch`` has.
        """
        hyp = self.hyp
        if fetch is not None and rng.random() < hyp.mosaic:
            sample = self._mosaic(sample, target, rng, fetch, count)
            if rng.random() < hyp.mixup:
                other = self._mosaic(fetch(int(rng.integers(count))), target, rng, fetch, count)
                sample = mixup(sample, other, float(rng.beta(32.0, 32.0)))
        else:
            sample = warp(_padded(sample, target), self._matrix(target, target, rng), target)
        sample = change_colour(sample, *(rng.uniform(-1, 1, 3) * (hyp.hsv_h, hyp.hsv_s, hyp.hsv_v)))
        if rng.random() < hyp.flipud:
            sample = flip(sample, axis=0)
        if rng.random() < hyp.fliplr:
            sample = flip(sample, axis=1)
        return sample._replace(image=change_echo(sample.image, hyp, rng))

    def _mosaic(
        self, sample: Sample, target: tuple[int, int], rng: np.random.Generator, fetch: Fetch, count: int
    ) -> Sample:
        four = [sample, *(fetch(int(i)) for i in rng.integers(count, size=3))]
        height, width = target
        centre = (int(rng.uniform(0.5, 1.5) * width), int(rng.uniform(0.5, 1.5) * height))
        tiled = mosaic(four, (2 * height, 2 * width), centre)
        return warp(tiled, self._matrix((2 * height, 2 * width), target, rng), target)

    def _matrix(
        self, source: tuple[int, int], target: tuple[int, int], rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """A random 3x3 map from pixels of the source to pixels of the target, about both centres."""
        hyp = self.hyp
        to_origin, skew, turn, slant, place = (np.eye(3) for _ in range(5))
        to_origin[:2, 2] = -source[1] / 2, -source[0] / 2
        skew[2, :2] = rng.uniform(-hyp.perspective, hyp.perspective, 2)
        angle, zoom = rng.uniform(-hyp.degrees, hyp.degrees), rng.uniform(1 - hyp.scale, 1 + hyp.scale)
        turn[:2] = cv2.getRotationMatrix2D((0.0, 0.0), angle, zoom)
        slant[0, 1], slant[1, 0] = np.tan(np.radians(rng.uniform(-hyp.shear, hyp.shear, 2)))
        shift = rng.uniform(0.5 - hyp.translate, 0.5 + hyp.translate, 2)
        place[:2, 2] = shift[0] * target[1], shift[1] * target[0]
        return place @ slant @ turn @ skew @ to_origin


def warp(sample: Sample, matrix: NDArray[np.float64], target: tuple[int, int]) -> Sample:
    """Map frame and boxes through a 3x3 matrix; a box becomes the bounding box of its mapped corners.

    Boxes that the frame's edge cuts down to almost nothing are dropped.
    """
    if np.allclose(matrix, np.eye(3)) and sample.image.shape[:2] == target:
        return sample
    border = (PADDING, PADDING, PADDING)
    image = cv2.warpPerspective(sample.image, matrix, (target[1], target[0]), borderValue=border)
    boxes = sample.boxes
    if len(boxes):
        corners = boxes[:, [1, 2, 3, 4, 1, 4, 3, 2]].reshape(-1, 2)
        mapped = np.c_[corners, np.ones(len(corners))] @ matrix.T
        mapped = (mapped[:, :2] / mapped[:, 2:]).reshape(-1, 4, 2)
        low, high = mapped.min(1), mapped.max(1)
        limit = np.array([target[1], target[0]])
        inside = np.concatenate((low.clip(0, limit), high.clip(0, limit)), 1)
        keep = _still_visible(np.concatenate((low, high), 1), inside)
        boxes = np.concatenate((boxes[keep, :1], inside[keep]), 1).astype(np.float32)
    return Sample(np.asarray(image, np.uint8), boxes, sample.view)


def _still_visible(whole: NDArray[np.float64], inside: NDArray[np.float64]) -> NDArray[np.bool_]:
    width, height = inside[:, 2] - inside[:, 0], inside[:, 3] - inside[:, 1]
    area = (whole[:, 2] - whole[:, 0]) * (whole[:, 3] - whole[:, 1])
    longest = np.maximum(width / np.maximum(height, 1e-9), height / np.maximum(width, 1e-9))
    large = (width > MIN_SIDE) & (height > MIN_SIDE) & (longest < MAX_ASPECT)
    return np.asarray(large & (width * height > MIN_AREA_KEPT * area))


def change_colour(sample: Sample, hue: float, saturation: float, value: float) -> Sample:
    """Scale hue, saturation and value by 1 + their arguments, as YOLOv5 does; hue wraps round."""
    if not (hue or saturation or value):
        return sample
    h, s, v = cv2.split(cv2.cvtColor(sample.image, cv2.COLOR_RGB2HSV))
    level = np.arange(256, dtype=np.float64)
    tables = (
        ((level * (1 + hue)) % 180).astype(np.uint8),
        (level * (1 + saturation)).clip(0, 255).astype(np.uint8),
        (level * (1 + value)).clip(0, 255).astype(np.uint8),
    )
    changed = cv2.merge([cv2.LUT(channel, table) for channel, table in zip((h, s, v), tables, strict=True)])
    return sample._replace(image=np.asarray(cv2.cvtColor(changed, cv2.COLOR_HSV2RGB), np.uint8))


def flip(sample: Sample, axis: int) -> Sample:
    """Mirror top to bottom (axis 0) or left to right (axis 1)."""
    boxes, size = sample.boxes.copy(), sample.image.shape[axis]
    low, high = (2, 4) if axis == 0 else (1, 3)
    boxes[:, [low, high]] = size - boxes[:, [high, low]]
    return sample._replace(image=np.ascontiguousarray(np.flip(sample.image, axis)), boxes=boxes)


def mosaic(samples: list[Sample], size: tuple[int, int], centre: tuple[int, int]) -> Sample:
    """Four frames around a point of a grey canvas; what sticks out is cut off.

    Args:
        samples: top left, top right, bottom left, bottom right.
        size: (height, width) of the canvas.
        centre: (x, y) where the four meet.
    """
    canvas = np.full((*size, 3), PADDING, np.uint8)
    limit = np.array([size[1], size[0], size[1], size[0]], np.float32)
    rows = []
    for position, sample in enumerate(samples):
        height, width = sample.image.shape[:2]
        x = centre[0] - (width if position % 2 == 0 else 0)
        y = centre[1] - (height if position < 2 else 0)
        left, top, right, bottom = max(x, 0), max(y, 0), min(x + width, size[1]), min(y + height, size[0])
        canvas[top:bottom, left:right] = sample.image[top - y : bottom - y, left - x : right - x]
        boxes = sample.boxes.copy()
        whole = boxes[:, 1:] + np.array([x, y, x, y], np.float32)
        boxes[:, 1:] = whole.clip(0, limit)
        rows.append(boxes[_still_visible(whole.astype(np.float64), boxes[:, 1:].astype(np.float64))])
    return Sample(canvas, np.concatenate(rows), _common_view(samples))


def mixup(first: Sample, second: Sample, share: float) -> Sample:
    """``share`` of one frame laid over the other, with the boxes of both (arXiv 1710.09412)."""
    image = (first.image * share + second.image * (1 - share)).astype(np.uint8)
    return Sample(image, np.concatenate((first.boxes, second.boxes)), _common_view([first, second]))


def _common_view(samples: list[Sample]) -> int:
    """The view that all samples share: a frame put together from different views shows none."""
    views = {sample.view for sample in samples}
    return views.pop() if len(views) == 1 else UNLABELLED


def _padded(sample: Sample, target: tuple[int, int]) -> Sample:
    image, geometry = pad(sample.image, target, (sample.image.shape[0], sample.image.shape[1]))
    boxes = sample.boxes.copy()
    boxes[:, 1:] += np.array([geometry.left, geometry.top] * 2, np.float32)
    return Sample(image, boxes, sample.view)


def changes_meaning(hyp: Hyperparameters) -> bool:
    """Whether a hyp file changes what anatomy or Doppler colour mean: flips, hue, mosaic, mixup."""
    return any(not math.isclose(v, 0) for v in (hyp.flipud, hyp.fliplr, hyp.hsv_h, hyp.mosaic, hyp.mixup))
