"""Videos, cameras and streams through OpenCV: numbers, promising headers, and what is refused unopened."""

from __future__ import annotations

import os
import struct
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.captures import FakeCapture, shown_numbers, write_video
from utils import videos
from utils.log import InputError
from utils.sources import open_source
from utils.videos import promised_frames, read_video

pytestmark = pytest.mark.usefixtures("no_thread_left")


def test_frames_come_with_their_numbers_and_what_the_header_says(tmp_path: Path) -> None:
    frames = list(read_video(write_video(tmp_path / "a.avi"), 3))
    assert [(frame.number, frame.total, frame.fps) for frame in frames] == [(n, 10, 25.0) for n in (0, 3, 6, 9)]
    assert [round(float(frame.image.mean()) / 20) for frame in frames] == [0, 3, 6, 9]
    assert frames[0].image.shape == (48, 64, 3)


def test_what_a_header_promises_is_none_of_a_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video " * 9)
    assert promised_frames(write_video(tmp_path / "b.avi", 4)) == 4
    assert promised_frames(tmp_path / "a.mp4") == promised_frames(tmp_path / "gone.mp4") == 0


def test_a_damaged_file_is_one_line_and_the_decoder_says_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video " * 9)
    with pytest.raises(InputError, match=r"a\.mp4: is not a video that OpenCV can decode") as caught:
        list(read_video(tmp_path / "a.mp4", 1))
    assert "\n" not in str(caught.value) and not capfd.readouterr().err


def test_frames_larger_than_any_are_refused_before_one_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(videos, "MOST_PIXELS", 1000)
    with pytest.raises(InputError, match=r"a\.avi: frames of at most 1,000 pixels expected, 64 x 48 came"):
        list(read_video(write_video(tmp_path / "a.avi", 2), 1))


def test_a_name_that_is_no_text_is_a_line_like_other_unreadable_files(
    tmp_path: Path, fake_capture: type[FakeCapture], caplog: pytest.LogCaptureFixture
) -> None:
    """OpenCV would end the process, so a stand-in tells whether it is asked."""
    odd = tmp_path / os.fsdecode(b"v\xe9.avi")
    for path in (odd, tmp_path / "w.avi"):
        path.write_bytes(b"x")
    assert promised_frames(odd) == 0
    source = open_source(str(tmp_path))
    assert {frame.path.name for frame in source} == {"w.avi"}
    assert fake_capture.addresses == [str(tmp_path / "w.avi")]
    said = f"{tmp_path}/v\\udce9.avi: a path in UTF-8 expected, as OpenCV opens no other video, other bytes came"
    assert source.problems == [said] and [record.getMessage() for record in caplog.records] == [f"skipped {said}"]
    with pytest.raises(InputError, match=r"rtsp://host/.*: a path in UTF-8 expected"):
        list(open_source("rtsp://host/\udce9"))


def test_a_playlist_opens_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.mp4").write_bytes(b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n")
    monkeypatch.setattr(cv2, "VideoCapture", lambda *_: pytest.fail("opened"))
    with pytest.raises(InputError, match="a list of other files or addresses came"):
        list(read_video(tmp_path / "a.mp4", 1))


# --- as sources -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["clip.avi", "tcp:x%02d.avi"])
def test_a_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / name)
    source = open_source(name)
    frames = list(source)
    assert source.total == 10 and not source.live
    assert [frame.number for frame in frames] == shown_numbers(frames) == list(range(10))
    assert {(frame.path, frame.total, frame.fps) for frame in frames} == {(Path(name), 10, 25.0)}
    assert frames[0].image.shape == (48, 64, 3) and frames[0].image.dtype == np.uint8


