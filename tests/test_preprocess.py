"""utils.preprocess: filters change grey as asked, leave Doppler colour exactly as it is, and are off unless asked."""

from __future__ import annotations

import argparse
import colorsys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tests.phantoms import encode, make_dataset
from tests.test_checkpoint import content, network
from utils import checkpoint, frames
from utils.augment import Augmenter
from utils.config import ROOT, load_dataset_config, load_hyperparameters
from utils.dataset import EchoDataset
from utils.frames import CACHE_MODES, FrameStore
from utils.images import read_image
from utils.labels import label_path, pixel_corners, read_label
from utils.letterbox import Image, resize
from utils.phantom import PhantomConfig, ensure
from utils.predict import load
from utils.preprocess import COLOURED, TYPICAL, Preprocessor, find_sector
from utils.validation import open_split

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


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Preprocessor]:
    """The filters that are applied, one entry an application, while they do what they do."""
    applied: list[Preprocessor] = []
    original = Preprocessor.__call__

    def counting(self: Preprocessor, image: Image) -> Image:
        applied.append(self)
        return original(self, image)

    monkeypatch.setattr(Preprocessor, "__call__", counting)
    return applied


def fan(shape: tuple[int, int] = (400, 560)) -> tuple[np.ndarray, np.ndarray]:
    """A sector full of speckle, its probe in the middle of the top, and where it is."""
    inside = np.zeros(shape, np.uint8)
    cv2.ellipse(inside, (shape[1] // 2, 20), (340, 340), 90, -40, 40, 1, -1)
    speckle = np.random.default_rng(0).integers(60, 200, shape, np.uint8)
    return np.repeat((speckle * inside)[..., None], 3, 2), inside.astype(bool)


def furnish(image: np.ndarray) -> np.ndarray:
    """Put text, depth ticks, a trigger's ECG and two bars into a frame; returns where they are."""
    before = image.copy()
    height, width = image.shape[:2]
    cv2.putText(image, "ID 4711  M3", (8, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 255, 255), 2)
    times = np.arange(30, width - 30)
    beats = height - 14 - 18 * (np.sin(times / 14) > 0.97)
    cv2.polylines(image, [np.stack((times, beats), 1).astype(np.int32)], False, (0, 255, 0), 1)
    for y in range(60, height - 60, 40):
        cv2.line(image, (30, y), (36, y), (200, 200, 200), 1)
    ramp = np.linspace(255, 40, 120)[:, None]
    image[40:160, -34:-24] = ramp[..., None]
    image[40:160, -22:-8] = ramp[..., None] * [1, 0.5, 0]
    return (image != before).any(2)


def test_nothing_is_done_unless_asked(frame: np.ndarray) -> None:
    assert Preprocessor()(frame) is frame
    assert not any(getattr(Preprocessor(), name) == value for name, value in TYPICAL.items())
    for path in (ROOT / "hyp").glob("*.yaml"):
        assert Preprocessor.of(load_hyperparameters(path)) == Preprocessor(), path
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


def test_labelled_boxes_of_phantom_frames_lie_in_the_sector(tmp_path: Path) -> None:
    ensure(tmp_path / "data", PhantomConfig(patients=3, frames=2))
    outside, boxes = 0.0, 0
    for path in (tmp_path / "data" / "images").glob("*/*"):
        sector = find_sector(read_image(path))
        for left, top, right, bottom in pixel_corners(read_label(label_path(path), 4, 3).boxes, sector.shape).round():
            outside += (~sector[int(top) : int(bottom), int(left) : int(right)]).mean()
            boxes += 1
    assert boxes > 5 and outside / boxes < 0.005


def test_a_whole_fan_is_kept_and_all_that_is_beside_it_is_dropped() -> None:
    image, inside = fan()
    beside = furnish(image) & ~inside
    masked = Preprocessor(sector_mask=True)(image)
    assert beside.sum() > 3000 and not masked[beside].any()
    kept = find_sector(image)
    assert kept[inside].mean() > 0.999  # but for the very tips
    np.testing.assert_array_equal(masked[kept], image[kept])


@pytest.mark.parametrize("dark", ["band", "left flank", "right flank", "chambers"])
def test_a_fan_that_shadows_and_dark_chambers_divide_is_kept_whole(dark: str) -> None:
    image, inside = fan()
    y, x = np.mgrid[: inside.shape[0], : inside.shape[1]]
    depth, angle = np.hypot(y - 20, x - 280), np.degrees(np.arctan2(x - 280, y - 20))
    if dark == "band":
        image[(depth > 90) & (depth < 170)] = 0
    elif dark == "chambers":
        image[(depth > 90) & (depth < 300) & (np.abs(angle) > 8) & (np.abs(angle) < 30)] = 0
    else:
        image[(angle < -22) if dark == "left flank" else (angle > 22)] = 0
    beside = furnish(image) & ~inside
    sector = find_sector(image)
    assert sector[inside].mean() > 0.98
    assert not sector[beside].any()
    assert sector.sum() < 1.05 * inside.sum()


def test_colour_at_the_edge_of_the_sector_keeps_its_value_or_is_black() -> None:
    image, inside = fan()
    rim = inside & ~cv2.erode(inside.astype(np.uint8), np.ones((9, 9))).astype(bool)
    image[rim] = (200, 60, 10)
    for filters in EACH.values():
        after = filters(image)[rim]
        assert ((after == (200, 60, 10)).all(1) | ~after.any(1)).all()
        assert after.any(1).mean() > 0.98


def test_low_chroma_next_to_the_bound_is_filtered_and_the_bound_itself_is_not() -> None:
    image = np.full((32, 32, 3), 100, np.uint8)
    image[:16] = (100, 80, 100 - COLOURED + 1)
    image[16:] = (100, 80, 100 - COLOURED)
    after = EACH["gamma"](image)
    assert (after[:16, :, 0] > 100).all()
    np.testing.assert_array_equal(after[16:], image[16:])


def test_a_dark_frame_is_kept_whole() -> None:
    assert find_sector(np.zeros((50, 60, 3), np.uint8)).all()
    small = np.zeros((200, 200, 3), np.uint8)
    small[90:110, 90:110] = 200
    assert find_sector(small).all()


def test_every_filter_keeps_shape_and_type(frame: np.ndarray, tmp_path: Path) -> None:
    for filters in EACH.values():
        after = filters(frame)
        assert (after.shape, after.dtype) == (frame.shape, np.uint8)


NOT_IDEMPOTENT = Preprocessor(gamma=0.5, clahe=2.0)


@pytest.fixture
def noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Files of grey noise; what is cached of them goes to a folder of its own."""
    monkeypatch.setattr(frames, "CACHE_FOLDER", tmp_path / "cache")
    rng, paths = np.random.default_rng(0), [tmp_path / f"{i}.png" for i in range(3)]
    for path in paths:
        path.write_bytes(encode(".png", rng.integers(0, 256, (48, 64, 1), np.uint8).repeat(3, 2)))
    return paths


@pytest.mark.parametrize("mode", CACHE_MODES)
def test_a_kept_frame_is_filtered_once_however_often_it_is_read(
    noise: list[Path], mode: str, calls: list[Preprocessor]
) -> None:
    expected = [resize(NOT_IDEMPOTENT(read_image(path)), 32) for path in noise]
    twice = resize(NOT_IDEMPOTENT(NOT_IDEMPOTENT(read_image(noise[0]))), 32)
    assert not np.array_equal(expected[0], twice)
    calls.clear()
    for _ in range(2):  # the second finds the first's file on disk
        store = FrameStore(noise, 32, mode, preprocessor=NOT_IDEMPOTENT)
        for index in (0, 1, 2, 0, 1, 2):
            np.testing.assert_array_equal(store[index], expected[index])
    # without a cache each reading decodes anew, as does the start, which measures the frames
    assert calls == [NOT_IDEMPOTENT] * {"disk": 3, "ram": 6, "none": 2 * (3 + 6)}[mode]


def test_frames_on_disk_are_found_again_only_under_the_same_filters(noise: list[Path], tmp_path: Path) -> None:
    stores = [FrameStore(noise, 32, "disk", preprocessor=filters) for filters in (Preprocessor(), *EACH.values())]
    assert len(list((tmp_path / "cache").iterdir())) == len(stores)
    np.testing.assert_array_equal(stores[0][0], resize(read_image(noise[0]), 32))
    assert not np.array_equal(stores[0][0], stores[2][0])


@pytest.mark.parametrize("split", ["train", "val"])
def test_training_and_validation_filter_each_frame_once(tmp_path: Path, split: str, calls: list[Preprocessor]) -> None:
    config = load_dataset_config(make_dataset(tmp_path, train=4, val=4))
    hyp = load_hyperparameters(ROOT / "hyp" / "joint_training_rules.yaml")
    augmenter = Augmenter(replace(hyp, mosaic=1.0)) if split == "train" else None
    dataset = EchoDataset(config, split, 64, preprocessor=NOT_IDEMPOTENT, augmenter=augmenter)
    for _ in range(2):
        for index in range(len(dataset)):
            dataset[index]
    assert calls == [NOT_IDEMPOTENT] * 4


def test_a_checkpoints_filters_are_applied_once_and_alike_by_val_and_detect(
    tmp_path: Path, frame: np.ndarray, calls: list[Preprocessor]
) -> None:
    stored = content(network())
    filters = Preprocessor(sector_mask=True, gamma=0.5, clahe=2.0, sharpen=1.0)
    checkpoint.save(tmp_path / "a.pt", {**stored, "hyp": {**stored["hyp"], **vars(filters)}})
    path = make_dataset(tmp_path, train=1, val=1)
    next((tmp_path / "images" / "val").iterdir()).write_bytes(encode(".png", frame[..., ::-1]))
    options = argparse.Namespace(single_cls=False, strict_data=False, batch_size=1)
    dataset = open_split(checkpoint.read(tmp_path / "a.pt"), load_dataset_config(path), "val", 64, 32, options)
    assert calls == [filters]

    predictor = load(tmp_path / "a.pt", "cpu", amp=False)
    seen: list[torch.Tensor] = []
    assert isinstance(predictor.network, torch.nn.Module)
    predictor.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    predictor(frame)
    assert calls == [filters] * 2
    np.testing.assert_array_equal((seen[0][0] * 255).round().byte().numpy(), dataset[0][0].numpy())
    plain = resize(frame, 64)
    assert not np.array_equal(dataset[0][0].permute(1, 2, 0).numpy()[: plain.shape[0]], plain)
