"""DICOM files written from frames, in every transfer syntax that can be written here. No test stands here."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, generate_uid

from utils.phantom import PhantomConfig, plan, render
from utils.regions import Region

SYNTAXES = {
    "implicit": "1.2.840.10008.1.2",
    "explicit": "1.2.840.10008.1.2.1",
    "deflated": "1.2.840.10008.1.2.1.99",
    "big endian": "1.2.840.10008.1.2.2",
    "rle": "1.2.840.10008.1.2.5",
    "jpeg": "1.2.840.10008.1.2.4.50",
    "jpeg extended": "1.2.840.10008.1.2.4.51",
    "jpeg lossless": "1.2.840.10008.1.2.4.57",
    "jpeg lossless first order": "1.2.840.10008.1.2.4.70",
    "jpeg-ls": "1.2.840.10008.1.2.4.80",
    "jpeg-ls near": "1.2.840.10008.1.2.4.81",
    "jpeg 2000 lossless": "1.2.840.10008.1.2.4.90",
    "jpeg 2000": "1.2.840.10008.1.2.4.91",
    "mpeg-2": "1.2.840.10008.1.2.4.100",
    "h.264": "1.2.840.10008.1.2.4.102",
    "hevc": "1.2.840.10008.1.2.4.107",
}
MULTIFRAME, SINGLE = "1.2.840.10008.5.1.4.1.1.3.1", "1.2.840.10008.5.1.4.1.1.6.1"  # ultrasound
UNCOMPRESSED = ("implicit", "explicit", "deflated", "big endian")
LOSSLESS = (*UNCOMPRESSED, "rle", "jpeg lossless", "jpeg lossless first order", "jpeg-ls", "jpeg 2000 lossless")
LOSSY = ("jpeg", "jpeg-ls near", "jpeg 2000")
VIDEOS = ("mpeg-2", "h.264", "hevc")
_BY_GDCM = {
    "jpeg lossless": "JPEGLosslessProcess14",
    "jpeg lossless first order": "JPEGLosslessProcess14_1",
    "jpeg extended": "JPEGExtendedProcess2_4",
}
_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "rle": {"encoding_plugin": "pylibjpeg"},
    "jpeg-ls near": {"jls_error": 2},
    "jpeg 2000": {"j2k_psnr": [45]},
}
_CODECS = {"mpeg-2": "mpeg2video", "h.264": "libx264", "hevc": "libx265"}


@cache
def loop(count: int = 3, height: int = 96, width: int = 128) -> NDArray[np.uint8]:
    """(n, H, W, 3) RGB: a phantom's clip."""
    config = PhantomConfig(patients=3, clips=1, frames=count, height=height, width=width)
    pictures = [render(config, frame)[0][..., ::-1] for frame in plan(config)[:count]]
    frames = np.ascontiguousarray(np.stack(pictures))
    frames.flags.writeable = False
    return frames


