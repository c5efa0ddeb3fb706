"""Hostile files of finished runs: outcomes.npz, metrics.json; and cards of exported networks. No test stands here."""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from models.yolo import Network
from tests.hostile_parts import CHANGES, VALUES, Kind, Named, replaced
from tests.hostile_texts import json_made, json_nasty
from tests.hostile_yaml import NETWORK
from tests.simulated import outcomes as simulated
from utils import card, checkpoint, outcomes
from utils.assessment import assess
from utils.card import Form
from utils.config import ROOT, hyperparameters_from, load_yaml
from utils.leakage import BYTES, HASH, SIDE, Fingerprint
from utils.operating import OperatingPoint
from utils.report import figure_of, metrics, read_metrics
from utils.runtimes import open_weights

# --- outcomes.npz -----------------------------------------------------------------------------------------------------


@cache
def _columns(views: bool) -> dict[str, Any]:
    whole = simulated(patients=2, frames=3, detections=3, views=views)
    found = {name: getattr(whole, name) for name in vars(whole)}
    return {
        name: np.array(column, np.str_) if isinstance(column, tuple) else column
        for name, column in found.items()
        if column is not None
    }


def _archive(columns: Mapping[str, Any], packed: bool = True) -> bytes:
    file = io.BytesIO()
    (np.savez_compressed if packed else np.savez)(file, **columns)
    return file.getvalue()


def outcome_seeds(_: Path) -> list[Named]:
    unnamed = {name: column for name, column in _columns(True).items() if name not in ("patients", "clips")}
    contents = (_archive(_columns(True)), _archive(_columns(True), packed=False), _archive(unnamed, packed=False))
    return [("outcomes.npz", content) for content in (*contents, _archive(_columns(False), packed=False))]


ODD: tuple[Any, ...] = (
    np.zeros(0), np.zeros((3, 3)), np.array(1), np.array("x"), np.array([math.nan] * 18), np.array([math.inf] * 6),
    np.array([-1] * 18), np.array([2**62] * 18), np.array([7] * 6), np.array([-9] * 6), np.zeros(18, np.complex128),
    np.zeros(18, np.float16), np.zeros(18, ">i8"), np.zeros(18, [("a", "i4")]), np.zeros((18, 9), bool),
    np.zeros((18, 10), bool), np.array(["\x1b[2J"] * 4), np.array(["x" * 5000] * 4), np.array(["a"] * 6),
    np.array([b"a"] * 6), np.array(["2020-01-01"] * 6, "datetime64[D]"), np.zeros((2, 3, 4), np.int64),
)  # fmt: skip


def outcomes_made(_: Path) -> st.SearchStrategy[Named]:
    names = st.sampled_from([*_columns(True)])

    def changed(views: bool, packed: bool, changes: Mapping[str, int | None], size: int) -> Named:
        columns = {**_columns(views), **{name: None for name, place in changes.items() if place is None}}
        columns |= {name: ODD[place] for name, place in changes.items() if place is not None}
        if size:  # a column of another length, by a little
            name = [*columns][size % len(columns)]
            if columns[name] is not None and columns[name].ndim:
                columns[name] = columns[name][: size % 19]
        return "outcomes.npz", _archive({name: c for name, c in columns.items() if c is not None}, packed)

    changes = st.dictionaries(names, st.none() | st.integers(0, len(ODD) - 1), max_size=2)
    return st.builds(changed, st.booleans(), st.booleans(), changes, st.integers(0, 400))


