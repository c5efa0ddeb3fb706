"""Pixels of DICOM files, in every transfer syntax that can be written here; of damaged ones, what is left."""

from __future__ import annotations

import base64
import random
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate, generate_frames

from tests.dicoms import LOSSLESS, LOSSY, SYNTAXES, UNCOMPRESSED, VIDEOS, encoded_jpeg, grey, loop, write_dicom
from utils import dicom_pixels
from utils.dicom import read_frames, read_header
from utils.images import MOST_PIXELS
from utils.log import InputError

# JPEG 2000 of high throughput, 32 x 24 RGB, lossless; nothing here writes one
HTJ2K = Path(__file__).parent / "samples" / "htj2k.txt"


def frames_of(path: Path, stride: int = 1) -> NDArray[np.int64]:
    """(n, H, W, 3)"""
    return np.stack([picture for _, picture in read_frames(read_header(path), stride)]).astype(np.int64)


def far(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """Mean distance of pixel values."""
    assert found.shape == expected.shape
    return float(np.abs(found - expected).mean())


def refused(path: Path) -> str:
    """The one line that a file ends in, after whatever frames come."""
    before = path.read_bytes()
    with pytest.raises(InputError) as caught:
        for _ in read_frames(read_header(path)):
            pass
    assert path.read_bytes() == before
    assert str(path) in str(caught.value) and "\n" not in str(caught.value) and "expected" in str(caught.value)
    return str(caught.value).removeprefix(f"{path}: ")


@pytest.mark.parametrize("syntax", LOSSLESS)
def test_lossless_colours_and_grey_come_back_as_they_were(tmp_path: Path, syntax: str) -> None:
    frames = loop()
    path = write_dicom(tmp_path / "a.dcm", frames, syntax=syntax)
    assert (frames_of(path) == frames).all()
    assert read_header(path).syntax == SYNTAXES[syntax]
    for photometric in ("MONOCHROME2", "MONOCHROME1"):
        found = frames_of(write_dicom(path, frames, syntax=syntax, photometric=photometric))
        assert (found == grey(frames)[..., None]).all()
    assert np.abs(frames_of(write_dicom(path, frames, syntax=syntax, photometric="YBR_FULL")) - frames).max() <= 1


@pytest.mark.parametrize("syntax", [*UNCOMPRESSED, "jpeg lossless"])
def test_planes_and_halved_colours(tmp_path: Path, syntax: str) -> None:
    frames = loop()
    if syntax in UNCOMPRESSED:
        assert (frames_of(write_dicom(tmp_path / "a.dcm", frames, syntax=syntax, planar=1)) == frames).all()
    halved = frames_of(write_dicom(tmp_path / "b.dcm", frames, syntax=syntax, photometric="YBR_FULL_422"))
    assert far(halved, frames) < 0.5


def test_reversible_colours_of_jpeg_2000(tmp_path: Path) -> None:
    frames = loop()
    path = write_dicom(tmp_path / "a.dcm", frames, syntax="jpeg 2000 lossless", photometric="YBR_RCT")
    assert (frames_of(path) == frames).all()
    assert far(frames_of(write_dicom(path, frames, syntax="jpeg 2000", photometric="YBR_ICT")), frames) < 1.5


@pytest.mark.parametrize("syntax", LOSSY)
def test_lossy_pixels_are_close(tmp_path: Path, syntax: str) -> None:
    frames = loop()
    for photometric in ("RGB", "YBR_FULL", *(["YBR_FULL_422"] if syntax == "jpeg" else [])):
        path = write_dicom(tmp_path / "a.dcm", frames, syntax=syntax, photometric=photometric)
        assert far(frames_of(path), frames) < 3, photometric
    path = write_dicom(tmp_path / "a.dcm", frames, syntax=syntax, photometric="MONOCHROME2")
    assert far(frames_of(path), np.repeat(grey(frames)[..., None], 3, -1)) < 1


@pytest.mark.parametrize("syntax", VIDEOS)
def test_videos_are_close(tmp_path: Path, syntax: str) -> None:
    frames = loop(5)
    path = write_dicom(tmp_path / "a.dcm", frames, syntax=syntax)
    assert far(frames_of(path), frames) < 2.5
    assert far(frames_of(path, 2), frames[::2]) < 2.5


def test_high_throughput_jpeg_2000(tmp_path: Path) -> None:
    words = HTJ2K.read_text().split()
    ramp = np.add.outer(np.arange(24), np.arange(32)).astype(np.uint8) * 4
    picture = np.stack([ramp, ramp[::-1], ramp[:, ::-1]], -1)

    def coded(dataset: Any) -> None:
        dataset.PixelData = encapsulate([base64.b64decode("".join(words))])
        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.201"
        dataset.PhotometricInterpretation = "YBR_RCT"
        dataset["PixelData"].is_undefined_length = True

    assert (frames_of(write_dicom(tmp_path / "a.dcm", picture, change=coded)) == picture).all()


@pytest.mark.parametrize("syntax", ["explicit", "big endian", "rle", "jpeg lossless", "jpeg-ls", "jpeg 2000 lossless"])
@pytest.mark.parametrize("kind", [np.uint16, np.int16])
def test_sixteen_bits_fill_the_range_of_bits_stored(tmp_path: Path, syntax: str, kind: type) -> None:
    values: NDArray[Any] = (loop()[..., 0].astype(np.int32) * 16 - (2048 if kind is np.int16 else 0)).astype(kind)
    path = write_dicom(tmp_path / "a.dcm", values, syntax=syntax, photometric="MONOCHROME2", stored=12)
    assert np.abs(frames_of(path)[..., 0] - loop()[..., 0]).max() <= 1


def test_extended_jpeg_of_eight_bits(tmp_path: Path) -> None:  # one of 12 bits is among pydicom's files, below
    path = write_dicom(tmp_path / "a.dcm", loop(), syntax="jpeg extended", photometric="MONOCHROME2")
    assert far(frames_of(path)[..., 0], grey(loop())) < 1


def test_colours_of_sixteen_bits(tmp_path: Path) -> None:
    frames = loop()
    path = write_dicom(tmp_path / "a.dcm", frames.astype(np.uint16) * 257, syntax="rle")
    assert (frames_of(path) == frames).all()


def test_a_window_decides_how_grey_it_is(tmp_path: Path) -> None:
    values = np.linspace(0, 4095, 96 * 128).astype(np.uint16).reshape(96, 128)
    path = write_dicom(tmp_path / "a.dcm", values, photometric="MONOCHROME2", WindowCenter=1000, WindowWidth=500)
    found = frames_of(path)[0, ..., 0]
    assert (found[values < 749] == 0).all() and (found[values > 1251] == 255).all()
    assert abs(found[np.abs(values.astype(int) - 1000) < 2].mean() - 128) < 2


@pytest.mark.parametrize("deep", [8, 16])
def test_a_palette_gives_colours(tmp_path: Path, deep: int) -> None:
    random_ = np.random.default_rng(0)
    palette = random_.integers(0, 256, (3, 256), np.uint8)
    numbers = random_.integers(0, 256, (2, 24, 32), np.uint8)
    tags: dict[str, Any] = {}
    for name, entries in zip(("Red", "Green", "Blue"), palette, strict=True):
        tags[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, deep]
        tags[f"{name}PaletteColorLookupTableData"] = (entries * np.uint16(257) if deep == 16 else entries).tobytes()
    for syntax in ("explicit", "rle"):
        path = write_dicom(tmp_path / "a.dcm", numbers, syntax=syntax, photometric="PALETTE COLOR", **tags)
        assert (frames_of(path) == np.moveaxis(palette[:, numbers], 0, -1)).all()
    del tags["BluePaletteColorLookupTableData"]
    path = write_dicom(tmp_path / "a.dcm", numbers, photometric="PALETTE COLOR", **tags)
    assert "a blue palette" in refused(path)


def test_frames_are_decoded_when_asked_for_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames, decoded = loop(7), list[int]()
    path = write_dicom(tmp_path / "a.dcm", frames, syntax="jpeg 2000 lossless")
    plain = dicom_pixels._decoded

    def counted(*arguments: Any) -> Any:
        decoded.append(1)
        return plain(*arguments)

    monkeypatch.setattr(dicom_pixels, "_decoded", counted)
    arriving = read_frames(read_header(path), 3)
    for number in (0, 3, 6):
        place, picture = next(arriving)
        assert place == number and (picture == frames[number]).all() and len(decoded) == number // 3 + 1
    assert next(arriving, None) is None


@pytest.mark.parametrize("syntax", ["explicit", "rle", "jpeg", "h.264"])
@pytest.mark.parametrize("promised", [2, 9])
def test_more_or_fewer_frames_than_promised(
    tmp_path: Path, syntax: str, promised: int, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_dicom(tmp_path / "a.dcm", loop(5), syntax=syntax, NumberOfFrames=promised)
    given = 0
    try:
        for number, picture in read_frames(read_header(path)):
            given += 1
            assert far(picture.astype(int), loop(5)[number]) < 3
        assert promised == 2 and (syntax == "h.264" or "holds 5 frames, its header promises 2" in caplog.text)
    except InputError as error:
        assert promised == 9 and f"{path}: 9 frames expected, as its header says, 5 came" in str(error)
    assert given == min(promised, 5)


@pytest.mark.parametrize("syntax", ["explicit", "rle", "jpeg", "jpeg-ls", "jpeg 2000 lossless", "h.264"])
def test_what_a_truncated_file_still_has_comes(tmp_path: Path, syntax: str) -> None:
    path = write_dicom(tmp_path / "a.dcm", loop(5), syntax=syntax)
    data = path.read_bytes()
    path.write_bytes(data[: -len(data) // 4])
    given = []
    with pytest.raises(InputError, match=r"5 frames expected, as its header says, [1-4] came"):
        for number, _ in read_frames(read_header(path)):
            given.append(number)
    assert given == list(range(len(given)))


def test_a_damaged_frame_ends_no_loop(tmp_path: Path) -> None:
    def damage(dataset: Any) -> None:
        coded = list(generate_frames(dataset.PixelData, number_of_frames=3))
        dataset.PixelData = encapsulate([coded[0], coded[1][:40], coded[2]])

    path = write_dicom(tmp_path / "a.dcm", loop(), syntax="jpeg", change=damage)
    given = []
    with pytest.raises(InputError, match="3 frames expected, as its header says, 2 came; frame 1: "):
        for number, _ in read_frames(read_header(path)):
            given.append(number)
    assert given == [0, 2]


def test_a_picture_that_claims_another_size_is_not_decoded(tmp_path: Path) -> None:
    huge = bytearray(encoded_jpeg(loop()[0], "YBR_FULL"))
    place = huge.index(b"\xff\xc0")
    huge[place + 5 : place + 9] = b"\xff\xff\xff\xff"
    for coded in (bytes(huge), encoded_jpeg(loop(1, 96, 112)[0], "YBR_FULL"), b"\xff\xd8\xff\xd9", b"no picture"):
        pixels = encapsulate([coded])
        path = write_dicom(tmp_path / "a.dcm", loop()[:1], syntax="jpeg", photometric="YBR_FULL", PixelData=pixels)
        assert "frame 0: 128 x 96 pixels of 3 values expected, " in refused(path)


HOSTILE: list[tuple[dict[str, Any], str]] = [
    ({"Rows": 0}, "Rows of 1 to 65,535 expected, 0 came"),
    ({"Rows": None}, "Rows of 1 to 65,535 expected, none came"),
    ({"Rows": 65_535, "Columns": 65_535}, f"frames of at most {MOST_PIXELS:,} pixels expected, 65535 x 65535 came"),
    ({"Columns": 4000}, "3 frames expected, as its header says, 0 came"),
    ({"NumberOfFrames": 2_000_000_000}, "NumberOfFrames of 1 to 262,144 expected, 2000000000 came"),
    ({"NumberOfFrames": 0}, "NumberOfFrames of 1 to 262,144 expected, 0 came"),
    ({"NumberOfFrames": -3}, "NumberOfFrames of 1 to 262,144 expected, -3 came"),
    ({"SamplesPerPixel": 1}, "SamplesPerPixel of 3 expected, 1 came"),
    ({"PhotometricInterpretation": "MONOCHROME2"}, "SamplesPerPixel of 1 expected, 3 came"),
    ({"PhotometricInterpretation": "YBR_RCT"}, "PhotometricInterpretation MONOCHROME1"),
    ({"PhotometricInterpretation": None}, "none came"),
    ({"BitsAllocated": 32}, "BitsAllocated of 8 or 16 expected, 32 came"),
    ({"BitsAllocated": 1}, "BitsAllocated of 8 or 16 expected, 1 came"),
    ({"BitsStored": 12}, "BitsStored of 1 to 8 expected, 12 came"),
    ({"PlanarConfiguration": 7}, "PlanarConfiguration of 0 or 1 expected, 7 came"),
    ({"PixelData": None}, "a DICOM file with pictures expected, Ultrasound Multi-frame Image Storage without pixels"),
    ({"PixelData": b""}, "3 frames expected, as its header says, 0 came"),
]


@pytest.mark.parametrize(("tags", "line"), HOSTILE, ids=str)
def test_headers_that_make_no_sense_end_in_one_line(tmp_path: Path, tags: dict[str, Any], line: str) -> None:
    assert line in refused(write_dicom(tmp_path / "a.dcm", loop(), **tags))


def test_syntaxes_that_do_not_fit_their_pixels(tmp_path: Path) -> None:
    def named(written: str, claimed: str) -> str:
        path = write_dicom(tmp_path / "a.dcm", loop(), syntax=written)
        uid = SYNTAXES[written].encode()
        path.write_bytes(path.read_bytes().replace(uid, claimed.encode().ljust(len(uid), b"\0"), 1))
        return refused(path)

    assert named("explicit", SYNTAXES["rle"]) == "pixels as RLE Lossless keeps them expected, pixels without items came"
    assert "keeps them expected, pixels in items came" in named("rle", SYNTAXES["explicit"])
    assert "JPIP Referenced" in named("jpeg", "1.2.840.10008.1.2.4.94")
    assert "1.2.3.4" in named("jpeg", "1.2.3.4")
    path = tmp_path / "a.dcm"
    path = write_dicom(path, loop(), syntax="rle", change=lambda d: setattr(d, "PixelData", encapsulate([b"\0\0"])))
    assert "3 frames expected, as its header says, 0 came" in refused(path)
    data = bytearray(path.read_bytes())
    data[data.rindex(b"\xfe\xff\x00\xe0") :] = b""
    data[data.rindex(b"\xfe\xff\x00\xe0") :] = b""
    path.write_bytes(data)
    assert "3 frames expected, as its header says, 0 came" in refused(path)


@pytest.mark.parametrize(
    ("name", "frames", "mean"),
    [
        ("examples_ybr_color.dcm", 30, 10.6),
        ("examples_palette.dcm", 1, 20.5),
        ("examples_rgb_color.dcm", 1, 34.3),
        ("examples_jpeg2k.dcm", 1, 34.5),
        ("ExplVR_BigEnd.dcm", 1, 171.6),
        ("SC_rgb_rle_16bit_2frame.dcm", 2, 127.3),
        ("SC_ybr_full_422_uncompressed.dcm", 1, 127.7),
        ("JPGExtended.dcm", 1, 0.8),
        ("SC_rgb_small_odd_big_endian.dcm", 1, 128.8),
        ("image_dfl.dcm", 1, 127.1),
    ],
)
def test_files_of_pydicom_itself(name: str, frames: int, mean: float) -> None:
    found = frames_of(Path(str(get_testdata_file(name, download=False))))
    assert len(found) == frames and abs(found[-1].mean() - mean) < 0.1


@pytest.mark.parametrize("name", ["examples_ybr_color.dcm", "SC_rgb_rle_2frame.dcm", "examples_jpeg2k.dcm"])
def test_colours_are_those_that_pydicom_computes(name: str) -> None:
    path = Path(str(get_testdata_file(name, download=False)))
    dataset = pydicom.dcmread(path)
    from pydicom.pixels import pixel_array

    expected = pixel_array(dataset, index=0)
    assert np.abs(frames_of(path)[0] - expected).max() <= 2


SMALL = np.ascontiguousarray(cv2.resize(loop()[0], (40, 32), interpolation=cv2.INTER_AREA))


@pytest.mark.parametrize("syntax", [*UNCOMPRESSED, "rle", "jpeg", "jpeg lossless", "jpeg-ls", "jpeg 2000", "h.264"])
def test_changed_bytes_end_in_frames_or_one_line(
    tmp_path: Path, syntax: str, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    frames = np.stack([SMALL if syntax != "h.264" else loop()[0]] * 2)
    path = write_dicom(tmp_path / "a.dcm", frames, syntax=syntax, frame_time=40)
    whole = path.read_bytes()
    for seed in range(40):
        chance = random.Random(seed)
        data = bytearray(whole)
        for _ in range(chance.choice((1, 2, 8))):
            data[chance.randrange(128, len(data))] = chance.choice((0, 255, chance.randrange(256)))
        if chance.random() < 0.2:
            data = data[: chance.randrange(len(data))] or bytearray(b"x")
        path.write_bytes(data)
        try:
            for _, picture in read_frames(read_header(path)):
                assert picture.dtype == np.uint8 and picture.shape[2] == 3
        except InputError as error:
            assert str(path) in str(error) and "\n" not in str(error) and len(str(error)) < len(str(path)) + 400
        assert path.read_bytes() == data
    assert capfd.readouterr() == ("", "") and not recwarn.list
