"""Which part of an echo frame is ultrasound: what the network sees of it, what may be shown, and its scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from utils.letterbox import Image
from utils.preprocess import find_sector

Rectangle = tuple[int, int, int, int]  # x1 y1 x2 y2 in pixels, the last ones outside

FLAT = 1  # RegionSpatialFormat of a two-dimensional picture (DICOM PS3.3 C.8.5.5.1.1); others are traces over time
TISSUE, COLOUR = 1, 2  # RegionDataType of tissue and of colour flow (C.8.5.5.1.2)
SMALLEST = 16  # pixels of a side: a smaller region holds no picture


@dataclass(frozen=True)
class Region:
    """An item of SequenceOfUltrasoundRegions (DICOM PS3.3 C.8.5.5).

    Attributes:
        rectangle: its place in the frame.
        space: RegionSpatialFormat, 1 for a two-dimensional picture.
        data: RegionDataType, 1 for tissue, 2 for colour flow.
        cm_per_pixel: of x and y; None where their units are not cm, or it does not say.
    """

    rectangle: Rectangle
    space: int
    data: int
    cm_per_pixel: tuple[float, float] | None = None


@dataclass(frozen=True, eq=False)
class Area:
    """The ultrasound in the frames of a clip.

    Attributes:
        seen: what the network sees.
        shown: (H, W) of the frame: pixels that are no burnt-in text and may leave the hospital.
        cm_per_pixel: of x and y within ``seen``; None where unknown.
    """

    seen: Rectangle
    shown: NDArray[np.bool_]
    cm_per_pixel: tuple[float, float] | None = None

    def crop(self, image: Image) -> Image:
        """The part of a frame that the network sees, not a copy."""
        x1, y1, x2, y2 = self.seen
        return image[y1:y2, x1:x2]

    def masked(self, image: Image) -> Image:
        """A copy of a frame, black outside what may be shown."""
        return np.asarray(cv2.bitwise_and(image, image, mask=self.shown.view(np.uint8)), np.uint8)

    def moved(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Boxes (n, 6) of what the network saw, in pixels of the whole frame."""
        return boxes + np.array([*self.seen[:2], *self.seen[:2], 0, 0], np.float32)


def of_regions(regions: Sequence[Region], height: int, width: int) -> Area | None:
    """The area that a file's own regions name: the network sees the largest colour flow, else the largest picture.

    All regions may be shown, traces too. None where there is no two-dimensional region inside the frame.
    """
    inside = [(region, _clipped(region.rectangle, height, width)) for region in regions]
    flat = [
        (region.data == COLOUR, (x2 - x1) * (y2 - y1), (x1, y1, x2, y2), region.cm_per_pixel)
        for region, (x1, y1, x2, y2) in inside
        if region.space == FLAT and region.data in (TISSUE, COLOUR) and min(x2 - x1, y2 - y1) >= SMALLEST
    ]
    if not flat:
        return None
    *_, seen, scale = max(flat, key=lambda found: found[:2])
    shown = np.zeros((height, width), bool)
    for _, (x1, y1, x2, y2) in inside:
        shown[y1:y2, x1:x2] = True
    return Area(seen, shown, scale)


def of_sector(image: Image) -> Area | None:
    """The area around the sector that is found in a frame; None where none is."""
    sector = find_sector(image)
    if sector.all():
        return None
    rows, columns = np.flatnonzero(sector.any(1)), np.flatnonzero(sector.any(0))
    return Area((int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1), sector)


def unknown(image: Image) -> Area:
    """Of a frame in which no sector is found: the network sees all of it, and none of it may be shown."""
    height, width = image.shape[:2]
    return Area((0, 0, width, height), np.zeros((height, width), bool))


def _clipped(rectangle: Rectangle, height: int, width: int) -> Rectangle:
    x1, y1, x2, y2 = rectangle
    x1, y1 = max(x1, 0), max(y1, 0)
    return x1, y1, max(min(x2, width), x1), max(min(y2, height), y1)
