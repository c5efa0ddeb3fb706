"""utils/frames.py: three ways to keep frames give the same pixels; the one on disk is whole, fresh and plain."""

from __future__ import annotations

import errno
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest

from tests.phantoms import encode, settle
from utils import file_cache, frames
from utils.frames import CACHE_MODES, FrameStore, in_threads
from utils.images import read_image
from utils.labels import Problem
from utils.letterbox import Image, resize
from utils.log import LOGGER, InputError

SHAPES = [(48, 64), (64, 48), (20, 90), (33, 32)]
SIZE = 32


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(frames, "CACHE_FOLDER", tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Frames of noise of several shapes."""
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"frame é {i}.png" for i in range(len(SHAPES))]
    for path, shape in zip(paths, SHAPES, strict=True):
        path.write_bytes(encode(".png", rng.integers(0, 256, (*shape, 3), np.uint8)))
    return paths


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are decoded, as they are."""
    names: list[str] = []

    def counting(path: Path) -> Image:
        names.append(path.name)
        return read_image(path)

    monkeypatch.setattr(frames, "read_image", counting)
    return names


@pytest.mark.parametrize("mode", CACHE_MODES)
def test_every_mode_gives_the_resized_frames(files: list[Path], mode: str) -> None:
    store = FrameStore(files, SIZE, mode)
    assert len(store) == len(files) and store.originals == SHAPES and store.problems == [] and store.mode == mode
    for index, path in enumerate(files):
        assert store[index].dtype == np.uint8
        np.testing.assert_array_equal(store[index], resize(read_image(path), SIZE))


@pytest.mark.parametrize(("mode", "further"), [("ram", 0), ("disk", 0), ("none", 3)])
def test_only_without_a_cache_are_frames_decoded_again(
    files: list[Path], decoded: list[str], mode: str, further: int
) -> None:
    store = FrameStore(files, SIZE, mode)
    assert sorted(decoded) == [path.name for path in files]  # each once
    for _ in range(3):
        store[1]
    assert len(decoded) == len(files) + further


def test_frames_on_disk_are_found_again(files: list[Path], decoded: list[str]) -> None:
    first = FrameStore(files, SIZE, "disk")
    decoded.clear()
    second = FrameStore(files, SIZE, "disk")
    assert decoded == []
    assert second.originals == first.originals
    for index in range(len(files)):
        np.testing.assert_array_equal(second[index], first[index])


def test_other_frames_another_order_or_size_are_another_cache(files: list[Path], decoded: list[str]) -> None:
    FrameStore(files, SIZE, "disk")
    for others, size in ((files, SIZE * 2), (files[:2], SIZE), (files[::-1], SIZE)):
        decoded.clear()
        store = FrameStore(others, size, "disk")
        assert sorted(decoded) == sorted(path.name for path in others)
        np.testing.assert_array_equal(store[0], resize(read_image(others[0]), size))


@pytest.mark.parametrize(("padding", "later_ns"), [(True, 1000), (False, 0)], ids=["same size", "same time"])
def test_a_file_that_changed_is_decoded_again(files: list[Path], padding: bool, later_ns: int) -> None:
    FrameStore(files, SIZE, "disk")
    before = files[1].stat()
    black = encode(".png", np.zeros((*SHAPES[1], 3), np.uint8))
    files[1].write_bytes(black.ljust(before.st_size if padding else 0, b"\0"))
    os.utime(files[1], ns=(before.st_atime_ns, before.st_mtime_ns + later_ns))
    assert (files[1].stat().st_size == before.st_size) == padding
    assert not FrameStore(files, SIZE, "disk")[1].any()


def test_the_cache_is_plain_bytes_and_json(files: list[Path], cache: Path) -> None:
    store = FrameStore(files, SIZE, "disk")
    (folder,) = cache.iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["frames.bin", "index.json"]
    record = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    assert record["originals"] == [list(shape) for shape in SHAPES] and record["problems"] == []
    stored = np.fromfile(folder / "frames.bin", np.uint8)
    np.testing.assert_array_equal(stored, np.concatenate([store[index].ravel() for index in range(len(files))]))


def test_frames_on_disk_cannot_be_written_to(files: list[Path]) -> None:
    with pytest.raises(ValueError, match="read-only"):
        FrameStore(files, SIZE, "disk")[0][0, 0] = 0


@pytest.mark.parametrize("damage", [b"", b"{}", b'{"bytes": 3}', b"no json"])
def test_a_damaged_cache_is_written_again(files: list[Path], cache: Path, decoded: list[str], damage: bytes) -> None:
    FrameStore(files, SIZE, "disk")
    (index,) = cache.glob("*/index.json")
    index.write_bytes(damage)
    decoded.clear()
    np.testing.assert_array_equal(FrameStore(files, SIZE, "disk")[1], resize(read_image(files[1]), SIZE))
    assert len(decoded) == len(files) and len(list(cache.iterdir())) == 1


def test_a_new_cache_takes_the_place_of_what_was_not_used_for_long(
    files: list[Path], cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", LOGGER.name)
    stores = {size: FrameStore(files, size, "disk") for size in (SIZE, 2 * SIZE)}
    expected = stores[SIZE][1].copy()
    for folder in cache.iterdir():
        for path in (folder / "frames.bin", folder / "index.json", folder):
            os.utime(path, (0, 0))
    FrameStore(files, 2 * SIZE, "disk")  # used again
    assert len(list(cache.iterdir())) == 2 and "removed" not in caplog.text  # nothing was written
    FrameStore(files, 3 * SIZE, "disk")
    assert len(list(cache.iterdir())) == 2 and "1 entries removed" in caplog.text
    np.testing.assert_array_equal(stores[SIZE][1], expected)  # a start that uses what was removed goes on


def test_a_cache_that_cannot_be_written_is_done_without(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(frames, "CACHE_FOLDER", tmp_path / "file" / "cache")
    store = FrameStore(files, SIZE, "disk")
    assert store.mode == "none" and store.originals == SHAPES
    np.testing.assert_array_equal(store[1], resize(read_image(files[1]), SIZE))
    assert "cannot be written (Not a directory): frames are decoded each time" in caplog.text


def test_without_a_cache_shapes_are_known_from_an_earlier_start(files: list[Path], decoded: list[str]) -> None:
    bad = files[1].with_name("bad.png")
    bad.write_bytes(b"not an image")
    settle(bad.parent)
    files.insert(1, bad)
    first = FrameStore(files, SIZE, "none")
    decoded.clear()
    second = FrameStore(files, SIZE, "none")
    assert decoded == ["bad.png"]  # what may be at fault is looked at each time
    assert second.originals == first.originals == [SHAPES[0], None, *SHAPES[1:]]
    assert second.problems == first.problems and len(first.problems) == 1


def test_states_are_taken_before_any_frame_is_read(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    before = file_cache.file_states(files)

    def changing(path: Path) -> Image:
        image = read_image(path)
        path.write_bytes(b"changed while it was opened")
        return image

    monkeypatch.setattr(frames, "read_image", changing)
    assert FrameStore(files, SIZE).states == before


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 64, 300])
def test_threads_keep_the_order_and_little_ahead(count: int) -> None:
    begun: list[int] = []

    def double(item: int) -> int:
        begun.append(item)
        return 2 * item

    results = in_threads(double, range(count))
    for number in range(count):
        assert next(results) == 2 * number
        assert len(begun) <= number + 1 + frames.BLOCK + frames.GROUP
    assert list(results) == [] and len(begun) == count


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")], ids=repr)
def test_an_interruption_leaves_nothing(
    files: list[Path], cache: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def failing(path: Path) -> Image:
        if path == files[2]:
            raise error
        return read_image(path)

    with monkeypatch.context() as patch:
        patch.setattr(frames, "read_image", failing)
        with pytest.raises(type(error)):
            FrameStore(files, SIZE, "disk")
    assert list(cache.iterdir()) == []
    assert FrameStore(files, SIZE, "disk").originals == SHAPES


def test_two_starts_at_once_share_one_cache(files: list[Path], cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(2)

    def meeting(path: Path) -> Image:
        if path == files[0]:
            together.wait(timeout=60)  # both are at work
        return read_image(path)

    monkeypatch.setattr(frames, "read_image", meeting)
    with ThreadPoolExecutor(2) as pool:
        stores = list(pool.map(lambda _: FrameStore(files, SIZE, "disk"), range(2)))
    assert len(list(cache.iterdir())) == 1
    np.testing.assert_array_equal(stores[0][3], stores[1][3])


def test_what_another_start_has_put_in_place_meanwhile_stays(
    files: list[Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = frames._read_cache
    others: list[tuple[FrameStore, int]] = []

    def before_another(folder: Path) -> Any:
        found = read(folder)
        if not others:  # the first has looked and found no cache
            monkeypatch.setattr(frames, "_read_cache", read)
            store = FrameStore(files, SIZE, "disk")
            others.append((store, (folder / "frames.bin").stat().st_ino))
        return found

    monkeypatch.setattr(frames, "_read_cache", before_another)
    store = FrameStore(files, SIZE, "disk")
    (folder,) = cache.iterdir()
    assert (folder / "frames.bin").stat().st_ino == others[0][1]
    np.testing.assert_array_equal(store[3], others[0][0][3])


def test_a_cache_that_another_start_removes_at_once_is_done_without(
    files: list[Path], cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bad = files[1].with_name("bad.png")
    bad.write_bytes(b"not an image")
    read = frames._read_cache

    def removed(folder: Path) -> Any:
        file_cache.remove(folder)
        return read(folder)

    monkeypatch.setattr(frames, "_read_cache", removed)
    store = FrameStore([*files, bad], SIZE, "disk")
    assert store.mode == "none" and store.originals == [*SHAPES, None]
    assert [problem.path for problem in store.problems] == [bad]
    np.testing.assert_array_equal(store[3], resize(read_image(files[3]), SIZE))
    assert "the cache was removed by another start: frames are decoded each time" in caplog.text


@pytest.mark.parametrize("mode", CACHE_MODES)
def test_a_bad_file_is_a_problem_and_the_others_keep_their_places(files: list[Path], mode: str) -> None:
    expected = [resize(read_image(path), SIZE) for path in files]
    files[1].write_bytes(b"not an image")
    files.append(files[0].with_name("gone.png"))
    for _ in range(2):  # the second reading is from the cache, where there is one
        store = FrameStore(files, SIZE, mode)
        assert store.originals == [SHAPES[0], None, *SHAPES[2:], None]
        assert all(isinstance(problem, Problem) and problem.line is None for problem in store.problems)
        assert [(problem.path, problem.action) for problem in store.problems] == [
            (files[1], "frame left out"),
            (files[-1], "frame left out"),
        ]
        assert store.problems[0].rule.startswith("is not an image that OpenCV can decode")
        for index in (0, 2, 3):
            np.testing.assert_array_equal(store[index], expected[index])


@pytest.mark.parametrize("mode", CACHE_MODES)
def test_bad_files_alone_are_problems_too(tmp_path: Path, mode: str) -> None:
    (tmp_path / "bad.png").write_bytes(b"")
    store = FrameStore([tmp_path / "bad.png"], SIZE, mode)
    assert store.originals == [None] and len(store.problems) == 1


def test_problems_are_in_the_order_of_the_files_beyond_one_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "BLOCK", 4)
    paths = [tmp_path / f"gone{i}.png" for i in range(10)]
    assert [problem.path for problem in FrameStore(paths, SIZE).problems] == paths


@pytest.mark.parametrize(("free", "mode"), [(2 * 4 * 32 * 32 * 3, "ram"), (2 * 4 * 32 * 32 * 3 - 2, "disk")])
def test_too_little_memory_falls_back_to_disk_and_says_so(
    files: list[Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, free: int, mode: str
) -> None:
    monkeypatch.setattr(LOGGER, "propagate", True)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=free))
    assert FrameStore(files, SIZE, "ram").mode == mode
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == (mode == "disk") and all("cached on disk instead" in line for line in told)
    assert FrameStore(files, SIZE, "none").mode == "none"


def test_an_unknown_mode_is_told(files: list[Path]) -> None:
    with pytest.raises(InputError, match="--cache: expected one of ram, disk, none, got 'gpu'"):
        FrameStore(files, SIZE, "gpu")
