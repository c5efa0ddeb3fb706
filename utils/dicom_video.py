"""Pixels that are a video (MPEG-2, H.264, HEVC): its frames, decoded one by one by PyAV."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from utils.dicom_fragments import Joined
from utils.extras import load
from utils.images import MOST_PIXELS

SYNTAXES = frozenset(
    f"1.2.840.10008.1.2.4.{number}{part}"
    for number in range(100, 109)  # MPEG-2 at two levels, H.264 at five, HEVC at two
    for part in ("", ".1")  # .1: in fragments
)
_CODECS = frozenset(["mpeg1video", "mpeg2video", "mpeg4", "h264", "hevc"])
_OPTIONS = {  # what may be in there; a list of other files or addresses would have them opened
    "format_whitelist": "mpegts,mpeg,mpegvideo,h264,hevc,mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,m4v",
    "protocol_whitelist": "",
    "max_pixels": str(MOST_PIXELS),
}


def video_frames(stream: BinaryIO | Joined, width: int, height: int, stride: int) -> Iterator[NDArray[np.uint8]]:
    """Every ``stride``-th frame, (H, W, 3) RGB; all are decoded, as each builds on those before it.

    Raises:
        ValueError: no video, or one of another size.
        Exception: whatever PyAV makes of a damaged one, after the frames before that.
    """
    av: Any = load("av", "reading DICOM videos")
    with av.open(stream, "r", options=_OPTIONS, metadata_errors="replace") as container:
        if not container.streams.video:
            raise ValueError("a stream without pictures")
        video = container.streams.video[0]
        if video.codec_context.name not in _CODECS:
            raise ValueError(f"a video in {video.codec_context.name}")
        size = video.codec_context.width, video.codec_context.height
        for number, frame in enumerate(container.decode(video)):
            size = frame.width, frame.height
            if size != (width, height):  # also one that changes on its way
                break
            if number % stride == 0:
                yield np.ascontiguousarray(frame.to_ndarray(format="rgb24"))
        else:
            return
        raise ValueError(f"frames of {size[0]} x {size[1]} pixels")
