"""utils/files.py: a file is its old self or its new one, and every run gets a folder of its own."""

from __future__ import annotations

import json
import math
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import pytest

from utils.files import new_run_folder, read_text, write_json, write_text, write_whole
from utils.log import InputError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_name_that_is_no_text_does_not_end_a_report(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "frame\udcff.png\n")
    assert (tmp_path / "a.txt").read_text() == "frame\\udcff.png\n"


def test_a_text_is_read_whole_or_told(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("é")
    assert read_text(path, 2, "a table") == "é"
    with pytest.raises(InputError, match=r"a\.csv: expected a table, of at most 1 bytes, got 2"):
        read_text(path, 1, "a table")
    path.write_bytes(b"\xff")
    with pytest.raises(InputError, match=r"a\.csv: expected a table, got something else: 'utf-8'"):
        read_text(path, 9, "a table")


def test_a_file_is_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for text in ("first, much longer than the next", "zwölf", ""):
        write_text(path, text)
        assert path.read_bytes() == text.encode("utf-8")
        assert names(tmp_path) == ["a.txt"]
    assert path.stat().st_mode & 0o777 == 0o644  # others may read it, too


@pytest.mark.parametrize("error", [ValueError("halfway"), OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("existed", [True, False])
def test_a_failure_midway_keeps_the_old_content_and_leaves_no_draft(
    tmp_path: Path, existed: bool, error: BaseException
) -> None:
    path = tmp_path / "last.pt"
    if existed:
        path.write_text("old")

    def write(file: BinaryIO) -> None:
        file.write(b"half of the new")
        file.flush()
        assert not existed or path.read_text() == "old"  # what a reader sees meanwhile
        raise error

    with pytest.raises(type(error)):
        write_whole(path, write)
    assert names(tmp_path) == (["last.pt"] if existed else [])
    assert not existed or path.read_text() == "old"


def test_the_content_is_on_the_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, steps = tmp_path / "a.bin", []
    sync, replace = os.fsync, Path.replace

    def synced(handle: int) -> None:
        steps.append(("sync", os.fstat(handle).st_size, path.exists()))
        sync(handle)

    def replaced(draft: Path, target: Path) -> Path:
        steps.append(("rename", draft.stat().st_size, path.exists()))
        return replace(draft, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    write_whole(path, lambda file: file.write(b"12345"))
    assert steps == [("sync", 5, False), ("rename", 5, False)]


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_text(tmp_path / "gone" / "a.txt", "x")


def test_nan_and_infinity_become_null_wherever_they_stand(tmp_path: Path) -> None:
    content = {"a": math.nan, "b": [1, math.inf, (2.5, -math.inf)], "c": {"d": {"e": math.nan}}, "f": "é", "g": None}
    write_json(tmp_path / "a.json", content)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert "NaN" not in text and "Infinity" not in text and "é" in text and text.endswith("}\n")
    expected = {"a": None, "b": [1, None, [2.5, None]], "c": {"d": {"e": None}}, "f": "é", "g": None}
    assert json.loads(text) == expected
    assert math.isnan(content["a"])  # type: ignore[arg-type]  # the caller's own stays


def test_runs_are_numbered_from_the_second(tmp_path: Path) -> None:
    project = tmp_path / "runs" / "train"  # made where it is missing
    assert [new_run_folder(project, "exp").name for _ in range(3)] == ["exp", "exp2", "exp3"]
    assert new_run_folder(project, "other") == project / "other"
    (project / "exp2").rmdir()
    assert new_run_folder(project, "exp").name == "exp2"  # the first free one
    (project / "exp4").write_text("a file")
    assert new_run_folder(project, "exp").name == "exp5"
    assert names(project) == ["exp", "exp2", "exp3", "exp4", "exp5", "other"]


def test_an_existing_folder_is_taken_where_that_is_asked(tmp_path: Path) -> None:
    folder = new_run_folder(tmp_path, "exp", exist_ok=True)
    (folder / "results.csv").write_text("kept")
    assert new_run_folder(tmp_path, "exp", exist_ok=True) == folder
    assert names(tmp_path) == ["exp"] and names(folder) == ["results.csv"]


def test_runs_that_start_at_once_get_folders_of_their_own(tmp_path: Path) -> None:
    together = threading.Barrier(8)

    def start(_: int) -> Path:
        together.wait(timeout=60)
        return new_run_folder(tmp_path / "runs", "exp")

    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(start, range(8)))
    assert sorted(folder.name for folder in folders) == ["exp", *(f"exp{i}" for i in range(2, 9))]


@pytest.mark.parametrize("name", ["a/b", "/tmp", "../up", "a/", ".", "..", ""])
@pytest.mark.parametrize("exist_ok", [True, False])
def test_a_name_is_no_path(tmp_path: Path, name: str, exist_ok: bool) -> None:
    with pytest.raises(InputError, match=rf"^--name '{name}': expected a folder's name without a path"):
        new_run_folder(tmp_path / "runs", name, exist_ok)
    assert names(tmp_path) == []
