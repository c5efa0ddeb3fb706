"""utils/dataset.py: which files a split has, that boxes and views stay with their frames, and the order of an epoch."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.phantoms import Box, make_dataset, settle, write_frame, write_image, write_yaml
from utils import dataset as module
from utils import frames
from utils.augment import Augmenter
from utils.batches import EpochBatches, Key
from utils.config import Hyperparameters, load_dataset_config
from utils.dataset import Batch, EchoDataset, build_loader, collate, prepare
from utils.labels import Label, read_label
from utils.letterbox import fit, letterbox, padded
from utils.log import LOGGER, InputError
from utils.split_files import list_images

SHAPES = [(48, 64), (64, 48), (60, 60), (30, 97), (97, 30), (50, 64), (64, 64), (20, 64), (64, 20)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "CACHE_FOLDER", tmp_path / "cache")


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(LOGGER, "propagate", True)  # another test may have set logging up
    caplog.set_level(logging.INFO, LOGGER.name)
    return caplog


def dataset(folder: Path, size: int = 64, split: str = "train", **keywords: Any) -> EchoDataset:
    return EchoDataset(load_dataset_config(folder / "data.yaml"), split, size, **keywords)


def test_frames_of_a_clip_agree_on_the_view_that_most_of_them_carry(tmp_path: Path) -> None:
    views = {"p01-c1-f1": 2, "p01-c1-f2": 0, "p01-c1-f3": 0, "p01-c2-f1": 1, "p01-c2-f2": 2, "p02-c1-f1": None,
             "p02-c1-f2": 1, "p03-c1-f1": None}  # fmt: skip
    for name, view in views.items():
        write_frame(tmp_path, f"train/{name}.png", (48, 64), [(0, 1, 1, 20, 20)], view=view)
    write_yaml(tmp_path, val="images/train")
    found = dataset(tmp_path)
    assert found.agree_on_views() == 3
    assert dict(zip([path.stem for path in found.files], found.views().tolist(), strict=True)) == {
        **{f"p01-c1-f{n}": 0 for n in (1, 2, 3)}, "p01-c2-f1": 1, "p01-c2-f2": 1, "p02-c1-f1": 1, "p02-c1-f2": 1,
        "p03-c1-f1": -1,
    }  # fmt: skip
    found.config = dataclasses.replace(found.config, group=None, clip=None)
    with pytest.raises(InputError, match="clip_views: expected a group or clip pattern in it, got neither"):
        found.agree_on_views()


def test_frames_go_clip_by_clip_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    names = ["p2-c1-10", "p1-c1-9", "p2-c1-2", "p1-c1-11", "p1-c0-3"]
    for name in names:
        write_frame(tmp_path, f"train/{name}.png", (48, 64), [(0, 1, 1, 20, 20)], view=0)
    (tmp_path / "list.txt").write_text("".join(f"{tmp_path}/images/train/{name}.png\n" for name in names))
    data = write_yaml(tmp_path, train="list.txt", val="images/train")
    config = dataclasses.replace(load_dataset_config(data), group=r"^(p\d+)-")
    found = EchoDataset(config, "train", 64)
    assert [path.stem for path in found.files] == names
    found.arrange_by_clip()
    assert [path.stem for path in found.files] == ["p1-c0-3", "p1-c1-9", "p1-c1-11", "p2-c1-2", "p2-c1-10"]
    assert found.window(2).clip_of(4) == found.window(2).clip_of(3) != found.window(2).clip_of(2)


def own_box(index: int, shape: tuple[int, int]) -> Box:
    """A box whose class and place tell which frame it belongs to."""
    height, width = shape
    return index % 4, width // 4, height // 4, width // 4 + 6 + index % 5, height // 4 + 5 + index % 7


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    """A training split of frames of several shapes, each with a box and a view of its own."""
    for i, shape in enumerate(SHAPES):
        write_frame(tmp_path, f"train/p{i // 2}-{i}.png", shape, [own_box(i, shape)], i % 3)
    write_yaml(tmp_path)
    return tmp_path


# --- faults in the files ---------------------------------------------------------------------------------------------


def test_a_bad_image_is_left_out_and_told_and_the_rest_stay_together(
    tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    make_dataset(tmp_path)
    bad, *_ = sorted((tmp_path / "images/train").iterdir())
    bad.write_bytes(b"no image")
    label = tmp_path / "labels/train" / "p02-f0002.txt"
    label.write_text("9 0.5 0.5 0.1 0.1\n" + label.read_text())
    data = dataset(tmp_path)
    assert len(data) == len(data.files) == len(data.labels) == len(data.originals) == 5 and bad not in data.files
    assert [problem.path for problem in data.problems] == [bad, label]
    assert data.views().tolist() == [1, 2, 0, 1, 2]
    assert [int(label.boxes[0, 0]) for label in data.labels] == [1, 2, 3, 0, 1]
    told = [record.getMessage() for record in log.records]
    assert told[0] == f"{tmp_path}/data.yaml: train: 2 problems in its files:"
    assert [line.strip() for line in told[1:]] == [str(problem) for problem in data.problems]


def test_with_many_problems_some_are_shown_and_all_are_kept(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    make_dataset(tmp_path)
    (tmp_path / "labels/train/p01-f0000.txt").write_text("9 9\n" * 25)
    assert len(dataset(tmp_path).problems) == 25
    told = [record.getMessage() for record in log.records]
    assert len(told) == 22 and told[-1].strip() == "... and 5 more, all in the run folder's data_problems.txt"


def test_strict_makes_any_problem_an_error(tmp_path: Path) -> None:
    make_dataset(tmp_path)
    assert len(dataset(tmp_path, strict=True)) == 6
    (tmp_path / "labels/train/p01-f0000.txt").write_text("9 0.5 0.5 0.1 0.1\n5 5\n")
    with pytest.raises(InputError, match=r"--strict-data: .*p01-f0000\.txt:1: expected a class .* \(and 1 more\)$"):
        dataset(tmp_path, strict=True)


def test_a_split_whose_every_image_is_bad_is_told(tmp_path: Path) -> None:
    make_dataset(tmp_path, train=2)
    for path in (tmp_path / "images/train").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(InputError, match=r"train: expected images, but none of 2 can be decoded"):
        dataset(tmp_path)


# --- opened again ----------------------------------------------------------------------------------------------------


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the label files that are read, as they are."""
    names: list[str] = []

    def counting(path: Path, nc: int, nv: int) -> Label:
        names.append(path.name)
        return read_label(path, nc, nv)

    monkeypatch.setattr(module, "read_label", counting)
    return names


