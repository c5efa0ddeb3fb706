"""Whether anchors fit a dataset's boxes, and better ones where they do not (YOLOv5's autoanchor)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2

Floats = NDArray[np.float64]
GOOD_RECALL = 0.98
SMALLEST = 2.0  # pixels: smaller boxes are left out of the search
GENERATIONS = 1000
MUTATION_SHARE, MUTATION_SPREAD = 0.9, 0.1


def box_sizes(boxes: list[NDArray[np.float32]], shapes: list[tuple[int, int]], image_size: int) -> Floats:
    """Widths and heights (n, 2) in pixels of all boxes at the size they are trained at.

    Args:
        boxes: (m, 5) a frame: class, normalised centre form.
        shapes: (height, width) of each frame's file.
        image_size: pixels of the longer side.
    """
    sizes = [
        box[:, 3:5] * np.array([width, height]) * image_size / max(height, width)
        for box, (height, width) in zip(boxes, shapes, strict=True)
    ]
    return np.concatenate([np.zeros((0, 2)), *sizes]).astype(np.float64)


def recall(sizes: Floats, anchors: Floats, threshold: float) -> float:
    """Share of boxes (n, 2) for which some anchor (k, 2) differs by a factor under ``threshold`` in both sides."""
    return float((_fit(sizes, anchors) > 1 / threshold).mean()) if len(sizes) else 1.0


def _fit(sizes: Floats, anchors: Floats) -> Floats:
    """(n,) how well the best anchor fits each box: 1 exactly, 1/2 if a side is off by a factor of 2."""
    ratio = sizes[:, None] / anchors[None]
    return np.minimum(ratio, 1 / ratio).min(2).max(1)


def find_anchors(sizes: Floats, count: int, threshold: float, rng: np.random.Generator) -> Floats:
    """``count`` anchors (count, 2) in pixels, small to large: k-means, then random mutations that fit better.

    Where there are few different sizes they are spread out a little.
    """
    sizes = sizes[(sizes >= SMALLEST).all(1)]
    if not len(sizes):
        raise ValueError("no box of at least 2 pixels")
    while len(np.unique(sizes, axis=0)) < 2 * count:
        sizes = np.concatenate((sizes, sizes * rng.uniform(0.8, 1.25, sizes.shape)))
    spread = np.maximum(sizes.std(0), 1e-6)
    anchors = kmeans2(sizes / spread, count, minit="++", rng=rng)[0] * spread
    best = _quality(sizes, anchors, threshold)
    for _ in range(GENERATIONS):
        change = rng.normal(1, MUTATION_SPREAD, anchors.shape)
        mutated = np.maximum(np.where(rng.random(anchors.shape) < MUTATION_SHARE, anchors * change, anchors), SMALLEST)
        quality = _quality(sizes, mutated, threshold)
        if quality > best:
            best, anchors = quality, mutated
    return anchors[anchors.prod(1).argsort()]


def _quality(sizes: Floats, anchors: Floats, threshold: float) -> float:
    fit = _fit(sizes, anchors)
    return float((fit * (fit > 1 / threshold)).mean())
