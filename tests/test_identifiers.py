"""utils/identifiers.py: names under a key that is made once; DICOM datasets of which nothing planted is left."""

from __future__ import annotations

import io
import os
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from utils import identifiers
from utils.config import ROOT
from utils.identifiers import Identifiers, read_key
from utils.log import InputError

KEY = bytes(range(32))
OURS, OTHER = Identifiers(KEY), Identifiers(bytes(32))
PINNED = ("clip-091b662a91a8", "2.25.323208961630152148644988635546095983220")
KEPT = Identifiers(b"", keep=True)

# What is planted: values of every type that can name somebody, none of which may be in a file that leaves.
TEXT, NUMBER, DAY, CLOCK, AGE = "Plantedvalue", 7725, "20240229", "071839", "077Y"
PLANTED = {
    **dict.fromkeys(("LO", "SH", "LT", "ST", "UT", "UC", "PN"), TEXT),
    **dict.fromkeys(("AE", "CS"), TEXT.upper()),
    **dict.fromkeys(("OB", "OW", "UN"), TEXT.encode()),
    **dict.fromkeys(("US", "UL", "IS"), NUMBER),
    **{"DS": "7725", "FL": 7725.0, "FD": 7725.0, "UR": f"http://{TEXT}", "DA": DAY, "TM": CLOCK, "DT": DAY + CLOCK},
    **{"AS": AGE, "UI": "1.2.7725.1"},
}
LEAKS = [text.encode() for text in (TEXT.lower(), str(NUMBER), DAY, CLOCK, AGE.lower())]
LEAKS += [struct.pack(kind, NUMBER) for kind in ("<H", "<I", "<f", "<d")]


def test_names_are_pinned_and_differ_by_value_kind_and_key() -> None:
    assert (OURS.name("clip", "1.2.3"), OURS.uid("1.2.3")) == PINNED
    values = ("1.2.3", "1.2.4", "")
    names = [by.name(kind, value) for by in (OURS, OTHER) for kind in ("clip", "study") for value in values]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"(clip|study)-[0-9a-f]{12}", name) for name in names)
    assert OURS.name("clip", "J\udcfcrg") != OURS.name("clip", "Jürg")  # a file's name that is no text
    assert repr(KEY)[2:-1] not in repr(OURS) and "key" not in repr(OURS)


def test_uids_are_uids_and_the_same_each_time() -> None:
    uid = pytest.importorskip("pydicom.uid")
    given = [OURS.uid(f"1.2.{i}") for i in range(200)]
    assert len(set(given)) == 200 and given == [Identifiers(KEY).uid(f"1.2.{i}") for i in range(200)]
    assert all(uid.UID(name).is_valid and name.startswith("2.25.") and len(name) <= 64 for name in given)
    assert OURS.uid("1.2.3\0") == OURS.uid("1.2.3") != OTHER.uid("1.2.3")  # padded to an even length


def test_what_is_kept_has_its_own_name_as_far_as_files_can_have_it() -> None:
    assert KEPT.name("study", "1.2.840.5") == KEPT.uid("1.2.840.5") == "1.2.840.5"
    odd = ["a/b", "a_b", "../a", "..", "", "con", "NUL.txt", ".bashrc", "a\nb", "x" * 300, "x" * 301, "é b", "a\udcfc"]
    names = [KEPT.name("clip", value) for value in odd]
    assert len(set(names)) == len(odd)
    for name in names:
        assert Path(name).name == name and name[0] not in ".-" and len(name.encode()) < 250 and name.isprintable()
        assert name.split(".")[0].lower() not in ("con", "nul")


def test_a_key_is_made_once_and_for_its_owner_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "runs" / "identifiers.key"
    assert Identifiers.open(path, keep=True).keep and not path.parent.exists()
    first = Identifiers.open(path, keep=False)
    text = path.read_bytes()
    assert re.fullmatch(rb"[0-9a-f]{64}\n", text) and first.key.hex().encode() == text.strip()
    assert Identifiers.open(path, keep=False) == first and path.read_bytes() == text
    assert list(path.parent.iterdir()) == [path]
    assert Identifiers.open(tmp_path / "other.key", keep=False) != first
    if os.name == "posix":
        assert path.stat().st_mode & 0o777 == 0o600 and "may read this key" not in caplog.text
        path.chmod(0o644)
        assert Identifiers.open(path, keep=False) == first and "may read this key" in caplog.text


