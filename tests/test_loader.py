"""utils/dataset.py: frames as batches, in the order of an epoch, the same with workers and without."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.phantoms import Box, dataset, make_dataset, write_frame, write_yaml
from tests.test_dataset import augmenting
from utils.batches import EpochBatches
from utils.config import Hyperparameters
from utils.dataset import Batch, EchoDataset, build_loader, collate

pytestmark = pytest.mark.usefixtures("own_cache")


def test_collate_numbers_the_boxes_by_their_frame(tmp_path: Path) -> None:
    two: list[Box] = [(2, 4, 4, 20, 20), (3, 30, 30, 60, 40)]
    for name, boxes, view in (("a", two, 1), ("b", [], None), ("c", two[:1], 0)):
        write_frame(tmp_path, f"train/{name}.png", (48, 64), boxes, view)
    write_yaml(tmp_path)
    data = dataset(tmp_path)
    batch = collate([data[i] for i in (2, 1, 0)])
    assert batch.boxes[:, :2].tolist() == [[0, 2], [2, 2], [2, 3]] and batch.boxes.dtype == torch.float32
    np.testing.assert_array_equal(batch.boxes[1:, 1:], data[0][1])
    assert batch.views.tolist() == [0, -1, 1] and batch.views.dtype == torch.int64
    assert batch.images.shape == (3, 3, 64, 64) and batch.images.dtype == torch.uint8
    assert batch.indices == (2, 1, 0) and batch.geometries[0] == data[2][3]
    assert collate([data[1]]).boxes.shape == (0, 6)


def test_images_lie_in_memory_as_frames_do(shapes: Path) -> None:
    data = dataset(shapes)
    samples = [data[i] for i in range(4)]
    images = collate(samples).images
    assert torch.equal(images, torch.stack([image for image, *_ in samples]))
    assert images.is_contiguous(memory_format=torch.channels_last)
    images[0, 0] = 7  # a copy: the frames stay as they are
    assert torch.equal(data[0][0], samples[0][0])


@pytest.mark.parametrize("rect", [False, True])
def test_workers_keep_the_memorys_order(
    shapes: Path, hyp: Hyperparameters, monkeypatch: pytest.MonkeyPatch, rect: bool
) -> None:
    monkeypatch.setattr("utils.dataset.cores", lambda: 2)
    data = dataset(shapes, augmenter=augmenting(hyp))
    if rect:
        data.arrange_by_shape(4, 32)
    for workers in (0, 2):
        for batch in build_loader(data, 4, workers):
            assert batch.images.is_contiguous(memory_format=torch.channels_last)


def assert_equal(one: Batch, other: Batch) -> None:
    assert torch.equal(one.images, other.images) and torch.equal(one.boxes, other.boxes)
    assert torch.equal(one.views, other.views) and one.indices == other.indices and one.geometries == other.geometries


def epochs(data: EchoDataset, workers: int, count: int = 2) -> Iterator[list[Batch]]:
    loader = build_loader(data, 4, workers, seed=7, shuffle=True)
    assert loader.num_workers == workers
    for epoch in range(count):
        assert isinstance(loader.batch_sampler, EpochBatches)
        loader.batch_sampler.keys.epoch = epoch
        yield list(loader)


def test_batches_are_the_same_with_and_without_workers(
    tmp_path: Path, hyp: Hyperparameters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("utils.dataset.cores", lambda: 2)
    make_dataset(tmp_path, train=10)
    data = dataset(tmp_path, augmenter=augmenting(hyp), seed=7)
    alone, helped = list(epochs(data, 0)), list(epochs(data, 2))
    for one, other in zip([*alone[0], *alone[1]], [*helped[0], *helped[1]], strict=True):
        assert_equal(one, other)
    assert sorted(i for batch in alone[1] for i in batch.indices) == list(range(10))


@pytest.mark.parametrize(
    ("mode", "augments", "workers"), [("ram", False, 0), ("disk", False, 0), ("none", False, 2), ("ram", True, 2)]
)
def test_workers_are_only_used_where_they_have_work(
    tmp_path: Path, hyp: Hyperparameters, monkeypatch: pytest.MonkeyPatch, mode: str, augments: bool, workers: int
) -> None:
    monkeypatch.setattr("utils.dataset.cores", lambda: 2)
    make_dataset(tmp_path)
    data = dataset(tmp_path, cache=mode, augmenter=augmenting(hyp) if augments else None)
    assert data.in_memory == (mode != "none")
    assert build_loader(data, 2, workers=8).num_workers == workers  # and no more than there are cores


def test_a_loader_without_shuffling_keeps_the_order_and_the_last_small_batch(tmp_path: Path) -> None:
    make_dataset(tmp_path, train=5)
    batches = list(build_loader(dataset(tmp_path), 2, 0))
    assert [batch.indices for batch in batches] == [(0, 1), (2, 3), (4,)]