def test_a_stride_skips_frames_and_keeps_their_numbers(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.avi")
    source = open_source(str(tmp_path), vid_stride=4)
    frames = list(source)
    assert [frame.number for frame in frames] == shown_numbers(frames) == [0, 4, 8]
    assert source.total == 3 and frames[0].total == 10


def test_an_animated_gif_is_a_video(tmp_path: Path) -> None:
    header = b"GIF89a" + struct.pack("<HHBBB", 4, 4, 0x80, 0, 0) + bytes([0, 0, 0, 255, 0, 0])
    red = b"\x21\xf9\x04\0\x0a\0\0\0" + b"\x2c" + struct.pack("<HHHHB", 0, 0, 4, 4, 0) + gif_pixels([1] * 16)
    black = b"\x21\xf9\x04\0\x0a\0\0\0" + b"\x2c" + struct.pack("<HHHHB", 0, 0, 4, 4, 0) + gif_pixels([0] * 16)
    path = tmp_path / "beat.gif"
    path.write_bytes(header + red + black + red + b"\x3b")
    frames = list(open_source(str(path)))
    assert [frame.number for frame in frames] == [0, 1, 2]
    assert [int(frame.image[..., 0].mean()) > 200 for frame in frames] == [True, False, True]
    assert all(frame.image[..., 2].mean() < 10 for frame in frames)  # red, not blue


def gif_pixels(indices: list[int]) -> bytes:
    """GIF image data without compression: 3-bit codes, a clear code before every pixel."""
    bits = "".join(f"{code:03b}"[::-1] for index in indices for code in (4, index)) + "101"
    data = bytes(int(bits[i : i + 8][::-1], 2) for i in range(0, len(bits), 8))
    return bytes([2, len(data)]) + data + b"\0"


def test_videos_without_frames(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.avi").read_bytes()
    (tmp_path / "header.avi").write_bytes(whole[: whole.find(b"movi") + 4])
    (tmp_path / "garbage.mp4").write_bytes(bytes(range(7, 256)) * 20)
    (tmp_path / "empty.mp4").write_bytes(b"")
    for name, words in {
        "header.avi": "without frames",
        "garbage.mp4": r"not a video that OpenCV can decode \(first bytes b'\\x07",
        "empty.mp4": "0 bytes",
    }.items():
        with pytest.raises(InputError, match=rf"{name}.*{words}"):
            list(open_source(str(tmp_path / name)))
    source = open_source(str(tmp_path))
    assert len(list(source)) == 10
    assert len(source.problems) == 3


# --- what OpenCV reports, and live sources, with a stand-in ----------------------------------------------------------


@pytest.mark.parametrize("promised", [-1.0, 0.0, 3.0, 25.0, 26.0, -9.2e18, 9.2e18, float("nan")])
def test_the_promised_number_of_frames_is_never_trusted(
    tmp_path: Path, fake_capture: type[FakeCapture], caplog: pytest.LogCaptureFixture, promised: float
) -> None:
    fake_capture.promised = promised
    (tmp_path / "clip.mp4").write_bytes(b"x")
    source = open_source(str(tmp_path / "clip.mp4"))
    assert [frame.number for frame in source] == list(range(20))
    assert source.total == (int(promised) if promised in (3.0, 25.0, 26.0) else None)
    told = [record.getMessage() for record in caplog.records]
    path = tmp_path / "clip.mp4"
    assert told == ([f"{path}: ends after 20 frames, its header promises 26"] if promised == 26 else [])
    assert len(fake_capture.addresses) == fake_capture.released == 2


def test_a_damaged_frame_does_not_end_a_video(tmp_path: Path, fake_capture: type[FakeCapture]) -> None:
    fake_capture.damaged = frozenset({1, 2})
    fake_capture.fps = float("nan")
    (tmp_path / "clip.mp4").write_bytes(b"x")
    frames = list(open_source(str(tmp_path / "clip.mp4")))
    assert [frame.number for frame in frames] == [0, *range(3, 20)]
    assert frames[0].fps is None
    fake_capture.damaged = frozenset(range(20))
    with pytest.raises(InputError, match="without frames"):
        list(open_source(str(tmp_path / "clip.mp4")))


@pytest.mark.parametrize(
    ("source", "address", "name"),
    [
        ("0", 0, "camera0"),
        ("12", 12, "camera12"),
        ("rtsp://user:p@ss@10.0.0.7:554/live?ch=1", None, "rtsp_10_0_0_7_554_live_ch_1"),
        ("rtsp://user:p/ss@host/live", None, "rtsp_host_live"),
        ("rtsp://cam/live?ch=1&User=admin&password=gehe_im&fps=5", None, "rtsp_cam_live_ch_1_User_password_fps_5"),
        ("rtsp://cam:554/user=admin_password=geheim_channel=1.sdp", None, "rtsp_cam_554_user_"),
        ("HTTPS://host/clip.mp4", None, "HTTPS_host_clip_mp4"),
        ("tcp://host:99", None, "tcp_host_99"),
    ],
)
def test_a_live_source(fake_capture: type[FakeCapture], source: str, address: int | None, name: str) -> None:
    live = open_source(source, vid_stride=3)
    assert live.live and live.total is None
    assert fake_capture.addresses == []  # nothing is opened before the first frame is asked for
    frames = iter(live)
    first, second = next(frames), next(frames)
    assert fake_capture.addresses == [source if address is None else address]
    assert (first.path, first.number, first.total, first.fps) == (Path(name), 0, None, 30.0)
    assert second.number == 3 and second.image[0, 0].tolist() == [3, 0, 0]
    assert not [thread for thread in threading.enumerate() if thread.name == "prefetch"]
    assert [frame.number for frame in frames] == [6, 9, 12, 15, 18]  # it ends when no frame comes
    assert fake_capture.released == 1


def test_a_live_source_that_cannot_be_opened(
    tmp_path: Path, fake_capture: type[FakeCapture], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_capture.opened = False
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        list(open_source("rtsp://user:secret@host/live"))
    assert "rtsp://host/live" in str(caught.value) and "secret" not in str(caught.value)
    (tmp_path / "1042").mkdir()
    with pytest.raises(InputError, match=r"camera1042: .*give \./1042"):
        list(open_source("1042"))
    fake_capture.opened, fake_capture.frames = True, 0
    with pytest.raises(InputError, match=r"camera0: .*without frames"):
        list(open_source("0"))


def test_opencv_errors_in_a_video_are_input_errors(tmp_path: Path, fake_capture: type[FakeCapture]) -> None:
    def refuse(self: FakeCapture) -> bool:
        raise cv2.error("out of\n memory")

    fake_capture.grab = refuse  # type: ignore[method-assign]
    (tmp_path / "clip.mp4").write_bytes(b"x")
    with pytest.raises(InputError, match=r"clip\.mp4: .*out of memory"):
        list(open_source(str(tmp_path / "clip.mp4")))
    assert fake_capture.released == 1


def test_a_camera_number_past_every_limit_is_an_input_error() -> None:
    with pytest.raises(InputError, match="camera99999999999"):
        list(open_source("99999999999"))
