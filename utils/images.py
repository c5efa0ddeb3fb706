"""An image file -> an RGB array, whatever its format, depth or orientation."""

from __future__ import annotations

import io
import os
import stat
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from utils.log import InputError, printable

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

IMAGE_SUFFIXES = frozenset(["bmp", "dng", "jpeg", "jpg", "mpo", "png", "tif", "tiff", "webp", "pfm"])

if "OPENCV_LOG_LEVEL" not in os.environ:  # of a damaged file it says several lines, which ours replaces
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # likewise, of a damaged video
MOST_PIXELS = 2**26  # 8192 x 8192, 200 MB once decoded; several threads decode at a time
MOST_BYTES = 2**30  # of a file: more than so many pixels take in any format
_TIFF_ORDERS = {b"II": "<", b"MM": ">"}
_TIFF_NUMBERS = {1: "B", 3: "H", 4: "I", 16: "Q"}  # by kind of a tag's value


def read_image(path: Path) -> NDArray[np.uint8]:
    """Decode an image file; safe to call from several threads.

    Rotated as its EXIF orientation says. Grey becomes three equal channels, alpha is dropped without blending. 16-bit
    values are divided by 256, the full range whatever the picture uses of it (12 bits stored in 16 come out dark).
    Floats (pfm, tiff) have no fixed range, so the lowest finite value becomes 0 and the highest 255.

    Returns:
        (H, W, 3) RGB.

    Raises:
        InputError: the file is missing, empty, truncated, of more than ``MOST_PIXELS``, or not an image.
    """
    data = read_bytes(path)
    if _is_truncated(data):
        raise InputError(f"{path}: truncated, a whole image expected, {len(data)} bytes without an end marker came")
    size = claimed_size(data)
    if size is None:
        raise InputError(f"{path}: is not an image that OpenCV can decode (first bytes {data[:8]!r})")
    if not 0 < size[0] * size[1] <= MOST_PIXELS:  # said by its beginning: nothing was decoded yet
        raise InputError(f"{path}: an image of at most {MOST_PIXELS:,} pixels expected, {size[0]} x {size[1]} came")
    try:
        image = _decode_image(np.frombuffer(data, np.uint8), data[:3])
        if image is not None:
            to_rgb = cv2.COLOR_GRAY2RGB if image.ndim == 2 else cv2.COLOR_BGR2RGB
            return np.asarray(cv2.cvtColor(image, to_rgb), np.uint8)
    except cv2.error as error:
        raise InputError(
            f"{path}: an image within OpenCV's limits expected, it refuses: {error_text(error)}"
        ) from error
    raise InputError(f"{path}: is not an image that OpenCV can decode (first bytes {data[:8]!r})")


def claimed_size(data: bytes) -> tuple[int, int] | None:
    """Width and height that an image's beginning claims, nothing decoded; None where it is no image that is known.

    A file of a few bytes may claim any size, and a decoder would reserve the memory.
    """
    if data[:3] in (b"PF\n", b"Pf\n"):
        words = data[:100].split()[1:3]
        sides = [int(word) for word in words if word.isdigit() and len(word) < 10]
        return (sides[0], sides[1]) if len(sides) == 2 else None
    try:
        if data[:4] == b"RIFF":
            return _webp_size(data)
        return _tiff_size(data) if data[:2] in _TIFF_ORDERS else _pillow_size(data)
    # a damaged beginning ends its reader in whatever makes no sense first
    except (OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, struct.error):
        return None


def _pillow_size(data: bytes) -> tuple[int, int] | None:
    """By Pillow's readers of headers; not its ``Image.open``, which warns of large images, where this program tells."""
    from PIL import (
        BmpImagePlugin,
        GifImagePlugin,
        Jpeg2KImagePlugin,
        JpegImagePlugin,
        PngImagePlugin,
        PpmImagePlugin,
        SunImagePlugin,
    )

    readers: dict[bytes, type[ImageFile]] = {
        b"\xff\xd8\xff": JpegImagePlugin.JpegImageFile, b"\x89PNG": PngImagePlugin.PngImageFile,
        b"BM": BmpImagePlugin.BmpImageFile, b"GIF8": GifImagePlugin.GifImageFile,
        b"P": PpmImagePlugin.PpmImageFile, b"\xff\x4f\xff\x51": Jpeg2KImagePlugin.Jpeg2KImageFile,
        b"\0\0\0\x0cjP": Jpeg2KImagePlugin.Jpeg2KImageFile, b"\x59\xa6\x6a\x95": SunImagePlugin.SunImageFile,
    }  # fmt: skip
    for magic, reader in readers.items():
        if data.startswith(magic):
            width, height = reader(io.BytesIO(data)).size
            return width, height
    return None


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """Of the canvas; Pillow's reader would decode."""
    kind, number = data[12:16], int.from_bytes(data[21:25], "little")
    if data[8:12] != b"WEBP" or len(data) < 30:
        return None
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        return 1 + (number & 0x3FFF), 1 + (number >> 14 & 0x3FFF)
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


