"""Which files a source means, in which order, and what their names say of them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from tests.dicoms import loop, write_dicom
from tests.phantoms import encode, picture, write_image
from utils.draw import save
from utils.log import InputError
from utils.source_files import clip_name, is_dicom, is_video, places
from utils.sources import open_source


def test_dicom_files_come_first_as_they_were_acquired_by_suffix_or_by_content(tmp_path: Path) -> None:
    save(tmp_path / "a.png", np.zeros((8, 8, 3), np.uint8))
    write_dicom(tmp_path / "late.dcm", loop(2), AcquisitionTime="120000")
    write_dicom(tmp_path / "1.2.840.7", loop(3), AcquisitionTime="110000")
    write_dicom(tmp_path / "IM0001", loop(1), AcquisitionTime="100000")
    (tmp_path / "notes").write_text("no DICOM file " * 20)
    write_dicom(tmp_path / "DICOMDIR", loop(1), SOPClassUID="1.2.840.10008.1.3.10")
    source = open_source(str(tmp_path))
    found = [(frame.path.name, frame.number, frame.total) for frame in source]
    assert found == [
        ("IM0001", None, None), *(("1.2.840.7", n, 3) for n in range(3)), *(("late.dcm", n, 2) for n in range(2)),
        ("a.png", None, None),
    ]  # fmt: skip
    assert source.total == 7 and not source.problems
    assert is_dicom(tmp_path / "IM0001") and is_dicom(tmp_path / "gone.dcm") and not is_dicom(tmp_path / "notes")


def test_a_folder_is_searched_with_all_folders_in_it_only_as_a_study(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b"
    write_dicom(deep / "x.dcm", loop(1))
    (tmp_path / ".hidden").mkdir()
    write_dicom(tmp_path / ".hidden" / "y.dcm", loop(1))
    (deep / "back").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(InputError, match="none is there; folders in it are searched with --save-study"):
        open_source(str(tmp_path))
    assert open_source(str(tmp_path), study=True).files == [deep / "x.dcm"]


@pytest.mark.parametrize(
    ("name", "clip"),
    [("p02-c01-f0004", "p02-c01"), ("clip 12", "clip"), ("a_7", "a"), ("a7", None), ("still", None), ("-7", None)],
)
def test_the_clip_of_a_frame_is_told_by_its_name(tmp_path: Path, name: str, clip: str | None) -> None:
    assert clip_name(tmp_path / f"{name}.png") == (None if clip is None else (tmp_path, clip))


@pytest.mark.parametrize("data", [b"", b"# only a comment\n\n", "clé.png".encode("utf-16")])
def test_a_list_without_paths_is_an_input_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "list.txt").write_bytes(data)
    with pytest.raises(InputError, match=r"list\.txt: a list .* expected"):
        open_source(str(tmp_path / "list.txt"))


def test_globs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.png", "b.jpg", "c.txt", "sub/d.png", "sub/more/e.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(encode(".png", picture()))

    def names(pattern: str) -> list[str]:
        return [frame.path.name for frame in open_source(pattern)]

    assert names(f"{tmp_path}/*") == ["a.png", "b.jpg"]
    assert names(f"{tmp_path}/**/*.png") == ["a.png", "d.png", "e.png"]
    monkeypatch.chdir(tmp_path)
    assert names("*/d.*") == ["d.png"]
    for pattern in ("*.webp", "*.txt"):
        with pytest.raises(InputError, match="none is there"):
            open_source(pattern)
    write_image(tmp_path / "odd[1]*.png")
    assert names("odd[1]*.png") == ["odd[1]*.png"]  # a file that exists is no pattern


def test_a_glob_below_a_folder_with_a_globs_signs_in_its_name(tmp_path: Path) -> None:
    for name in ("frames [1]", "frames 1"):
        write_image(tmp_path / name / f"{name}.png")
    found = list(open_source(f"{tmp_path}/frames [1]/*.png"))
    assert [frame.path.name for frame in found] == ["frames [1].png"]
    assert len(list(open_source(f"{tmp_path}/frames*/*.png"))) == 2  # a pattern that names no folder stays one


def test_the_package_for_dicom_is_asked_for_once_and_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "a.png", np.zeros((8, 8, 3), np.uint8))
    for name in ("a.dcm", "b.dcm"):
        write_dicom(tmp_path / name, loop(1))
    monkeypatch.setitem(sys.modules, "pydicom", None)
    words = r"reading DICOM: pydicom is not installed; pip install -r requirements-dicom\.txt$"
    for source in (tmp_path, tmp_path / "a.dcm", tmp_path / "*.dcm"):
        with pytest.raises(InputError, match=words):
            open_source(str(source))
    assert len(list(open_source(str(tmp_path / "a.png")))) == 1


def test_places_of_frames_in_their_clips_are_by_number(tmp_path: Path) -> None:
    names = ("c-10.png", "c-9.png", "d-1.png", "still.png", "c-1.avi", "c-09.png")
    found = places(tmp_path / name for name in names)
    assert {path.name: place for path, place in found.items()} == {
        "c-9.png": 0, "c-09.png": 1, "c-10.png": 2, "d-1.png": 0,
    }  # fmt: skip
    assert is_video(tmp_path / "c-1.avi") and is_video(tmp_path / "IM1") and not is_video(tmp_path / "still.png")
