"""YOLOv5's official weights by name: found on disk, or fetched from its release page where that is asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from utils.config import ROOT
from utils.files import write_whole
from utils.log import LOGGER, InputError, progress

RELEASE = "https://github.com/ultralytics/yolov5/releases/download/v7.0"
TIMEOUT = (10, 60)  # seconds to connect, and between two pieces
PIECE = 2**18  # bytes
# bytes and SHA-256 of each file, as stated alike by at least two sources: Ultralytics' own repository at Hugging Face
# and projects that pin the release's files; yolov5x6.pt is left out, since only one source was found for it
FILES: Mapping[str, tuple[int, str]] = {
    "yolov5n.pt": (4_062_133, "4f180cf23ba0717ada0badd6c685026d73d48f184d00fc159c2641284b2ac0a3"),
    "yolov5s.pt": (14_808_437, "8b3b748c1e592ddd8868022e8732fde20025197328490623cc16c6f24d0782ee"),
    "yolov5m.pt": (42_806_829, "61d933360ba5a7733a36764996c800287d973889d875227f5beedd2473a97a56"),
    "yolov5l.pt": (93_622_629, "2f603b7354c25454d1270663a14d8ddc1eea98e5eebc1d84ce0c6e3150fa155f"),
    "yolov5x.pt": (174_114_333, "9f27a794fa0308e2606f90565164571d6f0a0ba18a3ce2e5e5d323b71c157859"),
    "yolov5n6.pt": (7_190_229, "496c05a2b991da15acc6c4408c63da287f2513a46c6756618776d4dd71170781"),
    "yolov5s6.pt": (25_978_837, "95bda9019ada63f37338308d0c81a66047a6fbaba061abaff271ba9334cf2a6f"),
    "yolov5m6.pt": (72_308_357, "7afe7fa0f29a8351467200a2a5a33c7996d1155ed6636c7edd8ca70b14951c64"),
    "yolov5l6.pt": (154_521_589, "b357b77f646b0190912985937c44e2923441369d5fda69ba86da2aa919212618"),
}


def locate(path: Path, download: bool = False) -> Path:
    """Where a file of weights is: at ``path``, or for a bare name in the repository, or fetched to ``path``.

    Raises:
        InputError: an official file that is not on disk and not to be fetched, or that cannot be. Of any other
            missing file nothing is said: whoever reads it will.
    """
    if path.exists():
        return path
    if path.name == str(path) and (ROOT / path).exists():
        return ROOT / path
    if path.name not in FILES:
        return path
    url = f"{RELEASE}/{path.name}"
    if not download:
        raise InputError(f"{path}: no such file; --download fetches {url}, or put it at {path.absolute()}")
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path.parent}: no such folder to fetch {path.name} into")
    fetch(url, path, *FILES[path.name])
    return path


def fetch(url: str, path: Path, size: int, sha256: str) -> None:
    """Fetch a file whole or not at all.

    Args:
        size: in bytes, that it must have.
        sha256: that it must have, in hexadecimal digits.

    Raises:
        InputError: no connection, or another file than expected, of which nothing is kept.
    """
    import requests

    where = f"from another machine, it goes to {path.absolute()}"
    LOGGER.info("Fetching %s (%.1f MB)", url, size / 1e6)
    try:
        with requests.get(url, stream=True, timeout=TIMEOUT) as answer:
            answer.raise_for_status()
            write_whole(path, lambda file: _checked(answer.iter_content(PIECE), file, url, size, sha256))
    except requests.RequestException as error:
        raise InputError(f"{url}: expected to fetch it, got {error}; {where}") from error


def _checked(pieces: Iterable[bytes], file: BinaryIO, url: str, size: int, sha256: str) -> None:
    digest, got = hashlib.sha256(), 0
    bar: tqdm[None] = progress((), "download", total=size, unit="B")
    with bar:
        for piece in pieces:
            got += len(piece)
            if got > size:
                break
            digest.update(piece)
            file.write(piece)
            bar.update(len(piece))
    if got != size:
        raise InputError(f"{url}: expected {size:,} bytes, got {'more' if got > size else f'{got:,}'}; nothing is kept")
    if digest.hexdigest() != sha256:
        raise InputError(f"{url}: expected SHA-256 {sha256}, got {digest.hexdigest()}; nothing is kept")
