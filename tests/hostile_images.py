"""Hostile images and videos. No test stands here."""

from __future__ import annotations

import io
import itertools
import struct
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from tests.hostile_parts import MOST_FRAMES, Named
from tests.phantoms import encode
from utils.images import read_image
from utils.sources import open_source


@cache
def noise(channels: int, depth: str = "uint8") -> Any:
    random = np.random.default_rng(0)
    high = np.iinfo(depth).max
    return random.integers(0, high, (20, 26, channels), depth, endpoint=True)


def _pillow(form: str, size: tuple[int, int] = (26, 20), mode: str = "RGB", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.effect_noise(size, 50).convert(mode).save(file, form, **options)
    return file.getvalue()


def _animated(form: str) -> bytes:
    frames = [Image.effect_noise((26, 20), 50).convert("RGB") for _ in range(3)]
    file = io.BytesIO()
    frames[0].save(file, form, save_all=True, append_images=frames[1:], duration=40)
    return file.getvalue()


@cache
def images() -> tuple[Named, ...]:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    found = [
        (f"{channels}x{depth}{suffix}", encode(suffix, noise(channels, depth)))
        for suffix, channels, depth in itertools.product((".png", ".tiff"), (1, 3, 4), ("uint8", "uint16"))
    ]
    found += [
        (f"{channels}{suffix}", encode(suffix, noise(channels))) for suffix in (".bmp", ".webp") for channels in (3, 4)
    ]
    found += [(f"{channels}.jpg", encode(".jpg", noise(channels))) for channels in (1, 3)]
    found += [
        ("float.pfm", encode(".pfm", noise(3).astype(np.float32))),
        ("float.tiff", encode(".tiff", noise(3).astype(np.float32))),
        ("turned.jpg", _pillow("JPEG", exif=exif)),
        ("progressive.jpg", _pillow("JPEG", progressive=True)),
        ("cmyk.jpg", _pillow("JPEG", mode="CMYK")),
        ("two.png", _pillow("PNG", mode="LA")),
        ("palette.png", _pillow("PNG", mode="P")),
        ("bits.png", _pillow("PNG", mode="1")),
        ("bits.tiff", _pillow("TIFF", mode="1")),
        ("packed.tiff", _pillow("TIFF", compression="tiff_lzw")),
        ("deflated.tiff", _pillow("TIFF", compression="tiff_adobe_deflate")),
        ("pages.mpo", _animated("MPO")),
        ("moving.png", _animated("PNG")),
        ("moving.webp", _animated("WEBP")),
        ("gif.png", _animated("GIF")),
        ("palette.bmp", _pillow("BMP", mode="P")),
        ("other.png", _pillow("PPM")),
        ("jp2.png", _pillow("JPEG2000")),
        ("sun.png", encode(".ras", noise(3))),
    ]
    return tuple(found)


def png(width: int, height: int, depth: int = 8, colour: int = 2, data: bytes = bytes(100)) -> bytes:
    """A PNG that claims a size, whatever it holds."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def claiming(width: int, height: int) -> dict[str, Named]:
    """Small files of each format that claim to be so large."""
    bmp = bytearray(encode(".bmp", noise(3)))
    bmp[18:26] = struct.pack("<ii", width, height)
    flat = bytearray(bmp)
    flat[30:34] = struct.pack("<I", 1)  # run lengths
    gif = bytearray(_animated("GIF"))
    gif[6:10] = struct.pack("<HH", min(width, 65535), min(height, 65535))
    jpeg = bytearray(encode(".jpg", noise(3)))
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = struct.pack(">HH", min(height, 65535), min(width, 65535))
    webp = bytearray(_pillow("WEBP", lossless=True))
    at = webp.index(b"VP8L") + 9
    webp[at : at + 4] = struct.pack("<I", (min(width, 16384) - 1) % 16384 | (min(height, 16384) - 1) % 16384 << 14)
    extended = bytearray(_animated("WEBP"))
    at = extended.index(b"VP8X") + 12
    extended[at : at + 6] = struct.pack("<I", (width - 1) % 2**24)[:3] + struct.pack("<I", (height - 1) % 2**24)[:3]
    tiff = _pillow("TIFF")
    for tag, value in ((256, width), (257, height)):
        tiff = _retagged(tiff, tag, value)
    ppm = f"P6\n{width} {height}\n255\n".encode() + bytes(300)
    pfm = f"PF\n{width} {height}\n-1.0\n".encode() + bytes(300)
    hdr = f"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y {height} +X {width}\n".encode() + bytes(300)
    sun = struct.pack(">8I", 0x59A66A95, width, height, 24, 0, 1, 0, 0) + bytes(300)
    title = f"{width} x {height}"
    return {
        f"{title} {name.rpartition('.')[2]} {name}": (name, bytes(data))
        for name, data in {
            "a.png": png(width, height),
            "deep.png": png(width, height, 16, 6),
            "bits.png": png(width, height, 1, 0),
            "a.bmp": bmp,
            "runs.bmp": flat,
            "gif.png": gif,
            "a.jpg": jpeg,
            "a.webp": webp,
            "x.webp": extended,
            "a.tiff": tiff,
            "ppm.png": ppm,
            "a.pfm": pfm,
            "hdr.png": hdr,
            "sun.png": sun,
        }.items()
    }


def _retagged(tiff: bytes, tag: int, value: int) -> bytes:
    """A little-endian TIFF with another value in a tag of its first directory."""
    changed = bytearray(tiff)
    (at,) = struct.unpack_from("<I", changed, 4)
    (count,) = struct.unpack_from("<H", changed, at)
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        if struct.unpack_from("<H", changed, entry)[0] == tag:
            struct.pack_into("<HII", changed, entry + 2, 4, 1, value)
    return bytes(changed)


def images_nasty(_: Path) -> dict[str, Named]:
    found: dict[str, Named] = {
        "empty": ("a.jpg", b""),
        "text": ("a.png", b"hello\n" * 100),
        "one byte": ("a.bmp", b"B"),
    }
    found |= {
        "a TGA": ("other.jpg", _pillow("TGA")),
        "an HDR": ("hdr.png", encode(".hdr", noise(3).astype(np.float32))),
    }
    sizes = ((60_000, 60_000), (32_000, 32_000), (10_000, 10_000), (2**31 - 1, 1), (1, 2**20 - 1), (0, 0), (1, 1))
    for width, height in sizes:
        found |= claiming(width, height)
    found["a bomb"] = ("bomb.png", png(8192, 8192, 8, 0, bytes(8193 * 8192)))
    flat = Image.new("1", (8000, 8000))
    file = io.BytesIO()
    flat.save(file, "TIFF", compression="group4")
    found["a bomb of faxes"] = ("bomb.tiff", file.getvalue())
    found["a text of 100 MB"] = ("text.png", png(8, 8)[:33] + _compressed_text(100_000_000) + png(8, 8)[33:])
    return found


def _compressed_text(count: int) -> bytes:
    content = b"Comment\0\0" + zlib.compress(bytes(count))
    return struct.pack(">I", len(content)) + b"zTXt" + content + struct.pack(">I", zlib.crc32(b"zTXt" + content))


def read_image_file(path: Path) -> None:
    image = read_image(path)
    assert image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8 and image.size


# --- videos -----------------------------------------------------------------------------------------------------------


@cache
def videos() -> tuple[Named, ...]:
    import tempfile

    found: list[Named] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, code in (("a.avi", "MJPG"), ("a.mp4", "mp4v"), ("a.mkv", "MJPG")):
            path = Path(folder, name)
            writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), 25, (64, 48))
            for number in range(4):
                writer.write(np.full((48, 64, 3), 20 * number, np.uint8))
            writer.release()
            if path.is_file():
                found.append((name, path.read_bytes()))
    return (*found, ("a.gif", _animated("GIF")))


def videos_nasty(area: Path) -> dict[str, Named]:
    avi = bytearray(videos()[0][1])
    huge, long = bytearray(avi), bytearray(avi)
    at = avi.index(b"avih") + 8
    huge[at + 32 : at + 40] = struct.pack("<II", 60_000, 60_000)
    form = avi.index(b"strf") + 8
    huge[form + 4 : form + 12] = struct.pack("<ii", 60_000, 60_000)
    long[at + 16 : at + 20] = struct.pack("<I", 2**31 - 1)
    frame = area / "images" / "train" / "p01-f0000.png"
    return {
        "a header of 60,000 x 60,000": ("a.avi", bytes(huge)),
        "2^31 frames promised": ("a.avi", bytes(long)),
        "empty": ("a.mp4", b""),
        "zeros": ("a.mp4", bytes(5000)),
        "half": ("a.mp4", videos()[1][1][:700]),
        "a playlist": ("a.mp4", f"#EXTM3U\n#EXTINF:1,\nfile://{frame}\n#EXT-X-ENDLIST\n".encode()),
        "a playlist from elsewhere": ("a.mp4", b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n"),
        "a list of files": ("a.mp4", b"ffconcat version 1.0\nfile secret.mp4\n"),
        "a session": (
            "a.mp4",
            b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=video 5004 RTP/AVP 96\r\n",
        ),
        "a pattern as its name": ("clip%02d.avi", bytes(avi)),
        "a pattern without a video": ("p%02d.avi", b"x" * 100),
        "an image as a video": ("a.avi", encode(".png", noise(3))),
        "a huge GIF": ("a.gif", claiming(60_000, 60_000)["60000 x 60000 png gif.png"][1]),
        "a GIF of 30,000 x 30,000": ("a.gif", claiming(30_000, 30_000)["30000 x 30000 png gif.png"][1]),
    }


def read_video(path: Path) -> None:
    source = open_source(str(path))
    _ = source.total
    for frame in itertools.islice(source, MOST_FRAMES):
        assert frame.image.ndim == 3 and frame.image.size
