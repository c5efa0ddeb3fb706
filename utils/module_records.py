"""Records of a pickled network: its tensors by name, and whether it computes what ours of the same yaml does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from utils.pickled_values import plain
from utils.unpickling import Record, RefusedError

MOST_MODULES = 20_000  # the largest YOLOv5 has about 900
DEEPEST = 50
LONGEST = 200  # characters of a name
# in evaluation these leave what passes them as it is
WITHOUT_EFFECT = {"Identity", "Dropout", "Dropout2d"}
# pairs that compute the same in evaluation: of the same modules in the same order; of the same statistics
ALIKE = ({"Sequential", "ModuleList"}, {"SyncBatchNorm", "BatchNorm2d"})
PARTS_OF_ATTENTION = {"ChannelAttention", "SpatialAttention"}  # forks name these classes as they like
# which CBAM writes as functions here, and most forks as modules
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
    waiting, seen = [("", root)], 1
    while waiting:
        name, record = waiting.pop()
        yield name, record
        children = [(key, child) for key, child in _mapping(record, "_modules").items() if isinstance(child, Record)]
        seen += len(children)
        if seen > MOST_MODULES or name.count(".") > DEEPEST:
            raise RefusedError(f"expected a network of at most {MOST_MODULES:,} modules, got one without end")
        waiting += [(f"{name}.{checked(key)}" if name else checked(key), child) for key, child in reversed(children)]


def checked(key: Any) -> str:
    """The name of a module, a parameter or a buffer, as torch allows them.

    Raises:
        RefusedError: it is none.
    """
    if not isinstance(key, str) or not 0 < len(key) <= LONGEST or "." in key or not key.isprintable():
        raise RefusedError("it has a module or a tensor under something that is no name")
    return key


def state_of(root: Record) -> dict[str, Tensor]:
    """The tensors of a network by their state names, floating-point ones in fp32."""
    state: dict[str, Tensor] = {}
    copies: dict[int, Tensor] = {}  # one a tensor, however often it is named
    for name, record in modules(root):
        names = record.get("_non_persistent_buffers_set")
        left_out = {key for key in names if isinstance(key, str)} if isinstance(names, list) else set()
        for group in ("_parameters", "_buffers"):
            for key, tensor in _mapping(record, group).items():
                if isinstance(tensor, Tensor) and (group == "_parameters" or key not in left_out):
                    full = f"{name}.{checked(key)}" if name else checked(key)
                    if id(tensor) not in copies:
                        copies[id(tensor)] = tensor.float() if tensor.is_floating_point() else tensor
                    state[full] = copies[id(tensor)]
    return state


def differences(root: Record, network: nn.Module) -> list[str]:
    """A line for each layer that the pickled network has otherwise than ours, by kind, by attribute or by weight.

    What a class of the same name does in its own code cannot be seen.
    """
    ours, theirs = dict(network.named_modules()), dict(modules(root))
    attention = tuple(f"{name}." for name, module in ours.items() if type(module).__name__ == "CBAM")
    found: list[str] = []
    for name, record in theirs.items():
        kind = short(record)
        harmless = WITHOUT_EFFECT | (IN_ATTENTION if name.startswith(attention) else set())
        if name in ours:
            found += _other_layer(name, record, ours[name])
        elif kind not in harmless or any(
            isinstance(tensor, Tensor) for tensor in _mapping(record, "_parameters").values()
        ):
            found.append(f"{name}: {kind} there, nothing here")
    missing = [name for name in ours if name not in theirs and not name.startswith(attention)]
    return found + [f"{name}: nothing there, {type(ours[name]).__name__} here" for name in missing]


def _other_layer(name: str, record: Record, module: nn.Module) -> Iterator[str]:
    """How a layer differs from ours of the same name."""
    kind, own = short(record), type(module).__name__
    if name and kind != own and {kind, own} not in ALIKE and own not in PARTS_OF_ATTENTION:
        yield f"{name}: {kind} there, {own} here"
        return
    for key, tensor in _mapping(record, "_parameters").items():
        if isinstance(tensor, Tensor) and getattr(module, str(key), None) is None:
            yield f"{name} ({kind}): {key} there, nothing here"
    for attribute in ATTRIBUTES.get(own, ()):
        if attribute in _mapping(record):
            there = _comparable(record.get(attribute))
            here = _comparable(getattr(module, OURS.get((own, attribute), attribute)))
            if there != here:
                yield f"{name} ({kind}): {attribute} {there} there, {here} here"


def short(record: Record) -> str:
    """The class of a record, without its module."""
    return record.kind.rpartition(".")[2]


def _comparable(value: Any) -> Any:
    """Numbers alone, or in a list of several that differ; 2.0 is 2."""
    value = plain(value.to(torch.float64) if isinstance(value, Tensor) else value)
    if isinstance(value, list) and value and all(item == value[0] for item in value):
        value = value[0]
    return value


def _mapping(record: Record, name: str | None = None) -> dict[Any, Any]:
    value = record.state if name is None else record.get(name)
    return value if isinstance(value, dict) else {}
