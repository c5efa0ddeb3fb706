"""Hostile checkpoints, of networks to use and of trainings to go on with, and reading them. No test stands here."""

from __future__ import annotations

import dataclasses
import io
import math
import zipfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st

import train
from models.balancer import Balancer
from models.yolo import Network
from tests.hostile_parts import CHANGES, VALUES, Kind, Named, replaced
from tests.hostile_yaml import NETWORK
from utils import checkpoint
from utils.config import ROOT, load_yaml, name_fault, plain
from utils.epoch import EpochProgress
from utils.flags import from_keywords
from utils.leakage import Fingerprint
from utils.operating import OperatingPoint
from utils.resume import read_or_predecessor, resumed_options
from utils.runtimes import open_weights


@cache
def _checkpoint_content() -> dict[str, Any]:
    torch.manual_seed(0)
    network = Network(NETWORK)
    return {
        "format": checkpoint.FORMAT,
        "description": network.description,
        "names": ["a", "b"],
        "view_names": [],
        "image_size": 64,
        "rect": False,
        "hyp": load_yaml(ROOT / "hyp" / "detection_only.yaml"),
        "epoch": 3,
        "epochs": 4,
        "ema": network.state_dict(),
        "figures": {"map50": 0.5},
        "operating": {"confidence": 0.3, "temperature": 1.0},
        "trained_on": None,
        "options": {"data": "x.yaml"},
        "date": "2026-01-02",
        "git": None,
        "finished": True,
    }


