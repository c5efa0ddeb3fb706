"""Videos inside DICOM files: frames one by one, of the header's size, and nothing that is no video."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest

from tests.dicoms import encoded_video, loop
from utils.dicom_video import video_frames


@pytest.mark.parametrize("container", ["mpegts", "mp4", "h264"])
def test_containers_and_bare_streams(container: str) -> None:
    frames = loop(5)
    found = list(video_frames(io.BytesIO(encoded_video(frames, "libx264", container)), 128, 96, 2))
    assert len(found) == 3 and np.abs(np.stack(found).astype(int) - frames[::2]).mean() < 2.5
    assert all(frame.dtype == np.uint8 and frame.flags.c_contiguous for frame in found)


def test_colours_of_high_definition_are_converted_as_the_stream_says() -> None:
    colour = np.full((1, 96, 128, 3), (200, 40, 60), np.uint8)
    file = io.BytesIO()
    with av.open(file, "w", format="mpegts") as output:
        stream = output.add_stream("libx264", rate=25, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        stream.codec_context.colorspace = 1  # BT.709
        frame = av.VideoFrame.from_ndarray(colour[0], "rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709")
        frame.colorspace = 1
        output.mux(stream.encode(frame))
        output.mux(stream.encode())
    (found,) = video_frames(io.BytesIO(file.getvalue()), 128, 96, 1)
    assert np.abs(found.astype(int) - colour[0]).max() < 8


def test_frames_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="frames of 128 x 96 pixels"):
        list(video_frames(io.BytesIO(encoded_video(loop(2), "libx264")), 128, 97, 1))


@pytest.mark.parametrize(
    "content", [b"", b"nothing", b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n", b"ffconcat version 1.0\nfile /etc/passwd\n"]
)
def test_what_is_no_video_is_not_opened(content: bytes) -> None:
    with pytest.raises(Exception, match=r"\w"):
        list(video_frames(io.BytesIO(content), 128, 96, 1))
