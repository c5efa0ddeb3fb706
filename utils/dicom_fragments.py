"""Encapsulated pixels: their items, which of them make up a frame, and the size that a coded frame claims."""

from __future__ import annotations

import io
import struct
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import BinaryIO

from utils.dicom_file import Pixels
from utils.images import claimed_size

MOST_FRAGMENTS = 2**19  # items of nothing would take more memory than the file
_ITEM, _LONGEST = 0xFFFEE000, 2**20  # bytes of a coded frame's own header
_JPEG, _JPEG_2000, _BOX = b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP"
_SIZED = frozenset([0xF7, *range(0xC0, 0xD0)]) - {0xC4, 0xC8, 0xCC}  # JPEG's markers with a frame's size; 0xF7: JPEG-LS


@dataclass(frozen=True)
class Fragment:
    """An item's value: its first byte in the file, and its bytes."""

    start: int
    length: int


def fragments_of(source: BinaryIO, pixels: Pixels, cut: bool = False) -> tuple[tuple[int, ...], list[Fragment]]:
    """The basic offset table and all items behind it that are whole, up to whatever is no item.

    Args:
        cut: whether to have what is left of an item, too, at the end of a truncated file: some of a video's frames.
    """
    place, end = pixels.start, pixels.start + pixels.length
    found: list[Fragment] = []
    while place + 8 <= end and len(found) <= MOST_FRAGMENTS:
        source.seek(place)
        group, element, length = struct.unpack("<HHL", source.read(8))
        place += 8
        if group << 16 | element != _ITEM or (length > end - place and not cut):
            break
        length = min(length, end - place)
        found.append(Fragment(place, length))
        place += length
    if not found:
        return (), []
    source.seek(found[0].start)
    count = min(found[0].length // 4, len(found))
    return struct.unpack(f"<{count}L", source.read(4 * count)), found[1:]


def frames_of(
    source: BinaryIO, offsets: Sequence[int], fragments: Sequence[Fragment], promised: int, single: bool = False
) -> list[list[Fragment]]:
    """Which fragments make up each frame.

    As the offset table says, where it fits the items; one each where there are as many as frames; else a frame begins
    with each fragment that begins as a coded picture does.

    Args:
        promised: frames, by the header.
        single: whether a frame is one fragment in any case.
    """
    if not fragments:
        return []
    first = fragments[0].start
    places = {fragment.start - first: number for number, fragment in enumerate(fragments)}
    begins = [places.get(offset, -1) for offset in offsets]
    sound = bool(begins) and begins[0] == 0 and all(a < b for a, b in pairwise(begins))
    if single or (not sound and len(fragments) <= promised):
        begins = list(range(len(fragments)))
    elif not sound:
        begins = [0, *(number for number in range(1, len(fragments)) if _begins(source, fragments[number]))]
    return [list(fragments[a:b]) for a, b in pairwise([*begins, len(fragments)])]


def joined(source: BinaryIO, fragments: Sequence[Fragment]) -> bytes:
    """The bytes of a frame."""
    parts = []
    for fragment in fragments:
        source.seek(fragment.start)
        parts.append(source.read(fragment.length))
    return b"".join(parts)


def coded_size(data: bytes) -> tuple[int, int, int] | None:
    """Width, height and values a pixel that a JPEG, JPEG-LS or JPEG 2000 picture claims; None where it is none.

    A picture that claims two sizes has the product of both, which fits no header: a decoder might go by either.
    """
    if data.startswith(_JPEG_2000) and len(data) >= 42:
        x2, y2, x1, y1 = struct.unpack_from(">4L", data, 8)
        (values,) = struct.unpack_from(">H", data, 40)
        return x2 - x1, y2 - y1, values
    if data.startswith(_BOX):
        size = claimed_size(data)
        return None if size is None else (*size, 0)
    if not data.startswith(_JPEG):
        return None
    found: tuple[int, int, int] | None = None
    place = 2
    while place + 10 <= len(data) and data[place] == 0xFF and place < _LONGEST:
        marker = data[place + 1]
        if marker == 0xDA:  # the pixels begin
            break
        if marker in _SIZED:
            height, width, values = struct.unpack_from(">HHB", data, place + 5)
            found = (width, height, values) if found is None else (found[0] * width, found[1] * height, values)
        place += 1 if marker == 0xFF else 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return found


class Joined(io.RawIOBase):
    """Fragments as one file, nothing of it in memory."""

    def __init__(self, source: BinaryIO, fragments: Sequence[Fragment]) -> None:
        self._source, self._fragments = source, fragments
        self._begins = [0]
        for fragment in fragments:
            self._begins.append(self._begins[-1] + fragment.length)
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = 0) -> int:
        self._place = max(offset + (0, self._place, self._begins[-1])[whence], 0)
        return self._place

    def read(self, count: int = -1) -> bytes:
        left = max(self._begins[-1] - self._place, 0)
        left = left if count < 0 else min(count, left)
        parts = []
        while left:
            number = bisect_right(self._begins, self._place) - 1
            fragment, inside = self._fragments[number], self._place - self._begins[number]
            self._source.seek(fragment.start + inside)
            part = self._source.read(min(left, fragment.length - inside))
            if not part:  # the file has become shorter
                break
            parts.append(part)
            self._place, left = self._place + len(part), left - len(part)
        return b"".join(parts)


def _begins(source: BinaryIO, fragment: Fragment) -> bool:
    source.seek(fragment.start)
    return source.read(min(fragment.length, 12)).startswith((_JPEG, _JPEG_2000, _BOX))
