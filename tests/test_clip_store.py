"""What is kept of a file until the report: the same frames read back, pictures in order, nothing of a file cut off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from utils.clip_store import LONGEST_SIDE, ClipStore, encoded, stored_frames, stored_pictures
from utils.ledger import Entry, Ledger
from utils.predict import Prediction
from utils.regions import Area
from utils.sources import Frame

FILE = Path("/study/a.avi")


def opened(tmp_path: Path, *files: Path) -> Ledger:
    ledger = Ledger(tmp_path / "run", {})
    ledger.add(files or [FILE])
    return ledger


def kept(ledger: Ledger, entry: Entry, levels: list[int], whole: bool = True, pictures: bool = True) -> None:
    """Frames of one grey level each, with a box and a view each."""
    store = ClipStore(ledger, pictures)
    for number, level in enumerate(levels):
        image = np.full((60, 80, 3), level, np.uint8)
        area = Area((10, 5, 70, 55), np.ones((60, 80), bool), (0.1, 0.2))
        frame = Frame(image, entry.path, 2 * number, 99, 25.0, number / 25, area)
        boxes = np.array([[1, 2, 3, 4.5, 0.123456789, number]], np.float32)
        store.take(frame, Prediction(boxes, np.array([0.3, 0.7], np.float32)), image)
    store.end(entry, whole)


def decoded(jpeg: bytes) -> Any:
    return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)


def test_frames_are_read_back_as_they_were(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    (entry,) = ledger.entries
    kept(ledger, entry, [10, 200])
    stored = stored_frames(opened(tmp_path), entry)  # by a later start
    assert stored is not None
    assert (stored.height, stored.width, stored.total, stored.fps) == (60, 80, 99, 25.0)
    assert stored.seen == (10, 5, 70, 55) and stored.cm_per_pixel == (0.1, 0.2)
    assert [frame.number for frame in stored.frames] == [0, 2] and stored.frames[1].time == 1 / 25
    first = stored.frames[0]
    assert np.array_equal(first.boxes, np.array([[1, 2, 3, 4.5, 0.123456789, 0]], np.float32))
    assert first.view is not None and np.array_equal(first.view, np.array([0.3, 0.7], np.float32))


def test_a_frame_without_boxes_view_or_area_is_kept_too(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    (entry,) = ledger.entries
    store = ClipStore(ledger, pictures=False)
    image = np.zeros((6, 8, 3), np.uint8)
    store.take(Frame(image, FILE), Prediction(np.zeros((0, 6), np.float32), None), image)
    store.end(entry, whole=True)
    stored = stored_frames(ledger, entry)
    assert stored is not None and stored.seen is None and stored.frames[0].time is None
    assert stored.frames[0].boxes.shape == (0, 6) and stored.frames[0].view is None
    assert not list(ledger.clips.glob("*.jpegs"))


def test_of_a_file_that_was_cut_off_nothing_is_kept(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    (entry,) = ledger.entries
    kept(ledger, entry, [10, 20], whole=False)
    assert stored_frames(ledger, entry) is None
    assert not list(ledger.clips.iterdir()) and not list((ledger.place / "drafts").iterdir())


@pytest.mark.parametrize(("stride", "levels"), [(1, [0, 50, 100, 150, 200]), (2, [0, 100, 200]), (4, [0, 200])])
def test_pictures_of_several_files_come_in_order_and_thinned(tmp_path: Path, stride: int, levels: list[int]) -> None:
    files = [Path("/study/c-1.png"), Path("/study/c-2.png")]
    ledger = opened(tmp_path, *files)
    for entry, part in zip(ledger.entries, ([0, 50, 100], [150, 200]), strict=True):
        kept(ledger, entry, part)
    pictures = stored_pictures(ledger, ledger.entries, [[3, 4, 5], [8, 9]])
    pictures.stride = stride
    assert [round(decoded(jpeg).mean()) for jpeg in pictures] == levels
    assert pictures.frames == [3, 4, 5, 8, 9][::stride] and pictures.size == (80, 60)


def test_large_frames_become_small_pictures_and_small_ones_stay() -> None:
    random = np.random.default_rng(0).integers(0, 255, (900, 1200, 3), np.uint8)
    large = decoded(encoded(random))
    assert large.shape == (384, LONGEST_SIDE, 3)
    red = np.zeros((30, 1, 3), np.uint8) + np.array([250, 0, 0], np.uint8)
    small = decoded(encoded(red))
    assert small.shape == (30, 1, 3) and small[..., 2].mean() > 240 > 20 > small[..., 0].mean()