def grey(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(n, H, W) of RGB frames."""
    return np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]).astype(np.uint8)


def burnt(frames: NDArray[np.uint8], words: str, place: tuple[int, int] = (2, 12)) -> NDArray[np.uint8]:
    """Frames with text burnt into their upper left corner."""
    return np.stack(
        [cv2.putText(frame.copy(), words, place, cv2.FONT_HERSHEY_PLAIN, 0.8, (255, 255, 255)) for frame in frames]
    ).astype(np.uint8)


def write_dicom(
    path: Path,
    frames: NDArray[Any],
    *,
    syntax: str = "explicit",
    photometric: str = "RGB",
    planar: int = 0,
    stored: int | None = None,
    regions: Sequence[Region] = (),
    frame_time: float | Sequence[float] | None = None,
    study: str | None = None,
    change: Callable[[Dataset], object] | None = None,
    **tags: Any,
) -> Path:
    """Write a file; missing folders are made.

    Args:
        frames: (n, H, W, 3) RGB, uint8 or uint16; (n, H, W) of grey or of a palette's numbers, signed too. Without n: a
            single frame.
        syntax: a key of :data:`SYNTAXES`.
        photometric: as what the pixels are to be kept; grey is made of RGB where it is MONOCHROME2 or 1.
        stored: BitsStored.
        frame_time: milliseconds of each frame, or all increments.
        study: StudyInstanceUID.
        change: is handed the data set before it is written, compressed where it is to be.
        tags: elements by name; None deletes one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    coloured = photometric not in ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")
    frames = frames if frames.ndim == 3 + (frames.shape[-1] == 3) else frames[None]
    if not coloured and frames.ndim == 4:
        frames = grey(frames)
    if photometric == "MONOCHROME1" and frames.dtype == np.uint8:
        frames = 255 - frames
    dataset = _described(frames, study, regions, frame_time)
    dataset.PhotometricInterpretation = photometric
    dataset.SamplesPerPixel = 3 if coloured else 1
    dataset.BitsAllocated = 8 * frames.dtype.itemsize
    dataset.BitsStored = stored or dataset.BitsAllocated
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(frames.dtype.kind == "i")
    if coloured:
        dataset.PlanarConfiguration = planar
    _set_pixels(dataset, frames, syntax, photometric, planar)
    for name, value in tags.items():
        if value is None:
            del dataset[name]
        else:
            setattr(dataset, name, value)
    if change is not None:
        change(dataset)
    dataset.save_as(path, enforce_file_format=True)
    if syntax in _BY_GDCM:
        _by_gdcm(path, _BY_GDCM[syntax])
    return path


def _described(
    frames: NDArray[Any], study: str | None, regions: Sequence[Region], frame_time: float | Sequence[float] | None
) -> Dataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(MULTIFRAME if len(frames) > 1 else SINGLE)
    meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset = Dataset()
    dataset.file_meta = meta
    known: Mapping[str, Any] = {
        "SOPClassUID": meta.MediaStorageSOPClassUID, "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "StudyInstanceUID": study or generate_uid(), "SeriesInstanceUID": generate_uid(), "Modality": "US",
        "PatientName": "Doe^Jane", "PatientID": "PHANTOM-1", "PatientBirthDate": "19500102", "PatientSex": "F",
        "StudyDate": "20240131", "StudyTime": "101500", "AcquisitionDate": "20240131", "AcquisitionTime": "101530.25",
        "InstitutionName": "A Hospital", "SeriesNumber": "1", "InstanceNumber": "1", "Manufacturer": "phantom",
        "Rows": frames.shape[1], "Columns": frames.shape[2],
    }  # fmt: skip
    for name, value in known.items():
        setattr(dataset, name, value)
    if len(frames) > 1:
        dataset.NumberOfFrames = len(frames)
    if isinstance(frame_time, (int, float)):
        dataset.FrameTime, dataset.FrameIncrementPointer = frame_time, 0x00181063
    elif frame_time is not None:
        dataset.FrameTimeVector, dataset.FrameIncrementPointer = list(frame_time), 0x00181065
    if regions:
        dataset.SequenceOfUltrasoundRegions = [_item(region) for region in regions]
    return dataset


def _item(region: Region) -> Dataset:
    item = Dataset()
    item.RegionSpatialFormat, item.RegionDataType, item.RegionFlags = region.space, region.data, 0
    x1, y1, x2, y2 = region.rectangle
    item.RegionLocationMinX0, item.RegionLocationMinY0 = x1, y1
    item.RegionLocationMaxX1, item.RegionLocationMaxY1 = x2 - 1, y2 - 1
    units = 0 if region.cm_per_pixel is None else 3
    item.PhysicalUnitsXDirection = item.PhysicalUnitsYDirection = units
    item.PhysicalDeltaX, item.PhysicalDeltaY = region.cm_per_pixel or (0.0, 0.0)
    return item


def _set_pixels(dataset: Dataset, frames: NDArray[Any], syntax: str, photometric: str, planar: int) -> None:
    """PixelData as the syntax keeps them; what GDCM is to compress, not yet."""
    at_first = "explicit" if syntax not in UNCOMPRESSED else syntax
    dataset.file_meta.TransferSyntaxUID = UID(SYNTAXES[at_first])
    if syntax in VIDEOS:
        _encapsulated(dataset, [encoded_video(frames, _CODECS[syntax])], syntax, "YBR_PARTIAL_420")
    elif syntax == "jpeg":
        _encapsulated(dataset, [encoded_jpeg(frame, photometric) for frame in frames], syntax, photometric)
    else:
        kept = as_ybr(frames) if photometric.startswith("YBR_FULL") else frames
        if photometric == "YBR_FULL_422":
            kept = _halved(kept)
        elif planar:
            kept = np.moveaxis(kept, -1, 1)
        data = kept.astype(kept.dtype.newbyteorder(">" if syntax == "big endian" else "<")).tobytes()
        dataset.PixelData = data + bytes(len(data) % 2)
        dataset["PixelData"].VR = "OW" if dataset.BitsAllocated > 8 else "OB"
        if syntax not in UNCOMPRESSED and syntax not in _BY_GDCM:
            dataset.compress(UID(SYNTAXES[syntax]), generate_instance_uid=False, **_OPTIONS.get(syntax, {}))


def as_ybr(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(n, H, W, 3) Y Cb Cr of RGB."""
    turned = [cv2.cvtColor(frame, cv2.COLOR_RGB2YCrCb)[..., [0, 2, 1]] for frame in frames]
    return np.ascontiguousarray(np.stack(turned)).astype(np.uint8)


def _halved(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Of each two pixels of a row Y Y Cb Cr."""
    left, right = frames[:, :, ::2], frames[:, :, 1::2]
    colours = [((left[..., channel].astype(int) + right[..., channel]) // 2) for channel in (1, 2)]
    return np.stack([left[..., 0], right[..., 0], *colours], -1).astype(np.uint8)


def _encapsulated(dataset: Dataset, coded: list[bytes], syntax: str, photometric: str) -> None:
    dataset.file_meta.TransferSyntaxUID = UID(SYNTAXES[syntax])
    dataset.PhotometricInterpretation = photometric
    dataset.PixelData = encapsulate(coded)
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True


def encoded_jpeg(frame: NDArray[np.uint8], photometric: str) -> bytes:
    """A baseline JPEG: of RGB as it is, of grey, or of halved colours."""
    if photometric == "RGB":
        file = io.BytesIO()
        Image.fromarray(frame).save(file, "JPEG", quality=95, keep_rgb=True)
        return file.getvalue()
    halved = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422 if photometric == "YBR_FULL_422" else 0x111111
    options = [cv2.IMWRITE_JPEG_QUALITY, 95]
    if frame.ndim == 3:
        frame, options = frame[..., ::-1], [*options, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, halved]
    return cv2.imencode(".jpg", frame, options)[1].tobytes()


def encoded_video(frames: NDArray[np.uint8], codec: str, container: str = "mpegts") -> bytes:
    """A stream of RGB frames."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        quiet = {"x265-params": "log-level=none"} if codec == "libx265" else {}
        stream = output.add_stream(codec, rate=25, options={"crf": "8", "qmin": "1", "qmax": "2", **quiet})
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        stream.bit_rate = 8_000_000
        for frame in frames:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24")))
        output.mux(stream.encode())
    return file.getvalue()


def _by_gdcm(path: Path, name: str) -> None:
    import gdcm

    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, name)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
