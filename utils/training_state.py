"""What a checkpoint must hold for a training to go on from it, checked before any of it is put to use."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from utils.checkpoint import Checkpoint
from utils.epoch import EpochProgress
from utils.flags import Flag
from utils.log import InputError, shown

PROGRESS = tuple(field.name for field in fields(EpochProgress))


def check_state(found: Checkpoint) -> None:
    """Check the state beside the network; of a checkpoint without an optimizer, which holds none, nothing.

    What only the training knows is not compared: the frames of its data, and what its balancer is.

    Raises:
        InputError: part of it is missing, of another kind, or does not fit the network.
    """
    content = found.content
    if "optimizer" not in content or "network" not in content:
        return
    for key, fault in _FAULTS.items():
        try:
            words = fault(content)
        except (TypeError, ValueError, LookupError, AttributeError, RuntimeError, OverflowError):
            words = "something that can be gone on with"
        if words:
            raise InputError(f"{found.path}: {key}: expected {words}, got {shown(content.get(key))}")
    names = set(found.build().state_dict())
    for key in ("network", "ema"):
        strange = sorted(map(str, names ^ set(content[key])))
        if strange:
            raise InputError(f"{found.path}: {key}: expected the network's tensors, got or lacks {shown(strange[0])}")


def check_options(stored: Mapping[str, Any], flags: Sequence[Flag], source: object) -> None:
    """Check the options a run was started with against the flags of its script.

    Args:
        source: the checkpoint, for messages.

    Raises:
        InputError: one is of another kind than its flag takes, or there is no number of epochs.
    """
    if "epochs" not in stored:
        raise InputError(f"{source}: options: expected epochs among them, got {shown(sorted(stored))}")
    for flag in flags:
        if flag.name in stored and not flag.refused and not _is_option(flag, stored[flag.name]):
            raise InputError(
                f"{source}: options: {flag.name}: expected what --{flag.names.split()[0]} takes, "
                f"got {shown(stored[flag.name])}"
            )
    typed = stored.get("typed", ())
    if not isinstance(typed, (list, tuple)) or not all(isinstance(name, str) for name in typed):
        raise InputError(f"{source}: options: typed: expected names of flags, got {shown(typed)}")


def _is_option(flag: Flag, value: Any) -> bool:
    default = list(flag.default) if isinstance(flag.default, tuple) else flag.default
    if type(value) is type(default) and value == default:
        return True
    if value is None:  # as from a notebook
        return not default
    if default is False or flag.kind is bool:
        return isinstance(value, bool)
    if flag.nargs == "+":
        return isinstance(value, (list, tuple)) and bool(value) and all(_is_kind(flag.kind, item) for item in value)
    if flag.nargs == "?" and isinstance(value, bool):
        return True
    return _is_kind(flag.kind, value)


def _is_kind(kind: Callable[[str], Any], value: Any) -> bool:
    if kind is int:
        return type(value) is int and abs(value) < 2**63
    if kind is float:
        return type(value) in (int, float) and abs(value) < math.inf
    return isinstance(value, str) and "\0" not in value


def _fault_of_network(content: Mapping[str, Any]) -> str:
    network, ema = content["network"], content["ema"]
    alike = all(name in ema and tensor.shape == ema[name].shape for name, tensor in network.items())
    return "" if alike and all(isinstance(name, str) for name in network) else "tensors as those of ema"


def _fault_of_optimizer(content: Mapping[str, Any]) -> str:
    """Each state belongs to a parameter, so that its tensors are single numbers or of some parameter's shape."""
    optimizer, shapes = content["optimizer"], {tensor.shape for tensor in content["network"].values()}
    groups, states = optimizer["param_groups"], optimizer["state"]
    numbers = [number for group in groups for number in group["params"]]
    settings = [value for group in groups for name, value in group.items() if name != "params"]
    good = all(isinstance(group, dict) and "lr" in group and _is_kind(float, group["lr"]) for group in groups)
    good = good and all(value is None or isinstance(value, (bool, int, float, tuple, list)) for value in settings)
    good = good and sorted(numbers) == list(range(len(numbers))) and set(states) <= set(numbers)
    kept = [value for state in states.values() for value in state.values()]
    good = good and all(not isinstance(v, Tensor) or v.numel() == 1 or v.shape in shapes for v in kept)
    return "" if good else "an optimizer's state of this network"


def _fault_of_balancer(content: Mapping[str, Any]) -> str:
    weights = content["balancer"]["weights"]
    good = isinstance(weights, Tensor) and weights.ndim == 1 and len(weights) > 0 and bool(weights.isfinite().all())
    rates = content["balancer"].get("rates")
    if rates is not None:
        good = good and all(isinstance(rates[key], Tensor) for key in ("first", "mean", "values"))
        good = good and type(rates["steps"]) is int
    return "" if good else "a balancer's state with weights"


def _fault_of_random(content: Mapping[str, Any]) -> str:
    torch.Generator().set_state(content["random"])  # refuses what is none
    return ""


def _fault_of_frame_weights(content: Mapping[str, Any]) -> str:
    weights = content["frame_weights"]
    good = weights is None or bool(weights.isfinite().all() and (weights >= 0).all() and weights.sum() > 0)
    return "" if good else "a row of numbers of at least 0, or None"


def _fault_of_progress(content: Mapping[str, Any]) -> str:
    progress = content.get("progress")
    if not progress:
        return ""
    sums, bad = progress["sums"], progress["bad_frames"]
    counts = all(_is_kind(int, progress[name]) and progress[name] >= 0 for name in PROGRESS if name not in _LISTS)
    good = set(progress) == set(PROGRESS) and counts and isinstance(sums, Tensor) and sums.shape == (5,)
    good = good and isinstance(bad, list) and all(_is_kind(int, frame) for frame in bad)
    return "" if good else f"{', '.join(PROGRESS)}, or None"


_LISTS = ("sums", "bad_frames")


def _fault_of_numbers(*keys: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda content: "" if all(content[key] is not None for key in keys) else "a value"


_FAULTS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "network": _fault_of_network,
    "optimizer": _fault_of_optimizer,
    "balancer": _fault_of_balancer,
    "random": _fault_of_random,
    "frame_weights": _fault_of_frame_weights,
    "progress": _fault_of_progress,
    **{key: _fault_of_numbers(key) for key in ("updates", "best_fitness", "best_epoch", "finished", "options")},
}
