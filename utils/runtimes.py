"""Trained weights in any kind of file behind one face: what is known of them, and a network that can be called."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from torch import Tensor

from models.dual import Dual
from models.yolo import Network, Output
from utils import checkpoint, legacy, sessions
from utils.card import Export
from utils.checkpoint import Checkpoint, NotOursError, Trained
from utils.devices import Compute
from utils.evaluation import inference_copy
from utils.letterbox import whole_strides
from utils.log import LOGGER, InputError
from utils.neighbours import LONGEST_WINDOW
from utils.releases import locate

BATCH_SIZES = {"cpu": 4, "cuda": 16}  # by device


class Runner(Protocol):
    """A network ready to be called with images (B, 3, H, W) in [0, 1], sides multiples of ``max_stride``."""

    max_stride: int

    def __call__(self, images: Tensor, /) -> Output: ...


def open_weights(path: Path, download: bool = False) -> Trained:
    """What a file of weights says of itself: a checkpoint here, YOLOv5's own, or an exported network.

    Args:
        download: fetch one of YOLOv5's official files that is not on disk; see :mod:`utils.releases`.

    Raises:
        InputError: absent, unknown, damaged; of an export, its runtime is not installed.
    """
    path = locate(path, download)
    kind = sessions.kind_of(path)
    if kind is not None:
        return sessions.read(path, kind)
    if path.exists() and path.suffix != ".pt":
        raise InputError(
            f"{path}: expected a checkpoint (.pt) or an exported network (.torchscript, .onnx, a folder "
            f"NAME_openvino_model or its .xml), got {'a folder' if path.is_dir() else f'suffix {path.suffix!r}'}"
        )
    try:
        return checkpoint.read(path)
    except NotOursError as error:
        return legacy.interpreted(path, error.content).checkpoint()


def start(found: Trained, compute: Compute) -> Runner:
    """The network in the form in which every script evaluates it."""
    if isinstance(found, Export):
        return sessions.SESSIONS[found.kind](found, compute)
    assert isinstance(found, Checkpoint)
    return inference_copy(found.build(), compute)


def gives_maps(network: Runner) -> bool:
    """Whether a network gives the raw maps that losses are of; exports and ensembles give decoded boxes alone."""
    return isinstance(network, Network | Dual)


def described(network: Runner, compute: Compute) -> str:
    """What computes, for reports: device and type of a checkpoint; of an export, its runtime's."""
    return str(network) if isinstance(network, sessions.Session) else str(compute)


def usual_batch(network: Runner, compute: Compute) -> int:
    """Frames that a network takes at once where nobody says how many; of an export with a fixed number, that one."""
    if isinstance(network, sessions.Session) and network.export.form.batch:
        return network.export.form.batch
    return BATCH_SIZES.get(compute.device.type, 1)


def check_precision(found: Trained, amp: bool | None) -> None:
    """Warn where ``--amp`` or ``--half`` is asked of an export."""
    if amp and isinstance(found, Export):
        LOGGER.warning("%s: --amp and --half change nothing: its precision is in the file", found.path)


def check_sizes(found: Trained, sizes: Sequence[int]) -> None:
    """Raise an InputError where several image sizes are asked of an export with a fixed one."""
    if isinstance(found, Export) and found.form.shape is not None and len(sizes) > 1:
        own = " x ".join(map(str, found.form.shape[1:]))
        raise InputError(f"{found.path}: --task study: expected any size, got {own} fixed; export with --dynamic")


def window_size(found: Trained, asked: int | None) -> int:
    """Frames on either side to average with (:mod:`utils.neighbours`): those asked for, or the training's.

    Raises:
        InputError: out of range; or of an export that holds its own suppression, after which nothing can be averaged.
    """
    if asked is not None and not 0 <= asked <= LONGEST_WINDOW:
        raise InputError(f"--clip-window: expected 0 to {LONGEST_WINDOW}, got {asked}")
    suppressed = isinstance(found, Export) and found.form.nms is not None
    if suppressed and asked:
        raise InputError(
            f"{found.path}: --clip-window: expected an export without --nms, after which nothing is left to average"
        )
    if suppressed and found.hyp.clip_window:
        LOGGER.warning("%s: suppression inside it: clip_window %d is left out", found.path, found.hyp.clip_window)
    if suppressed:
        return 0
    return found.hyp.clip_window if asked is None else asked


def image_size(found: Trained, network: Runner, asked: int | None) -> int:
    """Pixels of the frames' longer side: those asked for, or the training's, as a multiple of the stride.

    Of an export with fixed sides, its own.

    Raises:
        InputError: another than an export's own is asked for.
    """
    if not isinstance(found, Export) or found.form.shape is None:
        return whole_strides(found.image_size if asked is None else asked, network.max_stride)
    own = max(found.form.shape[1:])
    if asked is not None and asked != own:
        raise InputError(f"{found.path}: --imgsz: expected {own}, its fixed size, got {asked}; export with --dynamic")
    return own
