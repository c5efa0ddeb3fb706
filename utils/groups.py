"""Which patient, and which clip, a frame belongs to, read from its file name."""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from utils.config import DatasetConfig
from utils.log import LOGGER, InputError, printable

PATIENCE = 8.0  # seconds for the names of all files; a million take two

# A name up to its last number: p02-c01-f0004 -> p02-c01
LAST_NUMBER = re.compile(r"\d{1,18}(?=\D*$)")
BEFORE_LAST_NUMBER = r"^(.*?)[^0-9A-Za-z]*[A-Za-z]*\d+\D*$"


def patients(config: DatasetConfig, files: Sequence[Path]) -> list[str] | None:
    """The group of each frame by the dataset's ``group`` pattern, or None where it names none.

    A name that the pattern does not match is a group of its own.
    """
    if config.group is None:
        return None
    with _patience(config, "group"):
        return [_first_group(config.group, path.name) for path in files]


def clips(config: DatasetConfig, files: Sequence[Path]) -> list[str] | None:
    """The clip of each frame by the dataset's ``clip`` pattern, or None where it names neither clip nor group.

    Where it names ``group`` alone, the clip is the file's name up to its last number. Clips of two patients are two,
    whatever their names.
    """
    owners = patients(config, files)
    if config.clip is None and owners is None:
        return None
    pattern, names = config.clip or BEFORE_LAST_NUMBER, [path.name if config.clip else path.stem for path in files]
    with _patience(config, "clip"):
        own = [_first_group(pattern, name) for name in names]
    if owners is None:
        return own
    return [clip if _begins_with(clip, owner) else f"{owner}/{clip}" for owner, clip in zip(owners, own, strict=True)]


def in_clip_order(config: DatasetConfig, files: Sequence[Path]) -> list[int]:
    """Places of the frames, clip by clip, each clip's by the last number in their names; as given without clips."""
    own = clips(config, files)
    if own is None:
        return list(range(len(files)))

    def key(place: int) -> tuple[str, int, str]:
        numbers = LAST_NUMBER.findall(files[place].stem)
        return own[place], int(numbers[-1]) if numbers else 0, files[place].name

    return sorted(range(len(files)), key=key)


def _begins_with(clip: str, owner: str) -> bool:
    """Whether a clip's name already says whose it is: p01-c01 is of p01, not of p0."""
    return clip.startswith(owner) and not clip[len(owner) :][:1].isalnum()


def unmatched(config: DatasetConfig, files: Sequence[Path]) -> list[Path]:
    """The files in whose names the ``group`` pattern finds no patient; none where there is no pattern."""
    with _patience(config, "group"):
        return [path for path in files if config.group is not None and _found(config.group, path.name) is None]


def warn_of_unmatched(config: DatasetConfig, files: Sequence[Path]) -> None:
    """Log in how many file names the ``group`` pattern finds no patient, if there are such."""
    alone = unmatched(config, files)
    if alone:
        LOGGER.warning(
            "%s: group %r finds no patient in %d file names, such as %s; each counts as a patient",
            config.file, config.group, len(alone), printable(alone[0].name),
        )  # fmt: skip


@contextmanager
def _patience(config: DatasetConfig, key: str) -> Iterator[None]:
    """End a pattern that would search one name for years, as ``(a+)+$`` does; where the system has alarms.

    Only a program's main thread can be given one.
    """
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def give_up(*_: object) -> None:
        raise InputError(f"{config.file}: {key}: expected a pattern that finds its group at once, got one without end")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _first_group(pattern: str, name: str) -> str:
    return _found(pattern, name) or name


def _found(pattern: str, name: str) -> str | None:
    match = re.search(pattern, name)
    return match.group(1) or None if match else None
