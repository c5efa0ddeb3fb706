"""A DICOM file's pixels: what its header says of them, and its frames as RGB, decoded one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from utils.dicom_file import BIG_ENDIAN, DEFLATED, EXPLICIT, IMPLICIT, DicomFile, named, text, whole_number
from utils.dicom_fragments import Joined, coded_size, fragments_of, frames_of, joined
from utils.dicom_tables import COLOURS, grey_table, narrow_table, palette_table
from utils.dicom_video import SYNTAXES as VIDEOS
from utils.dicom_video import video_frames
from utils.extras import load
from utils.images import MOST_PIXELS
from utils.log import LOGGER, InputError, printable

KEYWORDS = (
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration"),
    *("BitsAllocated", "BitsStored", "PixelRepresentation", "RescaleSlope", "RescaleIntercept", "WindowCenter"),
    *("WindowWidth", "VOILUTFunction", "VOILUTSequence", "ModalityLUTSequence"),
    *(f"{colour}PaletteColorLookupTable{part}" for colour in COLOURS for part in ("Descriptor", "Data")),
)  # fmt: skip
MOST_FRAMES = 2**18  # an hour at 70 a second
UNCOMPRESSED = frozenset([IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED])
_JPEG_2000 = frozenset(f"1.2.840.10008.1.2.4.{number}" for number in (90, 91, 201, 202, 203))  # the last three: HTJ2K
_RLE = "1.2.840.10008.1.2.5"
# The first that knows how decodes. GDCM is none of them: damaged streams end it, and this program with it.
DECODERS = {
    "1.2.840.10008.1.2.4.50": ("pillow", "pylibjpeg"),
    "1.2.840.10008.1.2.4.51": ("pillow", "pylibjpeg"),  # Pillow's is for 8 bits
    **{f"1.2.840.10008.1.2.4.{number}": ("pylibjpeg",) for number in (57, 70, 80, 81, 201, 202, 203)},
    **{f"1.2.840.10008.1.2.4.{number}": ("pillow", "pylibjpeg") for number in (90, 91)},
    _RLE: ("pylibjpeg", "pydicom"),
}
_GREY, _PALETTE = frozenset(["MONOCHROME1", "MONOCHROME2"]), "PALETTE COLOR"
_YBR = frozenset(["YBR_FULL", "YBR_FULL_422"])
_OF_JPEG_2000 = frozenset(["YBR_RCT", "YBR_ICT"])
_OF_VIDEO = frozenset(["YBR_PARTIAL_420", "YBR_FULL_422", "YBR_PARTIAL_422", "YBR_FULL", "RGB"])


@dataclass(frozen=True)
class Layout:
    """How the header says the pixels are kept, checked; the names are DICOM's."""

    rows: int
    columns: int
    frames: int
    samples: int
    photometric: str
    planar: int
    allocated: int
    stored: int
    signed: int


def layout_of(file: DicomFile) -> Layout:
    """What the header says of the pixels.

    Raises:
        InputError: there are none, or they are kept in a way that is not read or makes no sense.
    """
    dataset, path = file.dataset, file.path
    if file.pixels is None:
        kind = named(file.sop_class) if file.sop_class else "one"
        raise InputError(f"{path}: a DICOM file with pictures expected, {kind} without pixels came")
    if file.syntax not in UNCOMPRESSED | VIDEOS | DECODERS.keys():
        raise InputError(f"{path}: a transfer syntax that is read expected, {named(file.syntax)} came")
    if file.pixels.encapsulated == (file.syntax in UNCOMPRESSED):
        kept = "in items" if file.pixels.encapsulated else "without items"
        raise InputError(f"{path}: pixels as {named(file.syntax)} keeps them expected, pixels {kept} came")

    def said(keyword: str, allowed: range | tuple[int, ...], default: int | None = None) -> int:
        written = text(dataset, keyword)
        value = whole_number(dataset, keyword) if written else default
        if value is None or value not in allowed:
            asked = f"{allowed[0]} to {allowed[-1]:,}" if isinstance(allowed, range) else " or ".join(map(str, allowed))
            raise InputError(f"{path}: {keyword} of {asked} expected, {written or 'none'} came")
        return value

    rows, columns = said("Rows", range(1, 65_536)), said("Columns", range(1, 65_536))
    if rows * columns > MOST_PIXELS:
        raise InputError(f"{path}: frames of at most {MOST_PIXELS:,} pixels expected, {columns} x {rows} came")
    photometric = text(dataset, "PhotometricInterpretation")
    video = file.syntax in VIDEOS
    colours = {"RGB", *_YBR, *(_OF_JPEG_2000 if file.syntax in _JPEG_2000 else ())}
    known = _OF_VIDEO | _GREY if video else _GREY | {_PALETTE} | colours
    if photometric not in known:
        raise InputError(
            f"{path}: PhotometricInterpretation {', '.join(sorted(known))} expected, {photometric or 'none'} came"
        )
    samples = said("SamplesPerPixel", (1,) if photometric in _GREY | {_PALETTE} else (3,))
    allocated = said("BitsAllocated", (8, 16))
    stored = said("BitsStored", range(1, allocated + 1), allocated)
    return Layout(
        rows, columns, said("NumberOfFrames", range(1, MOST_FRAMES + 1), 1), samples, photometric,
        said("PlanarConfiguration", (0, 1), 0) if samples > 1 else 0, allocated, stored,
        said("PixelRepresentation", (0, 1), 0) if samples == 1 else 0,
    )  # fmt: skip


