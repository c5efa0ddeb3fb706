"""What hostile files are made with: wrong values, and damage to bytes; what a kind of them is. No test stands here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

LONGEST_LINE = 1000  # characters of what the user is told
SLOWEST = 10.0  # seconds of the processors that a file may take, so that other work on the machine does not count
LONGEST_WAIT = 60.0  # seconds by the clock
MOST_MEMORY = 1_000_000_000  # bytes by which the process may grow while it reads one
MOST_FRAMES = 40  # read of a video
NC, NV = 4, 3


class Fault(AssertionError):
    """A file was neither read nor refused in one clear line, or reading it did something else besides."""


@dataclass(frozen=True)
class Case:
    """A hostile file: its kind, its name, what is in it, and in words where it comes from."""

    kind: str
    name: str
    content: bytes = field(repr=False)
    origin: str


Named = tuple[str, bytes]  # a file's name and content


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        seeds: sound files, in a folder whose path may stand in them.
        nasty: files made by hand, by what is nasty about them.
        read: reads one as the program does; its path.
        pieces: bytes that damage puts in.
        made: files of wrong values, drawn.
    """

    seeds: Callable[[Path], Sequence[Named]]
    nasty: Callable[[Path], Mapping[str, Named]]
    read: Callable[[Path], object]
    pieces: Sequence[bytes] = ()
    made: Callable[[Path], st.SearchStrategy[Named]] | None = None


TEXTS = (
    "",
    " ",
    "a",
    "../../secret",
    "..",
    "/",
    "~",
    "~nobody/x",
    "-1",
    "1e400",
    "nan",
    "inf",
    "0x1F",
    "=1+1",
    "\0",
    "\x1b[2J",
    "a\nb",
    "é",
    "\u202e",
    "\ufeff",
    "\ud800",
    "<script>",
    "'",
    '"',
    "%s%n",
    "{0}",
    "x" * 300,
    "y" * 5000,
    "(",
    "a{9999999999}",
    "images/train",
    "data.txt",
    "1_000",
    "１",
    "\\",
    "C:\\x",
    "//x",
    "*",
    "null",
    "yes",
)
NUMBERS: tuple[Any, ...] = (
    0,
    1,
    -1,
    2,
    3,
    4,
    5,
    80,
    255,
    1000,
    2**16,
    2**31,
    2**63,
    -(2**63),
    10**30,
    10**400,
    0.0,
    -0.0,
    0.5,
    1e-30,
    1e30,
    math.nan,
    math.inf,
    -math.inf,
    True,
    False,
    None,
)
SCALARS = st.sampled_from(TEXTS) | st.sampled_from(NUMBERS) | st.integers() | st.floats() | st.text(max_size=8)
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(TEXTS) | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)
PIECES = (
    b"",
    b"\0",
    bytes(4),
    bytes(64),
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\x7f\xff\xff\xff",
    b"\xfe\xff",
    b"\xef\xbb\xbf",
    b"\x80",
    b"\n",
    b"\r",
    b"\r\n\r\n",
    b"\t",
    b"nan",
    b"inf",
    b"1e400",
    b"-1",
    b"9" * 400,
    b"../../secret/s.png",
    b"\x1b[2J",
    b"\xe2\x80\xa8",
    b"0.5 " * 50,
)
STEPS = ("flip", "set", "insert", "cut", "copy", "end", "splice")
Step = tuple[str, float, float, bytes]


def damages(pieces: Sequence[bytes]) -> st.SearchStrategy[list[Step]]:
    """What is done to bytes, one after the other: how, two places as shares of the length, bytes to put in."""
    share = st.floats(0, 1, exclude_max=True)
    piece = st.sampled_from([*PIECES, *pieces]) | st.binary(max_size=12)
    return st.lists(st.tuples(st.sampled_from(STEPS), share, share, piece), min_size=1, max_size=5)


def damaged(data: bytes, steps: Iterable[Step], other: bytes) -> bytes:
    """The bytes after those steps; ``other`` is what is spliced in."""
    changed = bytearray(data)
    for how, first, second, piece in steps:
        place, second_place = int(first * len(changed)), int(second * len(changed))
        if how == "flip" and changed:
            changed[place] ^= 1 << int(second * 8)
        elif how == "set":
            changed[place : place + len(piece)] = piece
        elif how == "insert":
            changed[place:place] = piece
        elif how == "cut":
            del changed[place : place + min(abs(second_place - place), 400)]
        elif how == "copy":
            changed[place:place] = changed[second_place : second_place + 200]
        elif how == "end":
            del changed[max(place, 1) :]
        elif how == "splice":
            changed = changed[:place] + other[int(second * len(other)) :]
    return bytes(changed)


def replaced(content: Any, changes: Sequence[tuple[int, Any]]) -> Any:
    """A copy in which values, counted in depth-first order, are replaced."""
    for number, value in changes:
        places: list[tuple[Any, Any]] = []
        content = _copied(content)
        waiting = [content]
        while waiting and len(places) < 2000:
            holder = waiting.pop()
            pairs = list(holder.items()) if isinstance(holder, dict) else list(enumerate(holder))
            places += [(holder, key) for key, _ in pairs]
            waiting += [inner for _, inner in pairs if isinstance(inner, (dict, list))]
        if places:
            holder, key = places[number % len(places)]
            holder[key] = value
    return content


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(inner) for key, inner in value.items()}
    return [_copied(inner) for inner in value] if isinstance(value, list) else value


CHANGES = st.lists(st.tuples(st.integers(0, 2000), VALUES), min_size=1, max_size=3)
