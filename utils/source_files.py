"""Which files a source means: folders, globs and lists, in order; what the name of a file says of it."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from utils import dicom, extras
from utils.images import IMAGE_SUFFIXES
from utils.log import LOGGER, InputError, printable
from utils.videos import VIDEO_SUFFIXES

MAX_LIST_BYTES = 50_000_000  # a million paths
LONGEST_PATH = 300  # characters of a path out of a list, in a message
LOOKED_FOR = f"images ({' '.join(sorted(IMAGE_SUFFIXES))}), videos ({' '.join(sorted(VIDEO_SUFFIXES))}) or DICOM files"
# p02-c01-f0004: frame 4 of clip p02-c01
CLIP_FRAME = re.compile(r"(?P<clip>.+?)[-_ .]+[A-Za-z]*(?P<number>\d{1,9})", re.DOTALL)


def files_of(source: str, study: bool) -> list[Path]:
    """The files of a folder, glob or .txt list, or the file that ``source`` is; see :func:`utils.sources.open_source`.

    Raises:
        InputError: it holds nothing that is read, or DICOM files, and the package for them is missing.
    """
    path = Path(source)
    if not path.exists():
        files = _supported(map(Path, _matching(path)), source)
    elif path.is_dir():
        hint = "" if study else "; folders in it are searched with --save-study, or by a glob with **"
        files = _supported(_within(path, study), source, hint)
    elif suffix_of(path) == "txt":
        files = _read_list(path)
    elif _is_supported(path):
        files = [path]
    else:
        raise unsupported(path)
    if any(map(is_dicom, files)):  # told once, and not of each file
        extras.require(("pydicom",), f"{source}: reading DICOM")
    return files


def _matching(pattern: Path) -> list[str]:
    """What a glob finds; the folders that it begins with are taken by their names, also where one is ``old [1]``."""
    folder = pattern
    rest: list[str] = []
    while not folder.exists():
        folder, rest = folder.parent, [folder.name, *rest]
    # not Path.glob, which takes no absolute pattern
    return glob.glob(str(Path(glob.escape(str(folder)), *rest)), recursive=True)  # noqa: PTH207


def is_video(path: Path) -> bool:
    """Whether a file may hold several frames, by its suffix."""
    return suffix_of(path) not in IMAGE_SUFFIXES


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM: by its suffix, or, where that is none of pictures, videos or lists, by its content."""
    return suffix_of(path) not in IMAGE_SUFFIXES | VIDEO_SUFFIXES | {"txt"} and dicom.is_dicom(path)


def holds_any(folder: Path, files: Sequence[Path]) -> bool:
    """Whether a folder, by whatever path, is that of one of the files, or of one that they are links to."""
    if not folder.exists():
        return False
    # os.path takes any name, also out of a list; Path raises where no file can be called so
    places = {path.parent for path in files}
    places |= {Path(os.path.realpath(path)).parent for path in files if os.path.islink(path)}  # noqa: PTH114
    return any(os.path.exists(place) and place.samefile(folder) for place in places)  # noqa: PTH110


def clip_name(path: Path) -> tuple[Path, str] | None:
    """The folder and name of the clip that a still is a frame of, by its name; None where it has no number."""
    named = CLIP_FRAME.fullmatch(path.stem)
    return None if named is None else (path.parent, named["clip"])


def places(paths: Iterable[Path]) -> dict[Path, int]:
    """The place of each still that is a frame of a clip among those of its clip, from 0, by the numbers in their names.

    Of equal numbers (1 and 01) that of the shorter name comes first.
    """
    clips: dict[tuple[Path, str], list[tuple[int, int, str, Path]]] = {}
    for path in paths:
        named = None if is_video(path) else CLIP_FRAME.fullmatch(path.stem)
        if named is not None:
            order = int(named["number"]), len(path.name), path.name, path
            clips.setdefault((path.parent, named["clip"]), []).append(order)
    return {found[-1]: place for frames in clips.values() for place, found in enumerate(sorted(frames))}


def suffix_of(path: Path) -> str:
    return path.suffix[1:].lower()


def unsupported(path: Path) -> InputError:
    name, suffix = printable(str(path), LONGEST_PATH), printable(path.suffix)
    return InputError(f"{name}: {LOOKED_FOR} expected, or a list (txt), suffix {suffix!r} came")


def _within(folder: Path, deep: bool) -> Iterator[Path]:
    """What is in a folder, hidden files and folders left out; with ``deep``, in its folders, too."""
    for entry in folder.iterdir():
        if entry.name.startswith("."):
            continue
        if deep and entry.is_dir() and not entry.is_symlink():  # a link may lead back
            yield from _within(entry, deep)
        else:
            yield entry


def _is_supported(path: Path) -> bool:
    return not path.is_dir() and (suffix_of(path) in IMAGE_SUFFIXES | VIDEO_SUFFIXES or is_dicom(path))


def _supported(paths: Iterable[Path], source: str, hint: str = "") -> list[Path]:
    """The files of ``paths`` that are read: DICOM as they were acquired, then the others, frame2 before frame10."""
    files = [path for path in paths if _is_supported(path)]
    files = [path for path in files if suffix_of(path) in IMAGE_SUFFIXES | VIDEO_SUFFIXES or not _is_directory(path)]
    if not files:
        raise InputError(f"{source}: {LOOKED_FOR} expected, none is there{hint}")
    pieces = {path: re.split(r"(\d+)", str(path)) for path in files}  # text and digits take turns
    named = sorted(files, key=lambda path: ([int(p) if p.isdecimal() else p for p in pieces[path]], str(path)))
    return sorted(named, key=_acquired)


def _acquired(path: Path) -> tuple[bool, str]:
    """What puts DICOM files in order of acquisition, before all others; that one cannot be read is told later."""
    if suffix_of(path) in IMAGE_SUFFIXES | VIDEO_SUFFIXES:
        return True, ""
    try:
        return False, dicom.read_header(path).acquired
    except InputError:
        return False, ""


def _is_directory(path: Path) -> bool:
    """Whether a file is a DICOMDIR, a list of the files beside it."""
    return path.stem.upper() == "DICOMDIR" and dicom.is_directory(path)


def _read_list(path: Path) -> list[Path]:
    size = path.stat().st_size
    if not path.is_file() or size > MAX_LIST_BYTES:
        raise InputError(f"{path}: a list under {MAX_LIST_BYTES:,} bytes expected, {size:,} came")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: a list of paths in UTF-8 expected, other bytes came") from error
    files = [path.parent / line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
    if not files:
        raise InputError(f"{path}: a list with a path on each line expected, no path came")
    different = list(dict.fromkeys(files))
    if repeated := len(files) - len(different):
        LOGGER.warning("%s: %d of %d entries repeat an earlier one and are left out", path, repeated, len(files))
    return different
