"""A table of candidates -> the settings that a training of each needs: hyperparameters, flags and network."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

import torch

import train
from models.yolo import Network
from utils.balancing import check_balance
from utils.config import Hyperparameters, find_file, hyperparameters_from, load_yaml, plain
from utils.flags import from_keywords
from utils.log import InputError, shown
from utils.run_folder import FROM_HYP
from utils.sampling import check_sampling

BASE = "base"
PARTS = ("hyp", "flags", "network")
ALL_OF = "all of"
ROWS = "rows"  # of a candidate's network: rows of the network yaml that it replaces, by index
RESERVED = {  # flags that a candidate cannot change: they are the search's own
    "data", "hyp", "folds", "seed", "resume", "project", "name", "exist_ok", "noplots", "bootstrap", "device", "amp",
    "threads", "workers", "traceback", "permute_labels", "download", "weights",
}  # fmt: skip


@dataclass(frozen=True)
class Candidate:
    """A row of the table.

    Attributes:
        why: the reason, written before its run.
        hyp, flags, network: what it changes of the base.
    """

    name: str
    why: str
    hyp: Mapping[str, Any] = field(default_factory=dict)
    flags: Mapping[str, Any] = field(default_factory=dict)
    network: Mapping[str, Any] = field(default_factory=dict)

    @property
    def changes(self) -> str:
        """What it changes, in one line."""
        parts = ((part, getattr(self, part)) for part in PARTS)
        return "; ".join(
            f"{part}.{key}={json.dumps(value, default=str)}" for part, of in parts for key, value in of.items()
        )


@dataclass(frozen=True)
class Settings:
    """What a training is made with, but for data and seed.

    Attributes:
        hyp: content of its hyp file.
        flags: of train.py, by option's name; those at their default are left out.
        network: content of its network yaml.
    """

    hyp: Mapping[str, Any]
    flags: Mapping[str, Any]
    network: Mapping[str, Any]

    def digest(self, *more: Any) -> str:
        """Ten signs that differ where the settings do, or what else is given.

        Keys at their default do not count, so that a key which the program learns later leaves old digests alone.
        """
        defaults = plain({f.name: f.default for f in fields(Hyperparameters)}) | {"seed": self.hyp["seed"]}
        hyp = {key: value for key, value in self.hyp.items() if value != defaults[key]}
        content = json.dumps([hyp, self.flags, self.network, more], sort_keys=True, default=str)
        return hashlib.sha256(content.encode()).hexdigest()[:10]


def base_settings(cfg: str, hyp: str, **flags: Any) -> Settings:
    """The base's, from flags as they are typed.

    Raises:
        InputError: a file that is not there, or faults in it.
    """
    source = find_file(hyp, "hyp", flag="--hyp")
    values = plain(asdict(hyperparameters_from(load_yaml(source), source)))
    network = load_yaml(find_file(cfg, "models", "models/hub", flag="--cfg"))
    return _checked(Settings(values, {**_off_default(flags), "noval": True}, network), source)


def read_candidates(path: Path) -> dict[str, Candidate]:
    """The table, in its order.

    Raises:
        InputError: anything else than a table, or one without a base.
    """
    found: dict[str, Candidate] = {}
    for name, row in load_yaml(path).items():
        where = f"{path}: {name}"
        if not isinstance(row, dict) or not set(row) <= {"why", ALL_OF, *PARTS}:
            raise InputError(f"{where}: expected why, and any of {', '.join((*PARTS, ALL_OF))}, got {shown(row)}")
        if not re.fullmatch(r"[\w.+-]{1,60}", name):
            raise InputError(f"{path}: expected names of letters, digits and . + - _, got {shown(name)}")
        if not isinstance(row.get("why"), str) or not row["why"].strip():
            raise InputError(f"{where}: why: expected the reason for trying it, got {shown(row.get('why'))}")
        joined = row.get(ALL_OF, [])
        unknown = (
            [part for part in joined if not isinstance(part, str) or part not in found]
            if isinstance(joined, list)
            else [joined]
        )
        if unknown:
            raise InputError(f"{where}: {ALL_OF}: expected names of candidates above it, got {shown(unknown[0])}")
        if not all(isinstance(row.get(part, {}), dict) for part in PARTS):
            raise InputError(f"{where}: expected a mapping in each of {', '.join(PARTS)}")
        layers = [{part: getattr(found[one], part) for part in PARTS} for one in joined] + [row]
        found[name] = Candidate(name, row["why"], **{part: _joined(layers, part, where) for part in PARTS})
    if BASE not in found or found[BASE].changes:
        raise InputError(f"{path}: expected a candidate {BASE!r} that changes nothing")
    return found


def _joined(layers: list[dict[str, Any]], part: str, where: str) -> dict[str, Any]:
    """What several candidates change together."""
    whole: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.get(part, {}).items():
            if key in whole and whole[key] != value:
                raise InputError(f"{where}: {part}.{key}: expected one value, got {whole[key]} and {shown(value)}")
            whole[key] = value
    return whole


def settled(candidate: Candidate, base: Settings, source: Path) -> Settings:
    """The base's settings with what a candidate changes.

    Args:
        source: of the candidate, for errors.

    Raises:
        InputError: an unknown key, or a value that it does not take.
    """
    where = Path(f"{source}: {candidate.name}")
    known = vars(from_keywords(train.FLAGS, dict(base.flags)))
    typed: dict[str, Any] = {}
    for flag, value in candidate.flags.items():
        try:
            name = next(iter(from_keywords(train.FLAGS, {flag.replace("-", "_"): None}).typed))
            typed[name] = getattr(from_keywords(train.FLAGS, {name: _scaled(value, known[name])}), name)
        except (InputError, ValueError) as error:
            raise InputError(f"{where}: flags: {flag}: {error}") from None
        if name in RESERVED:
            raise InputError(f"{where}: flags: {flag}: expected another flag, this one is the search's own")
    of_hyp = {name: typed.pop(name) for name in FROM_HYP if name in typed}  # a hyp file says these, too
    network = load_yaml(find_file(typed.pop("cfg"), "models", "models/hub", flag=f"{where}: flags: cfg")) if (
        "cfg" in typed
    ) else dict(base.network)  # fmt: skip
    try:
        hyp = {**base.hyp, **{key: _scaled(value, base.hyp.get(key)) for key, value in candidate.hyp.items()}}
        changed = {key: _scaled(value, network.get(key)) for key, value in candidate.network.items() if key != ROWS}
    except ValueError as error:
        raise InputError(f"{where}: {error}") from None
    network = _with_rows({**network, **changed}, candidate.network.get(ROWS, {}), where)
    values = plain(asdict(hyperparameters_from({**hyp, **of_hyp}, where)))
    return _checked(Settings(values, _off_default({**base.flags, **typed}), network), where)


def _scaled(value: Any, base: Any) -> Any:
    """``x2`` as twice the base's value, in the base's kind of number; anything else as it is."""
    if not (isinstance(value, str) and value.startswith("x") and value[1:].replace(".", "", 1).isdecimal()):
        return value
    if isinstance(base, bool) or not isinstance(base, (int, float)):
        raise ValueError(f"{value}: expected a number in the base to multiply, got {shown(base)}")
    return type(base)(round(base * float(value[1:]), 10))


def _with_rows(network: dict[str, Any], rows: Any, where: Path) -> dict[str, Any]:
    """A network yaml's content with other rows in the place of some."""
    parts = {part: list(network[part]) for part in ("backbone", "head")}
    length = len(parts["backbone"])
    whole = [*parts["backbone"], *parts["head"]]
    for index, row in rows.items() if isinstance(rows, dict) else [(None, rows)]:
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(whole):
            raise InputError(
                f"{where}: network: {ROWS}: expected rows by index, 0 to {len(whole) - 1}, got {shown(rows)}"
            )
        whole[index] = row
    return {**network, "backbone": whole[:length], "head": whole[length:]}


def _off_default(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Flags of train.py that are not at their default."""
    defaults = vars(from_keywords(train.FLAGS, {}))
    return {name: value for name, value in flags.items() if value != defaults[name]}


def _checked(settings: Settings, where: Path) -> Settings:
    """The settings, once a network is planned and the balancer is known."""
    hyp = hyperparameters_from(settings.hyp, where)
    check_balance(hyp, str(where), "")
    check_sampling(hyp, str(where))
    try:
        _plan(json.dumps(settings.network, default=str), hyp.classification_enabled)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    return settings


@cache
def _plan(network: str, with_view: bool) -> None:
    """Build a network without numbers, from its yaml's content as json; most candidates have that of the base."""
    with torch.device("meta"):
        Network(json.loads(network), with_view=with_view)