STARTS = """
import sys
from pathlib import Path
from utils.identifiers import Identifiers

print(Identifiers.open(Path(sys.argv[1]), False).key.hex())
"""


def test_processes_that_start_at_once_have_one_key(tmp_path: Path) -> None:
    command = [sys.executable, "-c", STARTS, str(tmp_path / "a.key")]
    started = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) for _ in range(3)]
    assert len({process.communicate(timeout=60)[0] for process in started}) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.key"]


@pytest.mark.parametrize("links", [True, False])
def test_threads_that_start_at_once_have_one_key(tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(1, "no links on this file system")

    if not links:
        monkeypatch.setattr(os, "link", refused)
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: Identifiers.open(tmp_path / "a.key", False).key, range(8)))
    assert len(keys) == 1 and [path.name for path in tmp_path.iterdir()] == ["a.key"]
    assert (tmp_path / "a.key").stat().st_mode & 0o077 == 0 or os.name != "posix"


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"abc", b"0" * 63, b"0" * 65, b"g" * 64, bytes(64), bytes(range(128, 192)), b"0" * 5000]
)
def test_what_is_no_key_is_one_line_and_stays(tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identifiers, "PATIENCE", 0.1)
    path = tmp_path / "a.key"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.key: expected a key of 64 hex digits, got .* that are none$") as caught:
        Identifiers.open(path, keep=False)
    assert path.read_bytes() == content and "\n" not in str(caught.value) and "abc" not in str(caught.value)


def test_a_key_that_can_neither_be_read_nor_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    for path in (tmp_path, tmp_path / "file" / "a.key", tmp_path / "gone"):
        with pytest.raises(InputError, match="expected a key, or a place for one: "):
            Identifiers.open(path, keep=False)
    if os.name == "posix" and os.getuid():  # root may read everything
        (tmp_path / "a.key").write_text("0" * 64)
        (tmp_path / "a.key").chmod(0)
        with pytest.raises(InputError, match="Permission denied"):
            Identifiers.open(tmp_path / "a.key", keep=False)


