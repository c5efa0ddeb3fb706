"""utils.ledger: plans that only grow, markers, settings; what two processes do at once."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from utils import ledger as module
from utils.ledger import PROGRESS, Ledger, absolute, forget
from utils.log import InputError
from utils.processes import Processes

SETTINGS = {"--conf-thres": 0.25, "--classes": None, "--data": (("a", "b"), ())}


def files(folder: Path, *names: str) -> list[Path]:
    return [folder / name for name in names]


def opened(tmp_path: Path, *names: str) -> Ledger:
    ledger = Ledger(tmp_path / "run", SETTINGS)
    ledger.add(files(tmp_path, *names))
    return ledger


def done(ledger: Ledger, *indexes: int, failure: str | None = None) -> None:
    for index in indexes:
        ledger.record(ledger.entries[index], 1, 2, "row\r\n", failure)
    ledger.flush()


def todo(ledger: Ledger, rank: int = 0, world: int = 1) -> list[str]:
    return [path.name for path in ledger.todo(Processes(rank, world, rank, world))]


def test_a_second_start_goes_on_with_what_is_not_finished(tmp_path: Path) -> None:
    first = opened(tmp_path, "a.png", "b.png", "c.avi")
    assert todo(first) == ["a.png", "b.png", "c.avi"] and todo(first) == []
    done(first, 0)
    done(first, 1, failure="b.png: damaged")
    second = opened(tmp_path, "a.png", "b.png", "c.avi")
    assert (second.finished(), second.skipped()) == ({0}, {1})
    assert todo(second) == ["b.png", "c.avi"]  # one that could not be read is tried once a start
    done(second, 1)
    assert (second.finished(), second.skipped()) == ({0, 1}, set())
    facts = [facts for _, facts in second.facts()]
    assert facts[2] is None and facts[1] is not None and facts[1]["failure"] is None
    assert facts[0] == {
        "file": str(tmp_path / "a.png"), "frames": 1, "boxes": 2, "rows": "row\r\n", "failure": None
    }  # fmt: skip


def test_files_that_are_added_come_last_and_change_no_name(tmp_path: Path) -> None:
    opened(tmp_path, "b/f.png", "c/f.png")
    later = opened(tmp_path, "a/f.png", "b/f.png", "c/f.png", "b/../b/f.png")
    assert [(str(entry.path.relative_to(tmp_path)), entry.name) for entry in later.entries] == [
        ("b/f.png", "f"), ("c/f.png", "f_2"), ("a/f.png", "f_3")
    ]  # fmt: skip
    assert later.entry(tmp_path / "b" / ".." / "c" / "f.png").name == "f_2"


@pytest.mark.parametrize("world", [1, 2, 3, 9])
def test_shares_are_all_files_each_once_and_videos_are_spread(tmp_path: Path, world: int) -> None:
    names = [name for number in range(4) for name in (f"{number}.avi", f"{number}.png")]
    shares = [todo(opened(tmp_path, *names), rank, world) for rank in range(world)]
    assert sorted(name for share in shares for name in share) == sorted(names)
    videos = [sum(name.endswith("avi") for name in share) for share in shares]
    assert max(videos) - min(videos) <= 1


def test_files_that_another_process_lists_meanwhile_are_found(tmp_path: Path) -> None:
    first = opened(tmp_path, "a.png")
    assert todo(first) == ["a.png"]
    opened(tmp_path, "a.png", "b.png")
    assert todo(first) == ["b.png"]


@pytest.mark.parametrize(("name", "value"), [("--conf-thres", 0.5), ("--classes", [1]), ("--data", (("a", "c"), ()))])
def test_other_settings_are_refused_by_name(tmp_path: Path, name: str, value: object) -> None:
    opened(tmp_path, "a.png")
    with pytest.raises(InputError, match=f"run: {name}: expected .*, as it was begun with, got ") as error:
        Ledger(tmp_path / "run", SETTINGS | {name: value})
    assert "\n" not in str(error.value)


def test_a_folder_of_something_else_is_refused_unless_asked_for(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    Ledger(run, SETTINGS)  # an empty one is nobody's
    forget(run)
    (run / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="expected a detection that was cut off, got a folder with other files"):
        Ledger(run, SETTINGS)
    Ledger(run, SETTINGS, into_existing=True)
    Ledger(run, SETTINGS)
    forget(run)
    assert [path.name for path in run.iterdir()] == ["notes.txt"]


def test_processes_that_start_at_once_have_one_plan(tmp_path: Path) -> None:
    names = [f"{letter}/f.png" for letter in "abcdefgh"]
    barrier, found, errors = threading.Barrier(8), [], []

    def work(number: int) -> None:
        try:
            barrier.wait()
            ledger = opened(tmp_path, *names[number:], *names[:number])  # listed in another order, too
            found.append([(entry.path, entry.name) for entry in ledger.entries])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and len(found) == 8 and all(each == found[0] for each in found)
    assert len({name for _, name in found[0]}) == 8
    assert [path.name for path in (tmp_path / "run").iterdir()] == [PROGRESS]
    assert not list((tmp_path / "run" / PROGRESS).glob(f"{PROGRESS}-*"))


def test_markers_come_after_the_disk_has_what_they_speak_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, synced = opened(tmp_path, "a.png", "b.png"), []
    monkeypatch.setattr(module, "sync_disk", lambda folder: synced.append(len(ledger.finished())))
    ledger.record(ledger.entries[0], 1, 0, None)
    ledger._cost, ledger._flushed = 100.0, module.time.monotonic()  # a disk so slow that one asks it seldom
    ledger.record(ledger.entries[1], 1, 0, None)
    assert synced == [0] and ledger.finished() == {0}
    ledger.flush()
    ledger.flush()
    assert synced == [0, 1] and ledger.finished() == {0, 1}


def test_a_marker_that_a_power_cut_has_emptied_is_none(tmp_path: Path) -> None:
    ledger = opened(tmp_path, "a.png", "b.png")
    done(ledger, 0, 1)
    (ledger.place / "finished" / "0000001.json").write_bytes(b"")
    assert ledger.finished() == {0}
    assert [facts is None for _, facts in ledger.facts()] == [False, True]


def test_of_several_one_is_the_first(tmp_path: Path) -> None:
    ledger, other = opened(tmp_path, "a.png"), opened(tmp_path, "a.png")
    key = f"{'x' * 300}/y"
    assert (ledger.first(key), other.first(key), other.first("z")) == (True, False, True)


def test_old_drafts_go_and_new_ones_stay(tmp_path: Path) -> None:
    ledger = opened(tmp_path, "a.png")
    old, new = ledger.draft(".mp4"), ledger.draft(".mp4")
    module.os.utime(old, (0, 0))
    ledger.clear_drafts()
    assert not old.exists() and new.exists() and old != new


def test_file_names_that_are_no_text(tmp_path: Path) -> None:
    strange = Path(module.os.fsdecode(bytes(tmp_path / "b") + b"\xff.png"))
    opened(tmp_path).add([strange])
    assert [entry.path for entry in opened(tmp_path).entries] == [strange]
    assert json.loads((tmp_path / "run" / PROGRESS / "settings.json").read_text())["--conf-thres"] == 0.25


def test_a_path_is_the_same_from_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute(Path("a/../b.png")) == tmp_path / "b.png"
