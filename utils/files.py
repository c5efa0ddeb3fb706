"""Files that are written whole or not at all, and folders of runs."""

from __future__ import annotations

import ctypes
import json
import math
import os
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from utils.log import InputError, printable

LAST = "weights/last.pt"  # in a run's folder: the checkpoint that its training goes on from
# what reading a damaged zip file ends in: a place before its beginning, a method that does not exist, ...
DAMAGED_ZIP = (
    zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, OSError, ValueError, RuntimeError, LookupError,
    OverflowError, struct.error,
)  # fmt: skip


def write_whole(path: Path, write: Callable[[BinaryIO], object], before: Path | None = None) -> None:
    """Let ``write`` fill a temporary file beside ``path``, flush it to the disk and rename it.

    Whatever happens in between, ``path`` holds its old content or the new one.

    Args:
        before: where the old content is to stay, in the same folder.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    draft = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        draft.chmod(0o644)  # mkstemp's are for the owner alone
        if before is not None and path.exists():
            _keep(path, before)
        draft.replace(path)
    except BaseException as error:
        draft.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a write names no file of itself
        raise


def _keep(path: Path, before: Path) -> None:
    """Give a file's content a second name, in place of what had that name."""
    spare = before.with_name(f".{before.name}-{os.getpid()}")
    spare.unlink(missing_ok=True)
    try:
        os.link(path, spare)  # so that ``path`` is there at every moment
    except OSError:  # a file system without links
        shutil.copyfile(path, spare)
    spare.replace(before)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file whole; the name of a file that is no text, as Linux allows them, does not end it."""
    write_whole(path, lambda file: file.write(text.encode("utf-8", "backslashreplace")))


def read_text(path: Path, most_bytes: int, what: str) -> str:
    """A UTF-8 text file.

    Args:
        most_bytes: that such a file may have; a larger one is not read.
        what: it should be, for messages.

    Raises:
        InputError: too large, or no text.
        OSError: absent, or it cannot be read.
    """
    size = path.stat().st_size
    if size > most_bytes:
        raise InputError(f"{path}: expected {what}, of at most {most_bytes:,} bytes, got {size:,}")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected {what}, got something else: {error}") from error


def read_json(path: Path, most_bytes: int, what: str) -> dict[str, Any]:
    """A json file's mapping.

    Args:
        most_bytes, what: as of :func:`read_text`.

    Raises:
        InputError: too large, no json, no mapping.
        OSError: absent, or it cannot be read.
    """
    try:
        content = json.loads(read_text(path, most_bytes, what))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: expected {what}, got something else: {printable(str(error), 200)}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected {what}, a mapping, got {type(content).__name__}")
    return content


def write_json(path: Path, content: Any) -> None:
    """Write a json file whole; NaN and infinity, which json does not know, become null."""
    write_text(path, json.dumps(finite(content), indent=1, ensure_ascii=False) + "\n")


def finite(value: Any) -> Any:
    """Plain values as json takes them: keys are words, and NaN and infinity, which it does not know, become null."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def sync_disk(folder: Path) -> None:
    """Flush to the disk whatever was written on a folder's file system: one wait for any number of files."""
    if not hasattr(os, "sync"):  # Windows
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        ctypes.CDLL(None).syncfs(handle)
    except AttributeError:  # not Linux
        os.sync()
    finally:
        os.close(handle)


def as_text(path: Path | str) -> str:
    """A path as text that can be written anywhere: bytes that are no UTF-8 are escaped."""
    return str(path).encode("utf-8", "backslashreplace").decode()


def is_utf8(path: Path | str) -> bool:
    """Whether a path is text; Linux allows any bytes, for some of which Python has only surrogates.

    OpenCV takes those for no path and ends the process.
    """
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def check_name(name: str) -> None:
    """Raise an InputError where ``--name`` is no single folder's name."""
    if Path(name).name != name or name in ("", ".."):
        raise InputError(f"--name {name!r}: expected a folder's name without a path; --project takes the path")


def new_run_folder(project: Path, name: str, exist_ok: bool = False) -> Path:
    """Make ``project/name``, or the first free of ``name2``, ``name3``, ...

    Two runs that start at once get two folders. With ``exist_ok`` the folder is taken as it is.
    """
    check_name(name)
    project.mkdir(parents=True, exist_ok=True)
    if exist_ok:
        folder = project / name
        folder.mkdir(exist_ok=True)
        return folder
    number = 1
    while True:
        folder = project / (name if number == 1 else f"{name}{number}")
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            number += 1
