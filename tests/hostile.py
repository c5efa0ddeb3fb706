"""Hostile files of every kind that the program reads, and what reading one may end in. No test stands here.

A kind brings sound files (made here), files made of wrong values, and nasty ones made by hand; :func:`cases` draws
from all three and damages bytes. :func:`check` has a file read in a folder of its own and raises a :class:`Fault` for
anything but a result or one clear line.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
import time
import zipfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

import train
from models.balancer import Balancer
from models.yolo import Network
from tests.hostile_dicom import PIECES, dicoms, dicoms_made, dicoms_nasty, read_dicom
from tests.hostile_images import images, images_nasty, read_image_file, read_video, videos, videos_nasty
from tests.hostile_parts import (
    CHANGES,
    LONGEST_LINE,
    LONGEST_WAIT,
    MOST_MEMORY,
    SLOWEST,
    VALUES,
    Case,
    Fault,
    Kind,
    Named,
    Step,
    damaged,
    damages,
    replaced,
)
from tests.hostile_runs import CARDS, METRICS, OUTCOMES
from tests.hostile_texts import (
    LINES,
    balance_seeds,
    history_contents,
    json_made,
    json_nasty,
    label_seeds,
    labels_made,
    labels_nasty,
    list_seeds,
    lists_made,
    lists_nasty,
    read_balance_file,
    read_label_file,
    read_listed,
    read_results_file,
    read_source_list,
    results_seeds,
    sources_nasty,
    tables_made,
    tables_nasty,
)
from tests.hostile_yaml import (
    NETWORK,
    dataset_contents,
    hyp_contents,
    network_contents,
    read_dataset,
    read_network,
    yaml_kind,
)
from tests.phantoms import encode, make_dataset
from utils import checkpoint
from utils.config import ROOT, load_hyperparameters, load_yaml, name_fault, plain
from utils.epoch import EpochProgress
from utils.files import write_text
from utils.flags import from_keywords
from utils.leakage import Fingerprint
from utils.log import InputError, one_line
from utils.loggers import COLUMNS, read_history
from utils.operating import OperatingPoint
from utils.resume import read_or_predecessor, resumed_options
from utils.runtimes import open_weights


def check(case: Case, place: Path) -> tuple[str, str]:
    """Have a file read; ``place`` holds the folder ``area`` of :func:`prepare`.

    Returns:
        "result" and nothing, or "refused" and the line that the user is told.

    Raises:
        Fault: neither, or it took too long, too much memory, or changed a file.
    """
    path = place / "area" / case.name
    path.write_bytes(case.content)
    before = _listing(place)
    memory, started, clock = _forget_peak(), time.process_time(), time.perf_counter()
    ending, line, cause = "result", "", None
    try:
        KINDS[case.kind].read(path)
    except (InputError, OSError) as error:
        ending, line = "refused", one_line(error)
    except Exception as error:  # a fault is told with its cause
        ending, line, cause = "fault", f"{type(error).__name__}: {error}"[:LONGEST_LINE], error
    seconds, waited, grown = time.process_time() - started, time.perf_counter() - clock, _peak() - memory
    faults = [line] if ending == "fault" else []
    if ending == "refused":
        raw = line.replace(str(place), "")
        faults += [f"the line does not name the file: {raw[:300]}"] if case.name not in line else []
        faults += [f"a line of {len(raw)} characters: {raw[:300]}"] if len(raw) > LONGEST_LINE else []
        faults += [f"a line that is none: {raw[:300]!r}"] if not raw.isprintable() else []
    faults += (
        [f"{seconds:.1f} seconds, {waited:.1f} by the clock"] if seconds > SLOWEST or waited > LONGEST_WAIT else []
    )
    faults += [f"{grown / 1e6:,.0f} MB of memory"] if grown > MOST_MEMORY else []
    faults += ["the file was changed"] if not path.exists() or path.read_bytes() != case.content else []
    after = _listing(place)
    changed = sorted(str(p) for p in before.keys() | after.keys() if before.get(p) != after.get(p))
    faults += [f"files were made or changed: {', '.join(changed[:3])}"] if changed else []
    path.unlink(missing_ok=True)
    if faults:
        raise Fault(f"{case.kind} {case.name} ({case.origin}): {'; '.join(faults)}") from cause
    return ending, line


def _listing(place: Path) -> dict[Path, tuple[int, int, int]]:
    found = {}
    for folder, _, files in os.walk(place):
        for name in files:
            path = Path(folder, name)
            state = path.lstat()
            found[path] = (state.st_size, state.st_mtime_ns, state.st_mode)
    return found


def _forget_peak() -> int:
    """Bytes of memory that the process has now; its peak counts from here on, where the system knows it (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return 0
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _status(name: str) -> int:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), 0)


def prepare(place: Path) -> Path:
    """Make ``place/area``: a small data set, and outside of it a frame that no file in it may reach."""
    area = place / "area"
    make_dataset(area, train=3, val=2, shape=(24, 32))
    write_text(area / "listed.yaml", f"path: {area}\ntrain: data.txt\nval: images/val\nnames: [a]\n")
    (place / "secret").mkdir()
    (place / "secret" / "s.png").write_bytes(encode(".png", np.zeros((8, 8, 3), np.uint8)))
    return area


def cases(kind: str, area: Path) -> st.SearchStrategy[Case]:
    """Hostile files of a kind: damaged sound ones, and those of wrong values."""
    this = KINDS[kind]
    seeds = list(this.seeds(area))
    sound = st.sampled_from(seeds)

    def spoilt(first: Named, other: Named, steps: list[Step]) -> Case:
        return Case(kind, first[0], damaged(first[1], steps, other[1]), "damaged")

    found = st.builds(spoilt, sound, sound, damages(this.pieces))
    if this.made is not None:
        found |= this.made(area).map(lambda named: Case(kind, *named, "wrong values"))
    return found


