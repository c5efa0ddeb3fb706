"""DICOM files: which files are, what their headers say of a clip, and its frames."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.dicom_file import (
    DIRECTORY,
    SUFFIXES,
    DicomFile,
    has_mark,
    items,
    number,
    numbers,
    opened,
    text,
    whole_number,
)
from utils.dicom_pixels import KEYWORDS, frames, layout_of
from utils.log import InputError
from utils.regions import Area, Region, of_regions

MOST_REGIONS = 64
_CENTIMETRES = 3  # PhysicalUnitsXDirection (DICOM PS3.3 C.8.5.5.1.15)
_FRAME_TIME, _FRAME_TIME_VECTOR = 0x00181063, 0x00181065
# Of when a picture was taken, the best first; a date without a time still tells the day.
_MOMENTS = (("AcquisitionDate", "AcquisitionTime"), ("ContentDate", "ContentTime"), ("SeriesDate", "SeriesTime"),
            ("StudyDate", "StudyTime"))  # fmt: skip
_HEADER = (
    *("SpecificCharacterSet", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "PatientID"),
    *("AcquisitionDateTime", *(name for pair in _MOMENTS for name in pair), "SeriesNumber", "InstanceNumber"),
    *("FrameIncrementPointer", "FrameTime", "FrameTimeVector", "CineRate", "RecommendedDisplayFrameRate"),
    "SequenceOfUltrasoundRegions",
)


@dataclass(frozen=True)
class DicomHeader:
    """What a file says of itself; texts are empty where it does not say.

    Attributes:
        study, series, instance: UIDs.
        patient: PatientID.
        acquired: when, and then which of those of the same moment: text whose order is that of acquisition.
        frames: as promised, at least 1.
        times: seconds from the first frame, one a frame; none where the file does not say.
        syntax: transfer syntax UID.
    """

    path: Path
    study: str
    series: str
    instance: str
    sop_class: str
    patient: str
    acquired: str
    height: int
    width: int
    frames: int
    times: tuple[float, ...]
    syntax: str
    regions: tuple[Region, ...]

    @property
    def fps(self) -> float | None:
        """Frames per second, the mean; None where unknown, as of a single frame."""
        return (len(self.times) - 1) / self.times[-1] if self.times and self.times[-1] > 0 else None

    @property
    def area(self) -> Area | None:
        """The part of a frame that the file's own regions name."""
        return of_regions(self.regions, self.height, self.width)


def is_dicom(path: Path) -> bool:
    """Whether a file is to be read as DICOM: by its suffix, or by the mark at its beginning whatever its name."""
    return path.suffix[1:].lower() in SUFFIXES or has_mark(path)


def is_directory(path: Path) -> bool:
    """Whether a DICOM file is a DICOMDIR, a list of the others."""
    if path.name.upper() == "DICOMDIR":
        return True
    try:
        with opened(path, ()) as file:
            return file.sop_class == DIRECTORY or file.media_class == DIRECTORY
    except (InputError, OSError):
        return False


def read_header(path: Path) -> DicomHeader:
    """What a file says of itself, no pixel read.

    Raises:
        InputError: it is no DICOM file, holds no pictures, or ones that are not read.
    """
    with opened(path, (*_HEADER, *KEYWORDS)) as file:
        layout, dataset = layout_of(file), file.dataset
        return DicomHeader(
            path, text(dataset, "StudyInstanceUID"), text(dataset, "SeriesInstanceUID"),
            text(dataset, "SOPInstanceUID"), file.sop_class, text(dataset, "PatientID"), _acquired(dataset),
            layout.rows, layout.columns, layout.frames, _times(dataset, layout.frames), file.syntax, _regions(file),
        )  # fmt: skip


def read_frames(header: DicomHeader, stride: int = 1) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Number and picture, (H, W, 3) RGB, of every ``stride``-th frame, decoded when it is asked for.

    Raises:
        InputError: after the frames that can be decoded, where these are fewer than promised; before the first, where
            the file cannot be read (any more).
    """
    with opened(header.path, KEYWORDS, whole=True) as file:
        yield from frames(file, layout_of(file), stride)


def _acquired(dataset: Any) -> str:
    digits = re.match(r"(\d{8})(\d{0,6})(?:\.(\d{1,6}))?", text(dataset, "AcquisitionDateTime"))
    if digits:
        day, clock, part = digits.groups(default="")
        moment = f"{day} {clock:0<6}.{part:0<6}"
    else:
        moments = ((_day(text(dataset, day)), text(dataset, clock)) for day, clock in _MOMENTS)
        moment = next((f"{day} {_clock(clock)}" for day, clock in moments if day), f"{'':0<8} {_clock('')}")
    which = (max(whole_number(dataset, name) or 0, 0) for name in ("SeriesNumber", "InstanceNumber"))
    return " ".join([moment, *(f"{value:010d}" for value in which)])


def _day(written: str) -> str:
    """Eight digits; files of before 1993 have points between them."""
    digits = written.replace(".", "")
    return digits if re.fullmatch(r"\d{8}", digits) else ""


def _clock(written: str) -> str:
    digits = re.match(r"(\d{0,6})(?:\.(\d{1,6}))?", written.replace(":", ""))
    whole, part = digits.groups(default="") if digits else ("", "")
    return f"{whole:0<6}.{part:0<6}"


def _times(dataset: Any, count: int) -> tuple[float, ...]:
    """Seconds of each frame: what the header points at, else whatever it has that fits."""
    pointer = numbers(dataset, "FrameIncrementPointer")
    steps, step = numbers(dataset, "FrameTimeVector"), number(dataset, "FrameTime")
    fits = len(steps) == count and all(0 <= value < 1e9 for value in steps)
    if fits and (_FRAME_TIME not in pointer or step is None):
        return tuple(value / 1000 for value in accumulate((0.0, *steps[1:])))
    rates = (number(dataset, "CineRate"), number(dataset, "RecommendedDisplayFrameRate"))
    milliseconds = [step, *(1000 / rate for rate in rates if rate)]
    step = next((value for value in milliseconds if value and 0 < value < 1e9), None)
    return () if step is None else tuple(place * step / 1000 for place in range(count))


def _regions(file: DicomFile) -> tuple[Region, ...]:
    found = []
    for item in items(file.dataset, "SequenceOfUltrasoundRegions", MOST_REGIONS):
        corners = ("MinX0", "MinY0", "MaxX1", "MaxY1")  # the last ones inside
        x1, y1, x2, y2 = (whole_number(item, f"RegionLocation{corner}") for corner in corners)
        if x1 is None or y1 is None or x2 is None or y2 is None or not (0 <= x1 <= x2 and 0 <= y1 <= y2):
            continue
        space, data = (whole_number(item, name) or 0 for name in ("RegionSpatialFormat", "RegionDataType"))
        found.append(Region((x1, y1, x2 + 1, y2 + 1), space, data, _scale(item)))
    return tuple(found)


def _scale(item: Any) -> tuple[float, float] | None:
    """Centimetres a pixel, of x and y."""
    units = {whole_number(item, f"PhysicalUnits{axis}Direction") for axis in "XY"}
    x, y = (number(item, f"PhysicalDelta{axis}") for axis in "XY")
    return (abs(x), abs(y)) if units == {_CENTIMETRES} and x and y else None