def contents(data: EchoDataset) -> list[Any]:
    labels = [(label.boxes.tolist(), label.view, label.problems) for label in data.labels]
    return [data.files, data.originals, data.problems, labels]


def test_labels_are_read_once_and_again_where_they_changed(tmp_path: Path, read: list[str]) -> None:
    make_dataset(tmp_path)
    labels = sorted((tmp_path / "labels/train").iterdir())
    labels[0].write_text("9 9\n0 0.5 0.5 0.1 0.1\n")
    settle(tmp_path)
    first = dataset(tmp_path)
    assert len(read) == 6 and len(first.problems) == 1
    read.clear()
    assert contents(dataset(tmp_path)) == contents(first) and read == []
    assert dataset(tmp_path, single_class=True).class_counts().tolist() == [6] and read == []
    assert contents(dataset(tmp_path)) == contents(first)  # the single class is not in what is kept
    with pytest.raises(InputError, match="--strict-data"):
        dataset(tmp_path, strict=True)
    labels[0].write_text("0 0.5 0.5 0.1 0.1\n")
    labels[2].unlink()
    write_frame(tmp_path, "train/p09-1.png", (48, 64), [own_box(1, (48, 64))], 1)
    settle(tmp_path / "labels", 30)
    for path in labels[1:2] + labels[3:]:
        os.utime(path, (0, 0))
    data = dataset(tmp_path)
    assert data.problems == [] and len(data) == 7 and data.views().tolist()[2] == -1 and data.views().tolist()[-1] == 1
    assert len(read) == 7  # all have another time now
    read.clear()
    assert dataset(tmp_path).views().tolist() == data.views().tolist()
    assert read == [labels[2].name]  # a file that may appear is looked for


