"""What stored pixel values look like: tables from them to grey or colours of 8 bits, by a DICOM file's own window."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.dicom_file import items, number, numbers, text
from utils.extras import load

Table = NDArray[np.uint8]
COLOURS = ("Red", "Green", "Blue")


def grey_table(dataset: Any, kind: np.dtype[Any], stored: int, inverse: bool) -> Table:
    """Grey (n,) by stored value, its bits read as unsigned.

    As the file's VOI table or window says; without one the full range of ``stored`` bits becomes 0..255. Not the
    range that a frame happens to use: one speck would change all other pixels, and a loop would flicker.

    Args:
        kind: of the values.
        inverse: whether low values are bright (MONOCHROME1).

    Raises:
        Exception: whatever pydicom makes of tables that do not fit.
    """
    values = _all_values(kind)
    ends = _ends(kind, stored)
    if dataset.get("ModalityLUTSequence"):
        processing = load("pydicom.pixels", "reading DICOM")
        values = processing.apply_modality_lut(values, dataset)
        ends = np.array([0, 2.0 ** _bits(dataset, "ModalityLUTSequence") - 1])
    else:
        slope, intercept = number(dataset, "RescaleSlope"), number(dataset, "RescaleIntercept")
        slope, intercept = slope or 1.0, intercept or 0.0
        values, ends = values * slope + intercept, ends * slope + intercept
    window = _window(dataset)
    if items(dataset, "VOILUTSequence", 1):
        processing = load("pydicom.pixels", "reading DICOM")
        shown = processing.apply_voi(values.astype(np.int64), dataset) / (2.0 ** _bits(dataset, "VOILUTSequence") - 1)
    elif window is not None:
        shown = windowed(values, *window)
    else:
        low, high = float(ends.min()), float(ends.max())
        shown = (values - low) / max(high - low, 1e-12)
    shown = np.clip(shown, 0, 1)
    return np.rint(255 * (1 - shown if inverse else shown)).astype(np.uint8)


def windowed(values: NDArray[Any], centre: float, width: float, function: str) -> NDArray[np.float64]:
    """Values through a window, 0 its dark end and 1 its bright one (DICOM PS3.3 C.11.2.1.2, C.11.2.1.3)."""
    values = np.asarray(values, np.float64)
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700)))
    if function == "LINEAR_EXACT":
        return (values - centre) / width + 0.5
    return (values - (centre - 0.5)) / max(width - 1, 1e-9) + 0.5


def narrow_table(kind: np.dtype[Any], stored: int) -> Table:
    """A colour's channel (n,) by stored value: the full range of ``stored`` bits becomes 0..255."""
    return np.rint(np.clip(_all_values(kind) / (2.0**stored - 1), 0, 1) * 255).astype(np.uint8)


def palette_table(dataset: Any, kind: np.dtype[Any]) -> Table:
    """RGB (n, 3) by stored value.

    Raises:
        ValueError: a palette that is segmented, absent, or shorter than it says.
    """
    return np.stack([_palette(dataset, colour, kind) for colour in COLOURS], -1)


def _palette(dataset: Any, colour: str, kind: np.dtype[Any]) -> Table:
    said = numbers(dataset, f"{colour}PaletteColorLookupTableDescriptor")
    data = dataset.get(f"{colour}PaletteColorLookupTableData")
    if len(said) != 3 or not isinstance(data, bytes):
        raise ValueError(f"a {colour.lower()} palette of single values expected, none came")
    count = int(said[0]) or 65_536
    first = int(said[1]) - (65_536 if kind.kind == "i" and said[1] >= 32_768 else 0)
    wide = len(data) >= 2 * count
    order = "<" if dataset.original_encoding[1] else ">"
    entries = np.frombuffer(data[: count * (1 + wide)], f"{order}u{1 + wide}").astype(np.int64)
    if count < 1 or len(entries) < count:
        raise ValueError(f"a {colour.lower()} palette of {count} values expected, {len(entries)} came")
    if entries.max() > 255:  # else 8 bits in 16, as some files have them
        entries = entries >> 8
    return entries[np.clip(_all_values(kind).astype(np.int64) - first, 0, count - 1)].astype(np.uint8)


def _all_values(kind: np.dtype[Any]) -> NDArray[Any]:
    """Every value that an integer of a kind can have, in the order of its bits."""
    return np.arange(2 ** (8 * kind.itemsize), dtype=f"u{kind.itemsize}").view(kind)


def _ends(kind: np.dtype[Any], stored: int) -> NDArray[np.float64]:
    """Of the range of values of so many bits."""
    return np.array([-(2.0 ** (stored - 1)), 2.0 ** (stored - 1) - 1] if kind.kind == "i" else [0, 2.0**stored - 1])


def _window(dataset: Any) -> tuple[float, float, str] | None:
    """Centre, width and function of the first window, where it makes sense."""
    centres, widths = numbers(dataset, "WindowCenter"), numbers(dataset, "WindowWidth")
    function = text(dataset, "VOILUTFunction") or "LINEAR"
    if not centres or not widths or widths[0] <= 0 or (function == "LINEAR" and widths[0] < 1):
        return None
    return centres[0], widths[0], function


def _bits(dataset: Any, sequence: str) -> int:
    """Of a lookup table's entries."""
    said = numbers(items(dataset, sequence, 1)[0], "LUTDescriptor")
    if len(said) != 3 or not 8 <= said[2] <= 16:
        raise ValueError(f"{sequence} with entries of 8 to 16 bits expected, {said} came")
    return int(said[2])
