"""Echo filters that a hyp file may ask for, applied to each frame once, right after decoding.

All work on luminance and leave Doppler colour alone: a pixel of high chroma keeps its exact value, since its colour is
a velocity; any other pixel is scaled in all three channels alike, so that no step shifts hue. The settings travel in
the checkpoint's hyperparameters, and validation and detection apply them as training did.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from utils.config import Hyperparameters
from utils.letterbox import Image

COLOURED = 40  # of 255, largest minus smallest channel: from here on a pixel is Doppler colour
DARK = 12  # of 255: below, a pixel may be outside the sector
CLAHE_TILES = 8  # a side
SHARPEN_SIGMA = 1.5  # pixels
SMALLEST_SECTOR = 0.1  # of the frame: a smaller region is not taken for the sector


@dataclass(frozen=True)
class Preprocessor:
    """The filters, in the order in which they are applied; the defaults do nothing.

    Attributes:
        sector_mask: blacken what lies outside the sector: text, ECG, colour bar.
        gamma: exponent on luminance in [0, 1]; under 1 brightens.
        clahe: clip limit of contrast-limited adaptive histogram equalisation; 0 leaves it out.
        sharpen: weight of the unsharp mask; 0 leaves it out.
    """

    sector_mask: bool = False
    gamma: float = 1.0
    clahe: float = 0.0
    sharpen: float = 0.0

    @classmethod
    def of(cls, hyp: Hyperparameters) -> Preprocessor:
        """The filters that a hyp file asks for."""
        return cls(hyp.sector_mask, hyp.gamma, hyp.clahe, hyp.sharpen)

    def __call__(self, image: Image) -> Image:
        """Filter a frame (H, W, 3) RGB at its original size; returns a new array, or the same if nothing is asked."""
        if self == Preprocessor():
            return image
        if self.sector_mask:
            image = np.where(find_sector(image)[..., None], image, 0).astype(np.uint8)
        luminance = image.max(2)
        changed = self._luminance(luminance)
        grey = luminance - image.min(2) < COLOURED
        gain = np.where(grey, changed / np.maximum(luminance, 1), 1.0)
        return np.rint(image * gain[..., None]).clip(0, 255).astype(np.uint8)

    def _luminance(self, values: NDArray[np.uint8]) -> NDArray[Any]:
        """The filtered luminance (H, W), 0 to 255."""
        if self.gamma != 1:
            table = np.rint(255 * (np.arange(256) / 255) ** self.gamma).astype(np.uint8)
            values = np.asarray(cv2.LUT(values, table), np.uint8)
        if self.clahe:
            values = np.asarray(cv2.createCLAHE(self.clahe, (CLAHE_TILES, CLAHE_TILES)).apply(values), np.uint8)
        if self.sharpen:
            blurred = cv2.GaussianBlur(values, (0, 0), SHARPEN_SIGMA)
            values = np.asarray(cv2.addWeighted(values, 1 + self.sharpen, blurred, -self.sharpen, 0), np.uint8)
        return values


def find_sector(image: Image) -> NDArray[np.bool_]:
    """Where the ultrasound sector is (H, W): the convex hull of the largest bright region.

    Where none is large enough the whole frame counts, so that a dark frame is not lost.
    """
    shorter = min(image.shape[:2])
    bright = (image.max(2) > DARK).astype(np.uint8)
    # opening cuts thin text, ticks and ECG lines off; closing joins the tissue around dark chambers
    opened = cv2.morphologyEx(bright, cv2.MORPH_OPEN, _disc(shorter // 60))
    closed = cv2.morphologyEx(opened, cv2.MORPH_CLOSE, _disc(shorter // 20))
    count, regions, statistics, _ = cv2.connectedComponentsWithStats(closed)
    if count < 2:
        return np.ones(image.shape[:2], bool)
    largest = 1 + int(statistics[1:, cv2.CC_STAT_AREA].argmax())
    outlines, _ = cv2.findContours((regions == largest).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    mask = np.zeros(image.shape[:2], np.uint8)
    cv2.fillConvexPoly(mask, cv2.convexHull(np.concatenate(outlines)), 1)
    if mask.mean() < SMALLEST_SECTOR:
        return np.ones(image.shape[:2], bool)
    return mask.astype(bool)


def _disc(radius: int) -> NDArray[np.uint8]:
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * max(radius, 1) + 1,) * 2), np.uint8)
