"""utils.echo_augment: what each change does to a frame, and what it leaves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.test_augment import augmented, sample
from utils.config import Hyperparameters
from utils.echo_augment import blur, change_echo, fade, slope, speckle

KEYS = ("speckle", "depth_gain", "depth_blur", "doppler_fade")


@pytest.fixture
def frame() -> NDArray[np.uint8]:
    """Grey tissue in the left half, a velocity in the right."""
    image = np.full((64, 96, 3), 90, np.uint8)
    image[:, 48:] = (200, 40, 10)
    return image


def test_nothing_is_changed_or_drawn_unless_asked_for(frame: NDArray[np.uint8], hyp: Hyperparameters) -> None:
    rng = np.random.default_rng(0)
    assert change_echo(frame, hyp, rng) is frame
    assert rng.bit_generator.state == np.random.default_rng(0).bit_generator.state


@pytest.mark.parametrize("key", KEYS)
def test_each_key_changes_frames_by_the_generator_and_leaves_boxes(key: str, hyp: Hyperparameters) -> None:
    values: dict[str, Any] = {key: 0.9}
    asked, given = replace(hyp, **values), sample()
    given.image[:, :64] = (200, 40, 10)
    assert asked.augments
    one, again, other = (augmented(asked, given, seed) for seed in (1, 1, 2))
    assert np.array_equal(one.image, again.image) and not np.array_equal(one.image, other.image)
    assert np.array_equal(one.boxes, given.boxes) and one.view == given.view and one.image.dtype == np.uint8


def test_fading_pales_velocity_and_leaves_tissue(frame: NDArray[np.uint8]) -> None:
    half = fade(frame, 0.5)
    assert np.array_equal(half[:, :48], frame[:, :48])
    assert half[0, 60].tolist() == [200, 120, 105]
    assert fade(frame, 1.0)[0, 60].tolist() == [200, 200, 200] and np.array_equal(fade(frame, 0.0), frame)


def test_the_slope_is_a_gain_that_grows_with_depth_and_none_in_the_middle() -> None:
    grey = np.full((65, 8, 3), 100, np.uint8)
    changed = slope(grey, 0.3)[:, 0, 0]
    assert (changed[0], changed[32], changed[64]) == (70, 100, 130) and (np.diff(changed.astype(int)) >= 0).all()
    assert np.array_equal(slope(grey, -0.3), slope(grey, 0.3)[::-1])
    assert slope(np.full((9, 9, 3), 250, np.uint8), 1.0).max() == 255


def test_the_beam_is_sharp_at_its_focus_and_wide_away_from_it() -> None:
    stripes = np.zeros((101, 64, 3), np.uint8)
    stripes[:, ::8] = 240
    seen = blur(stripes, 3.0, focus=0.0)
    contrast = [int(row.max()) - int(row.min()) for row in seen[..., 0]]
    assert contrast[0] == 240 and contrast[100] < 60 and all(np.diff(contrast) <= 1)
    assert blur(stripes, 0.05, 0.5) is stripes


def test_speckle_is_multiplicative_with_the_strength_asked_for() -> None:
    grey = np.full((256, 256, 3), 100, np.uint8)
    grey[:128] = 0
    seen = speckle(grey, 0.2, np.random.default_rng(0))
    assert not seen[:128].any() and np.array_equal(seen[..., 0], seen[..., 1])
    lower = seen[128:, :, 0].astype(float)
    assert lower.mean() == pytest.approx(100, abs=1) and lower.std() == pytest.approx(20, abs=1.5)
    assert np.array_equal(lower[0::2, 0::2], lower[1::2, 1::2])  # grains of two pixels
