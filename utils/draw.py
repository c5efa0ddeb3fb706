"""Boxes and the view drawn into a frame, frames laid out as a mosaic, and pictures written to a file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from utils.labels import pixel_corners

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

RGB = tuple[int, int, int]
Image = NDArray[np.uint8]
Rectangle = tuple[int, int, int, int]  # x1 y1 x2 y2 in pixels, the last ones outside

# Bright, so that black text and a dark rim suit them all; neither the red and blue of colour Doppler nor the grey of
# tissue. The first four stay apart (CIE76 difference > 35) for protanopes and deuteranopes too, all seven by > 14.
_PALETTE: tuple[RGB, ...] = (
    (255, 230, 40),
    (255, 110, 255),
    (0, 200, 130),
    (255, 255, 255),
    (0, 240, 250),
    (190, 150, 0),
    (200, 255, 140),
)
_DARK: RGB = (16, 16, 16)
_LIGHT: RGB = (245, 245, 245)
_GREY = 96  # behind the frames of a mosaic
_GAP = 4  # pixels between them


def colour(index: int) -> RGB:
    """The colour (red, green, blue) of class ``index``; repeats after seven."""
    return _PALETTE[index % len(_PALETTE)]


def draw(
    image: Image,
    boxes: NDArray[np.floating[Any]],
    names: Sequence[str],
    view: str | None = None,
    *,
    line_thickness: int = 3,
    hide_labels: bool = False,
    hide_conf: bool = False,
) -> Image:
    """Draw boxes with their labels, and the view in the top left corner, into a copy of a frame.

    Args:
        image: (H, W, 3) RGB; not changed.
        boxes: (n, 6) pixels x1 y1 x2 y2, confidence, class. Confidence NaN (ground truth) is not shown. A box with a
            non-finite corner, or wholly outside the frame, is left out.
        names: name of each class; a class beyond them is shown by its number.
        view: text for the corner; nothing is put there for None.
        line_thickness: of a box, in pixels; each side gets a dark rim of one more pixel.
        hide_labels: draw boxes only (the view stays).
        hide_conf: names without confidences.

    Returns:
        (H, W, 3) RGB, a new array.

    Raises:
        ValueError: image or boxes are of another shape or type.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image: expected (H, W, 3) uint8, got {image.shape} {image.dtype}")
    if boxes.size and (boxes.ndim != 2 or boxes.shape[1] != 6):
        raise ValueError(f"boxes: expected (n, 6), got {boxes.shape}")
    canvas = np.array(image, order="C")  # cv2 draws into contiguous memory only
    visible = _visible(boxes, canvas.shape[1], canvas.shape[0])
    for row in visible[::-1]:  # the surest box last, above the others
        _rectangle(canvas, row, line_thickness)
    size = _text_size(canvas)
    taken: list[Rectangle] = []
    if view:
        mask = _text_mask(view, size)
        _plate(canvas, mask, 0, 0, _DARK, _LIGHT, opacity=0.75)
        taken.append((0, 0, mask.shape[1], mask.shape[0]))
    for row in visible if not hide_labels else visible[:0]:
        mask = _text_mask(_label(row, names, hide_conf), size)
        x, y = _place(mask, row, line_thickness, canvas, taken)
        taken.append((x, y, x + mask.shape[1], y + mask.shape[0]))
        _plate(canvas, mask, x, y, colour(int(row[5])), (0, 0, 0))
    return canvas


def ground_truth(boxes: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float64]:
    """Label rows (n, 5), normalised -> what :func:`draw` takes for a frame of (height, width), without confidence."""
    unknown = np.full((len(boxes), 1), np.nan)
    return np.concatenate((pixel_corners(boxes, shape), unknown, boxes[:, :1]), 1)


