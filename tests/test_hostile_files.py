"""Hostile files of every kind: read, or refused in one clear line; nothing else happens.

A few hundred here; ``python tests/long/hostile.py`` reads ten thousand, in processes of their own.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from tests import hostile
from tests.hostile import KINDS, by_hand, cases, check, prepare
from tests.hostile_parts import Case, Fault, Kind
from utils.log import InputError

SMALL = 3_000_000  # bytes of a file made by hand that is read here; the larger ones are in the long test
EXAMPLES = {"video": 15, "checkpoint": 20, "resumed": 20, "outcomes": 30, "metrics": 30, "card": 30}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    prepare(folder)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_drawn_files(place: Path, kind: str) -> None:
    found: list[str] = []

    @settings(
        max_examples=EXAMPLES.get(kind, 40), deadline=None, database=None, derandomize=True,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(cases(kind, place / "area"))
    def one(case: Case) -> None:
        found.append(check(case, place)[0])

    one()
    assert len(found) >= 10


@pytest.mark.parametrize("kind", KINDS)
def test_files_made_by_hand(place: Path, kind: str) -> None:
    found = [
        (case.origin, check(case, place)[0]) for case in by_hand(kind, place / "area") if len(case.content) < SMALL
    ]
    endings = {ending for _, ending in found}
    assert endings == {"result", "refused"} or kind == "labels"  # a label file's faults are its problems
    assert {ending for origin, ending in found if origin == "sound"} == {"result"}


# --- the checker finds what it should --------------------------------------------------------------------------------


def test_a_reader_that_does_something_else_is_found(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def reading(path: Path, what: str) -> None:
        if what == "crashes":
            raise KeyError(what)
        if what == "says too much":
            raise InputError(f"{path}: " + "x" * 2000)
        if what == "says two lines":
            raise InputError(f"{path}: a\x1b[2J")
        if what == "names no file":
            raise InputError("wrong")
        if what == "writes":
            (path.parent / "made").write_text("x")
        if what == "changes the file":
            path.write_text("y")
        if what == "computes":
            while time.process_time() < end:
                pass

    case = Case("test", "a.txt", b"x", "here")
    for what, words in {
        "crashes": "KeyError", "says too much": "characters", "says two lines": "none", "names no file": "not name",
        "writes": "made or changed", "changes the file": "was changed", "computes": "seconds",
    }.items():  # fmt: skip
        end = time.process_time() + 0.3
        monkeypatch.setattr(hostile, "SLOWEST", 0.2)
        kind = Kind(lambda _: [], lambda _: {}, lambda path, what=what: reading(path, what))  # type: ignore[misc]
        monkeypatch.setattr(hostile, "KINDS", {"test": kind})
        with pytest.raises(Fault, match=words):
            check(case, place)
        (place / "area" / "made").unlink(missing_ok=True)
