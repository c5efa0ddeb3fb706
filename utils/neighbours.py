"""What a network says of a frame, averaged with what it says of the frames around it in the same clip.

A jet stays where it is for several frames and a view for a whole clip, while a network's errors change from frame to
frame. Averaged are the probabilities of each cell of the maps, before suppression; boxes keep their own corners. Half
of the mean is the frame's own word, as a jet comes and goes within a heartbeat; the other half is that of its window.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import torch
from torch import Tensor

from utils.boxes import with_scores

T = TypeVar("T")
LONGEST_WINDOW = 100  # frames on either side, all of which are held in memory
OWN_SHARE = 0.5  # of a frame in its mean, beside its equal part in the window's


@dataclass(frozen=True)
class ClipWindow:
    """Which frames of a dataset are averaged.

    Attributes:
        frames: before, and as many after, that a frame is averaged with; 0 leaves each by itself.
        clips: of each frame of the dataset; empty where it names none, and each frame is by itself.
    """

    frames: int = 0
    clips: Sequence[Hashable] = ()

    def clip_of(self, index: int) -> Hashable:
        """The clip of a frame, or None."""
        return self.clips[index] if self.clips else None


BY_ITSELF = ClipWindow()


@dataclass(frozen=True, eq=False)
class FrameOutput(Generic[T]):
    """What a network says of one frame.

    Attributes:
        frame: the caller's own, whatever tells which one it is.
        clip: which clip the frame belongs to; None for a frame by itself.
        boxes: (N, 5 + nc) decoded predictions, see :class:`models.yolo.Output`; None of a classifier alone.
        view: (nv,) probabilities; None of a detector alone.
    """

    frame: T
    clip: Hashable
    boxes: Tensor | None
    view: Tensor | None


class Neighbours(Generic[T]):
    """Frames go in, one by one, a clip's in their order; they come out averaged, in the same order, a little later.

    Args:
        window: frames before, and as many after, that a frame is averaged with; fewer at a clip's ends. 0 hands every
            frame back as it is, at once.
    """

    def __init__(self, window: int) -> None:
        self._window = window
        self._waiting: deque[FrameOutput[T]] = deque()  # not yet given back, all of one clip
        self._said: deque[tuple[Tensor | None, Tensor | None]] = deque()  # scores (N, nc), view; of the window alone
        self._before = 0  # how many of these are of frames before the first that waits

    def add(self, output: FrameOutput[T]) -> list[FrameOutput[T]]:
        """Take a frame; returns those that have now all of their neighbours."""
        if not self._window or output.clip is None:
            return [*self.flush(), output]
        ready = [] if self._continues(output) else self.flush()
        self._waiting.append(output)
        scores = None if output.boxes is None else output.boxes[:, 5:] * output.boxes[:, 4:5]
        self._said.append((scores, output.view))
        if len(self._waiting) > self._window:
            ready.append(self._averaged())
        return ready

    def flush(self) -> list[FrameOutput[T]]:
        """The frames that still wait, averaged with the neighbours that there are; nothing follows them."""
        ready = []
        while self._waiting:
            ready.append(self._averaged())
        self._said.clear()
        self._before = 0
        return ready

    def _continues(self, output: FrameOutput[T]) -> bool:
        """Whether a frame is the next of the clip that waits, with as many cells."""
        if not self._waiting:
            return True
        last = self._waiting[-1]
        sizes = [None if found.boxes is None else found.boxes.shape for found in (last, output)]
        return last.clip == output.clip and sizes[0] == sizes[1]

    def _averaged(self) -> FrameOutput[T]:
        """The first frame that waits, averaged; what none of the later ones needs is dropped."""
        own, place = self._waiting.popleft(), self._before
        around = [*self._said][: place + self._window + 1]
        scores, views = ([part for part in parts if part is not None] for parts in zip(*around, strict=True))
        if self._before < self._window:
            self._before += 1
        else:
            self._said.popleft()
        return replace(
            own,
            boxes=None if own.boxes is None else with_scores(own.boxes[:, :4], _mean(scores, place)),
            view=None if own.view is None else _mean(views, place),
        )


def _mean(window: Sequence[Tensor], own: int) -> Tensor:
    """What the frame at ``own`` says and the mean over the window, which it is part of."""
    return OWN_SHARE * window[own] + (1 - OWN_SHARE) * torch.stack(list(window)).mean(0)
