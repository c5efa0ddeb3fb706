"""A DICOM file opened within limits: its header's values, however damaged, and where its pixels lie."""

from __future__ import annotations

import io
import logging
import math
import os
import struct
import warnings
import zlib
from collections.abc import Iterator, MutableSequence, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from utils.extras import load
from utils.images import read_bytes
from utils.log import InputError, printable

SUFFIXES = frozenset(["dcm", "dicom"])
DIRECTORY = "1.2.840.10008.1.3.10"  # the SOP class of a DICOMDIR
IMPLICIT, EXPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
MOST_HEADER = 2**23  # bytes: many small items would take a hundred times as much once read
LONGEST_VALUE = 2**18  # bytes: longer ones, as vendors' own, are passed over; the tables that are used fit
MOST_INFLATED = 2**29  # bytes of a deflated file, which has to be in memory; a megabyte could claim a gigabyte
_PIXELS = 0x7FE00010
_STOP = 0x7FE00008  # float pixels, pixels, and whatever follows them
_UNDEFINED = 0xFFFFFFFF


@dataclass(frozen=True)
class Pixels:
    """The value of PixelData: its first byte, the bytes of it that the file really has, and how it is kept."""

    start: int
    length: int
    vr: str
    encapsulated: bool


@dataclass(frozen=True)
class DicomFile:
    """An open file: what :func:`opened` found in it.

    Attributes:
        dataset: pydicom's, of the elements that were asked for.
        syntax: transfer syntax UID.
        source: the bytes, inflated where they were deflated.
        pixels: None where there are none.
    """

    path: Path
    dataset: Any
    syntax: str
    source: BinaryIO
    pixels: Pixels | None
    media_class: str  # the SOP class as the beginning of the file has it; a DICOMDIR has it nowhere else

    @property
    def sop_class(self) -> str:
        """SOPClassUID."""
        return text(self.dataset, "SOPClassUID")


def named(uid: str) -> str:
    """What a UID is called, for a message."""
    return printable(str(load("pydicom.uid", "reading DICOM").UID(uid).name)) or "none"


def has_mark(path: Path) -> bool:
    """Whether a file begins as DICOM files do, 128 bytes and then DICM."""
    try:
        return read_bytes(path, 132)[128:] == b"DICM"
    except InputError:
        return False


@contextmanager
def opened(path: Path, keywords: Sequence[str], whole: bool = False) -> Iterator[DicomFile]:
    """Open a file and read of its header what is asked for.

    Args:
        keywords: the elements, by their names in DICOM.
        whole: whether pixels are to be read from it; else of a deflated file only the beginning is inflated.

    Raises:
        InputError: it is no DICOM file, or its header is too large or too damaged to find the pixels.
    """
    reader = _quiet("pydicom.filereader")
    datadict = _quiet("pydicom.datadict")
    head = read_bytes(path, 132)
    with path.open("rb") as file:
        source = _Limited(file, os.fstat(file.fileno()).st_size, path)
        try:
            meta, syntax = _begin(reader, source)
            if syntax == DEFLATED:
                source = _inflated(source, MOST_INFLATED if whole else MOST_HEADER)
            implicit, little = syntax == IMPLICIT, syntax != BIG_ENDIAN
            dataset = reader.read_dataset(
                source, implicit, little, stop_when=lambda tag, vr, length: tag >= _STOP, defer_size=LONGEST_VALUE,
                specific_tags=[datadict.tag_for_keyword(name) for name in ("SOPClassUID", *keywords)],
            )  # fmt: skip
            implicit, little = dataset.original_encoding  # some files' differs from what their beginning says
            pixels = _pixels(source, implicit, little)
        except InputError:
            raise
        except Exception as error:  # a damaged header ends pydicom in whatever makes no sense first
            source.check()  # pydicom has an error of its own in place of that one
            reason = printable(" ".join(f"{type(error).__name__} {error}".split()), 120)
            raise InputError(f"{path}: a DICOM header expected, what came cannot be read: {reason}") from error
        media = text(meta, "MediaStorageSOPClassUID")
        found = DicomFile(path, dataset, syntax, cast(BinaryIO, source), pixels, media)
        if head[128:] != b"DICM" and not found.sop_class.startswith("1.2."):
            raise InputError(f"{path}: a DICOM file expected, other bytes came (first bytes {head[:8]!r})")
        source.left = None
        yield found


