"""Trained weights in any kind of file behind one face: what is known of them, and a network that can be called."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from torch import Tensor

from models.yolo import Output
from utils import checkpoint
from utils.checkpoint import Checkpoint, Trained
from utils.devices import Compute
from utils.engine import inference_copy
from utils.letterbox import whole_strides


class Runner(Protocol):
    """A network ready to be called with images (B, 3, H, W) in [0, 1], sides multiples of ``max_stride``."""

    max_stride: int

    def __call__(self, images: Tensor, /) -> Output: ...


def open_weights(path: Path) -> Trained:
    """What a file of weights says of itself.

    Raises:
        InputError: absent, unknown, damaged.
    """
    return checkpoint.read(path)


def start(found: Trained, compute: Compute) -> Runner:
    """The network in the form in which every script evaluates it."""
    assert isinstance(found, Checkpoint)
    return inference_copy(found.build(), compute)


def image_size(found: Trained, network: Runner, asked: int | None) -> int:
    """Pixels of the frames' longer side: those asked for, or the training's, as a multiple of the stride."""
    return whole_strides(found.image_size if asked is None else asked, network.max_stride)
