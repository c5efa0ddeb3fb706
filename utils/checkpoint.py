"""Our checkpoints: plain dicts of tensors, numbers, strings and lists, which ``torch.load(weights_only=True)`` reads.

A checkpoint that training can go on from holds ``optimizer``, ``network`` (the weights that are trained) and the state
of balancer and random numbers beside ``ema``, the averaged weights that are validated. A stripped one holds ``ema``.
"""

from __future__ import annotations

import errno
import io
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor

from models.dual import PARTS, AnyNetwork, build_network, part_of
from models.ensemble import MEMBERS
from models.yolo import LAYERS, unmatched
from utils.archive import read_archive
from utils.config import Hyperparameters, hyperparameters_from, name_fault
from utils.files import write_whole
from utils.interrupt import held_back
from utils.log import InputError, printable, shown

FORMAT = 1
REQUIRED = ("format", "description", "names", "view_names", "image_size", "rect", "hyp", "epoch", "ema")
ONLY_FOR_TRAINING = (
    "network", "optimizer", "balancer", "random", "random_gpu", "options", "frame_weights", "progress", "seconds",
)  # fmt: skip


class NotOursError(InputError):
    """A whole file of torch's that this program did not write; it may be YOLOv5's.

    Attributes:
        content: what it holds, as data.
    """

    def __init__(self, message: str, content: Any) -> None:
        super().__init__(message)
        self.content = content


@dataclass(frozen=True)
class Trained:
    """What is known of a trained network, in whatever kind of file it is.

    Attributes:
        path: where it was read; of several, the first.
        content: all that the file says; of a checkpoint, with its tensors.
        names: box classes.
        view_names: views; empty for a detector alone.
        image_size: pixels of the longer side in training.
        rect: whether frames were padded to whole strides only, rather than to a square; see :mod:`utils.letterbox`.
        hyp: hyperparameters of the training.
    """

    path: Path
    content: Mapping[str, Any]
    names: tuple[str, ...]
    view_names: tuple[str, ...]
    image_size: int
    rect: bool
    hyp: Hyperparameters

    @property
    def files(self) -> tuple[Path, ...]:
        """Where it was read: one file, or several that make up one network."""
        return (self.path,)

    @property
    def title(self) -> str:
        """Its files, for a reader."""
        return " + ".join(map(str, self.files))