def _visible(boxes: NDArray[np.floating[Any]], width: int, height: int) -> NDArray[np.float64]:
    """The boxes that touch the frame, clipped to it, by falling confidence (NaN last)."""
    rows = np.array(boxes, np.float64).reshape(-1, 6)
    rows = rows[np.isfinite(rows[:, [0, 1, 2, 3, 5]]).all(1)]
    x1, y1, x2, y2 = rows[:, :4].T
    rows = rows[(x2 > 0) & (y2 > 0) & (x1 < width) & (y1 < height)]
    rows[:, [0, 2]] = rows[:, [0, 2]].clip(0, width - 1)  # so that a side beyond the frame shows along its edge
    rows[:, [1, 3]] = rows[:, [1, 3]].clip(0, height - 1)
    return rows[np.argsort(-rows[:, 4], kind="stable")]


def _rectangle(canvas: Image, row: NDArray[np.float64], thickness: int) -> None:
    corners = [round(float(v)) for v in row[:4]]
    thickness = max(thickness, 1)
    # The dark rim keeps a bright line visible on bright speckle.
    cv2.rectangle(canvas, corners[:2], corners[2:], _DARK, thickness + 2, cv2.LINE_AA)
    cv2.rectangle(canvas, corners[:2], corners[2:], colour(int(row[5])), thickness, cv2.LINE_AA)


def _label(row: NDArray[np.float64], names: Sequence[str], hide_conf: bool) -> str:
    index = int(row[5])
    name = names[index] if 0 <= index < len(names) else str(index)
    return name if hide_conf or np.isnan(row[4]) else f"{name} {row[4]:.2f}"


def _place(
    mask: Image, row: NDArray[np.float64], thickness: int, canvas: Image, taken: Sequence[Rectangle]
) -> tuple[int, int]:
    """Where a label goes (its top left pixel): in the frame, and off the other labels if there is a free place."""
    height, width = mask.shape
    frame_height, frame_width = canvas.shape[:2]
    half = max(thickness, 1) // 2
    left, top, right, bottom = (round(float(v)) for v in row[:4])
    above, below = top - half - height, bottom + half + 1
    places = [
        (max(0, min(x, frame_width - width)), y)
        for x in (left - half, right + half + 1 - width)
        for y in (above, top - half, below, bottom + half + 1 - height)  # outside, inside; outside, inside
        if y >= 0 and y + height <= frame_height
    ]
    for x, y in places:
        if all(x >= t[2] or x + width <= t[0] or y >= t[3] or y + height <= t[1] for t in taken):
            return x, y
    return places[0] if places else (0, 0)  # no place at all: the frame is lower than the text


def _text_size(canvas: Image) -> int:
    """Height of text in pixels that suits a frame: 16 at 640 x 480."""
    return max(10, round(0.028 * (canvas.shape[0] + canvas.shape[1]) / 2))


@lru_cache(maxsize=32)
def _font(size: int) -> FreeTypeFont:
    import matplotlib
    from PIL import ImageFont

    # Not cv2's own font: it knows ASCII only. This one comes with matplotlib, so nothing is downloaded.
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)


