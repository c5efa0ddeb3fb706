"""utils.writer: the files of each frame; the thread that writes them in order, and what it does with errors."""

from __future__ import annotations

import argparse
import csv
import os
import pickle
import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import detect
from utils.flags import parse
from utils.log import InputError
from utils.predict import Prediction
from utils.sources import Frame
from utils.writer import BackgroundWriter, Video, Writer, writable_rate

pytestmark = pytest.mark.usefixtures("no_thread_left")


def options(*arguments: str) -> argparse.Namespace:
    return parse(detect.FLAGS, "", list(arguments))


def frame(path: str, number: int | None = None) -> Frame:
    image = np.zeros((40, 60, 3), np.uint8)
    return Frame(image, Path(path), number, None, None)


PREDICTION = Prediction(np.array([[5, 5, 25, 35, 0.9, 1]], np.float32), np.array([0.1, 0.9], np.float32))


def test_frames_of_one_name_from_two_folders_do_not_overwrite_each_other(tmp_path: Path) -> None:
    with Writer(tmp_path, options("--save-txt"), ("a", "b"), ("x", "y")) as writer:
        assert writer.take(frame("one/f.jpg"), PREDICTION)
        assert writer.take(frame("two/f.jpg"), PREDICTION)
    assert {path.name for path in tmp_path.glob("*.jpg")} == {"f.jpg", "f_2.jpg"}
    assert {path.name for path in (tmp_path / "labels").iterdir()} == {"f.txt", "f_2.txt"}


def test_a_label_file_holds_boxes_an_empty_line_and_the_view_row(tmp_path: Path) -> None:
    with Writer(tmp_path, options("--save-txt", "--save-view", "--nosave"), ("a", "b"), ("x", "y")) as writer:
        writer.take(frame("f.jpg"), PREDICTION)
        writer.take(frame("g.jpg"), Prediction(np.zeros((0, 6), np.float32), PREDICTION.view))
    assert (tmp_path / "labels" / "f.txt").read_text() == "1 0.25 0.5 0.333333 0.75\n\n0 1\n"
    assert (tmp_path / "labels" / "g.txt").read_text() == "\n0 1\n"
    assert not list(tmp_path.glob("*.jpg"))


def test_corners_in_pixels_and_confidence_on_request(tmp_path: Path) -> None:
    arguments = options("--save-txt", "--save-format", "1", "--save-conf", "--nosave")
    with Writer(tmp_path, arguments, ("a", "b"), ("x", "y")) as writer:
        writer.take(frame("f.jpg"), PREDICTION)
    assert (tmp_path / "labels" / "f.txt").read_text() == "1 5 5 25 35 0.9\n"


@pytest.mark.parametrize("name", ["../../outside", "a/b", "", ".."])
def test_a_class_name_never_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with Writer(folder, options("--save-crop", "--nosave"), ("a", name), ("x", "y")) as writer:
        writer.take(frame("f.jpg"), PREDICTION)
    (crop,) = folder.rglob("*.jpg")
    assert crop.parent.parent == folder / "crops"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_formats_that_cannot_be_written_become_png(tmp_path: Path) -> None:
    with Writer(tmp_path, options(), ("a", "b"), ("x", "y")) as writer:
        writer.take(frame("f.pfm"), PREDICTION)
    assert (tmp_path / "f.png").is_file()


def test_nothing_is_kept_of_the_frames_of_a_stream(tmp_path: Path) -> None:
    with Writer(tmp_path, options("--nosave", "--save-csv"), ("a", "b"), ("x", "y")) as writer:
        sizes = []
        for number in range(300):
            writer.take(frame("camera0", number), PREDICTION)
            sizes.append(len(pickle.dumps((vars(writer._unique), writer._frames))))
    assert sizes[-1] - sizes[0] < 10  # digits of a counter


def test_boxes_of_one_class_have_pictures_that_no_other_frame_has(tmp_path: Path) -> None:
    twice = Prediction(np.repeat(PREDICTION.boxes, 2, 0), PREDICTION.view)
    with Writer(tmp_path, options("--nosave", "--save-crop"), ("a", "b"), ("x", "y")) as writer:
        for name in ("f1.jpg", "f12.jpg"):
            writer.take(frame(name), twice)
    assert {path.name for path in (tmp_path / "crops" / "b").iterdir()} == {
        "f1.jpg", "f1_box2.jpg", "f12.jpg", "f12_box2.jpg"
    }  # fmt: skip


def test_a_file_that_is_called_as_another_files_crop_overwrites_none(tmp_path: Path) -> None:
    twice = Prediction(np.repeat(PREDICTION.boxes, 2, 0), PREDICTION.view)
    with Writer(tmp_path, options("--nosave", "--save-crop"), ("a", "b"), ("x", "y")) as writer:
        for name in ("f1.jpg", "f1_box2.jpg", "f1_box2_box1.jpg"):
            writer.take(frame(name), twice)
    assert {path.stem for path in (tmp_path / "crops" / "b").iterdir()} == {
        "f1", "f1_box2", "f1_box2_box1", "f1_box2_box2", "f1_box2_box1_box1", "f1_box2_box1_box2"
    }  # fmt: skip


