"""A file of ``torch.save`` read as data: containers, tensors and records of objects. Nothing in it is executed."""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from utils.files import DAMAGED_ZIP
from utils.log import InputError, one_line, printable
from utils.pickled_values import STAND_INS, Storage
from utils.unpickling import Global, RefusedError, unpickle

LARGEST = 8 * 2**30  # bytes of a file
OLD_FORMAT = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # of torch.save before 1.6: the pickle of its magic number
ZIP, END_OF_ZIP = b"PK\x03\x04", b"PK\x05\x06"
LAST = 66_000  # bytes, among which the end of a zip archive is found
STORAGES: Mapping[str, torch.dtype] = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}  # fmt: skip


def is_archive(path: Path) -> bool:
    """Whether a file begins as those of today's ``torch.save`` do; it may be damaged all the same."""
    with path.open("rb") as file:
        return file.read(len(ZIP)) == ZIP


def read_archive(path: Path, mapped: bool = False) -> Any:
    """What ``torch.save`` wrote, as data; see :func:`utils.unpickling.unpickle` for what may come.

    Tensors are on the CPU, in the type they have in the file. What numpy holds becomes numbers and lists.

    Args:
        mapped: leave tensors in the file until they are used, and their checksums unchecked, which saves time where
            few of many are.

    Raises:
        InputError: absent, larger than any checkpoint, cut off, not such a file, or it asks for something to be run.
    """
    with _opened(path) as archive:
        return _read(archive, mapped and os.name != "nt")  # Windows cannot replace a mapped file


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """The archive, its entries no larger than it is; whatever is found wrong while it is open becomes one line."""
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint")
    try:
        # opened once: a training may put another file in this one's place at any moment
        with path.open("rb") as file, zipfile.ZipFile(_sized(path, file)) as archive:
            _check_entries(archive.infolist(), os.fstat(file.fileno()).st_size)
            yield archive
    except RefusedError as error:
        raise InputError(f"{path}: not read: {error}") from error
    except DAMAGED_ZIP as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise  # the file itself: no permission to read it, for one
        kind = _other_kind(path) or f"a damaged file: {printable(one_line(error), 200)}"
        raise InputError(f"{path}: expected a checkpoint, got {kind}") from error


def _sized(path: Path, file: BinaryIO) -> BinaryIO:
    """The file, if it is no larger than any checkpoint."""
    size = os.fstat(file.fileno()).st_size
    if size > LARGEST:
        raise InputError(f"{path}: expected a checkpoint of at most {LARGEST:,} bytes, got {size:,}")
    return file


def _other_kind(path: Path) -> str | None:
    """What a file is that is no whole zip archive, in words."""
    with path.open("rb") as file:
        beginning = file.read(512)
        file.seek(max(path.stat().st_size - LAST, 0))
        end = file.read()
    newer = "load and save it once with the torch that wrote it, or a newer one"
    if beginning.startswith(OLD_FORMAT):
        return f"one in the format of torch before 1.6; {newer}"
    if beginning[257:262] == b"ustar":
        return f"a tar file, the format of torch before 0.4; {newer}"
    if beginning.startswith(ZIP):
        return None if END_OF_ZIP in end else "a file that is cut off"
    return "a file that is none" if beginning else "an empty file"


def _check_entries(entries: list[zipfile.ZipInfo], size: int) -> None:
    """torch stores without compression, so that a file is as large as what is in it; a zip bomb is not."""
    claimed = sum(entry.file_size for entry in entries)
    packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    if packed or claimed > size:
        raise RefusedError(
            f"its entries claim {claimed:,} bytes in a file of {size:,}{', compressed' if packed else ''}; "
            "torch.save stores them as they are"
        )


def _read(archive: zipfile.ZipFile, mapped: bool) -> Any:
    entries = {entry.filename for entry in archive.infolist()}
    pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise RefusedError("it has no data.pkl, so torch.save did not write it")
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}constants.pkl" in entries:
        raise RefusedError("it is a TorchScript program; named .torchscript, it can be run")
    order = archive.read(f"{folder}byteorder") if f"{folder}byteorder" in entries else b"little"
    if order.strip() != b"little":
        raise RefusedError(f"expected numbers in little-endian order, got {order[:20]!r}")
    storages: dict[str, Storage] = {}
    view = _MappedEntries(archive) if mapped else None

    def storage(identity: Any) -> Storage:
        kind, dtype, key, count = _storage_words(identity)
        if key not in storages:
            name = f"{folder}data/{key}"
            if name not in entries:
                raise RefusedError(f"its tensor data {key[:40]!r} are missing")
            storages[key] = Storage(_numbers(archive.read(name), dtype) if view is None else view(name, dtype))
        found = storages[key]
        if found.numbers.dtype != dtype or len(found.numbers) < count:
            raise RefusedError(f"its tensor data {key[:40]!r} are not the {count} {kind} that they should be")
        return found

    return unpickle(archive.read(pickles[0]), STAND_INS, storage)


class _MappedEntries:
    """Numbers that stay in their file: entries are stored as they are, so that each is a piece of it."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        assert archive.fp is not None  # it is open: the file its entries were read from, whatever has its name by now
        self._content = mmap.mmap(archive.fp.fileno(), 0, access=mmap.ACCESS_COPY)  # changes stay in memory
        self._entries = {entry.filename: entry for entry in archive.infolist()}

    def __call__(self, name: str, dtype: torch.dtype) -> Tensor:
        entry = self._entries[name]
        header = self._content[entry.header_offset : entry.header_offset + 30]  # two lengths end it
        start = entry.header_offset + 30 + sum(struct.unpack("<HH", header[26:30]))
        count = entry.file_size // dtype.itemsize
        if start + entry.file_size > len(self._content):
            raise RefusedError("its entries are out of place")
        return (
            torch.frombuffer(self._content, dtype=dtype, count=count, offset=start)
            if count
            else torch.empty(0, dtype=dtype)
        )


def _storage_words(identity: Any) -> tuple[str, torch.dtype, str, int]:
    """Kind, number type, key and count from a persistent id: ('storage', class, key, device, count)."""
    if not isinstance(identity, tuple) or len(identity) != 5 or identity[0] != "storage":
        raise RefusedError("it refers to something that is no tensor data")
    _, kind, key, _, count = identity
    name = kind.name.rpartition(".")[2] if isinstance(kind, Global) else "?"
    if name not in STORAGES or not isinstance(key, str) or not isinstance(count, int) or count < 0:
        raise RefusedError(f"it has tensor data of an unknown kind: {name[:40]}")
    return name, STORAGES[name], key, count


def _numbers(data: bytes, dtype: torch.dtype) -> Tensor:
    count = len(data) // dtype.itemsize
    return torch.frombuffer(bytearray(data), dtype=dtype, count=count) if count else torch.empty(0, dtype=dtype)
