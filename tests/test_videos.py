"""Videos through OpenCV: numbers, promising headers, and sizes and playlists that are refused unopened."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest

from tests.test_sources import write_video
from utils import videos
from utils.log import InputError
from utils.videos import promised_frames, read_video


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


def test_a_playlist_opens_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.mp4").write_bytes(b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n")
    monkeypatch.setattr(cv2, "VideoCapture", lambda *_: pytest.fail("opened"))
    with pytest.raises(InputError, match="a list of other files or addresses came"):
        list(read_video(tmp_path / "a.mp4", 1))
