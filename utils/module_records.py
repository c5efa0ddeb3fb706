"""Records of a pickled network: its tensors by name, and whether it computes what ours of the same yaml does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from utils.archive import plain
from utils.unpickling import Record, RefusedError

MOST_MODULES = 20_000  # the largest YOLOv5 has about 900
# in evaluation these leave what passes them as it is, or are written as functions here
WITHOUT_EFFECT = {"Identity", "Dropout", "Dropout2d"}
CONTAINERS = {"Sequential", "ModuleList"}  # of the same modules, in the same order
IN_ATTENTION = {"AdaptiveAvgPool2d", "AdaptiveMaxPool2d", "Sigmoid", "ReLU"}
# of each kind of layer, the attributes that its figures depend on beside its weights
ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
    "Conv2d": ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode"),
    "BatchNorm2d": ("eps",),
    "MaxPool2d": ("kernel_size", "stride", "padding", "dilation", "ceil_mode"),
    "Upsample": ("size", "scale_factor", "mode", "align_corners"),
    "Bottleneck": ("add",),
    "Concat": ("d",),
    "Detect": ("nc", "na", "stride"),
}
OURS = {("Concat", "d"): "dimension", ("Detect", "stride"): "strides"}  # those that have another name here


def modules(root: Record) -> Iterator[tuple[str, Record]]:
    """Each module of a network under its name, the root first, as ``named_modules`` would.

    Raises:
        RefusedError: more than any network has, as where a module contains itself.
    """
    waiting = [("", root)]
    for _ in range(MOST_MODULES):
        if not waiting:
            return
        name, record = waiting.pop()
        yield name, record
        children = _mapping(record, "_modules")
        inside = [(f"{name}.{key}" if name else key, child) for key, child in children.items()]
        waiting += [(key, child) for key, child in reversed(inside) if isinstance(child, Record)]
    raise RefusedError(f"expected a network of at most {MOST_MODULES:,} modules, got one without end")


def state_of(root: Record) -> dict[str, Tensor]:
    """The tensors of a network by their state names, floating-point ones in fp32."""
    state: dict[str, Tensor] = {}
    for name, record in modules(root):
        left_out = record.get("_non_persistent_buffers_set")
        for group in ("_parameters", "_buffers"):
            for key, tensor in _mapping(record, group).items():
                kept = group == "_parameters" or not isinstance(left_out, list) or key not in left_out
                if isinstance(tensor, Tensor) and kept:
                    full = f"{name}.{key}" if name else key
                    state[full] = tensor.float() if tensor.is_floating_point() else tensor
    return state


def differences(root: Record, network: nn.Module) -> list[str]:
    """A line for each layer that the pickled network has otherwise than ours, by kind or by attribute.

    What a class of the same name does in its own code cannot be seen.
    """
    ours = dict(network.named_modules())
    theirs = dict(modules(root))
    found = []
    for name, record in theirs.items():
        kind = short(record)
        if not name or kind in WITHOUT_EFFECT:
            continue
        if name not in ours:
            if not _in_attention(name, ours) or kind not in IN_ATTENTION:
                found.append(f"{name}: {kind} there, nothing here")
            continue
        own = type(ours[name]).__name__
        if own != kind and not {own, kind} <= CONTAINERS and not _in_attention(name, ours):
            found.append(f"{name}: {kind} there, {own} here")
            continue
        found += [f"{name} ({kind}): {line}" for line in _other_attributes(record, ours[name])]
    missing = [name for name in ours if name and name not in theirs and not _in_attention(name, ours)]
    return found + [f"{name}: nothing there, {type(ours[name]).__name__} here" for name in missing]


def short(record: Record) -> str:
    """The class of a record, without its module."""
    return record.kind.rpartition(".")[2]


def _in_attention(name: str, ours: Mapping[str, nn.Module]) -> bool:
    """Whether a module lies inside a CBAM, whose parts forks name differently."""
    parts = name.split(".")
    return any(type(ours.get(".".join(parts[:length]))).__name__ == "CBAM" for length in range(1, len(parts)))


def _other_attributes(record: Record, module: nn.Module) -> Iterator[str]:
    kind = type(module).__name__
    for attribute in ATTRIBUTES.get(kind, ()):
        if attribute not in _mapping(record):
            continue
        own = OURS.get((kind, attribute), attribute)
        there, here = _comparable(record.get(attribute)), _comparable(getattr(module, own))
        if there != here:
            yield f"{attribute} {there} there, {here} here"


def _comparable(value: Any) -> Any:
    """Numbers alone or in a list of several; a pair of equal ones is one number, and 2.0 is 2."""
    value = plain(value.to(torch.float64) if isinstance(value, Tensor) else value)
    if isinstance(value, list) and value and all(item == value[0] for item in value):
        value = value[0]
    return value


def _mapping(record: Record, name: str | None = None) -> dict[Any, Any]:
    value = record.state if name is None else record.get(name)
    return value if isinstance(value, dict) else {}
