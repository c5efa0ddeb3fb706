"""Anchors: recall by hand, and a search that finds what a dataset needs."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from utils.anchors import box_sizes, find_anchors, recall

Floats = NDArray[np.float64]
STOCK = np.array(
    [[10, 13], [16, 30], [33, 23], [30, 61], [62, 45], [59, 119], [116, 90], [156, 198], [373, 326]], float
)


def bimodal(seed: int = 0, count: int = 150) -> Floats:
    """Small wide boxes and large tall ones."""
    rng = np.random.default_rng(seed)
    groups = [centre * rng.lognormal(0, 0.15, (count, 2)) for centre in ([40.0, 6.0], [60.0, 280.0])]
    return np.concatenate(groups)


@pytest.mark.parametrize(
    ("size", "anchor", "threshold", "fits"),
    [
        ([10, 10], [10, 10], 1.01, True),
        ([39, 10], [10, 10], 4, True),
        ([41, 10], [10, 10], 4, False),  # one side is enough to miss
        ([10, 41], [10, 10], 4, False),
        ([2.6, 10], [10, 10], 4, True),
        ([2.4, 10], [10, 10], 4, False),
        ([40, 10], [10, 10], 4, False),  # exactly the threshold is not under it
        ([40, 2.5], [20, 5], 2.1, True),
    ],
)
def test_an_anchor_fits_when_both_sides_are_within_the_factor(
    size: list[float], anchor: list[float], threshold: float, fits: bool
) -> None:
    assert recall(np.array([size], float), np.array([anchor], float), threshold) == fits


def test_recall_is_the_share_of_boxes_with_a_fitting_anchor() -> None:
    sizes = np.array([[10, 10], [12, 9], [100, 100], [500, 10]], float)
    assert recall(sizes, np.array([[10, 10]], float), 4) == 0.5
    assert recall(sizes, np.array([[10, 10], [90, 120]], float), 4) == 0.75
    assert recall(np.zeros((0, 2)), STOCK, 4) == 1.0


def test_box_sizes_are_pixels_at_the_trained_size() -> None:
    boxes = [
        np.array([[0, 0.5, 0.5, 0.5, 0.25], [1, 0.5, 0.5, 0.1, 0.2]], np.float32),
        np.zeros((0, 5), np.float32),
        np.array([[0, 0.5, 0.5, 0.5, 0.5]], np.float32),
    ]
    sizes = box_sizes(boxes, [(300, 600), (10, 10), (200, 100)], 320)  # height, width
    np.testing.assert_allclose(sizes, [[160, 40], [32, 32], [80, 160]], rtol=1e-6)


def test_anchors_that_are_found_fit_better_than_the_stock_ones() -> None:
    sizes = bimodal()
    found = find_anchors(sizes, 9, 4.0, np.random.default_rng(0))
    assert found.shape == (9, 2)
    assert recall(sizes, STOCK, 2.0) < 0.6  # a harsher factor than training's, so that there is room
    assert recall(sizes, found, 2.0) > 0.98
    assert recall(bimodal(seed=1), found, 2.0) > 0.95  # boxes it has not seen


def test_anchors_come_small_to_large() -> None:
    areas = find_anchors(bimodal(), 6, 4.0, np.random.default_rng(0)).prod(1)
    assert (np.diff(areas) >= 0).all() and areas[0] < 500 < 10_000 < areas[-1]


def test_the_same_generator_finds_the_same_anchors() -> None:
    one, same, other = (find_anchors(bimodal(), 6, 4.0, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert np.array_equal(one, same) and not np.array_equal(one, other)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_few_boxes_are_enough(count: int) -> None:
    sizes = np.array([[20, 30], [40, 40], [100, 60], [50, 10], [8, 8]], float)[:count]
    found = find_anchors(sizes, 9, 4.0, np.random.default_rng(0))
    assert found.shape == (9, 2) and np.isfinite(found).all() and (found >= 2).all()
    assert recall(sizes, found, 2.0) == 1.0


def test_boxes_under_two_pixels_are_left_out() -> None:
    sizes, tiny = bimodal(), np.full((400, 2), 0.5)
    one, other = (find_anchors(s, 6, 4.0, np.random.default_rng(0)) for s in (sizes, np.concatenate((sizes, tiny))))
    assert np.array_equal(one, other)


@pytest.mark.parametrize("sizes", [np.zeros((0, 2)), np.ones((5, 2)), np.array([[50.0, 1.0]])])
def test_no_box_of_two_pixels_is_an_error(sizes: Floats) -> None:
    with pytest.raises(ValueError, match="no box of at least 2 pixels"):
        find_anchors(sizes, 9, 4.0, np.random.default_rng(0))


def test_boxes_all_alike_give_different_anchors_around_their_size() -> None:
    found = find_anchors(np.full((50, 2), 30.0), 9, 4.0, np.random.default_rng(0))
    assert len(np.unique(found, axis=0)) == 9
    assert recall(np.full((50, 2), 30.0), found, 1.5) == 1.0