def by_hand(kind: str, area: Path) -> list[Case]:
    """The sound files of a kind, and those that were made by hand."""
    this = KINDS[kind]
    sound = [Case(kind, *named, "sound") for named in this.seeds(area)]
    return sound + [Case(kind, *named, origin) for origin, named in this.nasty(area).items()]


# --- checkpoints ------------------------------------------------------------------------------------------------------


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


def _saved(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def _checkpoint_seeds(_: Path) -> list[Named]:
    return [("a.pt", _saved(_checkpoint_content()))]


def _checkpoints_made(_: Path) -> st.SearchStrategy[Named]:
    def changed(changes: Sequence[tuple[int, Any]], tensor: Any) -> Named:
        content = dict(_checkpoint_content())
        weights = content.pop("ema")
        content = replaced(content, changes)
        if isinstance(content, dict):
            content["ema"] = tensor if tensor is not None else weights
        return "a.pt", _saved(content)

    tensors = st.none() | VALUES | st.just({"a": torch.zeros(2)}) | st.just({"a": torch.zeros(1).expand(10**9)[:1]})
    return st.builds(changed, CHANGES, st.none() | tensors)


def _checkpoints_nasty(_: Path) -> dict[str, Named]:
    whole = _saved(_checkpoint_content())
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
    return {title: ("a.pt", _saved(content)) for title, content in names.items()} | {
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
def _resumable_content() -> dict[str, Any]:
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
    whole = _resumable_content()
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
        return "last.pt", _saved(content)

    return st.builds(changed, st.sampled_from(keys), values, st.just([]) | CHANGES, st.sampled_from(["", *options]))


def _resumables_nasty(_: Path) -> dict[str, Named]:
    whole = _resumable_content()
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
    return {title: ("last.pt", _saved({**whole, **content})) for title, content in contents.items()}


def _read_resumable(path: Path) -> None:
    found = read_or_predecessor(path)
    options = from_keywords(train.FLAGS, {})
    resumed_options(found, options, train.FLAGS)


# --- all kinds --------------------------------------------------------------------------------------------------------

KINDS: Mapping[str, Kind] = {
    "labels": Kind(
        label_seeds, labels_nasty, read_label_file, (b"0 0.5 0.5 0.1 0.1\n", b"\n\n0 1 0\n", b"1 0 0\n"), labels_made
    ),
    "image": Kind(
        lambda _: images(),
        images_nasty,
        read_image_file,
        (b"IHDR", b"IDAT", b"\xff\xd8", b"\xff\xc0", b"\xff\xd9", b"II*\0", b"RIFF"),
    ),
    "dataset": yaml_kind(
        "data.yaml",
        dataset_contents,
        read_dataset,
        escape="path: AREA\ntrain: ../secret\nval: images/val\nnames: [a]\n",
        roundabout="path: AREA\ntrain: images/../../secret\nval: images/val\nnames: [a]\n",
        phantoms="path: AREA/new\ntrain: x\nval: x\nnames: [a]\ngenerate: {name: phantom, patients: 10000000}\n",
        pattern="path: AREA\ntrain: images/train\nval: x\nnames: [a]\ngroup: '" + "(" * 5000 + ")" * 5000 + "'\n",
        slow="path: AREA\ntrain: images/train\nval: x\nnames: [a]\ngroup: '((.|.)+)+$x'\n",
    ),
    "hyp": yaml_kind("hyp.yaml", hyp_contents, load_hyperparameters),
    "network": yaml_kind("network.yaml", network_contents, read_network),
    "list": Kind(list_seeds, lists_nasty, read_listed, tuple(line.encode() for line in LINES), lists_made),
    "sources": Kind(list_seeds, sources_nasty, read_source_list, tuple(line.encode() for line in LINES), lists_made),
    "checkpoint": Kind(
        _checkpoint_seeds,
        _checkpoints_nasty,
        _read_checkpoint,
        (b"PK\x03\x04", b"PK\x05\x06", b"data.pkl"),
        _checkpoints_made,
    ),
    "resumed": Kind(
        lambda _: [("last.pt", _saved(_resumable_content()))],
        _resumables_nasty,
        _read_resumable,
        (b"PK\x03\x04", b"data.pkl"),
        _resumables_made,
    ),
    "results": Kind(
        results_seeds,
        tables_nasty("results.csv", results_seeds),
        read_results_file,
        (b",", b'"'),
        tables_made("results.csv", COLUMNS[:5]),
    ),
    "balance": Kind(
        balance_seeds,
        tables_nasty("balance.csv", balance_seeds),
        read_balance_file,
        (b",", b'"'),
        tables_made("balance.csv", ("epoch", "step", "weight/det", "weight/view", "cosine/weight")),
    ),
    "history": Kind(
        lambda area: [("training_history.json", json.dumps(content).encode()) for content in history_contents(area)],
        json_nasty("training_history.json"),
        read_history,
        (b"{", b"[", b"null"),
        json_made("training_history.json", history_contents),
    ),
    "outcomes": OUTCOMES,
    "metrics": METRICS,
    "card": CARDS,
    "dicom": Kind(lambda _: dicoms(), dicoms_nasty, read_dicom, PIECES, dicoms_made),
    "video": Kind(
        lambda _: videos(), videos_nasty, read_video, (b"RIFF", b"00dc", b"moov", b"mdat", b"\xff\xff\xff\x00")
    ),
}
