"""Pickles read as data: what is read, what is refused, and that nothing is ever run."""

from __future__ import annotations

import collections
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from utils.unpickling import LARGEST, Global, Record, RefusedError, unpickle


class Point:
    """A class that a pickle may hold an object of."""

    def __init__(self) -> None:
        self.x, self.inner = 1, [2, (3, {"four": 5.5})]


class Slotted:
    __slots__ = ("a", "b")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "value",
    [
        None, True, -1, 300, 2**40, -(2**70), 1.5, "text", "ä\n€", b"bytes", [], [1, [2]], (), (1,), (1, 2), (1, 2, 3),
        (1, 2, 3, 4), {}, {"a": 1, 2: [None], None: 0.5, b"b": ()}, [{"x": ()}] * 3,
    ],
    ids=str,
)  # fmt: skip
def test_plain_values_are_those_of_the_standard_library(value: Any, protocol: int) -> None:
    stand_ins = {"_codecs.encode": lambda text, _: text.encode("latin-1")}  # how protocols 0 to 2 write bytes
    assert unpickle(pickle.dumps(value, protocol), stand_ins) == value


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_objects_become_records(protocol: int) -> None:
    record = unpickle(pickle.dumps(Point(), protocol))
    assert isinstance(record, Record) and record.kind == f"{__name__}.Point" and record.arguments == ()
    assert record.state == {"x": 1, "inner": [2, (3, {"four": 5.5})]}
    assert record.get("x") == 1 and record.get("y", "none") == "none"


def test_attributes_in_slots_lists_and_namespaces_are_kept() -> None:
    slotted = Slotted()
    slotted.a, slotted.b = 1, "two"  # type: ignore[attr-defined]
    assert unpickle(pickle.dumps(slotted, 2)).state == {"a": 1, "b": "two"}
    assert unpickle(pickle.dumps(Point, 4)) == Global(f"{__name__}.Point")
    assert unpickle(pickle.dumps({3, 1, 2}, 4)) == [1, 2, 3]
    assert unpickle(pickle.dumps(frozenset({1}), 4)) == [1]
    stand_ins: dict[str, Callable[..., Any]] = {"types.SimpleNamespace": lambda **_: Record("types.SimpleNamespace")}
    assert unpickle(pickle.dumps(SimpleNamespace(a=1), 4), stand_ins).state == {"a": 1}


def test_a_call_is_made_of_the_stand_in_only() -> None:
    data = pickle.dumps(collections.OrderedDict(a=1), 2)
    assert unpickle(data, {"collections.OrderedDict": lambda *_: {}}) == {"a": 1}
    with pytest.raises(RefusedError, match=r"asks for collections\.OrderedDict"):
        unpickle(data)


def test_a_container_may_contain_itself() -> None:
    endless: list[Any] = []
    endless.append(endless)
    read = unpickle(pickle.dumps(endless, 2))
    assert read[0] is read


def test_persistent_ids_are_handed_over() -> None:
    assert unpickle(b"\x80\x02K\x07Q.", persistent=lambda identity: identity + 1) == 8
    with pytest.raises(RefusedError, match="outside"):
        unpickle(b"\x80\x02K\x07Q.")


# --- what would be run ---------------------------------------------------------------------------------------------


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def hostile(canary: Path) -> dict[str, bytes]:
    """Pickles that make the standard library's unpickler create ``canary``, each in another way."""
    command = text(f"touch {canary}")
    python = text(f"open({str(canary)!r}, 'w').close()")
    expression = text(f"open({str(canary)!r}, 'w')")
    return {
        "os.system": b"cos\nsystem\n" + command + b"\x85R.",
        "posix.system": b"cposix\nsystem\n" + command + b"\x85R.",
        "builtins.eval": b"cbuiltins\neval\n" + expression + b"\x85R.",
        "__builtin__.eval": b"\x80\x02c__builtin__\neval\n" + expression + b"\x85R.",
        "exec, named on the stack": b"\x80\x04" + text("builtins") + text("exec") + b"\x93" + python + b"\x85R.",
        "nested name": b"\x80\x04" + text("pathlib") + text("Path.touch") + b"\x93cpathlib\nPosixPath\n"
        + text(str(canary)) + b"\x85R\x85R.",
        "subprocess": b"csubprocess\ncheck_call\n](" + text("touch") + text(str(canary)) + b"e\x85R.",
        "INST": b"(" + command + b"ios\nsystem\n.",
        "OBJ": b"(cos\nsystem\n" + command + b"o.",
        "getattr": b"cbuiltins\ngetattr\ncos\nopen\n0cimportlib\nimport_module\n" + text("os") + b"\x85R"
        + text("system") + b"\x86R" + command + b"\x85R.",
        "in a dict": b"}" + text("a") + b"cos\nsystem\n" + command + b"\x85Rs.",
        "thrown away": b"cos\nsystem\n" + command + b"\x85R0K\x01.",
        "memoised": b"cos\nsystem\nq\x000h\x00" + command + b"\x85R.",
        "torch's own function": b"ctorch.utils.data._utils.worker\nos.system\n".replace(b"os.system", b"os")
        + b"0cos\nsystem\n" + command + b"\x85R.",
        "bdb": b"cbdb\nBdb\n)R}" + text("x") + b"K\x01sb0cos\nsystem\n" + command + b"\x85R.",
    }  # fmt: skip


