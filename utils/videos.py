"""Frames of videos, cameras and streams, through OpenCV."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from utils.files import as_text, is_utf8
from utils.images import MOST_PIXELS, error_text, read_bytes
from utils.letterbox import Image
from utils.log import LOGGER, InputError

VIDEO_SUFFIXES = frozenset(["asf", "avi", "gif", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg", "ts", "wmv", "webm"])
TOLERATED_SHORTFALL = 5  # containers often promise a few frames more than they hold


@dataclass(frozen=True)
class VideoFrame:
    """A decoded frame of a video, camera or stream.

    Attributes:
        image: (H, W, 3) RGB.
        number: position among all its frames, from 0, whatever the stride.
        total: frames that its header promises, not always truly; None where it does not say.
        fps: frames per second; None where unknown.
    """

    image: Image
    number: int
    total: int | None
    fps: float | None


def read_video(path: Path, stride: int) -> Iterator[VideoFrame]:
    """Every ``stride``-th frame of a video file.

    Raises:
        InputError: it is none, or a list of other files or addresses, which would have them opened.
    """
    head = _beginning(path)
    with capture(path, str(path)) as opened:
        if not opened.isOpened():
            raise InputError(f"{path}: is not a video that OpenCV can decode (first bytes {head!r})")
        yield from captured_frames(opened, str(path), stride)


def promised_frames(path: Path) -> int | None:
    """Frames that a video file's header promises; None where it does not say, 0 where the file is none."""
    try:
        _beginning(path)
        with capture(path, str(path)) as opened:
            return _frame_count(opened) if opened.isOpened() else 0
    except InputError:  # told when it is to be decoded
        return 0


@contextmanager
def capture(address: Path | int | str, name: str) -> Iterator[cv2.VideoCapture]:
    """What OpenCV reads a video, camera or stream with; whether it could be opened is for the caller to ask."""
    # absolute, so that a file named like an address ("tcp:x.avi") stays a file
    place = str(address.absolute()) if isinstance(address, Path) else address
    if isinstance(place, str) and not is_utf8(place):
        raise InputError(f"{as_text(name)}: a path in UTF-8 expected, as OpenCV opens no other video, other bytes came")
    opened = None
    try:
        opened = cv2.VideoCapture(place)
        yield opened
    except cv2.error as error:  # also a camera number past 32 bits
        raise InputError(f"{name}: frames expected, OpenCV refuses: {error_text(error)}") from error
    finally:
        if opened is not None:
            opened.release()


def captured_frames(opened: cv2.VideoCapture, name: str, stride: int) -> Iterator[VideoFrame]:
    """Frames until one cannot be read; what the header promises is passed on and compared, never relied on."""
    width, height = (opened.get(side) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    if width * height > MOST_PIXELS:  # its header says so, before a frame is decoded
        raise InputError(f"{name}: frames of at most {MOST_PIXELS:,} pixels expected, {width:.0f} x {height:.0f} came")
    total = _frame_count(opened)
    rate = opened.get(cv2.CAP_PROP_FPS)
    fps = rate if 0 < rate < math.inf else None
    decoded = False
    for number in itertools.count():
        if not opened.grab():
            break
        if number % stride:
            continue
        whole, image = opened.retrieve()
        if whole:  # else one damaged frame, which need not end the video
            decoded = True
            yield VideoFrame(np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8), number, total, fps)
    if not decoded:
        raise InputError(f"{name}: a video without frames")
    if total is not None and number < total - TOLERATED_SHORTFALL:
        LOGGER.warning("%s: ends after %d frames, its header promises %d", name, number, total)


def _frame_count(opened: cv2.VideoCapture) -> int | None:
    count = opened.get(cv2.CAP_PROP_FRAME_COUNT)
    return int(count) if 0 < count < 1e9 else None


def _beginning(path: Path) -> bytes:
    """The first bytes of a video's file, which holds frames; a playlist in its place would have other files opened."""
    head = read_bytes(path, 8)
    if head.lstrip(b"\xef\xbb\xbf").startswith((b"#EXTM3U", b"ffconca", b"v=0", b"<?xml", b"[playli")):
        raise InputError(f"{path}: a video expected, a list of other files or addresses came (first bytes {head!r})")
    return head
