"""Headers of DICOM files: which files are, whose they are, when, at which times, and where the ultrasound is."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset

from tests.dicoms import MULTIFRAME, burnt, loop, write_dicom
from utils.dicom import DicomHeader, is_dicom, is_directory, read_frames, read_header
from utils.log import InputError
from utils.regions import Region

SECTOR = Region((10, 4, 110, 90), 1, 1, (0.05, 0.04))
COLOUR = Region((30, 14, 80, 70), 1, 2, (0.05, 0.04))
TRACE = Region((0, 90, 128, 96), 3, 1)


def header(path: Path, **tags: Any) -> DicomHeader:
    return read_header(write_dicom(path / "a.dcm", loop(), **tags))


def test_what_a_file_says_of_itself(tmp_path: Path) -> None:
    found = header(tmp_path, study="1.2.3", SeriesInstanceUID="1.2.4", SOPInstanceUID="1.2.5", frame_time=40)
    assert found == DicomHeader(
        tmp_path / "a.dcm", "1.2.3", "1.2.4", "1.2.5", MULTIFRAME, "PHANTOM-1",
        "20240131 101530.250000 0000000001 0000000001", 96, 128, 3, (0.0, 0.04, 0.08), "1.2.840.10008.1.2.1", (),
    )  # fmt: skip
    assert found.fps == pytest.approx(25) and found.area is None


def test_a_file_that_says_little(tmp_path: Path) -> None:
    names = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "PatientID", "StudyDate", "StudyTime")
    rest = ("AcquisitionDate", "AcquisitionTime", "SeriesNumber", "InstanceNumber", "NumberOfFrames")
    found = header(tmp_path, **dict.fromkeys((*names, *rest)))
    assert (found.study, found.series, found.instance, found.patient, found.times) == ("", "", "", "", ())
    assert found.acquired == "00000000 000000.000000 0000000000 0000000000"
    assert found.frames == 1 and found.fps is None


def test_dicom_is_known_by_its_mark_or_its_suffix(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "IM_0001", loop())
    assert is_dicom(path) and not is_directory(path) and len(list(read_frames(read_header(path)))) == 3
    bare = tmp_path / "bare.DCM"
    bare.write_bytes(path.read_bytes()[132:])  # without preamble
    assert is_dicom(bare) and len(list(read_frames(read_header(bare)))) == 3
    other = tmp_path / "a.png"
    other.write_bytes(b"\x89PNG" + bytes(200))
    assert not is_dicom(other) and not is_dicom(tmp_path) and not is_dicom(tmp_path / "missing")
    other = other.rename(tmp_path / "a.dcm")
    assert is_dicom(other)
    with pytest.raises(InputError, match=r"a DICOM file expected, other bytes came \(first bytes b'\\x89PNG"):
        read_header(other)


@pytest.mark.parametrize("syntax", ["implicit", "explicit", "big endian"])
def test_files_without_meta_information(tmp_path: Path, syntax: str) -> None:
    path = write_dicom(tmp_path / "a.dcm", loop(), syntax=syntax)
    data = path.read_bytes()
    at = 144 + int.from_bytes(data[140:144], "little")
    path.write_bytes(data[at:])
    assert (np.stack([picture for _, picture in read_frames(read_header(path))]) == loop()).all()


def test_a_directory_of_files_is_told(tmp_path: Path) -> None:
    path = Path(str(get_testdata_file("DICOMDIR", download=False)))
    copy = tmp_path / "list.dcm"
    shutil.copyfile(path, copy)
    assert is_directory(path) and is_directory(copy) and not is_directory(tmp_path / "missing")
    with pytest.raises(InputError, match="pictures expected"):
        read_header(copy)


def test_a_report_holds_no_pictures() -> None:
    path = Path(str(get_testdata_file("reportsi.dcm", download=False)))
    with pytest.raises(InputError, match=r"reportsi\.dcm: a DICOM file with pictures expected, Basic Text SR Storage"):
        read_header(path)


def test_the_order_of_text_is_that_of_acquisition(tmp_path: Path) -> None:
    no_date = {"AcquisitionDate": None, "AcquisitionTime": None}
    in_order: list[dict[str, Any]] = [
        {**no_date, "StudyDate": None, "InstanceNumber": "2"},
        {**no_date, "StudyDate": "2023.12.31"},
        {"AcquisitionDateTime": "20240131101500.5+0100"},
        {"AcquisitionTime": "101500.6"},
        {"AcquisitionTime": "101530", "SeriesNumber": "2", "InstanceNumber": "9"},
        {"AcquisitionTime": "101530", "SeriesNumber": "2", "InstanceNumber": "10"},
        {"AcquisitionTime": "101530", "SeriesNumber": "11", "InstanceNumber": "1"},
        {**no_date, "ContentDate": "20240131", "ContentTime": "1016"},
        {"AcquisitionDate": "20240201", "AcquisitionTime": None},
    ]
    found = [header(tmp_path, **tags).acquired for tags in in_order]
    assert found == sorted(found) and len(set(found)) == len(found) and len(set(map(len, found))) == 1


@pytest.mark.parametrize(
    ("tags", "times"),
    [
        ({"frame_time": 20}, (0, 0.02, 0.04)),
        ({"frame_time": (0, 20, 30)}, (0, 0.02, 0.05)),
        ({"frame_time": (7, 20, 30)}, (0, 0.02, 0.05)),
        ({"frame_time": (0, 20, 30), "FrameTime": 10}, (0, 0.02, 0.05)),
        ({"frame_time": 10, "FrameTimeVector": [0, 20, 30]}, (0, 0.01, 0.02)),
        ({"frame_time": (0, 20)}, ()),
        ({"frame_time": (0, 20), "CineRate": 50}, (0, 0.02, 0.04)),
        ({"CineRate": 25}, (0, 0.04, 0.08)),
        ({"RecommendedDisplayFrameRate": 10}, (0, 0.1, 0.2)),
        ({"CineRate": 0, "RecommendedDisplayFrameRate": 10}, (0, 0.1, 0.2)),
        ({"frame_time": -4}, ()),
        ({"frame_time": (0, -20, 30)}, ()),
        ({"frame_time": 0}, ()),
        ({}, ()),
    ],
    ids=str,
)
def test_times_of_frames(tmp_path: Path, tags: dict[str, Any], times: tuple[float, ...]) -> None:
    found = header(tmp_path, **tags)
    assert found.times == pytest.approx(times)
    assert found.fps == (pytest.approx(2 / times[-1]) if times else None)


def test_regions_and_their_scale(tmp_path: Path) -> None:
    frames = burnt(loop(), "Doe^Jane")
    found = read_header(write_dicom(tmp_path / "a.dcm", frames, regions=(SECTOR, COLOUR, TRACE)))
    assert found.regions == (SECTOR, COLOUR, TRACE)
    area = found.area
    assert area is not None and area.seen == COLOUR.rectangle and area.cm_per_pixel == (0.05, 0.04)
    assert area.shown[50, 50] and not area.shown[2, 2] and area.shown[95, 0]


@pytest.mark.parametrize(
    ("tags", "scale"),
    [
        ({"PhysicalDeltaY": -0.04}, (0.05, 0.04)),
        ({"PhysicalUnitsYDirection": 4}, None),
        ({"PhysicalDeltaX": 0.0}, None),
        ({"PhysicalDeltaX": float("nan")}, None),
        ({"PhysicalDeltaX": float("inf")}, None),
    ],
)
def test_a_scale_is_given_only_where_it_is_in_centimetres(tmp_path: Path, tags: dict[str, Any], scale: Any) -> None:
    def change(dataset: Any) -> None:
        for name, value in tags.items():
            setattr(dataset.SequenceOfUltrasoundRegions[0], name, value)

    assert header(tmp_path, regions=(SECTOR,), change=change).regions[0].cm_per_pixel == scale


def test_regions_that_make_no_sense_are_left_out(tmp_path: Path) -> None:
    def change(dataset: Any) -> None:
        first, second = dataset.SequenceOfUltrasoundRegions[:2]
        del first.RegionLocationMaxX1
        second.RegionLocationMaxX1 = 2
        dataset.SequenceOfUltrasoundRegions += [Dataset()]

    assert header(tmp_path, regions=(SECTOR, COLOUR, TRACE), change=change).regions == (TRACE,)


def test_a_file_that_is_gone_or_empty_is_one_line(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", loop())
    found = read_header(path)
    path.write_bytes(b"")
    for action in (lambda: read_header(path), lambda: next(read_frames(found))):
        with pytest.raises(InputError, match="empty"):
            action()
    path.unlink()
    with pytest.raises(InputError, match="No such file"):
        next(read_frames(found))


@settings(max_examples=150, deadline=None)
@given(
    changes=st.lists(st.tuples(st.integers(0, 1400), st.binary(min_size=1, max_size=6)), min_size=1, max_size=5),
    syntax=st.sampled_from(["explicit", "implicit", "big endian"]),
)
def test_a_changed_header_gives_a_result_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, bytes]], syntax: str
) -> None:
    path = tmp_path_factory.getbasetemp() / f"{syntax}.dcm"
    whole = write_dicom(path, loop()[:, :16, :16], syntax=syntax, regions=(SECTOR, TRACE), frame_time=(0, 20, 30))
    data = bytearray(whole.read_bytes())
    for place, new in changes:
        data[132 + place : 132 + place + len(new)] = new
    path.write_bytes(data)
    try:
        found = read_header(path)
        assert len(found.times) in (0, found.frames) and found.frames >= 1
        assert all(picture.shape == (found.height, found.width, 3) for _, picture in read_frames(found))
    except InputError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    assert path.read_bytes() == data
