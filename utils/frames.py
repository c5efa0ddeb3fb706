"""Frames decoded and resized once, then kept: in RAM, in one flat file on disk, or not at all (decoded each time).

The file is plain bytes beside a json index, no pickle; it is found again by the frames' paths, sizes and times. A new
one takes the place of what was not used for long; see :func:`utils.file_cache.prune`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import psutil

from utils import images
from utils.config import ROOT
from utils.file_cache import Kind, file_states, prune, remembered, remove, touch
from utils.images import read_image
from utils.labels import Problem
from utils.letterbox import Image, resize
from utils.log import LOGGER, InputError, progress
from utils.preprocess import Preprocessor

CACHE_FOLDER = ROOT / ".frame_cache"
CACHE_MODES = ("ram", "disk", "none")
BLOCK = 64  # frames decoded ahead: bounds the memory that decoding takes
GROUP = 4  # frames handed to a thread at once: of small ones, handing over costs more than the work
Given = TypeVar("Given")
Made = TypeVar("Made")


class FrameStore:
    """Frames of a dataset, each resized so that its longer side is ``size`` pixels.

    Args:
        files: of the frames.
        size: pixels of the longer side.
        mode: "ram", "disk" or "none"; RAM falls back to disk, and says so, where the frames would not fit into half of
            what is free. A disk cache that cannot be written is done without.
        description: of the progress bar.
        preprocessor: filters each frame before it is resized.

    Attributes:
        states: of the files, before any of them was read; see :func:`utils.file_cache.file_states`.
        problems: files that cannot be decoded; :attr:`originals` is None for them.
        originals: (height, width) in the file, a frame each.
    """

    def __init__(
        self,
        files: Sequence[Path],
        size: int,
        mode: str = "ram",
        description: str = "Frames",
        preprocessor: Preprocessor | None = None,
    ) -> None:
        self.files = list(files)
        self.size = size
        self.preprocessor = preprocessor or Preprocessor()
        self.mode = _affordable(mode, len(self.files), size)
        self.states = file_states(self.files)
        self.problems: list[Problem] = []
        self.originals: list[tuple[int, int] | None] = []
        self._ram: list[Image | None] = []
        self._disk: np.memmap | None = None
        self._index: list[tuple[int, int, int]] = []  # offset, height, width
        if self.mode == "disk":
            self._open_disk(description)
        if self.mode == "ram":
            for image, original in self._decoded(description, self.files):
                self._ram.append(image)
                self.originals.append(original)
        if self.mode == "none":
            self._find_originals(description)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Image:
        """The resized frame (H, W, 3); not to be written to."""
        image = self._ram[index] if self._ram else None
        if image is not None:
            return image
        if self._disk is not None:
            offset, height, width = self._index[index]
            return np.asarray(self._disk[offset : offset + height * width * 3].reshape(height, width, 3))
        return resize(self.preprocessor(read_image(self.files[index])), self.size)

    def _decoded(
        self, description: str, files: Sequence[Path]
    ) -> Iterator[tuple[Image | None, tuple[int, int] | None]]:
        """Each frame, resized, with its original (height, width); (None, None) and a problem for a bad file."""
        results = in_threads(self._decode, files)
        for result in progress(results, description, total=len(files), unit="frame", leave=False):
            if isinstance(result, Problem):
                self.problems.append(result)
                yield None, None
            else:
                yield result

    def _find_originals(self, description: str) -> None:
        """Decode the frames whose (height, width) is not known from an earlier start; bad files each time."""

        def compute(missing: list[int]) -> Iterator[tuple[int, int] | None]:
            return (shape for _, shape in self._decoded(description, [self.files[index] for index in missing]))

        kind = Kind(f"height and width {cv2.__version__}", (images,))
        self.originals = remembered(CACHE_FOLDER, kind, self.files, self.states, compute, _as_is, _as_shape)

    def _decode(self, path: Path) -> tuple[Image, tuple[int, int]] | Problem:
        try:
            image = read_image(path)
        except InputError as error:
            return Problem(path, None, str(error).removeprefix(f"{path}: "), "frame left out")
        return resize(self.preprocessor(image), self.size), (image.shape[0], image.shape[1])

    def _open_disk(self, description: str) -> None:
        folder = CACHE_FOLDER / self._key()
        opened = _read_cache(folder)
        if opened is None:
            try:
                CACHE_FOLDER.mkdir(parents=True, exist_ok=True)
                draft = Path(tempfile.mkdtemp(dir=CACHE_FOLDER, prefix="draft-"))
            except OSError as error:
                LOGGER.warning("%s: cannot be written (%s): frames are decoded each time", CACHE_FOLDER, error.strerror)
                self.mode = "none"
                return
            self._write_disk(draft, folder, description)
            opened = _read_cache(folder)
            if opened is None:  # another start has removed it, to make room for its own or for one it took for damaged
                LOGGER.warning("%s: the cache was removed by another start: frames are decoded each time", folder)
                self.mode = "none"
                self.problems.clear()  # they are found again with the sizes
                return
            prune(folder)
        touch(folder)
        record, self._disk = opened
        self._index = [tuple(entry) for entry in record["index"]]
        self.originals = [tuple(shape) if shape else None for shape in record["originals"]]
        self.problems = [Problem(Path(path), None, rule, action) for path, rule, action in record["problems"]]

    def _write_disk(self, draft: Path, folder: Path, description: str) -> None:
        """Fill a folder beside the final one and rename it, so that a cut-off start leaves no half cache."""
        try:
            index, originals, offset = [], [], 0
            with (draft / "frames.bin").open("wb") as file:
                for image, original in self._decoded(description, self.files):
                    height, width = image.shape[:2] if image is not None else (0, 0)
                    index.append((offset, height, width))
                    originals.append(original)
                    if image is not None:
                        offset += file.write(image.tobytes())
            problems = [(str(problem.path), problem.rule, problem.action) for problem in self.problems]
            record = {"index": index, "originals": originals, "problems": problems, "bytes": offset}
            (draft / "index.json").write_text(json.dumps(record), encoding="utf-8")
            _into_place(draft, folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def _key(self) -> str:
        """A name for these frames at this size: changes when a file does."""
        digest = hashlib.sha256(f"2 {self.size} {self.preprocessor}".encode())
        for path, state in zip(self.files, self.states, strict=True):
            known = state and (state.size, state.changed_ns)
            digest.update(f"\0{path}\0{known}".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()[:24]


def in_threads(function: Callable[[Given], Made], items: Sequence[Given]) -> Iterator[Made]:
    """The function of each item, in their order, computed in threads and at most ``BLOCK`` items ahead."""
    ahead: deque[Future[list[Made]]] = deque()

    def group(start: int) -> list[Made]:
        return [function(item) for item in items[start : start + GROUP]]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            for start in range(0, len(items), GROUP):
                ahead.append(pool.submit(group, start))
                if len(ahead) * GROUP >= BLOCK:
                    yield from ahead.popleft().result()
            while ahead:
                yield from ahead.popleft().result()
        finally:  # after an error, what has not begun is left
            for future in ahead:
                future.cancel()


def _as_is(value: Made) -> Made:
    return value


def _as_shape(_: Path, content: Any) -> tuple[int, int]:
    height, width = content
    return int(height), int(width)


def _read_cache(folder: Path) -> tuple[dict[str, Any], np.memmap | None] | None:
    """The index of a cache and its frames' bytes, None without any; None where there is no cache or a damaged one."""
    try:
        record = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        if (folder / "frames.bin").stat().st_size != record["bytes"]:
            return None
        return record, np.memmap(folder / "frames.bin", np.uint8, mode="r") if record["bytes"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _into_place(draft: Path, folder: Path) -> None:
    """Give a whole cache its name; another start's whole one of the same frames stays, a damaged one gives way.

    Only what was read here as damaged is removed, and not before there is one to take its place: what another start
    puts in place meanwhile may be in use already.
    """
    try:
        draft.rename(folder)
    except OSError:
        if _read_cache(folder) is not None:
            return
        remove(folder)
        try:
            draft.rename(folder)
        except OSError:
            if not folder.is_dir():  # another start was faster
                raise


def _affordable(mode: str, count: int, size: int) -> str:
    if mode not in CACHE_MODES:
        raise InputError(f"--cache: expected one of {', '.join(CACHE_MODES)}, got {mode!r}")
    need, free = count * size * size * 3, psutil.virtual_memory().available / 2
    if mode == "ram" and need > free:
        LOGGER.warning(
            "%d frames may need %.1f GB of RAM, of which %.1f GB may be taken: cached on disk instead, in %s",
            count, need / 1e9, free / 1e9, CACHE_FOLDER,
        )  # fmt: skip
        return "disk"
    return mode