NAMES = sorted(hostile(Path("canary")))


@pytest.mark.parametrize("name", NAMES)
def test_what_would_run_a_program_is_refused_by_name(name: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    data = hostile(canary)[name]
    with pytest.raises(RefusedError, match=r"asks for (a call of )?[a-z_]+\.\w+") as caught:
        unpickle(data)
    assert not canary.exists() and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_it_would_have_run(name: str, tmp_path: Path) -> None:
    """The same bytes in the standard library's unpickler: the check above is not of duds."""
    canary = tmp_path / "canary"
    pickle.loads(hostile(canary)[name])  # noqa: S301
    assert canary.exists()


def test_an_unknown_function_is_refused_by_its_name_even_outside_the_standard_library() -> None:
    with pytest.raises(RefusedError, match=r"a call of torch\.hub\.load,"):
        unpickle(b"ctorch.hub\nload\n)R.")
    with pytest.raises(RefusedError, match=r"a call of models\.yolo\.DetectionModel,"):
        unpickle(b"cmodels.yolo\nDetectionModel\n)R.")


def test_a_class_of_the_standard_library_is_refused_even_as_an_object() -> None:
    with pytest.raises(RefusedError, match=r"asks for subprocess\.Popen"):
        unpickle(b"\x80\x02csubprocess\nPopen\n)\x81.")


def test_an_object_of_a_hostile_class_is_inert(tmp_path: Path) -> None:
    record = unpickle(b"\x80\x02csome.module\nPopen\n" + text(str(tmp_path)) + b"\x85\x81.")
    assert record.kind == "some.module.Popen" and record.arguments == (str(tmp_path),)


# --- what would take all memory, all time, or the interpreter itself ----------------------------------------------


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "damaged|early"),
        (b"\x80\x02]", "early|damaged"),
        (b".", "damaged"),
        (b"0.", "damaged"),
        (b"(.", "out of order"),
        (b"e.", "out of order"),
        (b"(lq\xff.", None),
        (b"h\x07.", "damaged"),
        (b"\x80\x04\x82\x01.", "EXT1"),
        (b"\x80\x05\x97.", "NEXT_BUFFER"),
        (b"K\x01K\x02K\x03s.", "sets an item"),
        (b"K\x01K\x02a.", "appends"),
        (b"}(K\x01u.", "without a value"),
        (b"K\x01)R.", "no function"),
        (b"\x80\x02K\x01)\x81.", "no class"),
        (b"\x80\x04K\x01K\x02\x93.", "no text"),
        (b"cmodels\nA\nK\x01R.", "no function"),
        (b"}]K\x01s.", "neither text nor a small number"),
        (b"}I4294967296\nK\x01s.", "neither text nor a small number"),
        (b"K\x01p99999999999999999999\n.", "beyond all bounds"),
        (b"cmodels\n\x1b[31mA\n.", "no name"),
        (b"c" + b"m" * 300 + b"\nA\n.", "no name"),
        (b"I99999999999999999999x\n.", "damaged"),
        (b"\x8a\xff\x00.", "damaged"),
        (b"X\xff\xff\xff\x7fa.", "damaged"),
        (b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7fa.", "damaged"),
        (b"\x95\xff\xff\xff\xff\xff\xff\xff\x7fK\x01.", None),
        (b"r\xff\xff\xff\xff.", "out of order"),
        (b"K\x01r\xff\xff\xff\xff.", None),
    ],
)
def test_damaged_pickles_end_in_one_line_or_in_what_is_left_of_them(data: bytes, words: str | None) -> None:
    if words is None:
        unpickle(data)
        return
    with pytest.raises(RefusedError, match=words) as caught:
        unpickle(data)
    assert "\n" not in str(caught.value)


def test_a_pickle_larger_than_any_checkpoints_is_refused_unread() -> None:
    with pytest.raises(RefusedError, match=rf"at most {LARGEST:,} bytes, got {LARGEST + 1:,}"):
        unpickle(b"N" * LARGEST + b".")


def test_keys_that_take_forever_to_hash_are_refused() -> None:
    doubled = b")" + b"q\x00h\x00\x86" * 200  # a pair of itself, 200 times: 2 ** 200 steps to hash
    with pytest.raises(RefusedError, match="neither text nor a small number"):
        unpickle(b"}" + doubled + b"K\x01s.")


def test_what_doubles_with_each_call_has_an_end() -> None:
    """Forty doublings: a terabyte."""
    stand_ins = {"pathlib.PosixPath": lambda *parts: "/".join(parts)}
    doubling = b"X\x01\x00\x00\x00a" + b"q\x000cpathlib\nPosixPath\nh\x00h\x00\x86R" * 40 + b"."
    with pytest.raises(RefusedError, match="grows beyond all bounds"):
        unpickle(doubling, stand_ins)


def test_copies_of_one_large_state_have_an_end() -> None:
    large = b"}q\x00(" + b"".join(b"J" + struct.pack("<i", n) + b"N" for n in range(100_000)) + b"u0"
    with pytest.raises(RefusedError, match="grows beyond all bounds"):
        unpickle(b"\x80\x02" + large + b"](" + b"cmodels\nA\n)\x81h\x00b" * 500 + b"e.")


def test_depth_is_no_danger() -> None:
    deep = unpickle(b")" + b"\x85" * 1_000_000 + b".")
    assert len(deep) == 1
    del deep
