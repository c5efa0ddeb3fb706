"""utils/augment.py: boxes stay on their pixels, views on their frames, and the same generator gives the same sample."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.phantoms import Box, draw_frame
from utils.augment import Augmenter, Sample, change_colour, changes_meaning, flip, mixup, mosaic, warp
from utils.config import Hyperparameters
from utils.labels import UNLABELLED
from utils.letterbox import PADDING

TARGET = (128, 128)
MIDDLE: Box = (1, 50, 44, 74, 70)
EVERYTHING: dict[str, Any] = {
    "hsv_h": 0.1, "hsv_s": 0.5, "hsv_v": 0.4, "degrees": 20.0, "translate": 0.2, "scale": 0.4, "shear": 5.0,
    "perspective": 0.0005, "flipud": 0.5, "fliplr": 0.5, "mosaic": 0.5, "mixup": 0.5,
}  # fmt: skip


def sample(shape: tuple[int, int] = TARGET, boxes: Sequence[Box] = (MIDDLE,), view: int = 2) -> Sample:
    return Sample(draw_frame(shape, boxes), np.array(boxes, np.float32).reshape(-1, 5), view)


def asking(hyp: Hyperparameters, **changes: Any) -> Hyperparameters:
    return dataclasses.replace(hyp, **changes)


def noise(shape: tuple[int, int] = TARGET) -> Sample:
    image = np.random.default_rng(5).integers(0, 256, (*shape, 3), np.uint8)
    return sample(shape)._replace(image=image)


def augmented(hyp: Hyperparameters, given: Sample, seed: int = 0, target: tuple[int, int] = TARGET) -> Sample:
    return Augmenter(hyp)(given, target, np.random.default_rng(seed), lambda index: given, 1)


def white(image: NDArray[np.uint8]) -> list[int]:
    """The bounding box of white pixels."""
    rows, columns = np.nonzero(image[..., 0] > 127)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def shifted(x: float, y: float) -> NDArray[np.float64]:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], np.float64)


def assert_same(one: Sample, other: Sample) -> None:
    np.testing.assert_array_equal(one.image, other.image)
    np.testing.assert_array_equal(one.boxes, other.boxes)
    assert one.view == other.view


# --- nothing asked ---------------------------------------------------------------------------------------------------


def test_with_nothing_asked_a_sample_is_only_padded(hyp: Hyperparameters) -> None:
    given = noise((100, 128))
    result = augmented(hyp, given)
    np.testing.assert_array_equal(result.image[14:114], given.image)
    assert (result.image[:14] == PADDING).all() and (result.image[114:] == PADDING).all()
    np.testing.assert_array_equal(result.boxes, given.boxes + np.array([0, 0, 14, 0, 14], np.float32))
    assert result.view == 2
    whole = noise()
    assert_same(augmented(hyp, whole), whole)


@pytest.mark.parametrize("key", ["mosaic", "degrees", "flipud", "fliplr", "hsv_v"])
def test_the_given_sample_is_never_written_to(hyp: Hyperparameters, key: str) -> None:
    given, kept = noise(), noise()
    given.image.flags.writeable = given.boxes.flags.writeable = False
    result = augmented(asking(hyp, **{key: 1.0}), given)
    assert_same(given, kept)
    assert not np.array_equal(result.image, given.image)


# --- geometry --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("x", "y"), [(7, -3), (-20, 11), (0, 30)])
def test_a_shift_moves_pixels_and_boxes_by_as_much(x: int, y: int) -> None:
    given = noise()
    result = warp(given, shifted(x, y), TARGET)
    np.testing.assert_array_equal(result.boxes, given.boxes + np.array([0, x, y, x, y], np.float32))
    inside = np.s_[max(y, 0) : 128 + min(y, 0), max(x, 0) : 128 + min(x, 0)]
    source = np.s_[max(-y, 0) : 128 + min(-y, 0), max(-x, 0) : 128 + min(-x, 0)]
    np.testing.assert_array_equal(result.image[inside], given.image[source])
    assert (result.image.astype(int).sum() - result.image[inside].astype(int).sum()) == PADDING * 3 * (
        128 * 128 - (128 - abs(x)) * (128 - abs(y))
    )
    assert result.view == given.view and result.boxes.dtype == np.float32


@pytest.mark.parametrize("shape", [(128, 128), (90, 128), (128, 60)])
@pytest.mark.parametrize("seed", range(8))
def test_a_warped_box_is_the_bounding_box_of_its_warped_pixels(
    hyp: Hyperparameters, seed: int, shape: tuple[int, int]
) -> None:
    hyp = asking(hyp, degrees=40, scale=0.4, shear=8, translate=0.1, perspective=0.003)
    height, width = shape
    given = sample(shape, [(1, width // 2 - 9, height // 2 - 14, width // 2 + 12, height // 2 + 8)])
    result = augmented(hyp, given, seed)
    assert result.image.shape == (*TARGET, 3) and len(result.boxes) == 1 and result.boxes[0, 0] == 1
    assert not np.array_equal(result.image, augmented(hyp, given, seed + 1).image)
    assert np.abs(result.boxes[0, 1:] - white(result.image)).max() <= 2


@pytest.mark.parametrize("seed", range(8))
def test_a_shifted_box_is_cut_at_the_frames_edge(hyp: Hyperparameters, seed: int) -> None:
    hyp = asking(hyp, translate=0.5, scale=0.3)
    given = sample(boxes=[(0, 20, 20, 110, 110)])
    result = augmented(hyp, given, seed)
    assert np.abs(result.boxes[0, 1:] - white(result.image)).max() <= 2
    assert result.boxes[0, 1:].min() >= 0 and result.boxes[0, 1:].max() <= 128


@pytest.mark.parametrize(
    ("box", "x", "kept"),
    [
        (MIDDLE, 1000, None),  # outside
        (MIDDLE, 66, [116, 44, 128, 70]),  # half outside: 12 of 24 columns are left
        (MIDDLE, 75, [125, 44, 128, 70]),  # 3 of 24 columns are more than a tenth
        (MIDDLE, 76, None),  # 2 columns: too narrow
        ((0, 0, 40, 100, 80), 122, None),  # 6 of 100 columns: under a tenth
        ((0, 0, 40, 100, 80), 112, [112, 40, 128, 80]),
        ((0, 10, 10, 12, 40), 1, None),  # 2 pixels wide
        ((0, 10, 10, 13, 40), 1, [11, 10, 14, 40]),
    ],
)
def test_a_box_is_dropped_when_too_little_of_it_is_left(box: Box, x: int, kept: list[int] | None) -> None:
    boxes = warp(sample(boxes=[box]), shifted(x, 0), TARGET).boxes
    assert boxes.tolist() == ([] if kept is None else [[box[0], *kept]])


def test_a_sliver_is_dropped() -> None:
    given = sample((1000, 1000), [(0, 10, 10, 802, 18), (1, 10, 10, 810, 18), (2, 10, 10, 18, 810)])
    assert warp(given, shifted(1, 0), (1000, 1000)).boxes[:, 0].tolist() == [0]  # 99 to 1; the others are 100 to 1


def test_a_frame_without_boxes_can_be_warped() -> None:
    assert warp(sample(boxes=[]), shifted(5, 5), TARGET).boxes.shape == (0, 5)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_flip_mirrors_pixels_and_boxes_and_twice_is_identity(axis: int) -> None:
    given = sample((90, 128), [(1, 10, 20, 40, 35)])
    given.image.flags.writeable = given.boxes.flags.writeable = False
    once = flip(given, axis)
    expected = [10, 55, 40, 70] if axis == 0 else [88, 20, 118, 35]
    assert once.boxes[0].tolist() == [1, *expected] and white(once.image) == expected
    assert once.image.flags.c_contiguous
    assert_same(flip(once, axis), given)


@pytest.mark.parametrize(("key", "axis"), [("flipud", 0), ("fliplr", 1)])
def test_flips_happen_as_often_as_asked(hyp: Hyperparameters, key: str, axis: int) -> None:
    given = noise()
    assert_same(augmented(asking(hyp, **{key: 1.0}), given), flip(given, axis))
    some = asking(hyp, **{key: 0.25})
    count = sum(not np.array_equal(augmented(some, given, seed).image, given.image) for seed in range(200))
    assert 30 <= count <= 70  # 50 on average; outside by chance once in a thousand


# --- colour ----------------------------------------------------------------------------------------------------------


def colours() -> Sample:
    """Saturated colours of every hue at several brightnesses."""
    hue, value = np.meshgrid(np.arange(0, 180, 3), np.arange(120, 200, 10))
    hsv = np.dstack([hue, np.full_like(hue, 220), value]).astype(np.uint8)
    return Sample(np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.uint8), np.zeros((0, 5), np.float32), 0)


@pytest.mark.parametrize("gain", [-0.4, -0.1, 0.15])
def test_gain_scales_brightness_and_leaves_hue_and_saturation(gain: float) -> None:
    given = colours()
    result = change_colour(given, 0, 0, gain)
    (h0, s0, v0), (h1, s1, v1) = (
        np.moveaxis(cv2.cvtColor(s.image, cv2.COLOR_RGB2HSV).astype(int), -1, 0) for s in (given, result)
    )
    turned = np.abs(h1 - h0)
    assert np.minimum(turned, 180 - turned).max() <= 1
    assert np.abs(s1 - s0).max() <= 3
    assert np.abs(v1 - v0 * (1 + gain)).max() <= 1
    assert result.boxes is given.boxes and result.view == 0


@pytest.mark.parametrize(
    ("hue", "saturation", "value", "expected"),
    [
        (0.5, 0, 0, (0, 255, 255)),  # the hue of green, a third of the circle, times 1.5
        (1, 0, 0, (0, 0, 255)),
        (-1, 0, 0, (255, 0, 0)),
        (0, -1, 0, (255, 255, 255)),
        (0, 0, -1, (0, 0, 0)),
        (0, 0, 1, (0, 255, 0)),  # never past 255
    ],
)
def test_green_under_each_change(hue: float, saturation: float, value: float, expected: tuple[int, int, int]) -> None:
    green = sample()._replace(image=np.full((4, 4, 3), (0, 255, 0), np.uint8))
    assert change_colour(green, hue, saturation, value).image[0, 0].tolist() == list(expected)


def test_no_change_of_colour_is_the_same_sample() -> None:
    given = noise()
    assert change_colour(given, 0, 0, 0) is given


def test_value_alone_is_drawn_up_and_down_within_its_share(hyp: Hyperparameters) -> None:
    grey = sample()._replace(image=np.full((8, 8, 3), 100, np.uint8), boxes=np.zeros((0, 5), np.float32))
    hyp = asking(hyp, hsv_v=0.15)
    levels = {int(augmented(hyp, grey, seed, (8, 8)).image[0, 0, 0]) for seed in range(100)}
    assert 84 <= min(levels) <= 88 and 112 <= max(levels) <= 115


# --- mosaic and mixup ------------------------------------------------------------------------------------------------


def patch(level: int, view: int, shape: tuple[int, int] = (40, 60), box: Box = (0, 10, 10, 30, 30)) -> Sample:
    image = np.full((*shape, 3), level, np.uint8)
    return Sample(image, np.array([(level, *box[1:])], np.float32), view)


def test_a_mosaic_places_four_frames_and_their_boxes_about_a_point() -> None:
    four = [patch(level, 1) for level in (10, 20, 30, 40)]
    result = mosaic(four, (200, 240), (100, 90))
    corners = [(40, 50), (100, 50), (40, 90), (100, 90)]  # x, y of each frame's top left corner
    for (x, y), frame, box in zip(corners, four, result.boxes, strict=True):
        assert (result.image[y : y + 40, x : x + 60] == frame.image).all()
        assert box.tolist() == [frame.boxes[0, 0], x + 10, y + 10, x + 30, y + 30]
    assert (result.image == PADDING).all(-1).sum() == 200 * 240 - 4 * 40 * 60


def test_a_mosaic_cuts_off_what_sticks_out() -> None:
    wide = patch(10, 1, (100, 100), (0, 0, 0, 80, 80))
    result = mosaic([wide] * 4, (200, 200), (60, 110))
    assert not (result.image == PADDING).all(-1)[10:, :160].any()
    assert result.boxes[:, 1:].tolist() == [[0, 10, 40, 90], [60, 10, 140, 90], [0, 110, 40, 190], [60, 110, 140, 190]]
    assert len(mosaic([patch(10, 1, (100, 100), (0, 0, 0, 39, 80))] * 4, (200, 200), (60, 110)).boxes) == 2


@pytest.mark.parametrize(
    ("views", "expected"),
    [((1, 1, 1, 1), 1), ((1, 1, 1, 0), UNLABELLED), ((2, 2, 2, -1), UNLABELLED), ((-1, -1, -1, -1), UNLABELLED)],
)
def test_a_mosaic_has_a_view_only_where_all_agree(views: tuple[int, ...], expected: int) -> None:
    assert mosaic([patch(10, view) for view in views], (200, 200), (100, 100)).view == expected


def test_mixup_lays_frames_over_each_other_and_keeps_both_boxes() -> None:
    first, second = patch(200, 1), patch(100, 1)
    result = mixup(first, second, 0.25)
    assert (result.image == 125).all() and result.boxes[:, 0].tolist() == [200, 100]
    assert result.view == 1 and mixup(first, patch(100, 2), 0.25).view == UNLABELLED


@pytest.mark.parametrize("seed", range(6))
def test_boxes_of_a_whole_mosaic_lie_on_white_pixels(hyp: Hyperparameters, seed: int) -> None:
    shapes = [(128, 100), (90, 128), (128, 128), (60, 128)]
    frames = [sample(shape, [(i, 20, 15, 70, 50)], view=i) for i, shape in enumerate(shapes)]
    asked: list[int] = []

    def fetch(index: int) -> Sample:
        asked.append(index)
        return frames[index]

    hyp = asking(hyp, mosaic=1.0, translate=0.1, scale=0.2)
    result = Augmenter(hyp)(frames[0], TARGET, np.random.default_rng(seed), fetch, len(frames))
    assert len(asked) == 3 and result.image.shape == (*TARGET, 3)
    found = np.zeros(TARGET, bool)
    for _, *box in result.boxes.tolist():
        left, top, right, bottom = np.round(box).astype(int)
        found[max(top - 2, 0) : bottom + 2, max(left - 2, 0) : right + 2] = True
        if right - left > 4 and bottom - top > 4:
            assert result.image[top + 2 : bottom - 2, left + 2 : right - 2].min() > 200
    outside = (result.image[..., 0] > 200) & ~found
    assert outside.sum() < 150  # but for slivers at the edge, whose boxes are dropped
    assert len(result.boxes)


def test_mosaic_needs_other_frames(hyp: Hyperparameters) -> None:
    given = noise()
    result = Augmenter(asking(hyp, mosaic=1.0))(given, TARGET, np.random.default_rng(0), None, 1)
    assert_same(result, given)


# --- all together ----------------------------------------------------------------------------------------------------


def test_the_same_generator_gives_the_same_sample_and_another_another(hyp: Hyperparameters) -> None:
    hyp = asking(hyp, **EVERYTHING)
    first = [augmented(hyp, noise(), seed) for seed in range(6)]
    again = [augmented(hyp, noise(), seed) for seed in range(6)]
    for one, other in zip(first, again, strict=True):
        assert_same(one, other)
        assert one.image.shape == (*TARGET, 3) and one.image.dtype == np.uint8 and one.boxes.dtype == np.float32
        assert (one.boxes[:, 1:] >= 0).all() and (one.boxes[:, 1:] <= 128).all()
    assert len({one.image.tobytes() for one in first}) == 6


@pytest.mark.parametrize("key", ["flipud", "fliplr", "hsv_h", "mosaic", "mixup"])
def test_what_changes_the_meaning_of_a_frame(hyp: Hyperparameters, key: str) -> None:
    assert changes_meaning(asking(hyp, **{key: 0.5}))


def test_what_keeps_the_meaning_of_a_frame(hyp: Hyperparameters) -> None:
    assert not changes_meaning(asking(hyp, hsv_v=0.2, degrees=5.0, translate=0.1, scale=0.1))
