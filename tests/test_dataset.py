"""utils/dataset.py: which files a split has, and that boxes and views stay with their frames."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.phantoms import SHAPES, dataset, make_dataset, own_box, write_frame, write_image, write_yaml
from utils.augment import Augmenter
from utils.batches import Key
from utils.config import Hyperparameters, load_dataset_config
from utils.dataset import EchoDataset, build_loader, prepare
from utils.letterbox import fit, letterbox, padded
from utils.log import LOGGER, InputError
from utils.split_files import list_images

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(LOGGER, "propagate", True)  # another test may have set logging up
    caplog.set_level(logging.INFO, LOGGER.name)
    return caplog


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


# --- augmented samples -----------------------------------------------------------------------------------------------


def augmenting(hyp: Hyperparameters) -> Augmenter:
    return Augmenter(
        dataclasses.replace(hyp, degrees=20.0, translate=0.2, hsv_v=0.3, fliplr=0.5, mosaic=0.5, mixup=0.5)
    )


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