def test_a_video_is_not_written_to_a_path_that_is_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenCV would end the process."""
    monkeypatch.setattr(cv2, "VideoWriter", lambda *_: pytest.fail("opened"))
    path = tmp_path / os.fsdecode(b"x\xe9") / "a.mp4"
    with pytest.raises(InputError, match=r"a\.mp4: a path in UTF-8 expected, .*; --nosave leaves videos out"):
        Video(path, path, (64, 48), 25.0)


@pytest.mark.parametrize("fps", [0.0005, 0.5, 7.1234, 29.97003, 65.53, 66.66667, 70.4225, 83.0013, 655.4, 9999.9, 1e6])
def test_a_video_has_nearly_any_rate(tmp_path: Path, fps: float) -> None:
    path = tmp_path / "a.mp4"
    video = Video(path, path, (32, 32), fps)
    video.write(np.zeros((32, 32, 3), np.uint8))
    video.close()
    assert path.stat().st_size > 0
    if 0.01 <= fps <= 65535:
        assert writable_rate(fps) == pytest.approx(fps, rel=1e-3)


# --- in a thread -----------------------------------------------------------------------------------------------------


class Slow:
    """Stands in for a writer: waits for ``free`` before each frame, fails at the frame number ``broken``."""

    def __init__(self, broken: int | None = None) -> None:
        self.taken: list[int | None] = []
        self.free = threading.Event()
        self.broken, self.closed = broken, 0

    def __enter__(self) -> Slow:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed += 1

    def take(self, frame: Frame, prediction: Prediction) -> bool:
        assert self.free.wait(60) and threading.current_thread().name == "writer"
        if frame.number == self.broken:
            raise InputError(f"frame {frame.number}: the disk is full")
        self.taken.append(frame.number)
        return True


def behind(writer: Any, depth: int = 4) -> BackgroundWriter:
    return BackgroundWriter(writer, depth)


def test_a_thread_writes_the_same_files_in_the_same_order(tmp_path: Path) -> None:
    arguments = options("--save-txt", "--save-view", "--save-csv", "--save-crop")
    frames = [frame("one/f.jpg"), frame("clip.avi", 0), frame("clip.avi", 1), frame("two/f.jpg"), frame("g.png")]
    written = []
    for name, wrapped in (("plain", False), ("thread", True)):
        folder = tmp_path / name
        folder.mkdir()
        plain = Writer(folder, arguments, ("a", "b"), ("x", "y"))
        with behind(plain, 2) if wrapped else plain as writer:
            assert all(writer.take(each, PREDICTION) for each in frames)
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        written.append({path.relative_to(folder): path.read_bytes() for path in paths})
    assert written[0] == written[1] and len(written[0]) == 5 + 5 + 3 + 1 + 1
    clip = cv2.VideoCapture(str(tmp_path / "thread" / "clip.mp4"))
    assert clip.get(cv2.CAP_PROP_FRAME_COUNT) == 2
    clip.release()
    with (tmp_path / "thread" / "predictions.csv").open(newline="") as file:
        assert [row["Image Name"] for row in csv.DictReader(file)] == [each.path.name for each in frames]


def test_no_more_frames_wait_than_asked() -> None:
    slow, given = Slow(), 0

    def give() -> None:
        nonlocal given
        with behind(slow, 3) as writer:
            for number in range(20):
                writer.take(frame("clip.avi", number), PREDICTION)
                given += 1

    giver = threading.Thread(target=give)
    giver.start()
    giver.join(0.3)
    assert given <= 4 and giver.is_alive()  # three wait, one is being written
    slow.free.set()
    giver.join(60)
    assert slow.taken == list(range(20)) and slow.closed == 1


def test_an_error_while_writing_surfaces_where_frames_are_given() -> None:
    slow, given = Slow(broken=2), 0
    slow.free.set()
    with pytest.raises(InputError, match="frame 2: the disk is full"), behind(slow, 1) as writer:
        for number in range(1000):
            writer.take(frame("clip.avi", number), PREDICTION)
            given += 1
    assert slow.taken == [0, 1] and slow.closed == 1 and given < 10


def test_an_error_at_the_last_frame_surfaces_at_the_end() -> None:
    slow = Slow(broken=0)
    with pytest.raises(InputError, match="the disk is full"), behind(slow) as writer:
        writer.take(frame("clip.avi", 0), PREDICTION)
        slow.free.set()
    assert slow.closed == 1


def test_completion_waits_for_all_frames_and_tells_of_an_error() -> None:
    slow = Slow(broken=2)
    slow.free.set()
    with pytest.raises(InputError, match="frame 2"), behind(slow) as writer:
        for number in range(3):
            writer.take(frame("clip.avi", number), PREDICTION)
        writer.complete()
    assert slow.taken == [0, 1] and slow.closed == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_what_was_taken_before_an_error_elsewhere_is_written(error: type[BaseException]) -> None:
    slow = Slow()
    with pytest.raises(error), behind(slow) as writer:
        for number in range(3):
            writer.take(frame("clip.avi", number), PREDICTION)
        slow.free.set()
        raise error
    assert slow.taken == [0, 1, 2] and slow.closed == 1


def test_of_two_errors_the_first_ends_it_and_the_other_is_told(caplog: pytest.LogCaptureFixture) -> None:
    slow = Slow(broken=0)
    with pytest.raises(KeyboardInterrupt), behind(slow) as writer:
        writer.take(frame("clip.avi", 0), PREDICTION)
        slow.free.set()
        raise KeyboardInterrupt
    assert "writing failed, too: frame 0: the disk is full" in caplog.text and slow.closed == 1


def test_a_second_interruption_gives_up_what_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow()
    writer = behind(slow)
    join = writer._thread.join

    def interrupted() -> None:
        monkeypatch.setattr(writer._thread, "join", join)
        threading.Timer(0.05, slow.free.set).start()
        raise KeyboardInterrupt

    monkeypatch.setattr(writer._thread, "join", interrupted)
    with pytest.raises(KeyboardInterrupt), writer:
        for number in range(4):
            writer.take(frame("clip.avi", number), PREDICTION)
    assert slow.taken == [0] and slow.closed == 1
