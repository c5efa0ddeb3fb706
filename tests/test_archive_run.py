"""utils.archive_run: an archive by several processes and starts gives what one plain process gives."""

from __future__ import annotations

import csv
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import detect
from tests.archives import PROCESSES, command, kill_all, make_archive, markers, results, start, wait_for_markers
from tests.exported import saved
from utils.archive_run import digest, going_on
from utils.draw import save
from utils.flags import parse
from utils.ledger import PROGRESS
from utils.log import InputError, Interrupted
from utils.predict import Prediction
from utils.sources import Frame
from utils.writer import Writer


@pytest.fixture(autouse=True)
def threads_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detect, "placed", lambda device, threads, processes, shared: (device, threads))
    monkeypatch.setattr(detect, "quiet_unless_main", lambda processes, heard: None)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return make_archive(tmp_path / "frames", stills=5, videos=(4, 3))


def detected(archive: Path, rank: int = 0, world: int = 1, **options: Any) -> Path:
    """As one of several processes; one frame at a time, as sums are rounded otherwise beside other frames."""
    given: dict[str, Any] = {
        "weights": str(saved("rect")), "source": str(archive), "project": str(archive.parent / "runs"), "device": "cpu",
        "amp": False, "conf_thres": 0.5, "max_det": 5, "save_txt": True, "save_csv": True, "save_crop": True,
        "batch_size": 1,
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        if world > 1:
            for name, value in (
                ("RANK", rank),
                ("WORLD_SIZE", world),
                ("LOCAL_RANK", rank),
                ("LOCAL_WORLD_SIZE", world),
            ):
                patch.setenv(name, str(value))
        return detect.run(**given | options)


@pytest.fixture
def stop_after(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A function that has a signal sent to this process when so many frames are written."""
    taken: list[Frame] = []
    take = Writer.take

    def counted(self: Writer, frame: Frame, prediction: Prediction) -> bool:
        done = take(self, frame, prediction)
        taken.append(frame)
        if len(taken) == limit:
            os.kill(os.getpid(), number)
        return done

    limit, number = 0, 0

    def set_limit(frames: int, with_signal: int = signal.SIGINT) -> list[Frame]:
        nonlocal limit, number
        limit, number = frames, with_signal
        taken.clear()
        return taken

    monkeypatch.setattr(Writer, "take", counted)
    yield set_limit


def test_shares_are_together_what_one_process_finds(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = detected(archive)
    assert not (plain / PROGRESS).exists()
    assert "boxes in 12 frames, " in capsys.readouterr().out
    shared = [detected(archive, rank, 3, name="shared") for rank in (2, 0, 1)]
    assert len({str(run) for run in shared}) == 1
    assert results(shared[0]) == results(plain)
    out = capsys.readouterr().out
    assert out.count("boxes in 12 frames of 7 files") == 1 and out.count("Results in") == 1
    before = markers(shared[0])
    assert len(before) == 7
    for rank in range(3):
        detected(archive, rank, 3, name="shared")
    assert capsys.readouterr().out == f"All 7 files are finished already; results in {shared[0]}\n"
    assert markers(shared[0]) == before and results(shared[0]) == results(plain)


@pytest.mark.parametrize(("frames", "number"), [(3, signal.SIGINT), (6, signal.SIGTERM), (11, signal.SIGINT)])
def test_what_was_found_before_a_signal_is_kept_and_not_done_again(
    tmp_path: Path, stop_after: Any, frames: int, number: int
) -> None:
    archive = make_archive(tmp_path / "longer", stills=5, videos=(4, 40))
    plain = detected(archive)
    taken = stop_after(frames, number)
    with pytest.raises(
        Interrupted, match=r"of 7 files are finished; to go on: run.*name='exp2', resume=True"
    ) as stopped:
        detected(archive)
    assert stopped.value.signal == number
    run, written = plain.parent / "exp2", [(frame.path.name, frame.number) for frame in taken]
    assert frames <= len(taken) < 49
    with (run / "predictions.csv").open(newline="") as file:
        rows = [(row["Image Name"], int(row["Frame"]) if row["Frame"] else None) for row in csv.DictReader(file)]
    assert list(dict.fromkeys(rows)) == written  # also of a video that is not whole
    whole = [name for name, number in written if number is None] + ["f3b.avi"] * (("f4.png", None) in written)
    before = markers(run)
    assert len(before) == len(whole)
    taken = stop_after(10**6)
    assert detected(archive, name="exp2", resume=True) == run
    assert results(run) == results(plain)
    assert before.items() <= markers(run).items()
    assert not {frame.path.name for frame in taken} & set(whole)


def test_a_batch_in_hand_is_written_before_the_end(archive: Path, stop_after: Any) -> None:
    taken = stop_after(1)
    with pytest.raises(Interrupted):
        detected(archive, batch_size=4)
    assert len(taken) >= 4 and len(taken) % 4 == 0


def test_damaged_files_are_skipped_listed_and_tried_again(
    archive: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (archive / "f1.png").read_bytes()
    (archive / "f1.png").write_bytes(whole[:100])
    (archive / "f3b.avi").write_bytes(b"no video")
    plain = detected(archive)
    for rank in range(2):
        shared = detected(archive, rank, 2, name="shared")
    assert results(shared) == results(plain)
    listed = (shared / "unreadable.txt").read_text().splitlines()
    assert len(listed) == 2 and "f1.png: truncated" in listed[0] and "f3b.avi: is not a video" in listed[1]
    assert "unreadable.txt lists 2 files that could not be read" in caplog.text
    (archive / "f1.png").write_bytes(whole)
    capsys.readouterr()
    before = markers(shared)
    for rank in range(2):
        detected(archive, rank, 2, name="shared")
    assert "boxes in 8 frames of 7 files" in capsys.readouterr().out
    assert results(shared) == results(detected(archive)) and before.items() <= markers(shared).items()
    assert len((shared / "unreadable.txt").read_text().splitlines()) == 1


def test_torchrun_with_one_process_goes_on_too(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "1")):
        monkeypatch.setenv(name, value)
    assert detected(archive) == detected(archive) and (archive.parent / "runs" / "exp" / PROGRESS).is_dir()


def test_files_that_come_later_are_done_and_names_stay(archive: Path) -> None:
    run = detected(archive, resume=True)
    before = results(run)
    save(archive / "e.png", np.random.default_rng(1).integers(0, 256, (80, 80, 3), np.uint8))
    (archive / "sub").mkdir()
    detected(archive, resume=True)
    after = results(run)
    rows, more = before.pop("predictions.csv"), after.pop("predictions.csv")
    assert more.startswith(rows) and b"e.png" in more[len(rows) :]
    assert before.items() <= after.items() and "e.png" in after


def test_going_on_with_other_settings_is_refused(archive: Path) -> None:
    run = detected(archive, resume=True)
    for options, words in (
        ({"conf_thres": 0.6}, "--conf-thres: expected 0.5, as it was begun with, got 0.6"),
        ({"save_view": True}, "--save-view: expected false"),
        ({"weights": str(saved("joint"))}, '--weights: expected "sha256 '),
        ({"source": str(archive / "f0.png")}, "--source: expected "),
    ):
        with pytest.raises(InputError, match=re.escape(f"{run}: {words}")):
            detected(archive, resume=True, **options)
    with pytest.raises(InputError, match="expected a detection that was cut off"):
        detected(archive, name="exp", project=str(plain_folder(archive)), resume=True)


def plain_folder(archive: Path) -> Path:
    detected(archive, project=str(archive.parent / "plain"))
    return archive.parent / "plain"


def test_exist_ok_without_resume_starts_anew(archive: Path, stop_after: Any) -> None:
    stop_after(3)
    with pytest.raises(Interrupted):
        detected(archive)
    stop_after(10**6)
    run = detected(archive, exist_ok=True, conf_thres=0.6)
    assert not (run / PROGRESS).exists()
    assert results(run)["predictions.csv"] == results(detected(archive, conf_thres=0.6))["predictions.csv"]


def test_none_of_the_files_can_be_read(archive: Path) -> None:
    for path in archive.iterdir():
        path.write_bytes(b"nothing")
    detected(archive, 0, 2)
    with pytest.raises(InputError, match=r"none of its 7 files can be read; first .*f0.png: is not an image"):
        detected(archive, 1, 2)


@pytest.mark.parametrize(
    ("world", "options", "words"),
    [
        (2, {"source": "0"}, "torchrun: one process expected, got a camera or stream"),
        (2, {"view_img": True}, "torchrun: one process expected, got --view-img"),
        (
            1,
            {"source": "rtsp://a", "resume": True},
            "--resume: a source of files without --view-img expected",
        ),
        (2, {"name": "a/b"}, "--name 'a/b'"),
    ],
)
def test_what_many_processes_cannot_do(
    archive: Path, monkeypatch: pytest.MonkeyPatch, world: int, options: dict[str, Any], words: str
) -> None:
    monkeypatch.setattr(detect, "has_screen", lambda: True)
    with pytest.raises(InputError, match=words):
        detected(archive, 0, world, **options)
    assert not (archive.parent / "runs").exists()


def test_the_line_to_go_on_can_be_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--source", "my frames", "--save-csv"]
    monkeypatch.setattr(sys, "argv", ["detect.py", *arguments])
    options = parse(detect.FLAGS, "", arguments)
    line = going_on(options, Path("runs/detect/exp3"))
    assert line == "python detect.py --source 'my frames' --save-csv --resume --name exp3"
    options.resume = True
    assert going_on(options, Path("runs/detect/exp")) == "python detect.py --source 'my frames' --save-csv"


def test_weights_are_known_by_their_content(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.bin").write_bytes(b"1")
    first = digest(tmp_path / "a")
    assert digest(tmp_path / "a" / "x.bin") != first == digest(tmp_path / "a")
    (tmp_path / "a" / "y.bin").write_bytes(b"")
    assert digest(tmp_path / "a") != first


# --- as a user does it -----------------------------------------------------------------------------------------------


def test_torchrun_that_was_killed_goes_on_and_leaves_what_one_process_leaves(tmp_path: Path) -> None:
    source, project = make_archive(tmp_path / "frames", videos=(40, 30)), tmp_path / "runs"
    run = project / "shared"
    first = start(command(saved("rect"), source, project, "--name", "shared"))
    wait_for_markers(run, PROCESSES, first)
    kill_all(first)
    before = markers(run)
    assert PROCESSES <= len(before) < 14
    plain = start(command(saved("rect"), source, project, processes=1), 1)
    second = start(command(saved("rect"), source, project, "--name", "shared"))
    (_, plain_errors), (out, errors) = plain.communicate(timeout=120), second.communicate(timeout=120)
    assert plain.returncode == 0, plain_errors
    assert second.returncode == 0, errors
    said = re.search(rf"{re.escape(str(run))}: (\d+) of 14 files are finished, going on", errors)
    assert said and len(before) <= int(said[1]) <= 14  # the other process may have begun by then
    assert out.count("frames of 14 files") == 1 and errors.count("detection: 100%") == 1
    after = markers(run)
    assert before.items() <= after.items() and len(after) == 14  # no finished file was done again
    assert results(run) == results(project / "exp")


def test_a_signal_ends_a_process_with_its_code_and_the_command_to_go_on(tmp_path: Path) -> None:
    source, project = make_archive(tmp_path / "frames", videos=(400,)), tmp_path / "runs"
    process = start(command(saved("rect"), source, project, "--name", "a b", processes=1), 1)
    wait_for_markers(project / "a b", 1, process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    lines = [line for line in errors.splitlines() if "interrupted" in line]
    assert len(lines) == 1 and lines[0].endswith("--name 'a b' --resume")
    assert re.match(r"ERROR: interrupted: \d+ of 13 files are finished; to go on: python /", lines[0])