def frames(file: DicomFile, layout: Layout, stride: int = 1) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Number and picture, (H, W, 3) RGB, of every ``stride``-th frame, decoded when it is asked for.

    A frame that cannot be decoded is left out, and told once those that can have been given.

    Raises:
        InputError: fewer came than the header says; or tables of grey or colours that make no sense.
    """
    expected, came, fault = len(range(0, layout.frames, stride)), 0, ""
    for number, picture in (_video if file.syntax in VIDEOS else _pictures)(file, layout, stride):
        if isinstance(picture, Exception):
            fault = fault or f"; frame {number}: {_reason(picture)}"
            continue
        came += 1
        yield number, picture
    if came < expected:
        raise InputError(f"{file.path}: {expected} frames expected, as its header says, {came} came{fault}")


Outcome = tuple[int, NDArray[np.uint8] | Exception]


def _pictures(file: DicomFile, layout: Layout, stride: int) -> Iterator[Outcome]:
    try:
        finish = _finisher(file, layout)
    except Exception as error:
        raise InputError(
            f"{file.path}: tables of grey or colours that fit the pixels expected, others came: {_reason(error)}"
        ) from error
    there, decode = _uncompressed(file, layout) if file.syntax in UNCOMPRESSED else _compressed(file, layout)
    if there > layout.frames:
        LOGGER.warning("%s: holds %d frames, its header promises %d", file.path, there, layout.frames)
    for number in range(0, min(there, layout.frames), stride):
        try:
            outcome: NDArray[np.uint8] | Exception = finish(*decode(number))
        except InputError:  # of a package that is not installed
            raise
        except Exception as error:  # a decoder's
            outcome = error
        yield number, outcome


def _video(file: DicomFile, layout: Layout, stride: int) -> Iterator[Outcome]:
    assert file.pixels is not None
    number = 0
    stream = Joined(file.source, fragments_of(file.source, file.pixels, cut=True)[1])
    pictures = video_frames(stream, layout.columns, layout.rows, stride)
    try:
        for number in range(0, layout.frames, stride):
            yield number, next(pictures)
    except StopIteration:
        return
    except InputError:
        raise
    except Exception as error:  # PyAV's
        yield number, error
    finally:
        pictures.close()  # type: ignore[attr-defined]


Decoded = tuple[NDArray[Any], str]  # as the file keeps it, (H, W) or (H, W, 3), and its photometric interpretation


def _uncompressed(file: DicomFile, layout: Layout) -> tuple[int, Callable[[int], Decoded]]:
    """How many frames are there, and what reads one."""
    assert file.pixels is not None
    pixels = file.pixels
    bits = layout.rows * layout.columns * layout.allocated * layout.samples
    size = bits // 8 * 2 // 3 if layout.photometric == "YBR_FULL_422" else bits // 8
    there = pixels.length // size

    def decode(number: int) -> Decoded:
        file.source.seek(pixels.start)
        return _decoded(file.syntax, file.source, layout, number, there, pixels.vr)

    return there, decode


def _compressed(file: DicomFile, layout: Layout) -> tuple[int, Callable[[int], Decoded]]:
    assert file.pixels is not None
    parts = frames_of(file.source, *fragments_of(file.source, file.pixels), layout.frames, file.syntax == _RLE)
    encapsulate = load("pydicom.encaps", "reading DICOM").encapsulate
    expected = (layout.columns, layout.rows, layout.samples)

    def decode(number: int) -> Decoded:
        data = joined(file.source, parts[number])
        size = coded_size(data) if file.syntax != _RLE else expected
        if size is None or size not in (expected, (*expected[:2], 0)):  # a decoder would reserve what is claimed
            came = "no picture" if size is None else f"{size[0]} x {size[1]} pixels of {size[2]}"
            raise ValueError(f"{expected[0]} x {expected[1]} pixels of {expected[2]} values expected, {came} came")
        return _decoded(file.syntax, encapsulate([data]), layout, 0, 1, "OB")

    return len(parts), decode


def _decoded(syntax: str, source: Any, layout: Layout, number: int, there: int, vr: str) -> Decoded:
    """One frame by pydicom's decoder, which is told of no dataset but of what was checked."""
    plugins = DECODERS.get(syntax, ("",))
    decoder = load("pydicom.pixels", "reading DICOM").get_decoder(syntax)
    missing = [name for name in plugins if name and name not in decoder.available_plugins]
    if "pylibjpeg" in missing and len(missing) == len(plugins):
        load("pylibjpeg", "reading DICOM")
    error: Exception | None = None
    for plugin in plugins:
        try:
            values, said = decoder.as_array(
                source, index=number, raw=True, decoding_plugin=plugin, rows=layout.rows, columns=layout.columns,
                number_of_frames=there, samples_per_pixel=layout.samples, bits_allocated=layout.allocated,
                bits_stored=layout.stored, pixel_representation=layout.signed,
                photometric_interpretation=layout.photometric, planar_configuration=layout.planar,
                pixel_keyword="PixelData", pixel_vr=vr,
            )  # fmt: skip
            return values, str(said["photometric_interpretation"])
        except Exception as raised:
            error = raised
    assert error is not None
    raise error


