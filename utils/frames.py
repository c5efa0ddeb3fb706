"""Frames decoded and resized once, then kept: in RAM, in one flat file on disk, or not at all (decoded each time).

The file is plain bytes beside a json index, no pickle; it is found again by the frames' paths, sizes and times.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from utils.config import ROOT
from utils.images import read_image
from utils.labels import Problem
from utils.letterbox import Image, resize
from utils.log import LOGGER, InputError, progress
from utils.preprocess import Preprocessor

CACHE_FOLDER = ROOT / ".frame_cache"
CACHE_MODES = ("ram", "disk", "none")
BLOCK = 64  # frames decoded ahead: bounds the memory that decoding takes


class FrameStore:
    """Frames of a dataset, each resized so that its longer side is ``size`` pixels.

    Args:
        files: of the frames.
        size: pixels of the longer side.
        mode: "ram", "disk" or "none"; RAM falls back to disk, and says so, where the frames would not fit into half of
            what is free.
        description: of the progress bar.
        preprocessor: filters each frame before it is resized.

    Attributes:
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
        self.problems: list[Problem] = []
        self.originals: list[tuple[int, int] | None] = []
        self._ram: list[Image | None] = []
        self._disk: np.memmap | None = None
        self._index: list[tuple[int, int, int]] = []  # offset, height, width
        if self.mode == "disk":
            self._open_disk(description)
        else:
            for image, original in self._decoded(description):
                self._ram.append(image if self.mode == "ram" else None)
                self.originals.append(original)

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

    def _decoded(self, description: str) -> Iterator[tuple[Image | None, tuple[int, int] | None]]:
        """Each frame, resized, with its original (height, width); (None, None) and a problem for a bad file."""
        with (
            ThreadPoolExecutor(os.cpu_count()) as pool,
            progress(range(0), description, total=len(self), unit="frame", leave=False) as bar,
        ):
            for start in range(0, len(self), BLOCK):
                for result in pool.map(self._decode, self.files[start : start + BLOCK]):
                    bar.update()
                    if isinstance(result, Problem):
                        self.problems.append(result)
                        yield None, None
                    else:
                        yield result

    def _decode(self, path: Path) -> tuple[Image, tuple[int, int]] | Problem:
        try:
            image = read_image(path)
        except InputError as error:
            return Problem(path, None, str(error).removeprefix(f"{path}: "), "frame left out")
        return resize(self.preprocessor(image), self.size), (image.shape[0], image.shape[1])

    def _open_disk(self, description: str) -> None:
        folder = CACHE_FOLDER / self._key()
        record = _read_record(folder)
        if record is None:
            shutil.rmtree(folder, ignore_errors=True)
            self._write_disk(folder, description)
            record = _read_record(folder)
            assert record is not None
        self._index = [tuple(entry) for entry in record["index"]]
        self.originals = [tuple(shape) if shape else None for shape in record["originals"]]
        self.problems = [Problem(Path(path), None, rule, action) for path, rule, action in record["problems"]]
        if any(self.originals):
            self._disk = np.memmap(folder / "frames.bin", np.uint8, mode="r")

    def _write_disk(self, folder: Path, description: str) -> None:
        """Fill a folder beside the final one and rename it, so that a cut-off start leaves no half cache."""
        CACHE_FOLDER.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=CACHE_FOLDER, prefix="draft-"))
        try:
            index, originals, offset = [], [], 0
            with (draft / "frames.bin").open("wb") as file:
                for image, original in self._decoded(description):
                    height, width = image.shape[:2] if image is not None else (0, 0)
                    index.append((offset, height, width))
                    originals.append(original)
                    if image is not None:
                        offset += file.write(image.tobytes())
            problems = [(str(problem.path), problem.rule, problem.action) for problem in self.problems]
            record = {"index": index, "originals": originals, "problems": problems, "bytes": offset}
            (draft / "index.json").write_text(json.dumps(record), encoding="utf-8")
            try:
                draft.rename(folder)
            except OSError:
                if not folder.is_dir():  # another start has written the same frames meanwhile: use those
                    raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def _key(self) -> str:
        """A name for these frames at this size: changes when a file does."""
        digest = hashlib.sha256(f"2 {self.size} {self.preprocessor}".encode())
        for path in self.files:
            state = path.stat() if path.exists() else None
            digest.update(
                f"\0{path}\0{state and (state.st_size, state.st_mtime_ns)}".encode("utf-8", "surrogateescape")
            )
        return digest.hexdigest()[:24]


def _read_record(folder: Path) -> dict[str, Any] | None:
    """The index of a cache, or None where there is none or it is damaged."""
    try:
        record = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        whole = (folder / "frames.bin").stat().st_size == record["bytes"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record if whole else None


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
