"""Names of outputs: the files' own, or hashes under a key that say nothing and are the same each time."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.dicoms import loop, write_dicom
from utils.identifiers import Identifiers
from utils.log import printable
from utils.output_names import OutputNames

ROOT = Path("/data/study")
KEY = Identifiers(b"k" * 32)
HIDDEN = OutputNames(KEY, ROOT, all_files=True)


def test_files_keep_their_names_unless_asked() -> None:
    path = ROOT / "Doe.avi"
    for naming in (OutputNames(), OutputNames(Identifiers(b"", keep=True), ROOT, all_files=True)):
        assert not naming.hides(path) and naming.stem(path) == "Doe" and naming.file(path, "Doe_2") == "Doe.avi"
        assert naming.without(f"{path}: broken", path, "Doe") == f"{path}: broken"
    assert not OutputNames(KEY, ROOT).hides(path)  # no DICOM, no report


def test_a_name_that_is_hidden_is_a_hash_of_the_path_below_the_source() -> None:
    path = ROOT / "a" / "Doe.avi"
    assert HIDDEN.hides(path) and HIDDEN.stem(path) == KEY.name("clip", "a/Doe.avi")
    moved = OutputNames(KEY, Path("/mnt/copy"), all_files=True)
    assert moved.stem(Path("/mnt/copy/a/Doe.avi")) == HIDDEN.stem(path)
    assert HIDDEN.stem(ROOT / "b" / "Doe.avi") != HIDDEN.stem(path)
    assert HIDDEN.file(path, "clip-1") == "clip-1"


@pytest.mark.parametrize("keep", [False, True])
def test_frames_of_a_clip_share_its_name_and_are_counted_unless_they_keep_their_numbers(keep: bool) -> None:
    naming = OutputNames(Identifiers(b"", keep=True), ROOT, all_files=True) if keep else HIDDEN
    paths = [ROOT / f"Doe-c1-f{number:03}.png" for number in (12, 4)]
    stems = naming.stems(paths[:1], known=paths[1:]) + naming.stems(paths[1:], known=paths[:1])
    clips = {naming.clip(path, stem) for path, stem in zip(paths, stems, strict=True)}
    assert len(clips) == 1
    (clip,) = clips
    assert stems == [f"{clip}-{last}" for last in (("f012", "f004") if keep else ("1", "0"))]
    assert ("Doe" in clip) is keep


@pytest.mark.parametrize("name", ["Doe_19500102", "IMG_20240131_101530", "Echo-Meier7", "ID 4711", "2024-01-31"])
def test_what_looks_like_the_number_of_a_frame_is_not_said(name: str) -> None:
    path = ROOT / f"{name}.png"
    assert HIDDEN.stems([path]) == [f"{HIDDEN.clip(path, '')}-0"]


def test_a_video_with_a_number_is_a_clip_of_its_own() -> None:
    one, two = ROOT / "Doe-1.avi", ROOT / "Doe-2.avi"
    assert HIDDEN.stem(one) != HIDDEN.stem(two) and HIDDEN.clip(one, HIDDEN.stem(one)) == HIDDEN.stem(one)


def test_a_clip_that_keeps_its_name_has_one_that_a_page_and_a_file_can_have() -> None:
    naming = OutputNames(Identifiers(b"", keep=True), ROOT, all_files=True)
    path = ROOT / "心 エコー 1 (b).avi"
    assert naming.stem(path) == path.stem and " " not in naming.clip(path, path.stem)
    assert "(" not in naming.clip(path, path.stem)


def test_dicom_files_are_named_by_their_instance_and_hidden_without_a_report_too(tmp_path: Path) -> None:
    naming = OutputNames(KEY, tmp_path)
    path = write_dicom(tmp_path / "Doe.dcm", loop(1), SOPInstanceUID="1.2.3")
    assert naming.hides(path) and naming.stem(path) == KEY.name("clip", "1.2.3")
    without = write_dicom(tmp_path / "b.dcm", loop(1), change=lambda dataset: dataset.pop("SOPInstanceUID"))
    assert naming.stem(without) == KEY.name("clip", "b.dcm")
    (tmp_path / "broken.dcm").write_bytes(b"x")
    assert naming.stem(tmp_path / "broken.dcm") == KEY.name("file", "broken.dcm")


def test_a_message_says_the_hash_in_place_of_the_name() -> None:
    path = ROOT / "a.avi"
    assert HIDDEN.without(f"{path}: a video expected, a.avi came", path, "clip-1") == (
        "clip-1: a video expected, clip-1 came"
    )
    numbered = Path("Ward Huber") / "9"
    assert HIDDEN.without(f"{numbered}: 9 frames expected", numbered, "clip-1") == "clip-1: 9 frames expected"
    long = Path("Ward\nHuber" * 50) / "a.avi"
    assert HIDDEN.without(f"{printable(str(long), 300)}: none", long, "clip-1") == "clip-1: none"


def test_studies_are_named_by_uid_or_by_folder() -> None:
    assert HIDDEN.study("1.2.3") == KEY.name("study", "1.2.3") and OutputNames().study("1.2.3") == "1.2.3"
    assert HIDDEN.folder(ROOT / "a.avi") == "study" and HIDDEN.folder(ROOT / "x" / "y" / "a.avi") == "x/y"