@dataclass(frozen=True)
class Checkpoint(Trained):
    """A checkpoint's content, checked.

    Attributes:
        members: the files of an ensemble that was put together of several, the first being ``path``.
    """

    members: tuple[Path, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """Where it was read."""
        return self.members or (self.path,)

    @property
    def is_pair(self) -> bool:
        """Whether it holds two networks, a detector and a classifier."""
        return set(self.content["description"]) == set(PARTS)

    @property
    def is_ensemble(self) -> bool:
        """Whether it holds several networks whose words are averaged."""
        return set(self.content["description"]) == {MEMBERS}

    def build(self) -> AnyNetwork:
        """The network with the averaged weights, in training mode."""
        try:
            with torch.device("meta"):  # shapes without numbers: a description may ask for any size
                network = build_network(self.content["description"])
        except InputError as error:
            raise InputError(f"{self.title}: {error}") from error
        except (TypeError, AttributeError, LookupError, ValueError, OverflowError) as error:
            raise InputError(f"{self.path}: description: expected a network's, got one that makes no sense") from error
        own, state = network.state_dict(), self.content["ema"]
        left = unmatched(own, state)
        if left:
            raise InputError(f"{self.path}: its weights do not fit its own network: {left[0]}")
        # copies, so that training the network leaves the content as it was read
        network.load_state_dict({name: state[name].to(own[name].dtype, copy=True) for name in own}, assign=True)
        return network

    def part(self, name: str) -> dict[str, Tensor]:
        """The averaged weights of the detector or the classifier of a pair; of any other network, all."""
        return part_of(self.content["ema"], name)


def paired(parts: Mapping[str, Checkpoint]) -> dict[str, Any]:
    """The content of one checkpoint from those of a detector and a classifier, each of its own epoch.

    ``epochs`` says which (1-based), ``epoch`` is the earlier one. It holds the averaged weights of both; a training
    goes on from the parts' own files.
    """
    detector, classifier = (parts[name].content for name in PARTS)
    boxes, views = (content.get("operating") for content in (detector, classifier))
    own = ("names", "image_size", "rect", "hyp", "trained_on", "untold", "permuted_labels", "options", "date", "git")
    return {
        **{key: detector[key] for key in own if key in detector},
        "view_names": classifier["view_names"],
        "description": {name: parts[name].content["description"] for name in PARTS},
        "epoch": min(detector["epoch"], classifier["epoch"]),
        "epochs": {name: parts[name].content["epoch"] + 1 for name in PARTS},
        "figures": {**detector["figures"], **classifier["figures"]},
        "operating": {"confidence": boxes["confidence"], "temperature": views["temperature"]}
        if boxes and views
        else None,
        "finished": all(bool(content.get("finished")) for content in (detector, classifier)),
        "ema": {f"{name}.{key}": tensor for name in PARTS for key, tensor in parts[name].content["ema"].items()},
    }


def check_boxes(found: Trained) -> None:
    """Raise an InputError for the checkpoint of a classifier alone, which finds no boxes."""
    if not found.names:
        raise InputError(
            f"{found.path}: expected a network that finds boxes, got a classifier alone; "
            "the run's own weights/best.pt holds both"
        )


def unknown_layers(description: Mapping[str, Any]) -> list[str]:
    """Names of layers in a network yaml that are not among :data:`models.yolo.LAYERS`, with where they stand."""
    rows = [row for part in ("backbone", "head") for row in description[part]]
    names = [str(row[2]) if isinstance(row, list) and len(row) > 2 else "?" for row in rows]
    return [f"{printable(name)} (layer {index})" for index, name in enumerate(names) if name not in LAYERS]


def one_checkpoint(weights: str | Sequence[str]) -> Path:
    """The path that ``--weights`` names, where several make no sense."""
    paths = checkpoints(weights)
    if len(paths) > 1:
        raise InputError(
            f"--weights: expected one checkpoint, got {len(paths)}; python -m utils.ensembles makes one of several"
        )
    return paths[0]


def checkpoints(weights: str | Sequence[str]) -> list[Path]:
    """The paths that ``--weights`` names; several are an ensemble, as in YOLOv5."""
    names = [weights] if isinstance(weights, str) else list(weights)
    if not any(names):
        raise InputError("--weights: expected a checkpoint, got none; train.py leaves one in runs/train/exp/weights")
    return [Path(name).expanduser() for name in names]


def save(path: Path, content: Mapping[str, Any], keep: bool = False) -> None:
    """Write a checkpoint whole or not at all.

    Args:
        keep: what ``path`` held before stays, as :func:`predecessor`.

    Raises:
        InputError: the disk is full; ``path`` is as it was.
    """
    try:
        write_whole(
            path, lambda file: _save_into(file, {"format": FORMAT, **content}), predecessor(path) if keep else None
        )
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        needed = sum(tensor.nbytes for tensor in _tensors(content)) / 1e6
        free = shutil.disk_usage(path.parent).free / 1e6
        raise InputError(
            f"{path}: no space left for a checkpoint of {needed:.0f} MB ({free:.0f} MB free): free some, such as "
            f"weights/epoch*.pt of finished runs, then go on with --resume; what {path.name} held before is whole"
        ) from error


def predecessor(path: Path) -> Path:
    """Where the checkpoint stays that ``path`` held before: ``last.pt`` -> ``last_previous.pt``."""
    return path.with_name(f"{path.stem}_previous{path.suffix}")


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)


def _save_into(file: BinaryIO, content: Mapping[str, Any]) -> None:
    """``torch.save``, which on a full disk raises a RuntimeError of its own: here the file's error comes out.

    What a signal's handler raises within it would be lost in the same way, or end the process: signals wait.
    """
    recorder = _ErrorRecorder(file)
    try:
        with held_back():
            torch.save(dict(content), cast(BinaryIO, recorder))
    except RuntimeError as error:
        if recorder.error is None:
            raise
        raise recorder.error from error


