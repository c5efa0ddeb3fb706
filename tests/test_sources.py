"""utils/sources.py: every kind of source, what is wrong with each, and the thread that decodes ahead."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.captures import FakeCapture, shown_numbers, write_video
from tests.dicoms import loop, write_dicom
from tests.phantoms import GREEN, encode, picture, write_image
from utils import sources
from utils.draw import save
from utils.letterbox import Image
from utils.log import InputError
from utils.regions import COLOUR, FLAT, Area, Region
from utils.sources import DECODERS, frame_of, open_source, prefetch

pytestmark = pytest.mark.usefixtures("no_thread_left")


# --- files, folders, globs, lists ------------------------------------------------------------------------------------


def test_one_file_with_spaces_and_unicode_in_its_path(tmp_path: Path) -> None:
    path = write_image(tmp_path / "vier kammern" / "Blick_é_心.PNG", GREEN)
    source = open_source(str(path))
    (frame,) = source
    assert (frame.path, frame.number, frame.total, frame.fps) == (path, None, None, None)
    assert (frame.image == GREEN).all()
    assert source.total == 1 and not source.live and source.problems == []


def test_a_folder_gives_images_and_videos_in_natural_order_not_its_subfolders(tmp_path: Path) -> None:
    for name in ("f10.png", "f2.png", "F1.JPG", "deeper/f3.png", ".hidden.png"):
        write_image(tmp_path / name)
    (tmp_path / "notes.csv").write_text("none of ours")
    (tmp_path / "folder.png").mkdir()
    write_video(tmp_path / "f3.avi", 3)
    source = open_source(str(tmp_path))
    assert [frame.path.name for frame in source] == ["F1.JPG", "f2.png", "f3.avi", "f3.avi", "f3.avi", "f10.png"]
    assert source.total == 6
    assert len(list(source)) == 6  # it can be read again


def test_a_list_reads_in_its_own_order_relative_to_its_own_folder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    near, far = write_image(tmp_path / "lists" / "near.png"), write_image(tmp_path / "far away" / "far.png")
    write_video(tmp_path / "lists" / "clip.avi", 2)
    listing = tmp_path / "lists" / "all.txt"
    listing.write_bytes(
        f"\ufeff# a comment\r\n\r\n./near.png\r\nclip.avi\n{far}\n  ../far away/far.png\nnear.png\n".encode()
    )
    source = open_source(str(listing))
    assert [frame.path.name for frame in source] == [
        "near.png",
        "clip.avi",
        "clip.avi",
        "far.png",
        "far.png",
    ]
    assert next(iter(source)).path == near
    assert source.total == 5
    assert [record.getMessage() for record in caplog.records if "repeat" in record.getMessage()] == [
        f"{listing}: 1 of 5 entries repeat an earlier one and are left out"
    ]


@pytest.mark.parametrize(
    "content",
    [
        b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n",
        b"ffconcat version 1.0\nfile x.mp4\n",
        b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\n",
    ],
)
def test_a_playlist_in_place_of_a_video_opens_nothing(
    tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    monkeypatch.setattr(cv2, "VideoCapture", lambda *_: pytest.fail("opened"))
    source = open_source(str(path))
    assert source.total == 0
    with pytest.raises(InputError, match=r"a\.mp4: a video expected, a list of other files or addresses came"):
        list(source)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.mp4")
    source = open_source(str(tmp_path / "a.mp4"))
    assert source.total == 0
    with pytest.raises(InputError, match=r"a\.mp4.*a pipe came"):
        list(source)
    os.mkfifo(tmp_path / "a.txt")
    with pytest.raises(InputError, match=r"a\.txt: a list under"):
        open_source(str(tmp_path / "a.txt"))


@pytest.mark.parametrize("line", ["y" * 5000, "a\x1b[2J.doc", "a\0b.png"])
def test_an_entry_that_no_file_has_is_told_in_a_short_printable_line(tmp_path: Path, line: str) -> None:
    (tmp_path / "list.txt").write_text(line)
    with pytest.raises(InputError, match=r"list\.txt: none of its 1 files can be read") as caught:
        list(open_source(str(tmp_path / "list.txt")))
    assert len(str(caught.value)) < 1000 and str(caught.value).isprintable()


def test_bad_entries_of_a_list_are_skipped_and_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_image(tmp_path / "good.png")
    listing = tmp_path / "some.txt"
    listing.write_text("gone.png\ngood.png\ngone.png\nnotes.csv\nhttp://nowhere.invalid/a.png\ngood.png\n")
    source = open_source(str(listing))
    assert len(list(source)) == 1
    assert len(source.problems) == 3
    for problem, word in zip(source.problems, ["gone.png", "notes.csv", "nowhere.invalid"], strict=True):
        assert word in problem
    assert sum("gone.png" in record.getMessage() for record in caplog.records) == 1


def test_a_broken_file_in_a_folder_is_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("1.png", "3.png"):
        write_image(tmp_path / name)
    (tmp_path / "2.png").write_bytes(b"")
    (tmp_path / "4.mp4").write_bytes(bytes(range(256)) * 10)
    (tmp_path / "5.png").symlink_to(tmp_path / "gone")
    source = open_source(str(tmp_path))
    assert source.total == 4  # what the names promise, less a video that cannot be opened
    for _ in range(2):  # a second reading does not repeat the problems
        assert [frame.path.name for frame in source] == ["1.png", "3.png"]
        assert [Path(problem.split(":")[0]).name for problem in source.problems] == ["2.png", "4.mp4", "5.png"]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_when_every_file_is_broken_the_end_is_an_input_error(tmp_path: Path) -> None:
    for name in ("1.png", "2.jpg"):
        (tmp_path / name).write_bytes(b"nothing")
    source = open_source(str(tmp_path))
    with pytest.raises(InputError, match=r"none of its 2 files can be read; first .*1\.png"):
        list(source)
    assert len(source.problems) == 2


def test_a_broken_file_given_alone_is_the_error_of_its_image(tmp_path: Path) -> None:
    (tmp_path / "half.png").write_bytes(encode(".png", picture())[:40])
    with pytest.raises(InputError, match=r"half\.png: truncated"):
        list(open_source(str(tmp_path / "half.png")))


def test_what_cannot_be_a_source_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "notes.csv").write_text("a,b")
    for source, words in {
        str(tmp_path / "gone.png"): r"gone\.png",
        str(tmp_path / "notes.csv"): r"notes\.csv: images \(bmp .* suffix '\.csv' came",
        str(
            tmp_path
        ): r"images \(bmp .*, videos \(asf .* or DICOM files expected, none is there; folders in it are searched with",
        "ftp://host/video.mp4": "rtsp://.*'ftp://host/video.mp4' came",
        "": "'' came",
    }.items():
        with pytest.raises(InputError, match=words):
            open_source(source)
    with pytest.raises(InputError, match=r"--vid-stride.* 0 came"):
        open_source(str(tmp_path), vid_stride=0)


# --- decoding ahead --------------------------------------------------------------------------------------------------


def test_leaving_early_stops_the_thread_and_releases_the_video(tmp_path: Path, fake_capture: type[FakeCapture]) -> None:
    fake_capture.frames = 10_000
    (tmp_path / "clip.mp4").write_bytes(b"x")
    for frame in open_source(str(tmp_path / "clip.mp4")):
        if frame.number == 5:
            break
    assert not [thread for thread in threading.enumerate() if thread.name == "prefetch"]
    assert fake_capture.released == 1


def test_prefetch_takes_depth_items_ahead_and_no_more() -> None:
    taken: list[int] = []
    moved = threading.Condition()

    def items() -> Iterator[int]:
        for i in range(100):
            with moved:
                taken.append(i)
                moved.notify()
            yield i

    ahead = prefetch(items(), 3)
    assert taken == []  # nothing happens before the first item is asked for
    for i in range(5):
        assert next(ahead) == i
        with moved:
            assert moved.wait_for(lambda i=i: len(taken) == i + 4, timeout=60)  # type: ignore[misc]
    assert threading.active_count() > 1
    ahead.close()
    assert taken == list(range(8))


@pytest.mark.parametrize("depth", [1, 2, 50])
def test_prefetch_keeps_order_and_ends(depth: int) -> None:
    assert list(prefetch(iter(range(30)), depth)) == list(range(30))
    assert list(prefetch(iter(()), depth)) == []


def test_prefetch_raises_what_the_items_raise_after_the_items_before() -> None:
    def items() -> Iterator[int]:
        yield from range(3)
        raise KeyError("broken")

    seen = []
    with pytest.raises(KeyError, match="broken"):
        for item in prefetch(items(), 2):
            seen.append(item)
    assert seen == [0, 1, 2]


def test_an_error_of_the_consumer_ends_the_thread(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.avi")
    frames = iter(open_source(str(tmp_path)))
    with pytest.raises(ZeroDivisionError):
        for frame in frames:
            assert frame.number is not None
            1 // frame.number
    frames.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_stills_are_decoded_several_at_once_and_come_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(12):
        write_image(tmp_path / f"{i}.png")
    write_video(tmp_path / "5b.avi", 3)
    together = threading.Barrier(DECODERS, timeout=60)  # passed only by as many threads at once

    def decode(path: Path) -> NDArray[np.uint8]:
        if int(path.stem) < DECODERS:
            together.wait()
        return np.full((2, 2, 3), int(path.stem), np.uint8)

    monkeypatch.setattr(sources, "read_image", decode)
    frames = list(open_source(str(tmp_path)))
    assert [frame.path.name for frame in frames] == [
        *(f"{i}.png" for i in range(6)), *["5b.avi"] * 3, *(f"{i}.png" for i in range(6, 12)),
    ]  # fmt: skip
    assert shown_numbers(frames[6:9]) == [0, 1, 2]
    assert all((frame.image == int(frame.path.stem)).all() for frame in frames[:6] + frames[9:])


def test_no_more_stills_are_decoded_ahead_than_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(40):
        write_image(tmp_path / f"{i}.png")
    begun: list[str] = []

    def decode(path: Path) -> NDArray[np.uint8]:
        begun.append(path.name)
        return picture()

    monkeypatch.setattr(sources, "read_image", decode)
    source = open_source(str(tmp_path))
    source.ahead = 8
    frames = iter(source)
    next(frames)
    deadline = time.monotonic() + 60
    while len(begun) < 9 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert 9 <= len(begun) <= 9 + DECODERS
    frames.close()
    assert len(begun) <= 10 + 2 * DECODERS


# --- DICOM, and folders as studies -----------------------------------------------------------------------------------


def test_frames_of_dicom_have_times_and_the_area_that_the_file_names(tmp_path: Path) -> None:
    region = Region((8, 4, 100, 80), FLAT, COLOUR, (0.1, 0.2))
    path = write_dicom(tmp_path / "a.dcm", loop(5), regions=[region], frame_time=40)
    frames = list(open_source(str(path), vid_stride=2))
    assert [(frame.number, frame.time) for frame in frames] == [(0, 0.0), (2, 0.08), (4, 0.16)]
    assert all(frame.area is not None and frame.area.seen == region.rectangle for frame in frames)
    assert frames[0].seen.shape == (76, 92, 3) and frames[0].fps == 25


def test_of_a_study_the_sector_is_looked_for_in_each_still_and_once_a_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []
    find = sources.of_sector

    def counted(image: Image) -> Area | None:
        looked.append(1)
        return find(image)

    monkeypatch.setattr(sources, "of_sector", counted)
    video = cv2.VideoWriter(str(tmp_path / "a.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 25, (128, 96))
    for frame in (np.zeros((96, 128, 3), np.uint8), *loop(3)):  # a dark frame says nothing of the next
        video.write(frame)
    video.release()
    save(tmp_path / "p1-c1-f1.png", loop(3)[1])
    save(tmp_path / "p1-c1-f2.png", loop(3)[2])
    areas = [frame.area for frame in open_source(str(tmp_path), study=True)]
    assert len(looked) == 4 and areas[1] is not None and areas[1] is areas[3]
    assert areas[0] is not None and not areas[0].shown.any() and areas[0].seen == (0, 0, 128, 96)
    alone = open_source(str(tmp_path / "p1-c1-f2.png"), study=True)
    assert areas[5] is not None and areas[5].seen == next(iter(alone)).area.seen  # type: ignore[union-attr]
    assert all(frame.area is None for frame in open_source(str(tmp_path)))


def test_one_frame_of_a_file_is_decoded_anew(tmp_path: Path) -> None:
    write_video(tmp_path / "a.avi")
    assert shown_numbers([frame_of(tmp_path / "a.avi", 7)]) == [7]
    with pytest.raises(InputError, match=r"a\.avi: a frame 10 expected, none came"):
        frame_of(tmp_path / "a.avi", 10)
