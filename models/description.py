"""A network yaml's mapping, checked: its keys, its scalings and its rows.

A row is ``[from, number, module, args]``: the layers it reads (-1 is the one before), how often it repeats (scaled by
``depth_multiple``), the name of a module, and its arguments (output channels scaled by ``width_multiple``).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from models.attention import GATES
from utils.log import InputError, shown

KEYS = {
    "nc", "nv", "depth_multiple", "width_multiple", "anchors", "backbone", "head", "cbam_gate", "view_dropout",
}  # fmt: skip
LARGEST_NUMBER = 1e6  # that a description may hold
MOST_BLOCKS = 1000  # of a network, repetitions counted; YOLOv5x6 has about 80
REQUIRED_KEYS = ("nc", "depth_multiple", "width_multiple", "anchors", "backbone", "head")


@dataclass(frozen=True)
class Row:
    """One parsed row: its index, the absolute indices it reads (-1 is the image), and the row's own words."""

    index: int
    sources: tuple[int, ...]
    number: int
    name: str
    arguments: tuple[Any, ...]


class Description:
    """What a network yaml says, and the two scalings it asks for.

    Args:
        mapping: the yaml's; not changed.
        modules: names that rows may ask for.

    Raises:
        InputError: an unknown key, a missing one, a value or a row that makes no sense.
    """

    def __init__(self, mapping: Mapping[str, Any], modules: Collection[str]) -> None:
        unknown, missing = sorted(map(str, set(mapping) - KEYS)), [key for key in REQUIRED_KEYS if key not in mapping]
        if unknown or missing:
            raise InputError(
                f"network description: unknown keys {shown(unknown)}, missing keys {missing}; known are {sorted(KEYS)}"
            )
        self.nc = _positive_integer(mapping, "nc")
        self.nv = _positive_integer(mapping, "nv") if "nv" in mapping else 3
        self.depth_multiple = _positive_number(mapping, "depth_multiple")
        self.width_multiple = _positive_number(mapping, "width_multiple")
        self.cbam_gate = mapping.get("cbam_gate", "identity")
        if self.cbam_gate not in GATES:
            raise InputError(f"network description: cbam_gate: expected one of {GATES}, got {shown(self.cbam_gate)}")
        self.view_dropout = mapping.get("view_dropout", 0.0)
        if not is_number(self.view_dropout) or not 0 <= self.view_dropout <= 1:
            raise InputError(f"network description: view_dropout: expected 0 to 1, got {shown(self.view_dropout)}")
        self.anchors = mapping["anchors"]
        self.rows = _parse_rows(mapping, modules)
        blocks = sum(self.depth(row.number) for row in self.rows)
        if blocks > MOST_BLOCKS:
            raise InputError(f"network description: expected at most {MOST_BLOCKS:,} blocks, got {blocks:,}")

    def width(self, channels: Any) -> int:
        """Channels after scaling, rounded up to a multiple of 8."""
        return math.ceil(channels * self.width_multiple / 8) * 8

    def depth(self, number: int) -> int:
        """Repetitions after scaling; at least one."""
        return max(round(number * self.depth_multiple), 1) if number > 1 else number

    def value(self, argument: Any) -> Any:
        """The words ``nc nv anchors None`` of an argument list as what they stand for."""
        words = {"nc": self.nc, "nv": self.nv, "anchors": self.anchors, "None": None}
        return words.get(argument, argument) if isinstance(argument, str) else argument


def _parse_rows(mapping: Mapping[str, Any], modules: Collection[str]) -> list[Row]:
    rows: list[Row] = []
    for part in ("backbone", "head"):
        if not isinstance(mapping[part], list) or not mapping[part]:
            raise InputError(f"network description: {part}: expected a list of rows, got {shown(mapping[part])}")
        for row in mapping[part]:
            rows.append(_parse_row(row, rows, modules))
    return rows


def _parse_row(row: Any, before: Sequence[Row], modules: Collection[str]) -> Row:
    index = len(before)
    if not (isinstance(row, Sequence) and len(row) == 4 and isinstance(row[3], Sequence)):
        raise InputError(f"network description: layer {index}: expected [from, number, module, args], got {shown(row)}")
    source, number, name, arguments = row
    if not isinstance(name, str) or name not in modules:
        raise InputError(
            f"network description: layer {index}: unknown module {shown(name)}; known are {', '.join(modules)}"
        )
    sources = source if isinstance(source, Sequence) else [source]
    if not all(isinstance(s, int) and -index - 1 <= s < index for s in sources) or not sources:
        raise InputError(f"network description: layer {index}: from {shown(source)} is not a layer before it")
    if not isinstance(number, int) or not 1 <= number < LARGEST_NUMBER:
        raise InputError(
            f"network description: layer {index}: expected a positive number of modules, got {shown(number)}"
        )
    # -1 relative to layer 0 is the image itself; the same index, -1, stands for it in absolute terms
    absolute = tuple(s if s >= 0 else index + s for s in sources)
    heads = [s for s in absolute if s >= 0 and before[s].name in ("Detect", "ViewHead")]
    if heads:
        raise InputError(f"network description: layer {index} reads layer {heads[0]}, a head, which has no features")
    return Row(index, absolute, number, name, tuple(arguments))


def _positive_integer(mapping: Mapping[str, Any], key: str) -> int:
    value = mapping[key]
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < LARGEST_NUMBER:
        raise InputError(f"network description: {key}: expected a positive integer, got {shown(value)}")
    return value


def _positive_number(mapping: Mapping[str, Any], key: str) -> float:
    value = mapping[key]
    if not is_number(value) or not value > 0:
        raise InputError(f"network description: {key}: expected a positive number, got {shown(value)}")
    return float(value)


def is_number(value: Any) -> bool:
    """Whether a description may hold this as a number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < LARGEST_NUMBER
