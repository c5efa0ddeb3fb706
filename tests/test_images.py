"""utils/images.py: every format, depth and orientation becomes RGB, and a damaged file is told on one line."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.hostile import KINDS
from tests.hostile_images import claiming, png
from tests.phantoms import RED, encode, picture, write_image
from utils.images import MOST_BYTES, claimed_size, error_text, read_bytes, read_image
from utils.log import InputError


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff", ".webp", ".jpg"])
def test_an_image_is_rgb(tmp_path: Path, suffix: str) -> None:
    image = read_image(write_image(tmp_path / f"red{suffix}"))
    assert image.dtype == np.uint8 and image.shape == (24, 32, 3) and image.flags.c_contiguous
    np.testing.assert_allclose(image[12, 16], RED, atol=3)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bits_are_divided_by_256(tmp_path: Path, suffix: str, channels: int) -> None:
    values = np.array([[0, 256, 12800, 32768, 65535]], np.uint16)
    path = tmp_path / f"deep{suffix}"
    path.write_bytes(encode(suffix, np.dstack([values] * channels)))
    image = read_image(path)
    assert image.shape == (1, 5, 3)
    for channel in range(3):
        np.testing.assert_array_equal(image[0, :, channel], [0, 1, 50, 128, 255])


def test_grey_and_alpha_become_rgb(tmp_path: Path) -> None:
    grey, alpha = tmp_path / "grey.png", tmp_path / "alpha.png"
    grey.write_bytes(encode(".png", np.full((4, 5), 77, np.uint8)))
    alpha.write_bytes(encode(".png", np.full((4, 5, 4), (10, 20, 30, 0), np.uint8)))
    assert read_image(grey).tolist() == np.full((4, 5, 3), 77).tolist()
    assert read_image(alpha).tolist() == np.full((4, 5, 3), (30, 20, 10)).tolist()


@pytest.mark.parametrize("suffix", [".pfm", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3])
def test_floats_are_scaled_from_lowest_to_highest(tmp_path: Path, suffix: str, channels: int) -> None:
    values = np.array([[-3, -1, 1], [7, np.nan, np.inf]], np.float32)
    path = tmp_path / f"float{suffix}"
    uncompressed = [cv2.IMWRITE_TIFF_COMPRESSION, 1] if suffix == ".tiff" else []  # some OpenCV's default is lossy
    path.write_bytes(encode(suffix, np.dstack([values] * channels), *uncompressed))
    expected = np.array([[0, 51, 102], [255, 0, 255]])
    np.testing.assert_array_equal(read_image(path), np.dstack([expected] * 3))
    path.write_bytes(encode(suffix, np.full((2, 3), 5, np.float32)))
    assert not read_image(path).any()  # no range to scale


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"  # orientation 6: a quarter turn
    data = encode(".jpg", picture())
    path = tmp_path / "turned.jpg"
    path.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:])
    assert read_image(path).shape == (32, 24, 3)


NOISE = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("empty.jpg", b"", "0 bytes"),
        ("text.jpg", b"hello world", "not an image that OpenCV can decode (first bytes b'hello wo')"),
        ("half.jpg", encode(".jpg", NOISE)[:2000], "truncated"),
        ("nearly.jpg", encode(".jpg", NOISE)[:-2], "truncated"),
        ("header.jpg", encode(".jpg", NOISE)[:100], "truncated"),
        ("half.png", encode(".png", NOISE)[:2000], "truncated"),
        ("nearly.png", encode(".png", NOISE)[:-12], "truncated"),
        ("huge.png", png(100_000, 100_000), "at most 67,108,864 pixels expected, 100000 x 100000 came"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_image_is_an_input_error_on_one_line(tmp_path: Path, name: str, data: bytes, words: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        read_image(path)
    message = str(caught.value)
    assert str(path) in message and words in message and "\n" not in message


def test_a_file_that_claims_to_be_huge_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    found = claiming(32_000, 32_000)
    assert len(found) > 10
    for title, (name, data) in found.items():
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(
            InputError, match=r"at most 67,108,864 pixels|is not an image that OpenCV can decode"
        ) as caught:
            read_image(path)
        assert len(str(caught.value)) < 500, title


def test_every_format_says_its_size_before_it_is_decoded(tmp_path: Path) -> None:
    for name, data in KINDS["image"].seeds(tmp_path):
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
        assert image is not None and claimed_size(data) == (image.shape[1], image.shape[0]), name


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_large_tiff_says_its_size(order: str) -> None:
    tags = struct.pack(f"{order}HHQHHIHHQQ", 256, 3, 1, 7, 0, 0, 257, 16, 1, 9)
    data = struct.pack(f"{order}2sHHHQQ", b"II" if order == "<" else b"MM", 43, 8, 0, 16, 2) + tags
    assert claimed_size(data) == (7, 9)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(InputError, match=r"pipe\.png.*a pipe came"):
        read_image(tmp_path / "pipe.png")


def test_a_file_larger_than_any_image_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    with pytest.raises(InputError, match=r"large\.png.*bytes expected"):
        read_image(tmp_path / "large.png")


@pytest.mark.parametrize("name", ["a\0.png", "x" * 5000 + ".png"])
def test_a_name_that_no_file_has_is_told_in_a_short_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError) as caught:
        read_image(tmp_path / name)
    assert len(str(caught.value)) < 800 and str(caught.value).isprintable()


def test_a_missing_image_and_a_folder_are_input_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.png.*No such file"):
        read_image(tmp_path / "gone.png")
    with pytest.raises(InputError, match="directory"):
        read_image(tmp_path)


@pytest.mark.parametrize("tail", [b"", b"\0" * 5000, b"camera maker's \xff\xda notes", b"\xff\xd9"])
def test_bytes_after_the_end_marker_are_tolerated(tmp_path: Path, tail: bytes) -> None:
    for suffix in (".jpg", ".png"):
        path = tmp_path / f"padded{suffix}"
        path.write_bytes(encode(suffix, NOISE) + tail)
        assert read_image(path).shape == (60, 80, 3)


def test_the_end_marker_of_a_thumbnail_does_not_count(tmp_path: Path) -> None:
    thumbnail, data = encode(".jpg", NOISE[:8, :8]), encode(".jpg", NOISE)
    whole = data[:2] + b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail + data[2:]
    path = tmp_path / "thumbnail.jpg"
    path.write_bytes(whole)
    assert read_image(path).shape == (60, 80, 3)
    path.write_bytes(whole[:-500])
    with pytest.raises(InputError, match="truncated"):
        read_image(path)


def test_a_progressive_jpeg_is_read(tmp_path: Path) -> None:
    path = tmp_path / "progressive.jpg"
    data = encode(".jpg", NOISE, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    path.write_bytes(data)
    assert read_image(path).shape == (60, 80, 3)
    path.write_bytes(data[:-100])
    with pytest.raises(InputError, match="truncated"):
        read_image(path)


@pytest.mark.parametrize(("count", "data"), [(-1, b"abcdef"), (2, b"ab"), (99, b"abcdef")])
def test_read_bytes_gives_the_first_so_many(tmp_path: Path, count: int, data: bytes) -> None:
    (tmp_path / "a.bin").write_bytes(b"abcdef")
    assert read_bytes(tmp_path / "a.bin", count) == data


def test_error_text_is_one_line_without_opencvs_own_place() -> None:
    assert (
        error_text(cv2.error("OpenCV(5.0) a.cpp:1: error: (-4:No memory)\n in  function"))
        == "(-4:No memory) in function"
    )