class _ErrorRecorder(io.RawIOBase):
    """Passes bytes on to a file and remembers why that failed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise


def strip(path: Path) -> None:
    """Rewrite a checkpoint without what only training needs."""
    content = {k: v for k, v in read(path).content.items() if k not in ONLY_FOR_TRAINING}
    save(path, content)


def read(path: Path, mapped: bool = False) -> Checkpoint:
    """Read and check a checkpoint; nothing in it is executed.

    Args:
        mapped: see :func:`utils.archive.read_archive`.

    Raises:
        NotOursError: whole, but not one of ours.
        InputError: absent, cut off, damaged, or it asks for something to be run.
    """
    content = read_archive(path, mapped)
    if not isinstance(content, dict) or any(key not in content for key in REQUIRED):
        raise NotOursError(f"{path}: expected a checkpoint of this train.py, with {', '.join(REQUIRED)}", content)
    if content["format"] != FORMAT or type(content["format"]) is not int:
        raise InputError(f"{path}: expected checkpoint format {FORMAT}, got {str(content['format'])[:40]!r}")
    for key, (is_right, words) in _KINDS.items():
        if not is_right(content[key]):
            raise InputError(f"{path}: {key}: expected {words}, got {type(content[key]).__name__}")
    check_optional(content, path)
    return Checkpoint(
        path=path,
        content=content,
        names=tuple(content["names"]),
        view_names=tuple(content["view_names"]),
        image_size=content["image_size"],
        rect=content["rect"],
        hyp=hyperparameters_from(content["hyp"], path),
    )


def check_optional(content: Mapping[str, Any], where: object) -> None:
    """Check what need not be there, and may be None; a checkpoint and an export's card hold it alike.

    Args:
        where: the file, for messages.

    Raises:
        InputError: something else under one of these names.
    """
    for key, (is_right, words) in _OPTIONAL.items():
        value = content.get(key)
        if value is not None and not is_right(value):
            raise InputError(f"{where}: {key}: expected {words}, got {shown(value)}")


def is_size(value: Any) -> bool:
    """Whether a value is a positive whole number, no larger than the side of a frame can be."""
    return type(value) is int and 0 < value < 2**16


def _are_words(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(word, str) and not name_fault(word) for word in value)


def _are_tensors(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(tensor, Tensor) for tensor in value.values())


Kinds = Mapping[str, tuple[Callable[[Any], bool], str]]
REQUIRED_KINDS: Kinds = {  # of what a checkpoint and an export's card must hold alike
    "names": (_are_words, "a list of names"),
    "view_names": (_are_words, "a list of names"),
    "image_size": (is_size, "a positive number of pixels"),
    "rect": (lambda value: isinstance(value, bool), "true or false"),
    "hyp": (lambda value: isinstance(value, dict), "hyperparameters by name"),
}
_KINDS: Kinds = {
    "description": (lambda value: isinstance(value, dict), "a network's description"),
    **REQUIRED_KINDS,
    "epoch": (lambda value: type(value) is int and -1 <= value < 2**31, "a number"),
    "ema": (_are_tensors, "tensors by name"),
}


def _is_number(value: Any) -> bool:
    return type(value) is float or (type(value) is int and abs(value) < 2**63)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _are_by_name(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(key, str) for key in value)


def _are_figures(value: Any) -> bool:
    return _are_by_name(value) and all(figure is None or _is_number(figure) for figure in value.values())


def _are_epochs(value: Any) -> bool:
    return _is_count(value) or (_are_by_name(value) and all(map(_is_count, value.values())))


def _is_fingerprint(value: Any) -> bool:
    if not _are_by_name(value) or not isinstance(value.get("hash"), str):
        return False
    patients, hashes = value.get("patients"), value.get("hashes")
    named = patients is None or (isinstance(patients, list) and all(isinstance(patient, str) for patient in patients))
    return named and isinstance(hashes, Tensor) and hashes.dtype == torch.uint8 and hashes.ndim == 2


_OPTIONAL: Kinds = {
    "figures": (_are_figures, "figures by name"),
    "operating": (_are_figures, "a confidence and a temperature by name"),  # more of it in utils.operating
    "trained_on": (_is_fingerprint, "a fingerprint with hash, patients and hashes"),
    "untold": (_are_words, "a list of names"),  # members, or files started from, that do not say what they saw
    "permuted_labels": (_is_count, "a seed"),
    "options": (_are_by_name, "options by name"),
    "epochs": (_are_epochs, "a number of epochs, or one for each part"),
    "progress": (_are_by_name, "where an epoch stands, by name"),
    "frame_weights": (lambda value: isinstance(value, Tensor) and value.ndim == 1, "a row of numbers"),
    "finished": (lambda value: isinstance(value, bool), "true or false"),
    "best_fitness": (_is_number, "a number"),
    "best_epoch": (lambda value: type(value) is int, "a number"),
    "updates": (_is_count, "a number of steps"),
    "seconds": (_is_number, "a number of seconds"),
    "network": (_are_tensors, "tensors by name"),
    "optimizer": (_are_by_name, "an optimizer's state"),
    "balancer": (_are_by_name, "a balancer's state"),
    "date": (lambda value: isinstance(value, str), "a date"),
    "git": (lambda value: isinstance(value, str | dict | None), "a commit, or what YOLOv5 says of it"),
}
