"""An image file -> an RGB array, whatever its format, depth or orientation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from utils.log import InputError

IMAGE_SUFFIXES = frozenset(["bmp", "dng", "jpeg", "jpg", "mpo", "png", "tif", "tiff", "webp", "pfm"])


def read_image(path: Path) -> NDArray[np.uint8]:
    """Decode an image file; safe to call from several threads.

    Rotated as its EXIF orientation says. Grey becomes three equal channels, alpha is dropped without blending. 16-bit
    values are divided by 256, the full range whatever the picture uses of it (12 bits stored in 16 come out dark).
    Floats (pfm, tiff) have no fixed range, so the lowest finite value becomes 0 and the highest 255.

    Returns:
        (H, W, 3) RGB.

    Raises:
        InputError: the file is missing, empty, truncated, past OpenCV's limit of pixels, or not an image.
    """
    data = read_bytes(path)
    if _is_truncated(data):
        raise InputError(f"{path}: truncated, a whole image expected, {len(data)} bytes without an end marker came")
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
    """The first ``count`` bytes of a file, or all; InputError where there are none."""
    try:
        with path.open("rb") as file:
            data = file.read(count)
    except OSError as error:
        raise InputError(f"{path}: an image or video expected, cannot be read: {error.strerror}") from error
    if not data:
        raise InputError(f"{path}: an image or video expected, an empty file (0 bytes) came")
    return data


def error_text(error: cv2.error) -> str:
    """One line of OpenCV's text; ``error.err`` would be the last error of any thread."""
    return " ".join(str(error).split()).rpartition("error: ")[2]