def _finisher(file: DicomFile, layout: Layout) -> Callable[[NDArray[Any], str], NDArray[np.uint8]]:
    """What makes a decoded frame RGB of 8 bits."""
    shape = (layout.rows, layout.columns)
    tables: dict[np.dtype[Any], NDArray[np.uint8]] = {}

    def table(kind: np.dtype[Any]) -> NDArray[np.uint8]:
        """By stored value; (n,) of grey or a channel, (n, 3) of a palette."""
        if kind not in tables:
            if layout.samples > 1:
                tables[kind] = narrow_table(kind, layout.stored)
            elif layout.photometric == _PALETTE:
                tables[kind] = palette_table(file.dataset, kind)
            else:
                tables[kind] = grey_table(file.dataset, kind, layout.stored, layout.photometric == "MONOCHROME1")
        return tables[kind]

    table(np.dtype(f"{'i' if layout.signed else 'u'}{layout.allocated // 8}"))  # what is wrong with it is told now

    def finish(values: NDArray[Any], photometric: str) -> NDArray[np.uint8]:
        if values.shape[:2] != shape:
            raise ValueError(f"{shape[1]} x {shape[0]} pixels expected, {values.shape[1]} x {values.shape[0]} came")
        values = _interleaved(values)
        if values.dtype != np.uint8 or layout.samples == 1 or layout.stored < 8:
            values = np.take(table(values.dtype), values.view(f"u{values.dtype.itemsize}"), axis=0)
        if values.ndim == 2:
            return np.asarray(cv2.cvtColor(values, cv2.COLOR_GRAY2RGB), np.uint8)
        if photometric in _YBR:  # OpenCV's order is Y Cr Cb
            turned = np.empty_like(values)
            cv2.mixChannels([values], [turned], [0, 0, 1, 2, 2, 1])
            return np.asarray(cv2.cvtColor(turned, cv2.COLOR_YCrCb2RGB), np.uint8)
        return np.asarray(values, np.uint8)

    return finish


def _interleaved(values: NDArray[Any]) -> NDArray[Any]:
    """Contiguous, in this machine's byte order; OpenCV joins three planes faster than numpy copies them."""
    if values.dtype == np.uint8 and values.ndim == 3 and (planes := values.transpose(2, 0, 1)).flags.c_contiguous:
        return np.asarray(cv2.merge(list(planes)))
    return np.ascontiguousarray(values, values.dtype.newbyteorder("="))


def _reason(error: Exception) -> str:
    told = " ".join(str(error).split()).rpartition("by all available plugins: ")[2]  # pydicom's preface
    return printable(told or type(error).__name__, 160)
