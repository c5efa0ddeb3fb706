"""Pickled checkpoints with random damage: read, or refused in one line; no crash, no hang, nothing run.

A few hundred inputs here; ``python -m pytest -m long tests/test_legacy_fuzz.py -s`` goes on for ten minutes and says
how many it has seen (``FUZZ_SECONDS`` sets another time).
"""

from __future__ import annotations

import io
import os
import pickletools
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from models.yolo import Network
from tests.pickled import pickled
from tests.test_unpickling import hostile
from utils.checkpoint import Checkpoint
from utils.legacy import read
from utils.log import InputError
from utils.runtimes import open_weights

OPCODES = [ord(opcode.code) for opcode in pickletools.opcodes]
PIECES = [
    b"", bytes(4), b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"cos\nsystem\n", b"cbuiltins\neval\n", b")R", b"\x85R",
    b"ctorch.nn.modules.conv\nConv2d\n", b"h\x00", b"(", b"}", b"]", b"q\x01", b")\x81}b", b".", b"a.b",
    b"I1" + b"0" * 400 + b"\n", b"G" + b"\x7f\xf0" + bytes(6), b"X\x02\x00\x00\x00\x1b\n", b"h\x01h\x01\x86" * 9,
]  # fmt: skip
DESCRIPTION: dict[str, Any] = {
    "nc": 2, "depth_multiple": 1.0, "width_multiple": 0.125, "anchors": [[10, 13, 16, 30]],
    "backbone": [[-1, 1, "Conv", [64, 3, 2]], [-1, 1, "C3", [64]], [-1, 1, "CBAM", []]],
    "head": [[[2], 1, "Detect", ["nc", "anchors"]]],
}  # fmt: skip
SLOWEST = 20.0  # seconds of the processor that an input may take


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small pickled checkpoint."""
    torch.manual_seed(0)
    network = Network({**DESCRIPTION, "cbam_gate": "paper"})
    path = pickled(tmp_path_factory.mktemp("base") / "a.pt", network, DESCRIPTION, ("a", "b"))
    read(path).checkpoint()
    return path.read_bytes()


def repacked(archive: bytes, pickle: bytes) -> bytes:
    """The archive with another pickle in it, its checksums right, so that damage gets as far as the reader."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(made, "w") as new:
        for entry in old.infolist():
            new.writestr(entry.filename, pickle if entry.filename.endswith("data.pkl") else old.read(entry))
    return made.getvalue()


def inner(archive: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return next(opened.read(entry) for entry in opened.infolist() if entry.filename.endswith("data.pkl"))


@st.composite
def damages(draw: st.DrawFn) -> list[tuple[str, float, float, bytes, int]]:
    """What is done to the bytes, one after the other: kind, two places as shares of the length, bytes, an opcode."""
    kind = st.sampled_from(["set", "opcode", "insert", "cut", "copy", "end"])
    share = st.floats(0, 1, exclude_max=True)
    piece = st.sampled_from(PIECES) | st.binary(max_size=12)
    return draw(st.lists(st.tuples(kind, share, share, piece, st.sampled_from(OPCODES)), min_size=1, max_size=6))


def damaged(data: bytes, steps: list[tuple[str, float, float, bytes, int]]) -> bytes:
    changed = bytearray(data)
    for kind, first, second, piece, opcode in steps:
        place, other = int(first * len(changed)), int(second * len(changed))
        if kind == "set":
            changed[place : place + len(piece)] = piece
        elif kind == "opcode" and changed:
            changed[place] = opcode
        elif kind == "insert":
            changed[place:place] = piece
        elif kind == "cut":
            del changed[place : place + min(abs(other - place), 200)]
        elif kind == "copy":
            changed[place:place] = changed[other : other + 100]
        elif kind == "end":
            del changed[max(place, 1) :]
    return bytes(changed)


def fuzz(folder: Path, base: bytes, examples: int, number: int) -> int:
    """Read so many damaged files; returns how many that were."""
    seen = 0
    canary = folder / "canary"
    evil = list(hostile(canary).values())
    pickle = inner(base)

    @seed(number)
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(damages(), st.sampled_from(["archive", "pickle", "hostile"]), st.sampled_from(evil))
    def one(steps: list[tuple[str, float, float, bytes, int]], what: str, evil: bytes) -> None:
        nonlocal seen
        seen += 1
        content = damaged(base, steps) if what == "archive" else repacked(
            base, damaged(evil if what == "hostile" else pickle, steps)
        )  # fmt: skip
        path = folder / "x.pt"
        path.write_bytes(content)
        started = time.process_time()
        try:
            found = open_weights(path)
            assert isinstance(found, Checkpoint)
            found.build()
        except InputError as error:
            assert "\n" not in str(error)
        assert time.process_time() - started < SLOWEST
        assert not canary.exists()

    one()
    return seen


def test_damaged_checkpoints_are_read_or_refused_in_one_line(tmp_path: Path, base: bytes) -> None:
    assert fuzz(tmp_path, base, 200, 0) >= 200


@pytest.mark.long
def test_ten_minutes_of_damage(tmp_path: Path, base: bytes) -> None:
    end = time.perf_counter() + float(os.environ.get("FUZZ_SECONDS", "600"))
    seen = number = 0
    while time.perf_counter() < end:
        number += 1
        seen += fuzz(tmp_path, base, 2000, number)
    print(f"{seen:,} inputs")