def text(dataset: Any, keyword: str) -> str:
    """An element as text, within limits; empty where it is absent or makes no sense."""
    try:
        value = dataset.get(keyword)
        return "" if value is None else printable(str(value).strip("\0 "))
    except Exception:  # as above
        return ""


def numbers(dataset: Any, keyword: str) -> tuple[float, ...]:
    """An element's values; none where it is absent, or where one of them is no finite number."""
    try:
        value = dataset.get(keyword)
        values = value if isinstance(value, (MutableSequence, tuple)) else [value]
        found = tuple(float(item) for item in values)
    except Exception:  # as above
        return ()
    return found if all(map(math.isfinite, found)) else ()


def number(dataset: Any, keyword: str) -> float | None:
    """An element's only value."""
    found = numbers(dataset, keyword)
    return found[0] if len(found) == 1 else None


def whole_number(dataset: Any, keyword: str) -> int | None:
    """An element's only value, where that is a whole number."""
    found = number(dataset, keyword)
    return int(found) if found is not None and found.is_integer() else None


def items(dataset: Any, keyword: str, most: int) -> list[Any]:
    """The first items of a sequence."""
    try:
        value = dataset.get(keyword)
        return [value[place] for place in range(min(len(value), most))]
    except Exception:  # as above
        return []


class _Limited:
    """A file that reserves no memory for bytes it lacks, and of a header gives no more than a header has."""

    def __init__(self, file: BinaryIO, size: int, path: Path) -> None:
        self.file, self.size, self.path = file, size, path
        self.left: int | None = MOST_HEADER
        self.tell = file.tell

    def read(self, count: int = -1) -> bytes:
        there = max(self.size - self.file.tell(), 0)
        count = there if count < 0 else min(count, there)
        if self.left is not None:
            self.left -= count
            self.check()
        return self.file.read(count)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.file.seek(offset, whence)

    def check(self) -> None:
        """Raise an InputError where more was asked for than a header has."""
        if self.left is not None and self.left < 0:
            raise InputError(f"{self.path}: a DICOM header of at most {MOST_HEADER:,} bytes expected, more came")


def _begin(reader: Any, source: _Limited) -> tuple[Any, str]:
    """Go to the first element behind the file meta information: that, and the transfer syntax, guessed if absent."""
    reader.read_preamble(source, force=True)
    start = source.tell()
    meta = reader.read_dataset(source, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
    if len(meta) == 0:
        source.seek(start)
    syntax = text(meta, "TransferSyntaxUID")
    if syntax:
        return meta, syntax
    peek = source.read(6)
    source.seek(-len(peek), 1)
    if not peek[4:].isalpha() or not peek[4:].isupper():
        return meta, IMPLICIT
    return meta, BIG_ENDIAN if peek[:1] == b"\0" else EXPLICIT


def _inflated(source: _Limited, most: int) -> _Limited:
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    source.left = None
    content, chunk = bytearray(), source.read(2**20)
    while chunk and len(content) < most and not inflate.eof:
        content += inflate.decompress(chunk, most - len(content))
        chunk = inflate.unconsumed_tail or source.read(2**20)
    if len(content) >= MOST_INFLATED:
        raise InputError(f"{source.path}: at most {MOST_INFLATED:,} bytes of deflated data expected, more came")
    return _Limited(io.BytesIO(content), len(content), source.path)


def _pixels(source: _Limited, implicit: bool, little: bool) -> Pixels | None:
    """The pixels, whose element is the next one."""
    order = "<" if little else ">"
    head = source.read(8)
    if len(head) < 8:
        return None
    group, element = struct.unpack(f"{order}HH", head[:4])
    if group << 16 | element != _PIXELS:
        return None
    vr = "OW" if implicit else head[4:6].decode("latin-1")
    (length,) = struct.unpack(f"{order}L", head[4:] if implicit else source.read(4))
    there = max(source.size - source.tell(), 0)
    return Pixels(source.tell(), min(length, there), vr, length == _UNDEFINED)


def _quiet(module: str) -> Any:
    """A part of pydicom, whose remarks on a file stay off the screen: what matters of them is told by ours."""
    found = load(module, "reading DICOM")
    warnings.filterwarnings("ignore", module="pydicom")
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    return found
