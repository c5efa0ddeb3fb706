"""Random changes that another probe, patient or setting of an echo machine makes, and none to anatomy or direction.

Speckle is multiplicative, and its grain is a few pixels wide; attenuation and its compensation change brightness with
depth; the beam is sharp at its focus and wide elsewhere; another colour map shows the same velocity paler.
Depth is taken to run down the frame.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from utils.config import Hyperparameters
from utils.letterbox import Image
from utils.preprocess import COLOURED

GRAIN = 2  # pixels: the width of a speckle
SHARP = 0.25  # of the height: how far from the focus the beam is as wide as ``depth_blur`` allows, at least


def change_echo(image: Image, hyp: Hyperparameters, rng: np.random.Generator) -> Image:
    """What a hyp file asks for of ``speckle``, ``depth_gain``, ``depth_blur`` and ``doppler_fade``.

    Args:
        image: (H, W, 3) uint8 RGB.
        rng: source of every random number; none is drawn for what is not asked for.

    Returns:
        A new array, or the same if nothing is asked for.
    """
    if hyp.doppler_fade:
        image = fade(image, float(rng.uniform(0, hyp.doppler_fade)))
    if hyp.depth_blur:
        image = blur(image, float(rng.uniform(0, hyp.depth_blur)), float(rng.uniform(0, 1)))
    if hyp.depth_gain:
        image = slope(image, float(rng.uniform(-hyp.depth_gain, hyp.depth_gain)))
    if hyp.speckle:
        image = speckle(image, float(rng.uniform(0, hyp.speckle)), rng)
    return image


def fade(image: Image, share: float) -> Image:
    """Coloured pixels, and those alone, less saturated by this share; hue and HSV value (the largest channel) stay."""
    largest = image.max(2, keepdims=True)
    coloured = largest - image.min(2, keepdims=True) >= COLOURED
    faded = image + share * (largest.astype(np.float32) - image)
    return _bytes(np.where(coloured, faded, image))


def blur(image: Image, sigma: float, focus: float) -> Image:
    """As a beam that is sharp at a depth and wider by and by above and below it.

    Args:
        sigma: of the Gaussian where it is widest, in pixels.
        focus: the depth, as a share of the height.
    """
    if sigma < 0.1:  # no more than a rounding
        return image
    depth = np.linspace(0, 1, image.shape[0], dtype=np.float32)[:, None, None]
    weight = np.minimum(np.abs(depth - focus) / SHARP, 1)
    wide = cv2.GaussianBlur(image, (0, 0), sigma).astype(np.float32)
    return _bytes(image * (1 - weight) + wide * weight)


def slope(image: Image, gain: float) -> Image:
    """Brighter by ``gain`` at the bottom and darker by it at the top, as a share; and the other way round below 0."""
    depth = np.linspace(-1, 1, image.shape[0], dtype=np.float32)[:, None, None]
    return _bytes(image * (1 + gain * depth))


def speckle(image: Image, strength: float, rng: np.random.Generator) -> Image:
    """Times 1 + strength x noise of unit variance, whose grain is :data:`GRAIN` pixels; all channels alike."""
    height, width = image.shape[:2]
    grains = rng.standard_normal((-(-height // GRAIN), -(-width // GRAIN))).astype(np.float32)
    noise = grains.repeat(GRAIN, 0).repeat(GRAIN, 1)[:height, :width]
    return _bytes(image * (1 + strength * noise[..., None]))


def _bytes(values: NDArray[Any]) -> Image:
    return np.rint(values).clip(0, 255).astype(np.uint8)
