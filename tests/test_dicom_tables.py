"""Tables of grey and colours: windows as pydicom computes them, and ranges where there is none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_windowing

from utils.dicom_tables import grey_table, narrow_table, palette_table, windowed

BYTES, WORDS, SIGNED = np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.int16)


def dataset(**tags: Any) -> Dataset:
    found = Dataset()
    for name, value in tags.items():
        setattr(found, name, value)
    found.set_original_encoding(False, True)
    return found


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("centre", "width"), [(1000, 500), (2048, 4096), (10, 1), (-5, 30), (300.5, 7.25)])
def test_windows_are_those_of_pydicom(function: str, centre: float, width: float) -> None:
    values = np.arange(4096)
    written = dataset(WindowCenter=centre, WindowWidth=width, VOILUTFunction=function, BitsStored=12,
                      PixelRepresentation=0, PhotometricInterpretation="MONOCHROME2")  # fmt: skip
    expected = apply_windowing(values, written) / 4095
    np.testing.assert_allclose(np.clip(windowed(values, centre, width, function), 0, 1), expected, atol=1e-6)


def test_without_a_window_the_bits_stored_are_the_range() -> None:
    assert (grey_table(dataset(), BYTES, 8, False) == np.arange(256)).all()
    assert (grey_table(dataset(), BYTES, 8, True) == 255 - np.arange(256)).all()
    table = grey_table(dataset(), WORDS, 12, False)
    assert (table[0], table[2048], table[4095], table[65_535]) == (0, 128, 255, 255)
    table = grey_table(dataset(), SIGNED, 12, False)  # by bits: 0xF800 is -2048
    assert (table[0xF800], table[0], table[2047], table[0x8000]) == (0, 128, 255, 0)


@pytest.mark.parametrize(
    "tags",
    [
        {"WindowCenter": 5, "WindowWidth": 0},
        {"WindowCenter": 5, "WindowWidth": 0.5},
        {"WindowCenter": 5},
        {"WindowWidth": 5},
        {"RescaleSlope": 0, "RescaleIntercept": 7},
        {"RescaleSlope": 3, "RescaleIntercept": -1024},
    ],
)
def test_what_changes_nothing(tags: dict[str, Any]) -> None:
    assert (grey_table(dataset(**tags), BYTES, 8, False) == np.arange(256)).all()


def test_a_window_is_of_rescaled_values() -> None:
    table = grey_table(
        dataset(RescaleSlope=2, RescaleIntercept=-100, WindowCenter=100, WindowWidth=101), BYTES, 8, False
    )
    assert table[70] == 0 and table[74] == 0 and table[100] in (127, 128, 129) and table[126] == 255
    falling = grey_table(dataset(RescaleSlope=-1), BYTES, 8, False)
    assert (falling == 255 - np.arange(256)).all()


def test_lookup_tables_of_grey() -> None:
    item = dataset(LUTDescriptor=[256, 0, 8], LUTData=[255 - value for value in range(256)])
    assert (grey_table(dataset(VOILUTSequence=[item]), BYTES, 8, False) == 255 - np.arange(256)).all()
    found = grey_table(dataset(ModalityLUTSequence=[item]), BYTES, 8, False)
    assert (found == 255 - np.arange(256)).all()
    with pytest.raises(NotImplementedError, match="99"):
        grey_table(dataset(VOILUTSequence=[dataset(LUTDescriptor=[256, 0, 99], LUTData=[1] * 256)]), BYTES, 8, False)


def test_channels_of_more_bits() -> None:
    assert (narrow_table(BYTES, 8) == np.arange(256)).all()
    table = narrow_table(WORDS, 12)
    assert (table[0], table[4095], table[65_535]) == (0, 255, 255)


def palette(first: int, data: bytes, count: int = 4, bits: int = 8) -> Dataset:
    tags: dict[str, Any] = {}
    for colour in ("Red", "Green", "Blue"):
        tags[f"{colour}PaletteColorLookupTableDescriptor"] = [count, first, bits]
        tags[f"{colour}PaletteColorLookupTableData"] = data
    return dataset(PixelRepresentation=0, **tags)


def test_palettes_that_begin_later_and_end_early() -> None:
    table = palette_table(palette(10, bytes([1, 2, 3, 4])), BYTES)
    assert table.shape == (256, 3)
    assert table[[0, 10, 11, 13, 14, 255], 0].tolist() == [1, 1, 2, 4, 4, 4]


def test_palettes_of_sixteen_bits_and_of_eight_in_sixteen() -> None:
    wide = np.array([0, 0x1234, 0x80FF, 0xFFFF], "<u2").tobytes()
    assert palette_table(palette(0, wide, bits=16), WORDS)[:4, 1].tolist() == [0, 0x12, 0x80, 0xFF]
    narrow = np.array([0, 7, 128, 255], "<u2").tobytes()
    assert palette_table(palette(0, narrow, bits=16), WORDS)[:4, 1].tolist() == [0, 7, 128, 255]


@pytest.mark.parametrize("found", [dataset(), palette(0, b"ab"), palette(0, b"ab", count=0)])
def test_palettes_that_are_short_or_absent(found: Dataset) -> None:
    with pytest.raises(ValueError, match="palette"):
        palette_table(found, BYTES)
