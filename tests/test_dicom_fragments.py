"""Items of encapsulated pixels, the frames they make up, and the sizes that coded frames claim."""

from __future__ import annotations

import io
import struct

import pytest

from tests.dicoms import encoded_jpeg, grey, loop
from tests.phantoms import encode
from utils import dicom_fragments
from utils.dicom_file import Pixels
from utils.dicom_fragments import Fragment, Joined, coded_size, fragments_of, frames_of, joined

JPEG = b"\xff\xd8\xff"


def item(value: bytes) -> bytes:
    return struct.pack("<HHL", 0xFFFE, 0xE000, len(value)) + value


def parts(*values: bytes, offsets: tuple[int, ...] = (), promised: int = 1, single: bool = False) -> list[bytes]:
    """The frames of items with an offset table in front."""
    data = item(struct.pack(f"<{len(offsets)}L", *offsets)) + b"".join(map(item, values))
    source = io.BytesIO(data + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0))
    table, fragments = fragments_of(source, Pixels(0, len(source.getvalue()), "OB", True))
    return [joined(source, frame) for frame in frames_of(source, table, fragments, promised, single)]


def test_the_offset_table_says_which_fragments_are_a_frame() -> None:
    assert parts(b"aa", b"bb", b"cc", offsets=(0, 20), promised=2) == [b"aabb", b"cc"]
    assert parts(b"aa", b"bb", b"cc", offsets=(0,)) == [b"aabbcc"]


@pytest.mark.parametrize("offsets", [(), (0, 7), (4, 10), (0, 20, 10), (0, 10, 10), (9, 9, 9)])
def test_without_one_that_fits_each_fragment_is_one(offsets: tuple[int, ...]) -> None:
    assert parts(b"aa", b"bb", b"cc", offsets=offsets, promised=3) == [b"aa", b"bb", b"cc"]
    assert parts(b"aa", b"bb", b"cc", offsets=offsets, promised=5) == [b"aa", b"bb", b"cc"]


def test_else_a_frame_begins_where_a_picture_does() -> None:
    assert parts(JPEG, b"bb", JPEG, promised=2) == [JPEG + b"bb", JPEG]
    assert parts(b"aa", b"bb", b"cc") == [b"aabbcc"]
    assert parts(JPEG, JPEG) == [JPEG, JPEG]
    assert parts(b"aa", b"bb", single=True) == [b"aa", b"bb"]


def test_what_is_no_item_ends_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parts() == []
    cut = item(b"") + item(b"aa") + item(b"bbbb")[:-1]
    whole = Pixels(0, len(cut), "OB", True)
    assert fragments_of(io.BytesIO(cut), whole) == ((), [Fragment(16, 2)])
    assert fragments_of(io.BytesIO(cut), whole, cut=True)[1] == [Fragment(16, 2), Fragment(26, 3)]
    assert fragments_of(io.BytesIO(b"no item at all"), Pixels(0, 14, "OB", True)) == ((), [])
    monkeypatch.setattr(dicom_fragments, "MOST_FRAGMENTS", 3)
    assert len(parts(*[b"aa"] * 9, promised=9)) == 3


def test_sizes_that_pictures_claim() -> None:
    frame = loop()[0]
    assert coded_size(encoded_jpeg(frame, "YBR_FULL")) == (128, 96, 3)
    assert coded_size(encoded_jpeg(grey(loop())[0], "MONOCHROME2")) == (128, 96, 1)
    assert coded_size(encode(".jp2", frame)) == (128, 96, 0)  # in boxes: values are not looked for
    coded = encode(".jp2", frame)
    assert coded_size(coded[coded.index(b"\xff\x4f\xff\x51") :]) == (128, 96, 3)
    for nothing in (b"", JPEG, b"\xff\x4f\xff\x51", b"other", JPEG + b"\xc0" + bytes(3), JPEG + b"\xda" + bytes(99)):
        assert coded_size(nothing) is None
    frame_header = b"\xff\xc0\0\x0b\x08\0\x10\0\x20\x01\x01\x11\0"
    assert coded_size(b"\xff\xd8" + frame_header + bytes(9)) == (32, 16, 1)
    assert coded_size(b"\xff\xd8" + frame_header * 2 + bytes(9)) == (32 * 32, 16 * 16, 1)


def test_fragments_as_one_file() -> None:
    source = io.BytesIO(b"..abc...de..f")
    stream = Joined(source, [Fragment(2, 3), Fragment(5, 0), Fragment(8, 2), Fragment(12, 1)])
    assert stream.read() == b"abcdef" and stream.read(3) == b"" and stream.tell() == 6
    for place in range(8):
        for count in range(8):
            assert stream.seek(place) == place and stream.read(count) == b"abcdef"[place : place + count]
    assert stream.seek(-2, 2) == 4 and stream.read(1) == b"e" and stream.seek(-1, 1) == 4
    assert stream.readable() and stream.seekable()
    shorter = Joined(io.BytesIO(b"ab"), [Fragment(0, 5)])
    assert shorter.read() == b"ab"
