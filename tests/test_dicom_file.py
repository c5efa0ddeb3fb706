"""DICOM files within limits: what is absurd, deep or large ends in one line, soon, and takes no memory."""

from __future__ import annotations

import os
import re
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import pytest

from tests.dicoms import SYNTAXES, loop, write_dicom
from utils import dicom_file
from utils.config import ROOT
from utils.dicom import read_frames, read_header
from utils.dicom_file import items, number, numbers, opened, text, whole_number
from utils.log import InputError

KEYWORDS = ("SpecificCharacterSet", "PatientID", "Rows", "Columns", "NumberOfFrames", "FrameTime", "WindowCenter")


def element(group: int, number: int, vr: bytes, value: bytes) -> bytes:
    """Of an explicit, little endian file."""
    long = vr in (b"OB", b"OW", b"SQ", b"UN", b"UT")
    return (
        struct.pack("<HH2s", group, number, vr)
        + struct.pack("<HL" if long else "<H", *([0] * long), len(value))
        + value
    )


def with_elements(path: Path, *elements: bytes) -> Path:
    """A sound file with elements in front of its own."""
    write_dicom(path, loop()[:1])
    data = path.read_bytes()
    at = 144 + int.from_bytes(data[140:144], "little")
    path.write_bytes(data[:at] + b"".join(elements) + data[at:])
    return path


def test_values_are_read_whatever_they_are(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", loop(), WindowCenter=["1", "2.5"], PatientID="Müller\x1b[31m", frame_time=40,
                       SpecificCharacterSet="ISO_IR 100")  # fmt: skip
    with opened(path, KEYWORDS) as file:
        assert numbers(file.dataset, "WindowCenter") == (1, 2.5) and number(file.dataset, "WindowCenter") is None
        assert (whole_number(file.dataset, "Rows"), number(file.dataset, "FrameTime")) == (96, 40)
        assert text(file.dataset, "PatientID") == "Müller?[31m"  # no terminal obeys it
        assert text(file.dataset, "StudyID") == "" and numbers(file.dataset, "StudyID") == ()
        assert items(file.dataset, "Rows", 3) == [] and items(file.dataset, "VOILUTSequence", 3) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (element(0x28, 0x08, b"IS", b"3 "), element(0x28, 0x08, b"IS", b"x ")),
        (element(0x28, 0x08, b"IS", b"3 "), element(0x28, 0x08, b"IS", b"3\\2"[:2])),
        (element(0x28, 0x10, b"US", b"\x60\0"), element(0x28, 0x10, b"LO", b"ab")),
        (element(0x28, 0x10, b"US", b"\x60\0"), element(0x28, 0x10, b"FD", b"ab")),
    ],
)  # fmt: skip
def test_numbers_that_are_none(tmp_path: Path, old: bytes, new: bytes) -> None:
    path = write_dicom(tmp_path / "a.dcm", loop())
    assert old in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(old, new))
    with pytest.raises(InputError, match=r"(Rows|NumberOfFrames) of 1 to"):
        read_header(path)


def test_numbers_of_another_kind_are_read(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", loop())
    old, new = element(0x28, 0x10, b"US", b"\x60\0"), element(0x28, 0x10, b"LO", b"96")
    path.write_bytes(path.read_bytes().replace(old, new))
    assert read_header(path).height == 96


def test_character_sets_that_do_not_exist(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    path = with_elements(tmp_path / "a.dcm", element(0x08, 0x05, b"CS", b"ISO_IR 9999 "))
    assert read_header(path).patient == "PHANTOM-1" and len(list(read_frames(read_header(path)))) == 1
    assert capfd.readouterr() == ("", "") and not recwarn.list


def test_elements_of_vendors_are_passed_over(tmp_path: Path) -> None:
    large = element(0x09, 0x1001, b"OB", bytes(30_000_000))
    path = with_elements(tmp_path / "a.dcm", element(0x09, 0x10, b"LO", b"VENDOR"), large)
    tracemalloc.start()
    assert read_header(path).patient == "PHANTOM-1"
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def test_sequences_of_any_depth_end(tmp_path: Path) -> None:
    depth = 20_000
    begin = struct.pack("<HH2sHL", 0x18, 0x6011, b"SQ", 0, 0xFFFFFFFF) + struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
    path = with_elements(tmp_path / "a.dcm", begin * depth)
    with pytest.raises(InputError, match="a DICOM header expected, what came cannot be read"):
        read_header(path)


def test_a_header_of_very_many_items_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicom_file, "MOST_HEADER", 2**16)
    item = struct.pack("<HHL", 0xFFFE, 0xE000, 0)
    begin = struct.pack("<HH2sHL", 0x18, 0x6011, b"SQ", 0, 0xFFFFFFFF)
    path = with_elements(tmp_path / "a.dcm", begin, item * 20_000)
    with pytest.raises(InputError, match="a DICOM header of at most 65,536 bytes expected, more came"):
        read_header(path)


def test_a_length_beyond_the_file_reserves_nothing(tmp_path: Path) -> None:
    path = with_elements(tmp_path / "a.dcm", struct.pack("<HH2sHL", 0x18, 0x6011, b"SQ", 0, 0xFFFFFFF0))
    tracemalloc.start()
    with pytest.raises(InputError):
        read_header(path)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def test_what_inflates_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicom_file, "MOST_INFLATED", 2**20)
    monkeypatch.setattr(dicom_file, "MOST_HEADER", 2**16)
    path = write_dicom(tmp_path / "a.dcm", loop(), syntax="deflated")
    data = path.read_bytes()
    at = 144 + int.from_bytes(data[140:144], "little")
    content = zlib.decompress(data[at:], -15) + bytes(2**24)
    squeeze = zlib.compressobj(wbits=-15)
    path.write_bytes(data[:at] + squeeze.compress(content) + squeeze.flush())
    found = read_header(path)  # of which only the beginning is inflated
    with pytest.raises(InputError, match="at most 1,048,576 bytes of deflated data expected, more came"):
        next(read_frames(found))
    path.write_bytes(data[:at] + b"\xff" * 50)
    with pytest.raises(InputError, match="cannot be read"):
        read_header(path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    os.mkfifo(path)
    with pytest.raises(InputError, match="no file but a device or a pipe"):
        read_header(path)
    assert not dicom_file.has_mark(path)


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_dicom(tmp_path / "a.dcm", loop())

    def absent(name: str) -> Any:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr("importlib.import_module", absent)
    with pytest.raises(InputError, match="reading DICOM: pydicom is not installed; pip install -r requirements-"):
        read_header(path)


def test_what_is_to_be_installed_is_the_same_everywhere() -> None:
    lines = (ROOT / "requirements-dicom.txt").read_text().splitlines()
    packages = [line for line in lines if not line.startswith("#")]
    assert {re.split("[<>=]", package)[0] for package in packages} >= {"pydicom", "av", "highdicom", "dicognito"}
    project = (ROOT / "pyproject.toml").read_text()
    assert all(f'"{package}"' in project for package in packages)


def test_the_marks_of_syntaxes_are_known() -> None:
    assert [SYNTAXES[name] for name in ("implicit", "explicit", "big endian", "deflated")] == [
        dicom_file.IMPLICIT, dicom_file.EXPLICIT, dicom_file.BIG_ENDIAN, dicom_file.DEFLATED,
    ]  # fmt: skip
