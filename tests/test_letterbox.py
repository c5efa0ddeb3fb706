"""utils/preprocess.py against YOLOv5's letterbox, and that pixels and boxes move together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.phantoms import draw_frame
from utils.letterbox import PADDING, fit, letterbox, pad, padded, resize, whole_strides
from utils.log import LOGGER

GOLDEN = json.loads((Path(__file__).parent / "golden/geometry.json").read_text())["letterbox"]
SHAPES = [(48, 64), (64, 48), (50, 50), (33, 97), (97, 33), (240, 320), (500, 31)]


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: f"{case['shape_hw']}-{case['size']}-auto={case['auto']}")
def test_letterbox_is_as_in_yolov5(case: dict[str, Any]) -> None:
    height, width = case["shape_hw"]
    image = np.zeros((height, width, 3), np.uint8)
    result, geometry = letterbox(image, case["size"], stride=32, square=not case["auto"])
    assert list(result.shape) == [*case["out_hw"], 3] and geometry.original == (height, width)
    # YOLOv5 tells one ratio and half pixels of padding; its frame, as ours, lies on whole pixels, and ours are told
    sides = [round(side * ratio) for side, ratio in zip((width, height), case["ratio_wh"], strict=True)]
    assert (geometry.gain_x * width, geometry.gain_y * height) == pytest.approx(sides, rel=1e-12)
    assert (geometry.gain_x if width > height else geometry.gain_y) == pytest.approx(case["ratio_wh"][0], rel=1e-12)
    assert [geometry.left, geometry.top] == [int(pad) for pad in case["pad_wh"]]


@pytest.mark.parametrize("square", [True, False])
@pytest.mark.parametrize("size", [64, 160])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_box_lands_on_its_pixels_and_comes_back(shape: tuple[int, int], size: int, square: bool) -> None:
    height, width = shape
    left, top, right, bottom = width // 4, height // 3, width - width // 5, height - height // 6
    image, geometry = letterbox(draw_frame(shape, [(0, left, top, right, bottom)]), size, 32, square)
    gain = np.array([geometry.gain_x, geometry.gain_y] * 2)
    shift = np.array([geometry.left, geometry.top] * 2)
    there = np.array([left, top, right, bottom]) * gain + shift
    rows, columns = np.nonzero(image[..., 0] > 127)
    seen = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    assert np.abs(seen - there).max() <= 1
    np.testing.assert_allclose((there - shift) / gain, [left, top, right, bottom], rtol=1e-12)
    corner = np.array([width, height]) * gain[:2]  # the frame's far corner is that of the resized one, exactly
    np.testing.assert_allclose(corner, fit(shape, size)[::-1], rtol=1e-12)


@pytest.mark.parametrize("square", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_not_frame_is_grey_and_the_frame_is_in_the_middle(shape: tuple[int, int], square: bool) -> None:
    image, geometry = letterbox(np.zeros((*shape, 3), np.uint8), 96, 32, square)
    height, width = fit(shape, 96)
    assert image.dtype == np.uint8 and set(np.unique(image)) <= {0, 114} and PADDING == 114
    assert (image == 0).all(-1).sum() == height * width
    assert not image[geometry.top : geometry.top + height, geometry.left : geometry.left + width].any()
    assert 0 <= image.shape[0] - height - 2 * geometry.top <= 1 and 0 <= image.shape[1] - width - 2 * geometry.left <= 1
    assert image.shape[:2] == ((96, 96) if square else padded((height, width), 32))


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [
        ((240, 320), 320, (240, 320)),
        ((240, 320), 160, (120, 160)),
        ((320, 240), 640, (640, 480)),
        ((100, 301), 64, (21, 64)),
        ((1, 1000), 32, (1, 32)),
        ((1000, 1), 32, (32, 1)),
        ((1, 1), 64, (64, 64)),
    ],
)
def test_fit_makes_the_longer_side_the_size_and_no_side_under_1(
    shape: tuple[int, int], size: int, expected: tuple[int, int]
) -> None:
    assert fit(shape, size) == expected


@pytest.mark.parametrize(
    ("shape", "expected"), [((64, 96), (64, 96)), ((65, 95), (96, 96)), ((1, 32), (32, 32)), ((33, 64), (64, 64))]
)
def test_padded_is_the_smallest_shape_of_whole_strides(shape: tuple[int, int], expected: tuple[int, int]) -> None:
    assert padded(shape, 32) == expected


@pytest.mark.parametrize(
    ("size", "stride", "expected"),
    [(640, 32, 640), (641, 32, 672), (33, 32, 64), (1, 32, 64), (64, 32, 64), (65, 64, 128)],
)
def test_an_image_size_becomes_whole_strides_and_says_so(
    size: int, stride: int, expected: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(LOGGER, "propagate", True)
    assert whole_strides(size, stride) == expected
    told = [f"--imgsz {size}: taken as {expected}, a multiple of the network's stride"] if size != expected else []
    assert [record.getMessage() for record in caplog.records] == told


@pytest.mark.parametrize(("shape", "expected"), [((1, 1000), (32, 64)), ((1000, 1), (64, 32))])
def test_an_extreme_aspect_keeps_a_row_of_pixels(shape: tuple[int, int], expected: tuple[int, int]) -> None:
    image, geometry = letterbox(np.full((*shape, 3), 200, np.uint8), 64, 32)
    assert image.shape[:2] == expected
    assert (image == 200).all(-1).sum() == 64 and geometry.original == shape
    assert {geometry.gain_x, geometry.gain_y} == {0.064, 1.0}


def test_a_frame_that_fits_is_not_touched() -> None:
    image = np.random.default_rng(0).integers(0, 256, (30, 64, 3), np.uint8)
    assert resize(image, 64) is image
    canvas, geometry = letterbox(image, 64, 32)
    np.testing.assert_array_equal(canvas[1:31], image)
    assert geometry == ((30, 64), 1.0, 1.0, 0, 1)
    canvas[:] = 0
    assert image.any()  # padding copies: the cached frame stays as it is


def test_frames_shrink_by_area_and_grow_between_pixels() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::4] = 200
    assert (resize(stripes, 16) == 50).all()  # the mean of all pixels; between the nearest ones it would be 0
    edge = np.zeros((2, 2, 3), np.uint8)
    edge[:, 1] = 100
    row = resize(edge, 8)[4, :, 0].astype(int)
    assert row[0] == 0 and row[-1] == 100 and (np.diff(row) >= 0).all() and len(set(row.tolist())) > 3


def test_pad_puts_an_odd_pixel_at_the_end() -> None:
    canvas, geometry = pad(np.zeros((3, 4, 3), np.uint8), (6, 7), (30, 20))
    assert (geometry.left, geometry.top) == (1, 1)
    assert geometry.gain_x == 0.2 and geometry.gain_y == 0.1
    assert (canvas[0] == PADDING).all() and (canvas[4:] == PADDING).all() and not canvas[1:4, 1:5].any()
