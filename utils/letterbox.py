"""A decoded frame -> what the network sees: resized to fit, padded to a square or to whole strides.

A network must be shown frames padded as in its training. Without augmentation it knows no other padding, and the view
head, which averages over the whole map, is thrown off by another: on phantom frames, networks trained on squares named
every view right in squares, but only 0.34 (chance) and 0.76 of them in rectangles with half a stride of margin. So the
kind of padding is stored in the checkpoint, and val.py and detect.py follow it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from utils.log import LOGGER, InputError

Image = NDArray[np.uint8]  # (H, W, 3), RGB
PADDING = 114  # grey value around a frame, as in YOLOv5


class Geometry(NamedTuple):
    """How a frame was letterboxed: ``x' = x * gain_x + left``, ``y' = y * gain_y + top``, in pixels.

    Attributes:
        original: (height, width) of the frame in its file.
    """

    original: tuple[int, int]
    gain_x: float
    gain_y: float
    left: int
    top: int


def whole_strides(size: int, stride: int) -> int:
    """An image size in pixels as a multiple of the stride, rounded up, at least two strides; said where it changes."""
    if size < 1:
        raise InputError(f"--imgsz: expected at least 1 pixel, got {size}")
    whole = max(math.ceil(size / stride), 2) * stride
    if whole != size:
        LOGGER.warning("--imgsz %d: taken as %d, a multiple of the network's stride", size, whole)
    return whole


def fit(shape: tuple[int, int], size: int) -> tuple[int, int]:
    """(height, width) of a frame scaled so that its longer side is ``size`` pixels; no side under 1."""
    ratio = size / max(shape)
    return max(round(shape[0] * ratio), 1), max(round(shape[1] * ratio), 1)


def padded(shape: tuple[int, int], stride: int) -> tuple[int, int]:
    """The smallest (height, width) of whole strides that holds a frame of that shape."""
    return math.ceil(shape[0] / stride) * stride, math.ceil(shape[1] / stride) * stride


def resize(image: Image, size: int) -> Image:
    """Scale a frame so that its longer side is ``size`` pixels: area average downwards, bilinear upwards.

    The same for training, validation and detection, so that a frame gives the same boxes in each.
    """
    height, width = fit((image.shape[0], image.shape[1]), size)
    if (height, width) == image.shape[:2]:
        return image
    method = cv2.INTER_AREA if size < max(image.shape[:2]) else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=method), np.uint8)


def pad(image: Image, target: tuple[int, int], original: tuple[int, int]) -> tuple[Image, Geometry]:
    """Centre a resized frame on grey.

    Args:
        image: (H, W, 3), no larger than the target.
        target: (height, width) of the result.
        original: (height, width) in the file, for the way back.
    """
    height, width = image.shape[:2]
    top, left = (target[0] - height) // 2, (target[1] - width) // 2
    canvas = np.full((*target, 3), PADDING, np.uint8)
    canvas[top : top + height, left : left + width] = image
    return canvas, Geometry(original, width / original[1], height / original[0], left, top)


def letterbox(image: Image, size: int, stride: int, square: bool = False) -> tuple[Image, Geometry]:
    """Resize and pad one frame: to a square of ``size``, or only as far as whole strides ask."""
    resized = resize(image, size)
    target = (size, size) if square else padded((resized.shape[0], resized.shape[1]), stride)
    return pad(resized, target, (image.shape[0], image.shape[1]))