def test_labels_of_another_number_of_classes_or_views_are_read_again(tmp_path: Path, read: list[str]) -> None:
    make_dataset(tmp_path)
    settle(tmp_path)
    dataset(tmp_path)
    for keys in ({"names": ["a", "b"]}, {"view_names": ["a", "b"]}, {"view_names": None}):
        read.clear()
        write_yaml(tmp_path, **keys)
        data = dataset(tmp_path)
        assert len(read) == 6 and len(data.problems) == (2 if "names" in keys else 6 if keys["view_names"] else 0)


def test_folds_over_one_folder_share_what_is_known(tmp_path: Path, read: list[str]) -> None:
    make_dataset(tmp_path)
    files = sorted((tmp_path / "images/train").iterdir())
    (tmp_path / "fold.txt").write_text("\n".join(str(path) for path in files[1:4]))
    settle(tmp_path)
    dataset(tmp_path)
    read.clear()
    write_yaml(tmp_path, train="fold.txt")
    assert dataset(tmp_path).files == files[1:4] and read == []


def test_a_cache_that_cannot_be_written_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_dataset(tmp_path)
    settle(tmp_path)
    expected = contents(dataset(tmp_path))
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(frames, "CACHE_FOLDER", tmp_path / "file" / "cache")
    for mode in frames.CACHE_MODES:
        assert contents(dataset(tmp_path, cache=mode)) == expected


# --- samples ---------------------------------------------------------------------------------------------------------


