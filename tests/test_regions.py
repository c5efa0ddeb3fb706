"""Regions of a DICOM file and the sector that is found: what the network sees, what is shown, and where boxes go."""

from __future__ import annotations

import numpy as np
import pytest

from utils.phantom import PhantomConfig, plan, render
from utils.regions import COLOUR, FLAT, TISSUE, Area, Region, of_regions, of_sector, unknown

TRACE = 3  # RegionSpatialFormat of a spectral trace
WIDE, LEFT, RIGHT, BELOW = (0, 0, 90, 50), (0, 0, 40, 50), (45, 0, 85, 50), (0, 60, 90, 75)


def phantom(text: bool = False) -> np.ndarray:
    config = PhantomConfig()
    image, _ = render(config, plan(config)[0])
    if text:
        image = image.copy()
        image[2:10, 2:40:3] = 255
    return image


def test_the_network_sees_the_colour_flow_and_traces_may_be_shown() -> None:
    area = of_regions(
        [Region(LEFT, FLAT, TISSUE, (0.1, 0.1)), Region(RIGHT, FLAT, COLOUR, (0.2, 0.3)), Region(BELOW, TRACE, 3)],
        80,
        100,
    )
    assert area is not None and area.seen == RIGHT and area.cm_per_pixel == (0.2, 0.3)
    assert area.shown[:50, :40].all() and area.shown[60:75, :90].all() and area.shown[:50, 45:85].all()
    assert not area.shown[50:60].any() and not area.shown[:, 90:].any() and not area.shown[:50, 40:45].any()


def test_of_pictures_without_colour_the_largest_is_seen() -> None:
    area = of_regions([Region(LEFT, FLAT, TISSUE), Region(WIDE, FLAT, TISSUE)], 80, 100)
    assert area is not None and area.seen == WIDE and area.cm_per_pixel is None


@pytest.mark.parametrize(
    ("rectangle", "seen"),
    [
        ((-5, -5, 50, 50), (0, 0, 50, 50)),
        ((50, 40, 1000, 1000), (50, 40, 100, 80)),
        ((90, 10, 50, 60), None),
        ((200, 200, 300, 300), None),
        ((0, 0, 15, 60), None),
    ],
)
def test_a_region_ends_at_the_frame_and_one_outside_or_of_no_size_is_none(
    rectangle: tuple[int, int, int, int], seen: tuple[int, int, int, int] | None
) -> None:
    area = of_regions([Region(rectangle, FLAT, COLOUR)], 80, 100)
    assert (None if area is None else area.seen) == seen


def test_traces_alone_are_no_area() -> None:
    assert of_regions([Region(BELOW, TRACE, 3)], 80, 100) is None and of_regions([], 80, 100) is None


def test_the_sector_that_is_found_bounds_what_is_seen_and_text_beside_it_is_not_shown() -> None:
    image = phantom(text=True)
    area = of_sector(image)
    assert area is not None
    x1, y1, x2, y2 = area.seen
    assert area.shown[y1:y2, x1:x2].any(1).all() and area.shown[y1:y2, x1:x2].any(0).all()
    assert area.shown.sum() == area.shown[y1:y2, x1:x2].sum()
    assert not area.masked(image)[2:10, 2:40].any() and np.array_equal(
        area.masked(image)[area.shown], image[area.shown]
    )


def test_of_a_frame_in_which_no_sector_is_found_all_is_seen_and_nothing_shown() -> None:
    dark = np.zeros((60, 80, 3), np.uint8)
    dark[:8, :30] = 200  # text
    assert of_sector(dark) is None
    area = unknown(dark)
    assert np.array_equal(area.crop(dark), dark) and not area.masked(dark).any()


def test_boxes_of_what_the_network_saw_are_moved_to_the_frame() -> None:
    area = Area((45, 7, 85, 50), np.ones((80, 100), bool))
    boxes = np.array([[1, 2, 11, 12, 0.5, 3]], np.float32)
    assert area.moved(boxes).tolist() == [[46, 9, 56, 19, 0.5, 3]] and boxes[0, 0] == 1
    assert area.moved(boxes).dtype == np.float32 and area.moved(boxes[:0]).shape == (0, 6)
    image = np.zeros((80, 100, 3), np.uint8)
    image[9:19, 46:56] = 1
    assert area.crop(image)[2:12, 1:11].all()
