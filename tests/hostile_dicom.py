"""Hostile DICOM files. No test stands here."""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from pydicom.dataset import Dataset

from tests.dicoms import loop, write_dicom
from tests.hostile_images import read_video
from tests.hostile_parts import TEXTS, Named
from utils.regions import COLOUR, FLAT, Region

REGION = Region((4, 4, 60, 44), FLAT, COLOUR, (0.1, 0.1))
SYNTAXES = (
    "explicit", "implicit", "big endian", "deflated", "rle", "jpeg", "jpeg lossless", "jpeg-ls", "jpeg 2000", "h.264",
)  # fmt: skip
PIECES = (
    b"DICM", b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0", b"\xff\xff\xff\xff", b"\xe0\x7f\x10\x00", b"\x28\x00\x10\x00",
    b"\xff\xd8\xff", b"\xff\x4f\xff\x51",
)  # fmt: skip
# Elements that decide about memory, decoding and what is told of a file.
TAGS = (
    "NumberOfFrames", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "SamplesPerPixel",
    "PlanarConfiguration", "PixelRepresentation", "FrameTime", "CineRate", "SeriesNumber", "InstanceNumber",
)  # fmt: skip
WORDS = ("PhotometricInterpretation", "StudyInstanceUID", "SOPInstanceUID", "PatientID", "AcquisitionDateTime")


def _written(change: Callable[[Dataset], object] | None = None, syntax: str = "explicit", **tags: Any) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.dcm"
        write_dicom(path, loop(3, 96, 128)[:, ::2, ::2], syntax=syntax, regions=[REGION], frame_time=40, **tags)
        return _changed(path, change) if change else path.read_bytes()


def _changed(path: Path, change: Callable[[Dataset], object]) -> bytes:
    """With elements of any value, also of those that a data set would refuse when it is made."""
    import pydicom

    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path)
    return path.read_bytes()


@cache
def dicoms() -> tuple[Named, ...]:
    """A loop in each transfer syntax."""
    return tuple((f"{syntax.replace(' ', '-')}.dcm", _written(syntax=syntax)) for syntax in SYNTAXES)


def dicoms_nasty(_: Path) -> dict[str, Named]:
    """Files whose header asks for what is not there, or for too much."""
    plain = _written()

    def of(**tags: Any) -> Named:
        def change(dataset: Dataset) -> None:
            for name, value in tags.items():
                setattr(dataset, name, value)

        return "a.dcm", _written(change)

    nested = (
        b"\x40\x00\x75\x02SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"  # a sequence and an item, both open
    )
    pixels = plain.index(b"\xe0\x7f\x10\x00")
    return {
        "a million frames promised": of(NumberOfFrames="1000000"),
        "65,535 x 65,535 pixels": of(Rows=65535, Columns=65535),
        "no pixels": ("a.dcm", _written(lambda dataset: dataset.pop("PixelData"))),
        "32 bits": of(BitsAllocated=32),
        "two samples": of(SamplesPerPixel=2),
        "a palette without tables": of(PhotometricInterpretation="PALETTE COLOR", SamplesPerPixel=1),
        "nested 50,000 deep": ("a.dcm", plain[:pixels] + nested * 50_000 + plain[pixels:]),
        "cut in the header": ("a.dcm", plain[:300]),
        "cut in the pixels": ("a.dcm", plain[:-2000]),
        "lengths of 4 GB": ("a.dcm", plain.replace(struct.pack("<I", 3 * 48 * 64 * 3), b"\xfe\xff\xff\xff")),
        "empty": ("a.dcm", b""),
        "no DICOM": ("a.dcm", b"hello" * 100),
        "the mark alone": ("a.dcm", bytes(128) + b"DICM"),
    }


def dicoms_made(_: Path) -> st.SearchStrategy[Named]:
    """Files with wrong values of the elements that matter."""
    numbers = st.tuples(st.sampled_from(TAGS), st.sampled_from((0, 1, 2, 7, 8, 12, 16, 31, 255, 4096, 65535)))
    words = st.tuples(st.sampled_from(WORDS), st.sampled_from(TEXTS).map(lambda text: text[:60]))

    def made(pairs: list[tuple[str, Any]]) -> Named:
        def change(dataset: Dataset) -> None:
            for name, value in pairs:
                try:
                    setattr(dataset, name, value)
                except (ValueError, TypeError, OverflowError):  # pydicom would not have it
                    continue

        try:
            return "a.dcm", _written(change)
        except Exception:  # nor write it
            return "a.dcm", _written()[:-100]

    return st.lists(numbers | words, min_size=1, max_size=4).map(made)


read_dicom = read_video