@lru_cache(maxsize=1024)
def _text_mask(text: str, size: int) -> Image:
    """A line of text, as coverage 0..255 of a plate (h, w) with a margin around it; the same h for every text."""
    from PIL import Image as Pillow
    from PIL import ImageDraw

    text = " ".join(text.split())
    font = _font(size)
    ascent, descent = font.getmetrics()
    margin = max(2, size // 5)
    plate = Pillow.new("L", (math.ceil(font.getlength(text)) + 2 * margin, ascent + descent + margin // 2))
    ImageDraw.Draw(plate).text((margin, margin // 4), text, fill=255, font=font)
    mask = np.array(plate)
    mask.setflags(write=False)  # it is shared by every call with the same text
    return mask


def _plate(canvas: Image, mask: Image, x: int, y: int, ground: RGB, ink: RGB, opacity: float = 1.0) -> None:
    """Put text on a plate of colour ``ground`` into ``canvas`` at (x, y); what sticks out is cut off."""
    patch = canvas[y : y + mask.shape[0], x : x + mask.shape[1]]
    share = mask[: patch.shape[0], : patch.shape[1], None].astype(np.float32) / 255
    under = opacity * np.array(ground, np.float32) + (1 - opacity) * patch
    patch[:] = np.rint(under + (np.array(ink, np.float32) - under) * share).astype(np.uint8)


def mosaic(
    frames: Sequence[Image],
    titles: Sequence[str] | None = None,
    columns: int | None = None,
    max_side: int = 1920,
) -> Image:
    """Lay frames out as a grid on grey, each under its title.

    Args:
        frames: (H, W, 3) RGB each, of any sizes; each is scaled to fit a cell of the largest height and width.
        titles: one a frame (file names, say); shortened in the middle to the cell's width.
        columns: of the grid; None takes about as many columns as rows.
        max_side: largest height and width of the result, in pixels; the cells shrink to keep to it.

    Returns:
        (H, W, 3) RGB; a grey square if there are no frames.
    """
    if titles is not None and len(titles) != len(frames):
        raise ValueError(f"titles: expected one for each of {len(frames)} frames, got {len(titles)}")
    if not frames:
        return np.full((64, 64, 3), _GREY, np.uint8)
    columns = max(1, min(columns or math.ceil(math.sqrt(len(frames))), len(frames)))
    rows = math.ceil(len(frames) / columns)
    width, height = max(f.shape[1] for f in frames), max(f.shape[0] for f in frames)
    size = max(10, min(18, min(width, max_side // columns) // 28))
    strip = 0 if titles is None else _text_mask("", size).shape[0]
    room_x = (max_side - _GAP) // columns - _GAP
    room_y = (max_side - _GAP) // rows - _GAP - strip
    scale = min(1.0, room_x / width, room_y / height)
    width, height = max(1, int(width * scale)), max(1, int(height * scale))
    step_x, step_y = width + _GAP, height + strip + _GAP
    grid = np.full((rows * step_y + _GAP, columns * step_x + _GAP, 3), _GREY, np.uint8)
    for i, frame in enumerate(frames):
        x, y = _GAP + i % columns * step_x, _GAP + i // columns * step_y
        if titles is not None:
            title = _text_mask(_shorten(titles[i], size, width), size)[:, :width]
            _plate(grid, title, x, y, (_GREY, _GREY, _GREY), _LIGHT)
        _fit(grid[y + strip : y + strip + height, x : x + width], frame)
    return grid


def _fit(cell: Image, frame: Image) -> None:
    """Scale a frame into the middle of a cell, keeping its proportions."""
    height, width = cell.shape[:2]
    scale = min(height / frame.shape[0], width / frame.shape[1])
    new_width, new_height = max(1, round(frame.shape[1] * scale)), max(1, round(frame.shape[0] * scale))
    resized = cv2.resize(frame, (new_width, new_height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    x, y = (width - new_width) // 2, (height - new_height) // 2
    cell[y : y + new_height, x : x + new_width] = resized


def _shorten(text: str, size: int, width: int) -> str:
    """``text`` with as much of its middle replaced by an ellipsis as its mask needs to be ``width`` pixels wide."""
    for keep in range(len(text), 0, -1):
        # The end of a file name (frame number, suffix) tells more than its beginning: it gets the odd letter.
        short = text if keep == len(text) else f"{text[: keep // 2]}…{text[len(text) - (keep - keep // 2) :]}"
        if _font(size).getlength(short) + 2 * max(2, size // 5) <= width:
            return short
    return ""


def save(path: Path, image: Image) -> None:
    """Write an RGB picture (H, W, 3) to ``path`` in the format its suffix names.

    Raises:
        OSError: no such format, or the file cannot be written.
    """
    # Not cv2.imwrite: it fails on some non-ASCII paths under Windows, and says so only by returning False.
    try:
        done, data = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    except cv2.error as error:
        raise OSError(f"{path}: cannot be written as a picture of type '{path.suffix}'") from error
    if not done:
        raise OSError(f"{path}: cannot be written as a picture of type '{path.suffix}'")
    path.write_bytes(data.tobytes())
