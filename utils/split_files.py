"""Which files a split of a dataset yaml names: folders, searched through, and lists."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from utils.config import DatasetConfig, inside
from utils.images import IMAGE_SUFFIXES
from utils.log import InputError, printable, shown

MAX_LIST_BYTES = 50_000_000  # a million paths


def list_images(config: DatasetConfig, split: str) -> list[Path]:
    """Image files of a split, sorted within each of its folders, in the order of each of its lists.

    Raises:
        InputError: no such split, folder or list, or no image in it.
    """
    if split not in config.splits:
        raise InputError(f"{config.file}: no {split} split in it; it has {', '.join(config.splits)}")
    files: list[Path] = []
    for entry in config.splits[split]:
        try:
            is_folder = entry.is_dir()
        except OSError as error:  # a name too long, for one, which says nothing of where it stands
            got = f"{printable(str(entry), 300)}: {error.strerror}"
            raise InputError(f"{config.file}: {split}: expected a folder or a .txt list, got {got}") from error
        if is_folder:
            files += sorted(_images_below(entry))
        elif entry.is_file() and entry.suffix == ".txt":
            files += _listed(entry, config.root)
        else:
            raise InputError(f"{config.file}: {split}: expected a folder or a .txt list, got {entry}, which is neither")
    if not files:
        raise InputError(f"{config.file}: {split}: no image in {', '.join(map(str, config.splits[split]))}")
    return list(dict.fromkeys(files))


def _images_below(top: Path) -> Iterator[Path]:
    """What has an image's suffix in a folder and in those below, links to folders not followed."""
    for place, folders, files in os.walk(top):
        folder = Path(place)
        for name in (*folders, *files):
            stem, _, suffix = name.rpartition(".")
            if stem and suffix.lower() in IMAGE_SUFFIXES:
                yield folder / name


def _listed(path: Path, root: Path) -> list[Path]:
    """The files that a list names: ``./`` is the list's own folder, other relative lines belong to the root.

    Past both of these, a line must be absolute.
    """
    try:
        if path.stat().st_size > MAX_LIST_BYTES:
            raise InputError(f"{path}: expected a list under {MAX_LIST_BYTES:,} bytes, got {path.stat().st_size:,}")
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected a text file with an image's path a line: {error}") from error
    files: list[Path] = []
    for line in dict.fromkeys(lines):
        if line:
            place = inside(line, *((path.parent, root) if line.startswith("./") else (root, path.parent)))
            if place is None or not place.name or "\0" in line:
                what = "outside" if place is None else "which is none"
                where = f"{path}:{lines.index(line) + 1}"
                raise InputError(f"{where}: expected a path in {root}, or an absolute one, got {shown(line)}, {what}")
            files.append(place)
    return files
