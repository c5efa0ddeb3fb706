"""Weights that a training starts from: of a checkpoint here, of YOLOv5's, of a fork's, or tensors alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from models.yolo import load_matching
from utils import checkpoint, legacy
from utils.checkpoint import Checkpoint, NotOursError
from utils.legacy import Legacy
from utils.log import LOGGER, InputError
from utils.releases import locate

Start = Checkpoint | Legacy
SHOWN = 10  # of a list, what is printed


def read_start(path: Path, download: bool = False) -> Start:
    """Read weights to start from; nothing in the file is executed.

    Args:
        download: fetch an official file that is not on disk; see :mod:`utils.releases`.

    Raises:
        InputError: absent, damaged, or without a network's tensors.
    """
    path = locate(path, download)
    try:
        found = checkpoint.read(path)
    except NotOursError as error:
        return legacy.interpreted(path, error.content)
    if found.is_ensemble:
        raise InputError(f"{path}: expected the checkpoint of one training, got an ensemble; start from a member of it")
    return found


def start_from(network: nn.Module, state: Mapping[str, Tensor], source: Path) -> None:
    """Start a network from another one's weights, as far as names and shapes agree, and say how far that is.

    Raises:
        InputError: nothing fits.
    """
    matched, left = load_matching(network, state)
    if not matched:
        raise InputError(f"{source}: none of its {len(state)} tensors fits this network")
    LOGGER.info("%s: %d of %d tensors matched", source, len(matched), len(matched) + len(left))
    if len(matched) < len(left):
        LOGGER.warning("%s: most of the network starts afresh, as that file's is another; --cfg chooses which", source)
    for line in left[:SHOWN]:
        LOGGER.info("  fresh: %s", line)
    if len(left) > SHOWN:
        LOGGER.info("  fresh: ... and %d more", len(left) - SHOWN)
    own = network.state_dict()
    unused = [name for name in state if name not in own]
    if unused:
        LOGGER.info("  not used: %s", ", ".join(unused[:SHOWN]) + (" ..." if len(unused) > SHOWN else ""))


def with_classes(
    network: nn.Module, state: Mapping[str, Tensor], theirs: Sequence[str], ours: Sequence[str], source: Path
) -> dict[str, Tensor]:
    """A detector's state whose Detect layer has the rows of our classes, by name, and says so where they differ.

    A level's outputs are, for each anchor, 4 of the box, objectness, and one a class. The first five carry over
    whatever the classes are; the row of a class does where the other network knew one of that name, and otherwise
    stays as it is here. Where no name is shared but there are as many, each takes the other's place.

    Args:
        network: to be started; its fresh rows are the rest.
        state: of the other network; not changed.
        theirs, ours: class names.
    """
    own = network.state_dict()
    anchors = next((name for name in own if name.endswith(".anchors")), None)
    if anchors is None or list(theirs) == list(ours):
        return dict(state)
    shared = [name for name in ours if name in theirs]
    if not shared and len(theirs) == len(ours):
        LOGGER.info("%s: its classes %s stand for %s, in this order", source, ", ".join(theirs), ", ".join(ours))
        return dict(state)
    detect, na = anchors.removesuffix("anchors"), own[anchors].shape[1]
    sources = [theirs.index(name) if name in theirs else None for name in ours]
    adapted = dict(state)
    for name in own:
        trained = state.get(name) if name.startswith(f"{detect}m.") else None
        expected = (na * (5 + len(theirs)), *own[name].shape[1:])
        if trained is not None and trained.shape == expected:
            adapted[name] = _rows(own[name], trained, na, sources)
    fresh = [name for name in ours if name not in theirs]
    LOGGER.info(
        "%s: of its %d classes carry over: %s; start fresh: %s", source, len(theirs), ", ".join(shared) or "none",
        ", ".join(fresh) or "none",
    )  # fmt: skip
    return adapted


def _rows(fresh: Tensor, trained: Tensor, na: int, sources: Sequence[int | None]) -> Tensor:
    """A level's weights or biases (na * (5 + nc), ...): those of ``fresh``, with what ``trained`` has for them."""
    rows = fresh.detach().clone().unflatten(0, (na, -1))
    others = trained.to(rows).unflatten(0, (na, -1))
    rows[:, :5] = others[:, :5]
    for place, source in enumerate(sources):
        if source is not None:
            rows[:, 5 + place] = others[:, 5 + source]
    return torch.flatten(rows, 0, 1)