def _tiff_size(data: bytes) -> tuple[int, int] | None:
    """Of the first page, the one that is decoded; Pillow knows no TIFF of several floats a pixel."""
    order = _TIFF_ORDERS[data[:2]]
    big = struct.unpack_from(f"{order}H", data, 2)[0] == 43  # BigTIFF: each place and count twice as long
    place, number, entry = ("Q", "Q", 20) if big else ("I", "H", 12)
    (at,) = struct.unpack_from(order + place, data, 8 if big else 4)
    (entries,) = struct.unpack_from(order + number, data, at)
    sides: dict[int, int] = {}
    for start in range(
        at + struct.calcsize(number), at + struct.calcsize(number) + entry * min(entries, 65_535), entry
    ):
        tag, kind = struct.unpack_from(f"{order}HH", data, start)
        if tag in (256, 257) and kind in _TIFF_NUMBERS:  # width and height
            (sides[tag],) = struct.unpack_from(order + _TIFF_NUMBERS[kind], data, start + (12 if big else 8))
        if len(sides) == 2:
            return sides[256], sides[257]
    return None


def _is_truncated(data: bytes) -> bool:
    """Whether a JPEG or PNG lacks its end; some OpenCV versions fill what is missing with grey and say nothing."""
    if data.startswith(b"\xff\xd8\xff"):
        # The end marker cannot occur in coded pixels, but does in a thumbnail: look only after the header's segments.
        at = 2
        while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] != b"\xda":
            at += 1 if data[at + 1 : at + 2] == b"\xff" else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        return data.find(b"\xff\xd9", at) < 0
    return data.startswith(b"\x89PNG") and b"\0\0\0\0IEND" not in data


def _decode_image(data: NDArray[np.uint8], magic: bytes) -> NDArray[np.uint8] | None:
    """(H, W) grey or (H, W, 3) BGR; None if it cannot be decoded."""
    is_pfm = magic in (b"PF\n", b"Pf\n")  # IMREAD_COLOR would clip its floats to 0-255
    image = None if is_pfm else cv2.imdecode(data, cv2.IMREAD_COLOR)
    if image is None and (is_pfm or magic[:2] in (b"II", b"MM")):  # IMREAD_COLOR refuses a tiff of floats
        values = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
        return None if values is None else _bytes_from_floats(values)
    return None if image is None else np.asarray(image, np.uint8)


def _bytes_from_floats(values: NDArray[Any]) -> NDArray[np.uint8]:
    finite = values[np.isfinite(values)].astype(np.float64)
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
    filled = np.nan_to_num(values.astype(np.float64), nan=low, posinf=high, neginf=low)
    return np.rint((filled - low) * (255 / (high - low) if high > low else 0)).astype(np.uint8)


def read_bytes(path: Path, count: int = -1) -> bytes:
    """The first ``count`` bytes of a file, or all; InputError where there are none, or more than any image has."""
    try:
        state = path.stat()
        if not stat.S_ISREG(state.st_mode) and not stat.S_ISDIR(state.st_mode):  # a pipe would be waited for
            raise InputError(f"{path}: an image or video expected, no file but a device or a pipe came")
        if count < 0 and state.st_size > MOST_BYTES:
            raise InputError(f"{path}: an image of at most {MOST_BYTES:,} bytes expected, {state.st_size:,} came")
        with path.open("rb") as file:
            data = file.read(count)
    except OSError as error:
        name = printable(str(path), 500)  # an overlong one is why it cannot be read
        raise InputError(f"{name}: an image or video expected, cannot be read: {error.strerror}") from error
    except ValueError as error:  # a null byte in it
        raise InputError(f"{printable(str(path), 500)}: an image or video expected, no path came: {error}") from error
    if not data:
        raise InputError(f"{path}: an image or video expected, an empty file (0 bytes) came")
    return data


def error_text(error: cv2.error) -> str:
    """One line of OpenCV's text; ``error.err`` would be the last error of any thread."""
    return " ".join(str(error).split()).rpartition("error: ")[2]
