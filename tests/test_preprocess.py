"""utils.preprocess: filters change grey as asked, leave Doppler colour exactly as it is, and are off unless asked."""

from __future__ import annotations

import colorsys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from utils.config import ROOT, load_hyperparameters
from utils.images import read_image
from utils.phantom import PhantomConfig, ensure
from utils.preprocess import COLOURED, Preprocessor, find_sector

EACH = {
    "sector_mask": Preprocessor(sector_mask=True),
    "gamma": Preprocessor(gamma=0.7),
    "clahe": Preprocessor(clahe=2.0),
    "sharpen": Preprocessor(sharpen=1.0),
    "all": Preprocessor(True, 0.7, 2.0, 1.0),
}


@pytest.fixture(scope="module")
def frame(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """A phantom frame with Doppler colour in it."""
    root = tmp_path_factory.mktemp("phantom") / "data"
    ensure(root, PhantomConfig(patients=3, frames=2))
    frames = [read_image(path) for path in sorted((root / "images" / "train").iterdir())]
    return max(frames, key=lambda image: int((chroma(image) >= COLOURED).sum()))


def chroma(image: np.ndarray) -> np.ndarray:
    return image.max(2).astype(int) - image.min(2)


def hues(image: np.ndarray, where: np.ndarray) -> np.ndarray:
    return np.array([colorsys.rgb_to_hsv(*(pixel / 255))[0] for pixel in image[where].astype(float)])


def test_nothing_is_done_unless_asked(frame: np.ndarray) -> None:
    assert Preprocessor()(frame) is frame
    hyp = load_hyperparameters(ROOT / "hyp" / "joint_training_rules.yaml")
    assert Preprocessor.of(hyp) == Preprocessor()
    assert Preprocessor.of(replace(hyp, gamma=0.5, clahe=3.0)) == Preprocessor(gamma=0.5, clahe=3.0)


@pytest.mark.parametrize("name", [name for name in EACH if name not in ("sector_mask", "all")])
def test_coloured_pixels_keep_their_exact_values_and_grey_ones_change(frame: np.ndarray, name: str) -> None:
    before = frame.copy()
    after = EACH[name](frame)
    coloured = chroma(frame) >= COLOURED
    assert coloured.sum() > 500
    np.testing.assert_array_equal(after[coloured], frame[coloured])
    assert (after[~coloured] != frame[~coloured]).mean() > 0.1
    np.testing.assert_array_equal(frame, before)


@pytest.mark.parametrize("name", EACH)
def test_coloured_pixels_inside_the_sector_are_kept_by_every_filter(frame: np.ndarray, name: str) -> None:
    inside = find_sector(frame) & (chroma(frame) >= COLOURED)
    assert inside.sum() > 500
    np.testing.assert_array_equal(EACH[name](frame)[inside], frame[inside])


@pytest.mark.parametrize("name", EACH)
def test_no_filter_shifts_hue(name: str) -> None:
    rng = np.random.default_rng(0)
    tinted = rng.integers(60, 130, (64, 64, 1)) + rng.integers(0, COLOURED - 5, (64, 64, 3))
    image = tinted.astype(np.uint8)
    after = EACH[name](image)
    clear = (chroma(image) > 15) & (chroma(after) > 15)
    assert clear.sum() > 500
    shift = np.abs(hues(after, clear) - hues(image, clear))
    shift = np.minimum(shift, 1 - shift)
    assert shift.max() < 0.03  # of the circle: rounding to 8 bits at low chroma


def test_gamma_under_one_brightens_as_its_formula_says() -> None:
    image = np.full((8, 8, 3), 64, np.uint8)
    assert EACH["gamma"](image)[0, 0, 0] == pytest.approx(255 * (64 / 255) ** 0.7, abs=1)


def test_clahe_widens_contrast_and_sharpening_steepens_edges() -> None:
    ramp = np.repeat(np.linspace(100, 120, 128).astype(np.uint8)[None, :, None], 3, 2).repeat(128, 0)
    assert EACH["clahe"](ramp).std() > ramp.std()
    edge = np.full((32, 32, 3), 100, np.uint8)
    edge[:, 16:] = 140
    assert int(EACH["sharpen"](edge).max()) > 140 and int(EACH["sharpen"](edge).min()) < 100


def test_the_sector_mask_drops_text_and_colour_bar_and_keeps_the_fan(frame: np.ndarray) -> None:
    marked = frame.copy()
    cv2.putText(marked, "ID 123", (2, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255), 1)
    sector = find_sector(marked)
    height, width = sector.shape
    assert not sector[:16, :60].any()
    assert not sector[:, -8:].any()
    assert sector[height // 2, width // 2]
    masked = EACH["sector_mask"](marked)
    assert not masked[:16, :60].any()
    np.testing.assert_array_equal(masked[sector], marked[sector])


def test_a_dark_frame_is_kept_whole() -> None:
    assert find_sector(np.zeros((50, 60, 3), np.uint8)).all()
    small = np.zeros((200, 200, 3), np.uint8)
    small[90:110, 90:110] = 200
    assert find_sector(small).all()


def test_every_filter_keeps_shape_and_type(frame: np.ndarray, tmp_path: Path) -> None:
    for filters in EACH.values():
        after = filters(frame)
        assert (after.shape, after.dtype) == (frame.shape, np.uint8)
