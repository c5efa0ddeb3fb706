"""Echo filters that a hyp file may ask for, applied to each frame once, right after decoding.

All work on luminance and leave Doppler colour alone: a pixel of high chroma keeps its exact value, since its colour is
a velocity; any other pixel is scaled in all three channels alike, so that no step shifts hue. Outside the sector there
is no velocity: the mask drops the colour bar with the rest. The settings travel in the checkpoint's hyperparameters,
and validation and detection apply them as training did.

python -m utils.preprocess --source my_frames --out before_and_after
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
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
SIDE = 0.12  # of the frame's width: a region that lies wholly in this margin is a colour bar, or text
PROBE = 0.03  # of the frame's height: the outline's uppermost part, whose middle is the probe's
SMALLEST_REGION = 0.001  # of the frame: a smaller region is not taken for tissue
SMALLEST_SECTOR = 0.1  # of the frame: a smaller hull is not taken for the sector
TYPICAL: Mapping[str, Any] = MappingProxyType(  # of each filter a sensible value, to look at or to compare
    {"sector_mask": True, "gamma": 0.7, "clahe": 2.0, "sharpen": 1.0}
)


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
    """Where the ultrasound sector is (H, W): the convex hull of all regions of tissue and of their mirror images.

    The largest region alone would lose the near field and the flanks of a sector that dark chambers or shadows divide.
    A sector is as wide to the left of the probe, its topmost point, as to the right, so one flank tells of the other.
    Where nothing large enough is found the whole frame counts, so that a dark frame is not lost.
    """
    height, width = image.shape[:2]
    bright = (image.max(2) > DARK).astype(np.uint8)
    # thin text, ticks and ECG lines vanish
    opened = cv2.morphologyEx(bright, cv2.MORPH_OPEN, _disc(min(height, width) // 100))
    _, regions, statistics, _ = cv2.connectedComponentsWithStats(opened)
    left, _, widths, _, areas = statistics.T
    beside = (left + widths <= SIDE * width) | (left >= (1 - SIDE) * width)
    tissue = (areas >= SMALLEST_REGION * height * width) & ~beside
    tissue[0] = False  # the background
    points = cv2.findNonZero(tissue[regions].astype(np.uint8))
    if points is None:
        return np.ones((height, width), bool)
    outline = cv2.convexHull(points)[:, 0]
    top = outline[outline[:, 1] <= outline[:, 1].min() + PROBE * height, 0]
    mirrored = np.stack((top.min() + top.max() - outline[:, 0], outline[:, 1]), 1)
    mask = np.zeros((height, width), np.uint8)
    cv2.fillConvexPoly(mask, cv2.convexHull(np.concatenate((outline, mirrored))), 1)
    if mask.mean() < SMALLEST_SECTOR:
        return np.ones((height, width), bool)
    return mask.astype(bool)


def _disc(radius: int) -> NDArray[np.uint8]:
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * max(radius, 1) + 1,) * 2), np.uint8)


if __name__ == "__main__":
    import sys

    from utils.preprocess_sheet import start  # not above: it imports this module

    sys.exit(start())