def test_who_has_the_key_looks_names_up(tmp_path: Path) -> None:
    path = tmp_path / "a.key"
    command = [sys.executable, "-m", "utils.identifiers", "--key", str(path)]
    done = subprocess.run([*command, "MRN 7"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "a.key" in done.stderr and not path.exists()  # a look-up makes no key
    ours = Identifiers.open(path, keep=False)
    done = subprocess.run([*command, "MRN 7", "1.2.3"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    first, second = (line.split("\t") for line in done.stdout.splitlines())
    assert (done.returncode, done.stderr) == (0, "")
    assert first[:2] == ["MRN 7", ours.name("patient", "MRN 7")]
    assert second == ["1.2.3", *(ours.name(kind, "1.2.3") for kind in identifiers.KINDS), ours.uid("1.2.3")]
    for wrong in (command[:3], command):
        done = subprocess.run(wrong, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert done.returncode == 1 and done.stderr.count("\n") == 1


def clip(**values: Any) -> Any:
    """An ultrasound clip's dataset, with a file's beginning."""
    pydicom = pytest.importorskip("pydicom")
    pytest.importorskip("dicognito")
    dataset, region, view = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
    region.RegionSpatialFormat, region.RegionDataType, region.PhysicalDeltaX = 1, 2, 0.0351
    region.RegionLocationMinX0, region.RegionLocationMaxX1 = 80, 600
    view.CodeValue, view.CodingSchemeDesignator, view.CodeMeaning = "399214001", "SCT", "Apical four chamber"
    given = {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.3.1", "SOPInstanceUID": "1.2.3.4", "StudyInstanceUID": "1.2.3",
        "SeriesInstanceUID": "1.2.3.1", "PatientID": "MRN-551", "PatientName": "Fält^Åsa",
        "PatientBirthDate": "19510203", "PatientSex": "F", "StudyDate": "20240301", "StudyTime": "101112.5",
        "AccessionNumber": "ACC99",
        "StudyID": "", "ReferringPhysicianName": "Doc^Tor", "SpecificCharacterSet": "ISO_IR 100", "NumberOfFrames": 2,
        "Rows": 4, "Columns": 6, "FrameTime": "33.3", "Manufacturer": "A Maker", "ImageType": ["ORIGINAL", "PRIMARY"],
        "SequenceOfUltrasoundRegions": [region], "ViewCodeSequence": [view],
    }  # fmt: skip
    for keyword, value in {**given, **values}.items():
        setattr(dataset, keyword, value)
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.102"  # a video's
    return dataset


def written(dataset: Any) -> bytes:
    with io.BytesIO() as file:
        dataset.save_as(file, enforce_file_format=True)
        return file.getvalue()


def read(content: bytes) -> Any:
    return pytest.importorskip("pydicom").dcmread(io.BytesIO(content))


def plant(dataset: Any, keywords: Iterator[str] | list[str]) -> None:
    """Give attributes values that name somebody, those of sequences in an item."""
    pydicom = pytest.importorskip("pydicom")
    for keyword in keywords:
        kind = pydicom.datadict.dictionary_VR(keyword)
        if kind == "SQ":
            item = pydicom.Dataset()
            item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = TEXT[:16], "99HOME", TEXT
            item.TextValue, item.PersonName, item.StationName, item.UID = TEXT, TEXT, TEXT, "1.2.7725.2"
            setattr(dataset, keyword, [item])
        elif keyword not in dataset:
            dataset.add_new(pydicom.datadict.tag_for_keyword(keyword), kind, PLANTED[kind])


def leaks(content: bytes) -> list[bytes]:
    return [leak for leak in LEAKS if leak in content or leak in content.lower()]


def profile() -> list[str]:
    """The attributes of the basic profile, DICOM PS3.15 2026c table E.1-1, without those of a message or file."""
    tag = pytest.importorskip("pydicom").datadict.tag_for_keyword
    keywords = (Path(__file__).parent / "samples" / "dicom_basic_profile.txt").read_text().split()
    return [keyword for keyword in keywords if tag(keyword) >= 0x00080000]


def test_nothing_that_the_basic_profile_names_leaves() -> None:
    dataset = clip(PatientID=TEXT, PatientName=TEXT, StudyDate=DAY, StudyTime=CLOCK, StudyInstanceUID="1.2.7725")
    for keyword in ("AccessionNumber", "ReferringPhysicianName", "PatientSex", "PatientBirthDate", "StudyID"):
        del dataset[keyword]
    assert len(profile()) > 600
    plant(dataset, profile())
    assert len(leaks(written(dataset))) >= 6  # what is looked for would be found
    clean = OURS.anonymised(dataset)
    content = written(clean)
    assert leaks(content) == []
    assert not [keyword for keyword in profile() if keyword in clean and clean[keyword] == dataset[keyword]]
    assert (clean.PatientIdentityRemoved, clean.PatientSex, clean.PatientBirthDate) == ("YES", "", "")


@pytest.mark.filterwarnings("ignore:Invalid value")  # of this test's own reading
def test_nothing_in_private_nested_unknown_or_broken_elements_leaves() -> None:
    pydicom = pytest.importorskip("pydicom")
    dataset = clip(ImageType=["ORIGINAL", TEXT], SoftwareVersions=["9.1", TEXT], BurnedInAnnotation="YES")
    block = dataset.private_block(0x0019, "MAKER", create=True)
    block.add_new(1, "LO", TEXT)
    region = dataset.SequenceOfUltrasoundRegions[0]
    region.private_block(0x0019, "MAKER", create=True).add_new(1, "LO", TEXT)
    region.add_new(0x00081080, "LO", TEXT)
    local = pydicom.Dataset()
    local.CodeValue, local.CodingSchemeDesignator, local.CodeMeaning = "1", "99HOME", TEXT
    dataset.ViewCodeSequence.append(local)
    dataset.add_new(0x60000010, "US", NUMBER)
    dataset.add_new(0x60003000, "OW", TEXT.encode())
    dataset.add_new(0x60004000, "LT", TEXT)
    dataset.add_new(0x00081FFF, "UN", TEXT.encode())  # in no dictionary
    dataset.add_new(0x00204000, "LT", TEXT)  # ImageComments
    dataset.file_meta.SourceApplicationEntityTitle = TEXT.upper()
    dataset.preamble = TEXT.encode() * 10 + bytes(8)
    dataset.PixelData = pydicom.encaps.encapsulate([TEXT.encode()])
    dataset["PixelData"].VR = "OB"
    content = bytearray(written(dataset))
    place = content.index(b"33.3")
    content[place : place + 4] = b"Jo H"  # a number that is a name
    source = read(bytes(content))
    clean = OURS.anonymised(source)
    assert leaks(written(clean)) == [] and b"Jo H" not in written(clean)
    assert "PixelData" not in clean and "FrameTime" not in clean and "ImageType" not in clean
    assert [view.CodeMeaning for view in clean.ViewCodeSequence] == ["Apical four chamber"]
    assert (source.PatientName, TEXT.encode() in written(source)) == ("Fält^Åsa", True)  # the original is as it was


def test_what_is_needed_to_read_a_clip_stays() -> None:
    source = clip()
    clean = read(written(OURS.anonymised(source)))
    for keyword in ("NumberOfFrames", "Rows", "Columns", "FrameTime", "Manufacturer", "ImageType", "SOPClassUID"):
        assert clean[keyword].value == source[keyword].value, keyword
    assert clean.SequenceOfUltrasoundRegions == source.SequenceOfUltrasoundRegions
    assert clean.ViewCodeSequence == source.ViewCodeSequence
    assert OURS.anonymised(clip(SOPClassUID="1.2.9")).SOPClassUID == "1.2.9"  # a maker's own kind of file
    assert clean.DeidentificationMethod == "DICOGNITO" and clean.LongitudinalTemporalInformationModified == "MODIFIED"


def test_files_of_a_study_stay_together_and_have_one_mapping() -> None:
    first, second = clip(), clip(SOPInstanceUID="1.2.3.5", AcquisitionDateTime="20240302101112.5", StudyID="77")
    one, two, again = (OURS.anonymised(dataset) for dataset in (first, second, first))
    assert written(one) == written(again)
    assert one.StudyInstanceUID == two.StudyInstanceUID == OURS.uid("1.2.3")
    assert (one.SOPInstanceUID, two.SOPInstanceUID) == (OURS.uid("1.2.3.4"), OURS.uid("1.2.3.5"))
    assert one.file_meta.MediaStorageSOPInstanceUID == one.SOPInstanceUID
    assert one.PatientID == two.PatientID == OURS.name("patient", "MRN-551")
    assert one.PatientName == two.PatientName != first.PatientName
    assert one.AccessionNumber == two.AccessionNumber != first.AccessionNumber
    assert one.StudyID == "" and two.StudyID not in ("", "77")
    assert one.StudyDate == two.StudyDate < first.StudyDate and one.StudyTime == ""
    assert int(two.AcquisitionDateTime) - int(two.StudyDate) in (1, 71, 72, 73)  # a day later, also over a month's end
    elsewhere, stranger = OTHER.anonymised(first), OURS.anonymised(clip(PatientID="MRN-552"))
    for keyword in ("PatientID", "PatientName", "StudyDate"):
        assert len({str(dataset[keyword].value) for dataset in (one, elsewhere, stranger)}) == 3, keyword


@pytest.mark.parametrize("date", ["", "2024", "20240230", "2024-03-01", "00010101", "yesterda", "20240301\\20240302"])
def test_dates_that_are_none_are_left_empty(date: str) -> None:
    pydicom = pytest.importorskip("pydicom")
    with pydicom.config.disable_value_validation():
        clean = OURS.anonymised(clip(StudyDate=date.split("\\") if "\\" in date else date, PatientID=""))
    assert (clean.StudyDate, clean.PatientID) == ("", "")


def test_a_dataset_with_nothing_in_it_is_one_still() -> None:
    pydicom = pytest.importorskip("pydicom")
    assert [element.keyword for element in OURS.anonymised(pydicom.Dataset())] == [
        "SpecificCharacterSet", "PatientIdentityRemoved", "DeidentificationMethod",
        "LongitudinalTemporalInformationModified",
    ]  # fmt: skip


def test_what_is_kept_is_a_copy() -> None:
    source = clip()
    kept = KEPT.anonymised(source)
    assert kept == source and kept is not source
    kept.PatientName = "X"
    kept.SequenceOfUltrasoundRegions[0].RegionDataType = 9
    assert source.PatientName == "Fält^Åsa" and source.SequenceOfUltrasoundRegions[0].RegionDataType == 2


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    source = clip()
    for name in ("dicognito", "dicognito.anonymizer"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=r"^DICOM files without identifiers: dicognito is not installed; pip install"):
        OURS.anonymised(source)


def test_reading_a_key_is_no_making(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_key(tmp_path / "a.key")
    assert not list(tmp_path.iterdir())