def assert_box_on_white(image: torch.Tensor, box: np.ndarray) -> None:
    """The one normalised box of a frame is the bounding box of its white pixels, up to a pixel."""
    height, width = image.shape[1:]
    rows, columns = np.nonzero(image[0].numpy() > 127)
    _, x, y, w, h = box.tolist()
    corners = np.array([(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height])
    assert np.abs(corners - [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).max() <= 1
    left, top, right, bottom = corners.round().astype(int)
    assert image[:, top + 1 : bottom - 1, left + 1 : right - 1].float().mean() > 250


@pytest.mark.parametrize("rect", [False, True])
@pytest.mark.parametrize(("size", "mode"), [(64, "ram"), (96, "disk"), (160, "none")])
def test_every_box_lands_on_its_pixels(shapes: Path, size: int, mode: str, rect: bool) -> None:
    data = dataset(shapes, size, cache=mode)
    if rect:
        data.arrange_by_shape(3, 32)
    for i in range(len(data)):
        image, boxes, view, geometry, index = data[i]
        number = int(data.files[i].stem.split("-")[1])
        assert image.dtype == torch.uint8 and boxes.dtype == np.float32
        assert (boxes[0, 0], view, index, geometry.original) == (number % 4, number % 3, i, SHAPES[number])
        assert_box_on_white(image, boxes[0])
        _, left, top, right, bottom = own_box(number, SHAPES[number])
        back = boxes[0, 1:3] * (image.shape[2], image.shape[1]) - (geometry.left, geometry.top)
        back /= (geometry.gain_x, geometry.gain_y)
        np.testing.assert_allclose(back, ((left + right) / 2, (top + bottom) / 2), atol=1e-3)  # in the file's pixels


def test_pixels_are_rgb(tmp_path: Path) -> None:
    write_image(tmp_path / "images/train/a.png", (200, 100, 50))
    write_yaml(tmp_path)
    image = dataset(tmp_path, 32)[0][0]
    assert image.shape == (3, 32, 32) and image[:, 16, 16].tolist() == [200, 100, 50]


def test_a_frame_without_label_has_no_box_and_no_view(tmp_path: Path) -> None:
    write_image(tmp_path / "images/train/a.png")
    write_yaml(tmp_path)
    data = dataset(tmp_path)
    _, boxes, view, _, _ = data[0]
    assert boxes.shape == (0, 5) and view == -1 and data.views().tolist() == [-1]


def test_polygons_and_views_of_a_dataset_without_view_names(tmp_path: Path) -> None:
    write_frame(tmp_path, "train/a.png", (48, 64), [(1, 8, 8, 24, 24)], view=2)
    write_yaml(tmp_path, view_names=None, group=None)
    data = dataset(tmp_path)
    assert data.views().tolist() == [-1] and data.problems == [] and data.groups is None


def test_class_counts_and_a_single_class(tmp_path: Path) -> None:
    make_dataset(tmp_path, train=6)
    assert dataset(tmp_path).class_counts().tolist() == [2, 2, 1, 1]
    one = dataset(tmp_path, single_class=True)
    assert one.class_counts().tolist() == [6] and one.names == ("object",)
    assert {int(one[i][1][0, 0]) for i in range(6)} == {0}


def test_groups_come_from_the_file_names(tmp_path: Path) -> None:
    make_dataset(tmp_path, train=4)
    write_image(tmp_path / "images/train/zz.png")
    assert dataset(tmp_path).groups == ["p01", "p01", "p02", "p02", "zz.png"]


# --- rectangular batches ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 2, 4])
@pytest.mark.parametrize("size", [64, 160])
def test_a_rectangular_batch_has_the_smallest_shape_that_holds_its_frames(shapes: Path, size: int, batch: int) -> None:
    data = dataset(shapes, size)
    data.arrange_by_shape(batch, 32)
    assert data.batch_shapes is not None and len(data.batch_shapes) == len(SHAPES)
    for start in range(0, len(SHAPES), batch):
        shared = set(data.batch_shapes[start : start + batch])
        fitted = [fit(original, size) for original in data.originals[start : start + batch]]
        assert shared == {padded((max(h for h, _ in fitted), max(w for _, w in fitted)), 32)}
    aspects = [height / width for height, width in data.originals]
    assert aspects == sorted(aspects)
    images = [found.images for found in build_loader(data, batch, 0)]
    assert [tuple(found.shape[2:]) for found in images] == [data.batch_shapes[i] for i in range(0, len(SHAPES), batch)]


def test_arranging_keeps_files_labels_and_frames_together(shapes: Path) -> None:
    plain, data = dataset(shapes), dataset(shapes)
    before = {path: i for i, path in enumerate(plain.files)}
    data.arrange_by_shape(4, 32)
    assert data.files != plain.files and sorted(data.files) == sorted(plain.files)
    for i, path in enumerate(data.files):
        old = before[path]
        assert data.originals[i] == plain.originals[old] and data.labels[i].view == plain.labels[old].view
        np.testing.assert_array_equal(data.labels[i].boxes, plain.labels[old].boxes)
        np.testing.assert_array_equal(data.frame(i).image, plain.frame(old).image)
    assert data.groups == [path.name.split("-")[0] for path in data.files]


# --- batches ---------------------------------------------------------------------------------------------------------


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


def augmenting(hyp: Hyperparameters) -> Augmenter:
    return Augmenter(
        dataclasses.replace(hyp, degrees=20.0, translate=0.2, hsv_v=0.3, fliplr=0.5, mosaic=0.5, mixup=0.5)
    )


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


def test_a_sample_depends_on_seed_epoch_and_index_alone(tmp_path: Path, hyp: Hyperparameters) -> None:
    make_dataset(tmp_path, train=6)
    first = dataset(tmp_path, augmenter=augmenting(hyp), seed=7)
    samples = {(epoch, i): first[Key(epoch, i)][0] for epoch in (0, 1) for i in range(6)}
    again = dataset(tmp_path, augmenter=augmenting(hyp), seed=7, cache="disk")
    for (epoch, i), image in reversed(samples.items()):
        assert torch.equal(again[Key(epoch, i)][0], image)
    assert len({image.numpy().tobytes() for image in samples.values()}) == 12
    other = dataset(tmp_path, augmenter=augmenting(hyp), seed=8)
    assert not torch.equal(other[Key(0, 0)][0], samples[0, 0])
    assert torch.equal(first[2][0], samples[0, 2])  # a bare number is of epoch 0


def test_augmentation_leaves_the_cached_frames_as_they_are(tmp_path: Path, hyp: Hyperparameters) -> None:
    make_dataset(tmp_path, train=6)
    data, plain = dataset(tmp_path, augmenter=augmenting(hyp)), dataset(tmp_path)
    for epoch in range(5):
        for i in range(6):
            data[Key(epoch, i)]
    for i in range(6):
        np.testing.assert_array_equal(data.frame(i).image, plain.frame(i).image)
        np.testing.assert_array_equal(data.frame(i).boxes, plain.frame(i).boxes)


def test_rectangular_batches_take_no_mosaic(shapes: Path, hyp: Hyperparameters) -> None:
    data = dataset(shapes, augmenter=Augmenter(dataclasses.replace(hyp, mosaic=1.0, mixup=1.0)))
    plain = dataset(shapes)
    assert not torch.equal(data[0][0], plain[0][0])
    for one in (data, plain):
        one.arrange_by_shape(4, 32)
    for i in range(len(data)):
        assert torch.equal(data[i][0], plain[i][0]) and data[i][2] == plain[i][2]


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


# --- generated data --------------------------------------------------------------------------------------------------


def test_a_generated_dataset_is_made_once(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    tiny = {"name": "phantom", "patients": 3, "clips": 1, "frames": 1, "height": 96, "width": 96}
    config = load_dataset_config(write_yaml(tmp_path, path=str(tmp_path / "made"), generate=tiny))
    prepare(config)
    assert [len(list_images(config, split)) for split in ("train", "val")] == [1, 1]
    prepare(config)
    assert [record.getMessage() for record in log.records] == [f"Phantom data made in {tmp_path}/made"]
    data = EchoDataset(config, "train", 96, strict=True)
    assert data.originals == [(96, 96)]


@pytest.mark.parametrize(
    ("generate", "words"),
    [
        ({"name": "ghost"}, "generate: expected the name phantom, got 'ghost'"),
        ({"name": "phantom", "patience": 3}, "generate: .*unexpected keyword argument 'patience'"),
        ({"name": "phantom", "patients": 1}, "phantom patients: expected a whole number of at least 3, got 1"),
    ],
)
def test_a_generator_that_cannot_be_is_told(tmp_path: Path, generate: dict[str, Any], words: str) -> None:
    config = load_dataset_config(write_yaml(tmp_path, path=str(tmp_path / "made"), generate=generate))
    with pytest.raises(InputError, match=words):
        prepare(config)
    assert not (tmp_path / "made").exists()


def test_a_dataset_without_a_generator_is_left_alone(tmp_path: Path) -> None:
    prepare(load_dataset_config(write_yaml(tmp_path)))
    assert [path.name for path in tmp_path.iterdir()] == ["data.yaml"]


def test_validation_and_detection_pad_a_rectangle_alike(tmp_path: Path) -> None:
    yaml = make_dataset(tmp_path, train=1, shape=(50, 495))
    dataset = EchoDataset(load_dataset_config(yaml), "train", 320, cache="none")
    dataset.arrange_by_shape(1, 32)
    assert dataset.batch_shapes == [letterbox(np.zeros((50, 495, 3), np.uint8), 320, 32)[0].shape[:2]] == [(32, 320)]
