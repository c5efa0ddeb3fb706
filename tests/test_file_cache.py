"""utils/file_cache.py: facts are found again while their file is the same, and never in place of computing them."""

from __future__ import annotations

import gc
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import utils.file_cache
import utils.log
from utils import file_cache
from utils.file_cache import OURS, Kind, collection_paused, file_states, prune, remembered
from utils.log import LOGGER

KIND = Kind("length", (utils.file_cache,))
DAY = 86_400


def settle(path: Path, ago: float = 60.0) -> Path:
    """As if the file, or the entry of a cache, had last changed so many seconds ago."""
    when = time.time() - ago
    os.utime(path, (when, when))
    return path


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "data" / name for name in ("a.txt", "é ü.txt", "deep/c.txt", "nul\udcff.txt")]
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x" * number)
        settle(path)
    return paths


class Lengths:
    """The length of files as a fact; ``read`` has the names of those that were read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.read: list[str] = []

    def __call__(self, paths: list[Path], kind: Kind = KIND, decode: Any = None) -> list[int]:
        self.read.clear()

        def compute(missing: list[int]) -> Iterator[int]:
            for index in missing:
                self.read.append(paths[index].name)
                yield len(paths[index].read_bytes()) if paths[index].exists() else -1

        states = file_states(paths)
        return remembered(
            self.folder, kind, paths, states, compute, lambda n: n if n >= 0 else None,
            decode or (lambda path, content: int(content)),
        )  # fmt: skip

    @property
    def tables(self) -> list[Path]:
        return sorted(self.folder.iterdir())


@pytest.fixture
def lengths(tmp_path: Path) -> Lengths:
    return Lengths(tmp_path / "cache")


def test_what_has_not_changed_is_computed_once(files: list[Path], lengths: Lengths) -> None:
    assert lengths(files) == [0, 1, 2, 3] and len(lengths.read) == 4
    assert lengths(files) == [0, 1, 2, 3] and lengths.read == []
    assert lengths(files[::-1]) == [3, 2, 1, 0] and lengths.read == []
    assert lengths([files[1], files[1]]) == [1, 1] and lengths.read == []
    assert lengths([files[2]]) == [2] and lengths.read == ["c.txt"]  # files of a deeper folder alone: another table


def test_a_changed_an_added_and_a_removed_file_are_noticed(files: list[Path], lengths: Lengths) -> None:
    lengths(files)
    files[0].write_text("longer")
    settle(files[0], 30)
    added = files[0].with_name("d.txt")
    added.write_text("new")
    settle(added)
    files[2].unlink()
    assert lengths([*files, added]) == [6, 1, -1, 3, 3] and lengths.read == ["a.txt", "c.txt", "d.txt"]
    assert lengths([*files, added]) == [6, 1, -1, 3, 3] and lengths.read == ["c.txt"]


def test_another_time_alone_is_a_change(files: list[Path], lengths: Lengths) -> None:
    lengths(files)
    os.utime(files[1], ns=(files[1].stat().st_atime_ns, files[1].stat().st_mtime_ns + 1000))
    lengths(files)
    assert lengths.read == [files[1].name]


@pytest.mark.parametrize("ago", [0.0, 1.0, -3600.0], ids=["now", "a second ago", "in the future"])
def test_a_file_that_may_change_again_unseen_is_not_kept(files: list[Path], lengths: Lengths, ago: float) -> None:
    settle(files[1], ago)
    for _ in range(2):
        lengths(files)
        assert files[1].name in lengths.read
    assert lengths.read == [files[1].name]


def test_facts_of_files_that_were_not_asked_for_stay_while_these_exist(files: list[Path], lengths: Lengths) -> None:
    lengths(files)
    files[3].unlink()
    files[0].write_text("other")
    settle(files[0])
    lengths([files[0], files[2]])  # the same folder, and one of its tables
    assert lengths.read == ["a.txt"]
    lengths(files[:3])
    assert lengths.read == []
    (table,) = lengths.tables
    kept = json.loads(table.read_bytes().partition(b"\n")[2])
    assert set(kept) == {str(path) for path in files[:3]}


def test_another_kind_and_other_code_are_other_tables(files: list[Path], lengths: Lengths) -> None:
    for kind in (KIND, Kind("width", KIND.code), Kind("length", (utils.log,)), Kind("length", ())):
        lengths(files, kind)
        assert len(lengths.read) == 4
    assert len(lengths.tables) == 4 and all(OURS.fullmatch(path.name) for path in lengths.tables)


DAMAGE = {
    "empty": lambda data: b"",
    "cut": lambda data: data[:-10],
    "a bit": lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:],
    "no text": lambda data: b"\xff" * len(data),
    "a pickle": lambda data: b"\x80\x04\x95" + data,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_table_is_made_again(files: list[Path], lengths: Lengths, damage: str) -> None:
    lengths(files)
    (table,) = lengths.tables
    table.write_bytes(DAMAGE[damage](table.read_bytes()))
    assert lengths(files) == [0, 1, 2, 3] and len(lengths.read) == 4
    assert lengths(files) == [0, 1, 2, 3] and lengths.read == []


@pytest.mark.parametrize("content", ["[]", '{"a": 1}', '{"a": [1]}', "[" * 100_000, "nonsense"])
def test_a_table_of_something_else_is_passed_over(files: list[Path], lengths: Lengths, content: str) -> None:
    lengths(files)
    (table,) = lengths.tables
    table.write_bytes(file_cache.hashlib.sha256(content.encode()).hexdigest().encode() + b"\n" + content.encode())
    assert lengths(files) == [0, 1, 2, 3] and len(lengths.read) == 4


@pytest.mark.parametrize("error", [ValueError, TypeError])
def test_a_fact_that_cannot_be_decoded_is_computed(files: list[Path], lengths: Lengths, error: type[Exception]) -> None:
    def failing(path: Path, content: Any) -> int:
        raise error("no fact")

    lengths(files)
    assert lengths(files, decode=failing) == [0, 1, 2, 3] and len(lengths.read) == 4


def test_a_folder_that_cannot_be_written_is_done_without(files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    lengths = Lengths(tmp_path / "file" / "cache")
    for _ in range(2):
        assert lengths(files) == [0, 1, 2, 3] and len(lengths.read) == 4


def test_an_interruption_while_writing_leaves_the_old_table(
    files: list[Path], lengths: Lengths, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths(files[:3])
    (table,) = lengths.tables
    before = table.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        assert lengths(files) == [0, 1, 2, 3]
    assert lengths.tables == [table] and table.read_bytes() == before


def test_states_of_files_that_there_are_not(tmp_path: Path) -> None:
    assert file_states([tmp_path / "gone", tmp_path / "null\0byte"]) == [None, None]


def test_no_files_need_no_table(lengths: Lengths) -> None:
    assert lengths([]) == [] and not lengths.folder.exists()


@pytest.mark.parametrize("enabled", [True, False])
def test_the_search_for_cycles_is_as_it_was_afterwards(enabled: bool) -> None:
    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        with pytest.raises(KeyError), collection_paused():
            assert not gc.isenabled()
            raise KeyError
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if before else gc.disable)()


# --- what is removed -------------------------------------------------------------------------------------------------


def entry(folder: Path, digit: str, days: float, kilobytes: int = 1) -> Path:
    """Cached frames that were used so many days ago."""
    path = folder / (digit * 24)
    path.mkdir(parents=True)
    (path / "frames.bin").write_bytes(b"\0" * 1000 * kilobytes)
    for part in (path / "frames.bin", path):
        settle(part, days * DAY)
    return path


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, LOGGER.name)
    return caplog


def test_what_was_not_used_for_long_is_removed_and_told(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    old, recent, newest = (entry(tmp_path, digit, days) for digit, days in (("a", 31), ("b", 29), ("c", 0)))
    table, draft = tmp_path / f"{'d' * 24}.json", tmp_path / "draft-left"
    table.write_text("{}")
    draft.mkdir()
    for path in (table, draft):
        settle(path, 31 * DAY)
    assert sorted(prune(newest)) == sorted([old.name, table.name, draft.name])
    assert sorted(tmp_path.iterdir()) == [recent, newest]
    assert re.search(r"3 entries removed \(0\.00 GB\): unused for 30 days", log.text)
    log.clear()
    assert prune(newest) == [] and log.text == ""


def test_beyond_the_total_the_longest_unused_go_first(tmp_path: Path) -> None:
    third, first, second = (entry(tmp_path, digit, days, 10) for digit, days in (("a", 1), ("b", 3), ("c", 2)))
    newest = entry(tmp_path, "d", 9, 10)  # it stays, whatever its time
    assert prune(newest, most_bytes=2 * 10_000 + 3 * 4096) == [first.name, second.name]
    assert prune(newest, most_bytes=1) == [third.name] and list(tmp_path.iterdir()) == [newest]


def test_another_starts_draft_and_what_is_not_ours_stay(tmp_path: Path) -> None:
    newest = entry(tmp_path / "cache", "a", 0)
    draft = tmp_path / "cache" / "draft-now"
    draft.mkdir()
    (draft / "frames.bin").write_bytes(b"\0" * 100_000)
    settle(draft, 40 * DAY)  # a folder keeps its time while a file in it grows
    foreign = tmp_path / "cache" / "notes.txt"
    foreign.write_text("mine")
    elsewhere = entry(tmp_path / "elsewhere", "b", 40)
    link = tmp_path / "cache" / elsewhere.name
    link.symlink_to(elsewhere)
    settle(foreign, 40 * DAY)
    assert prune(newest, most_bytes=1) == []
    assert {path.name for path in newest.parent.iterdir()} == {newest.name, draft.name, foreign.name, link.name}
    assert (elsewhere / "frames.bin").is_file()


def test_what_cannot_be_removed_stays_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, newest = entry(tmp_path, "a", 40), entry(tmp_path, "b", 0)

    def in_use(self: Path, target: Path) -> Path:
        raise PermissionError(13, "in use by another process", str(self))

    monkeypatch.setattr(Path, "rename", in_use)
    assert prune(newest) == []
    assert sorted(tmp_path.iterdir()) == [old, newest] and (old / "frames.bin").is_file()


def test_a_table_in_use_is_not_old(files: list[Path], lengths: Lengths) -> None:
    lengths(files)
    (table,) = lengths.tables
    settle(table, 40 * DAY)
    lengths(files)
    assert prune(entry(lengths.folder, "a", 0)) == [] and table.is_file()
    shutil.rmtree(lengths.folder)
    assert prune(lengths.folder / "gone") == []
