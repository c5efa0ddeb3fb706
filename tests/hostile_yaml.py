"""Hostile yaml files: data sets, hyperparameters, networks. No test stands here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from models.yolo import Network
from tests.hostile_parts import CHANGES, Kind, Named, replaced
from utils.config import ROOT, load_dataset_config, load_yaml, name_fault
from utils.groups import clips, patients
from utils.log import InputError
from utils.split_files import list_images

YAML_PIECES = (
    b"&a",
    b"*a",
    b"<<: *a\n",
    b"!!python/object/apply:os.system ['true']",
    b"!!binary x",
    b"!!set {a}",
    b": ",
    b"- ",
    b"[",
    b"{",
    b"'",
    b'"',
    b"|\n",
    b"? ",
    b"---\n",
    b"%YAML 9.9\n",
    b"!!timestamp 2026-99-99",
    b"0x" + b"f" * 300,
    b"1:" * 200,
    b"~",
    b"\t",
)


def yaml_bombs() -> dict[str, bytes]:
    """Yaml files that are no mapping of use, whatever they are read for."""
    laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
    )
    merges = "a0: &a0 {k: 1}\n" + "".join(
        f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 12)
    )
    texts = {
        "a cycle": "names: &a [*a]\ntrain: *a\nval: *a\n",
        "a cycle of mappings": "names: &a {0: *a}\ntrain: x\nval: x\n",
        "a cycle of keys": "&a {*a : 1}\n",
        "deep lists": "names: " + "[" * 20_000 + "]" * 20_000,
        "deep mappings": "names: " + "{a: " * 20_000,
        "deep blocks": "".join(" " * n + "a:\n" for n in range(1_000)),
        "laughs": laughs + "names: *a11\ntrain: x\nval: x\n",
        "merges": merges + "names: *a11\n",
        "laughs as a key": laughs + "? *a11\n: 1\n",
        "10 MB": "names: [" + "abcdefg, " * 1_200_000 + "]\n",
        "just under 1 MB": "".join(f"k{n}: {n}\n" for n in range(70_000)),
        "900 kB in one word": "names: " + "x" * 900_000,
        "900 kB of list": "names: [" + "a, " * 300_000 + "]\ntrain: x\nval: x\n",
        "900 kB of numbers": "lr0: 0x" + "f" * 900_000,
        "code": "names: !!python/object/apply:os.system ['touch pwned']\n",
        "a class": "names: !!python/name:os.system ''\n",
        "a tag": "names: !evil [a]\n",
        "keys twice": "names: [a]\nnames: [b]\ntrain: a\ntrain: b\nval: a\nlr0: 1\nlr0: 2\n",
        "two documents": "names: [a]\n---\nnames: [b]\n",
        "keys that are lists": "[a, b]: 1\n",
        "a date": "names: 2026-01-01\nlr0: 2026-01-01\n",
        "a date that is none": "names: 2026-99-99\n",
        "a text as a date": "lr0: !!timestamp soon\n",
        "seconds": "lr0: 1:60:60:60\n",
        "binary": "names: !!binary aGVsbG8=\n",
        "a set": "names: !!set {a, b}\ntrain: x\nval: x\n",
        "pairs": "names: !!omap [a: 1]\n",
        "half a pair": 'names: ["\\ud800"]\ntrain: x\nval: x\n',
        "what a terminal obeys": 'names: ["\\e[2J", "b\\nc"]\ntrain: x\nval: x\n',
        "a number of 5000 digits": "lr0: " + "9" * 5000,
    }
    found = {title: text.encode() for title, text in texts.items()}
    return found | {
        "UTF-16": "names: [a]".encode("utf-16"),
        "no text": bytes(range(256)),
        "null bytes": b"names: [a]\0\n",
        "empty": b"",
    }


def yaml_kind(name: str, contents: Callable[[Path], Sequence[Any]], read: Callable[[Path], object], **own: str) -> Kind:
    """A yaml file of some use; ``own`` are nasty ones of this use, AREA standing for the folder."""

    def seeds(area: Path) -> list[Named]:
        return [(name, yaml.safe_dump(content, sort_keys=False).encode()) for content in contents(area)]

    def nasty(area: Path) -> dict[str, Named]:
        special = {title: text.replace("AREA", str(area)).encode() for title, text in own.items()}
        return {title: (name, content) for title, content in (yaml_bombs() | special).items()}

    def made(area: Path) -> st.SearchStrategy[Named]:
        def changed(content: Any, changes: Sequence[tuple[int, Any]]) -> Named:
            text = yaml.dump(replaced(content, changes), sort_keys=False, Dumper=yaml.SafeDumper)
            return name, text.encode("utf-8", "surrogatepass")

        return st.builds(changed, st.sampled_from(list(contents(area))), CHANGES)

    return Kind(seeds, nasty, read, YAML_PIECES, made)


def dataset_contents(area: Path) -> list[Any]:
    common = {"path": str(area), "names": ["AR", "MR", "PR", "TR"], "view_names": ["PLAX", "PSAX", "A4C"]}
    return [
        {**common, "train": "images/train", "val": "images/val", "group": r"^(p\d+)-", "clip": r"-(f\d+)", "nc": 4},
        {**common, "train": ["images/train", "images/val"], "val": "images/val", "names": {0: "a", 1: "b"}},
        {**common, "train": "images/train", "val": "images/val", "generate": {"name": "phantom", "patients": 9}},
    ]


def read_dataset(path: Path) -> None:
    config = load_dataset_config(path)
    area = path.parent
    assert not any(map(name_fault, (*config.names, *config.view_names)))
    for split, entries in config.splits.items():
        # a root of its own is the user's wish; elsewhere nothing is looked for here
        if config.root == area and all(entry.is_relative_to(area) for entry in entries):
            files = list_images(config, split)
            assert all(file.resolve().is_relative_to(area) for file in files)
            patients(config, files), clips(config, files)


def hyp_contents(_: Path) -> list[Any]:
    return [load_yaml(path) for path in sorted((ROOT / "hyp").glob("*.yaml"))[:3]]


NETWORK: dict[str, Any] = {
    "nc": 2,
    "depth_multiple": 1.0,
    "width_multiple": 0.125,
    "anchors": [[10, 13, 16, 30]],
    "backbone": [[-1, 1, "Conv", [64, 3, 2]], [-1, 1, "C3", [64]], [-1, 1, "CBAM", []], [[-1, 0], 1, "Concat", [1]]],
    "head": [
        [-1, 1, "Conv", [64, 1, 1]],
        [-1, 1, "nn.Upsample", [None, 2, "nearest"]],
        [-1, 1, "SPPF", [64, 5]],
        [[6], 1, "Detect", ["nc", "anchors"]],
    ],
}


def network_contents(_: Path) -> list[Any]:
    small = load_yaml(ROOT / "models/yolov5n.yaml")
    return [NETWORK, {**small, "width_multiple": 0.125}]


def read_network(path: Path) -> None:
    try:
        Network(load_yaml(path))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error  # train.py names its flag