def saved(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def _checkpoint_seeds(_: Path) -> list[Named]:
    return [("a.pt", saved(_checkpoint_content()))]


def _checkpoints_made(_: Path) -> st.SearchStrategy[Named]:
    def changed(changes: Sequence[tuple[int, Any]], tensor: Any) -> Named:
        content = dict(_checkpoint_content())
        weights = content.pop("ema")
        content = replaced(content, changes)
        if isinstance(content, dict):
            content["ema"] = tensor if tensor is not None else weights
        return "a.pt", saved(content)

    tensors = st.none() | VALUES | st.just({"a": torch.zeros(2)}) | st.just({"a": torch.zeros(1).expand(10**9)[:1]})
    return st.builds(changed, CHANGES, st.none() | tensors)


def _checkpoints_nasty(_: Path) -> dict[str, Named]:
    whole = saved(_checkpoint_content())
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(300_000_000))
    many = io.BytesIO()
    with zipfile.ZipFile(many, "w") as archive:
        for number in range(20_000):
            archive.writestr(f"a/data/{number}", b"")
    endless: list[Any] = []
    endless.append(endless)
    itself: dict[str, Any] = {}
    itself["members"] = [itself]
    doubled: dict[str, Any] = {"members": [NETWORK]}
    for _level in range(40):
        doubled = {"members": [doubled] * 2}
    names = {
        "names of a megabyte": {**_checkpoint_content(), "names": ["x" * 1_000_000, "b"]},
        "100,000 names": {**_checkpoint_content(), "names": [str(n) for n in range(100_000)]},
        "names that a terminal obeys": {**_checkpoint_content(), "names": ["\x1b[2J", "a\nb"]},
        "a class": {**_checkpoint_content(), "hyp": torch.nn.Linear(1, 1)},
        "a hyp key of a megabyte": {**_checkpoint_content(), "hyp": {"x" * 1_000_000: 1}},
        "endless": {**_checkpoint_content(), "description": {"backbone": endless}},
        "members of itself": {**_checkpoint_content(), "description": itself},
        "an ensemble of ensembles": {**_checkpoint_content(), "description": doubled},
        "a million members": {**_checkpoint_content(), "description": {"members": [NETWORK] * 1_000_000}},
        "huge layers": {**_checkpoint_content(), "description": {**NETWORK, "width_multiple": 900_000.0}},
    }
    return {title: ("a.pt", saved(content)) for title, content in names.items()} | {
        "empty": ("a.pt", b""),
        "text": ("a.pt", b"hello"),
        "cut off": ("a.pt", whole[:-100]),
        "half": ("a.pt", whole[: len(whole) // 2]),
        "a compressed bomb": ("a.pt", bomb.getvalue()),
        "20,000 entries": ("a.pt", many.getvalue()),
        "a legacy pickle": ("a.pt", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." + bytes(100)),
        "code": ("a.pt", b"cos\nsystem\n(S'true'\ntR."),
    }


def _read_checkpoint(path: Path) -> None:
    found = open_weights(path)
    assert not any(map(name_fault, (*found.names, *found.view_names)))
    assert isinstance(found, checkpoint.Checkpoint)
    found.build()
    OperatingPoint.from_content(found.content.get("operating"), found.path)
    if found.content.get("trained_on") is not None:
        Fingerprint.from_content(found.content["trained_on"], found.path)


# --- what a training goes on from -------------------------------------------------------------------------------------


@cache
def resumable_content() -> dict[str, Any]:
    content = dict(_checkpoint_content())
    network = Network(NETWORK)
    optimizer = torch.optim.SGD(network.parameters(), 0.1, 0.9)
    network(torch.zeros(1, 3, 64, 64)).raw[0].sum().backward()
    optimizer.step()
    options = vars(from_keywords(train.FLAGS, {"epochs": 4}))
    return content | {
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "balancer": Balancer((1.0, 1.0)).state_dict(),
        "random": torch.Generator().get_state(),
        "options": {**plain(options), "typed": ["epochs"]},
        "frame_weights": torch.ones(3, dtype=torch.float64),
        "progress": dataclasses.asdict(EpochProgress(batches=2)),
        "updates": 7,
        "best_fitness": 0.5,
        "best_epoch": 2,
        "seconds": 1.5,
        "finished": False,
    }


def _resumables_made(_: Path) -> st.SearchStrategy[Named]:
    whole = resumable_content()
    keys = sorted(set(whole) - set(checkpoint.REQUIRED))
    options = sorted(whole["options"])
    values = VALUES | st.sampled_from(
        [torch.zeros(0), torch.zeros(2, 3), torch.tensor(math.nan), {"a": torch.zeros(1)}]
    )

    def changed(key: str, value: Any, inner: Sequence[tuple[int, Any]], option: str) -> Named:
        content = dict(whole)
        if key == "options" and option:
            content[key] = {**content[key], option: value}
        elif inner and isinstance(content[key], dict) and key not in ("network", "options"):
            content[key] = replaced(content[key], inner)
        elif value == "":
            del content[key]
        else:
            content[key] = value
        return "last.pt", saved(content)

    return st.builds(changed, st.sampled_from(keys), values, st.just([]) | CHANGES, st.sampled_from(["", *options]))


def _resumables_nasty(_: Path) -> dict[str, Named]:
    whole = resumable_content()
    network, optimizer = whole["network"], whole["optimizer"]
    first = next(iter(network))
    contents: dict[str, dict[str, Any]] = {
        "weights of another shape": {"network": {**network, first: torch.zeros(3)}},
        "weights that are missing": {"network": {n: t for n, t in network.items() if n != first}},
        "weights that are nobody's": {"ema": {**whole["ema"], "x": torch.zeros(1)}},
        "an optimizer of nothing": {"optimizer": {}},
        "an optimizer of other shapes": {
            "optimizer": {**optimizer, "state": {0: {"momentum_buffer": torch.zeros(7, 7, 7)}}}
        },
        "random numbers that are none": {"random": torch.zeros(10, dtype=torch.uint8)},
        "frames of negative weight": {"frame_weights": torch.tensor([-1.0, 1.0])},
        "progress of a megabyte": {"progress": {"x" * 1_000_000: 1}},
        "options of a megabyte": {"options": {**whole["options"], "data": ["x" * 1_000_000]}},
        "epochs that are a word": {"options": {**whole["options"], "epochs": "many"}},
        "no epochs": {"options": {"data": "x.yaml"}},
    }
    return {title: ("last.pt", saved({**whole, **content})) for title, content in contents.items()}


def _read_resumable(path: Path) -> None:
    found = read_or_predecessor(path)
    options = from_keywords(train.FLAGS, {})
    resumed_options(found, options, train.FLAGS)


CHECKPOINTS = Kind(
    _checkpoint_seeds,
    _checkpoints_nasty,
    _read_checkpoint,
    (b"PK\x03\x04", b"PK\x05\x06", b"data.pkl"),
    _checkpoints_made,
)
RESUMED = Kind(
    lambda _: [("last.pt", saved(resumable_content()))],
    _resumables_nasty,
    _read_resumable,
    (b"PK\x03\x04", b"data.pkl"),
    _resumables_made,
)