def _header(shape: str, kind: str = "<f8") -> bytes:
    """The beginning of a numpy file, whose shape may be any text."""
    words = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}"
    text = words.ljust(117 + 64 * (len(words) // 64)) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def outcomes_nasty(_: Path) -> dict[str, Named]:
    def with_member(name: str, content: bytes, packed: bool = True) -> bytes:
        file = io.BytesIO(_archive({key: column for key, column in _columns(True).items() if key != name}))
        with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as archive:
            archive.writestr(f"{name}.npy", content)
        return file.getvalue()

    pickled = io.BytesIO()
    np.save(pickled, np.array([{"a": 1}, None], object), allow_pickle=True)
    many = io.BytesIO()
    with zipfile.ZipFile(many, "w") as archive:
        for number in range(20_000):
            archive.writestr(f"{number}.npy", b"")
    wide = _header("(40000000,)") + bytes(320_000_000)
    contents = {
        "a column that is huge": with_member("confidence", wide),
        "another member that is huge": with_member("more", bytes(300_000_000)),
        "a column that claims to be huge": with_member("confidence", _header("(100000000000,)") + bytes(64)),
        "a shape beyond all numbers": with_member("confidence", _header("(" + "9" * 60 + ",)") + bytes(64)),
        "a shape of two sides below 0": with_member("confidence", _header("(-2, -4)") + bytes(64)),
        "a shape of many sides": with_member("confidence", _header("(" + "1," * 70 + ")") + bytes(8)),
        "a shape of no sides": with_member("frame", _header("()", "<i8") + bytes(8)),
        "a shape of words": with_member("confidence", _header("('a',)") + bytes(64)),
        "a header that is code": with_member("confidence", _header("__import__('os').system('true')") + bytes(64)),
        "a header that is deep": with_member("confidence", _header("(" * 3000) + bytes(64)),
        "a header that is cut off": with_member("confidence", _header("(8,)")[:40]),
        "words without width": with_member("files", _header("(1000000000,)", "<U0")),
        "pickled objects": with_member("confidence", pickled.getvalue()),
        "objects that claim to be none": with_member("confidence", _header("(2,)", "|O") + bytes(16)),
        "20,000 entries": many.getvalue(),
        "empty": b"",
        "no text": bytes(range(256)),
        "a plain array": pickled.getvalue(),
        "an empty archive": b"PK\x05\x06" + bytes(18),
    }  # fmt: skip
    return {title: ("outcomes.npz", content) for title, content in contents.items()}


def read_outcomes(path: Path) -> None:
    found = outcomes.load(path)
    if len(found) and len(found.labelled):
        assess(outcomes.pooled([found, found]), draws=2, counted=True)


OUTCOMES = Kind(
    outcome_seeds, outcomes_nasty, read_outcomes, (b"PK\x01\x02", b"\x93NUMPY", b"<i8", b"|O"), outcomes_made
)

# --- metrics.json -----------------------------------------------------------------------------------------------------


@cache
def _metrics() -> Any:
    with np.errstate(all="ignore"):
        settings = {"training_seconds": 12.5, "peak_memory_bytes": 10**9}
        content = metrics(assess(simulated(patients=2, frames=3), draws=2), settings, ["few patients"])
    return json.loads(json.dumps(content))


def metrics_contents(_: Path) -> list[Any]:
    whole = _metrics()
    small = {key: whole[key] for key in ("warnings", "map50")} | {
        "settings": whole["settings"],
        "view": {"accuracy": 1},
    }
    return [small, whole]


def read_metrics_file(path: Path) -> None:
    content = read_metrics(path)
    assert all(isinstance(warning, str) for warning in content.get("warnings", []))
    for place in (("map50",), ("view", "accuracy"), ("settings", "training_seconds")):
        assert isinstance(figure_of(content, path, *place), float)


METRICS = Kind(
    lambda area: [("metrics.json", json.dumps(content).encode()) for content in metrics_contents(area)],
    json_nasty("metrics.json"),
    read_metrics_file,
    (b"{", b"[", b"null", b"1e999", b"Infinity"),
    json_made("metrics.json", metrics_contents),
)

# --- cards of exported networks ---------------------------------------------------------------------------------------


@cache
def _card() -> dict[str, str]:
    """A card as an export writes it, of a network of two classes."""
    network = Network(NETWORK)
    hyp = load_yaml(ROOT / "hyp" / "detection_only.yaml")
    content = {
        "names": ["a", "b"], "view_names": [], "image_size": 64, "rect": False, "hyp": hyp, "epoch": 3, "epochs": 4,
        "figures": {"map50": 0.5}, "operating": {"confidence": 0.3, "temperature": 1.0}, "permuted_labels": None,
        "trained_on": {
            "hash": f"{HASH} {SIDE}", "patients": ["ab"], "hashes": torch.zeros(2, BYTES, dtype=torch.uint8),
        },
        "date": "2026-01-02", "git": None,
    }  # fmt: skip
    found = checkpoint.Checkpoint(
        Path("a.pt"), content, ("a", "b"), (), 64, False, hyperparameters_from(hyp, Path("a.pt"))
    )
    return card.written(found, Form(network.max_stride, None, None, "fp32", None))


def _torchscript(words: Any, echo: Any = None) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/code/__torch__.py", "class A(Module):\n  pass\n")
        text = json.dumps(words if echo is None else {**words, card.KEY: json.dumps(echo)})
        archive.writestr("a/extra/config.txt", text.encode("utf-8", "surrogatepass"))
    return file.getvalue()


def card_seeds(_: Path) -> list[Named]:
    return [("a.torchscript", _torchscript(_card()))]


def cards_made(_: Path) -> st.SearchStrategy[Named]:
    def changed(changes: Sequence[tuple[int, Any]]) -> Named:
        return "a.torchscript", _torchscript(_card(), replaced(json.loads(_card()[card.KEY]), changes))

    other = VALUES.map(lambda value: ("a.torchscript", _torchscript({card.KEY: value})))
    return st.builds(changed, CHANGES) | st.builds(changed, CHANGES) | other


def cards_nasty(_: Path) -> dict[str, Named]:
    echo = json.loads(_card()[card.KEY])

    def operating(point: Any) -> bytes:
        return _torchscript(_card(), {**echo, "operating": point})

    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/extra/config.txt", bytes(300_000_000))
    contents = {
        "a bomb": bomb.getvalue(),
        "deep": _torchscript({card.KEY: "[" * 100_000}),
        "deep within": _torchscript({card.KEY: '{"a":' * 100_000}),
        "a list": _torchscript([1]),
        "no card": _torchscript({"stride": "32"}),
        "a name of a megabyte": _torchscript(_card(), {**echo, "names": ["x" * 1_000_000, "b"]}),
        "a format of a megabyte": _torchscript(_card(), {**echo, "format": "x" * 1_000_000}),
        "a precision of a megabyte": _torchscript(_card(), {**echo, "precision": "x" * 1_000_000}),
        "an operating point of a megabyte": operating({"confidence": "x" * 1_000_000}),
        "an endless temperature": operating({"confidence": 0, "temperature": 10**400}),
        "what a terminal obeys": _torchscript(_card(), {**echo, "names": ["\x1b[2J", "b"]}),
        "huge hashes": _torchscript(
            _card(), {**echo, "trained_on": {**echo["trained_on"], "hashes": {"data": "AA==", "shape": [10**30]}}}
        ),
        "a huge stride": _torchscript(_card(), {**echo, "stride": 10**30}),
        "empty": b"",
        "text": b"hello",
    }  # fmt: skip
    return {title: ("a.torchscript", content) for title, content in contents.items()}


def read_card(path: Path) -> None:
    """As val.py and detect.py read it, but for the network itself, which is its runtime's."""
    found = open_weights(path)
    OperatingPoint.from_content(found.content.get("operating"), found.path)
    if found.content.get("trained_on") is not None:
        Fingerprint.from_content(found.content["trained_on"], found.path)


CARDS = Kind(card_seeds, cards_nasty, read_card, (b"PK\x03\x04", b"PK\x01\x02", b"config.txt", b'"'), cards_made)
