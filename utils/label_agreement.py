"""How far a dataset's labels agree with each other: what is right of a label that is copied from a neighbouring frame.

Neighbouring frames of a clip show nearly the same. Where their labels differ, by so much a network's figures fall short
of 1 that has learned everything that there is to learn.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import median

import torch
from torch import Tensor

from utils.boxes import xywh_to_xyxy
from utils.findings import Frame, grouped
from utils.groups import LAST_NUMBER
from utils.labels import UNLABELLED
from utils.metrics import match

SCALE = 1000.0  # of the frame's sides: in shares of 1, overlap's guard against empty boxes would weigh in the smallest


@dataclass(frozen=True)
class Agreement:
    """Labels of a part's frames against copies of the labels of each one's nearest frame in the same clip.

    Attributes:
        part, source: where the frames are, and where those that are copied from.
        frames: that have such a frame.
        gap: how far it is, by the numbers in their names; the median.
        precision, recall, f1: of the copied boxes; one is right that overlaps a box of its class by an IoU of 0.5 or
            more. None where neither has boxes.
        view: share of the frames whose view is the copied one, of those where both are known; None without any.
    """

    part: str
    source: str
    frames: int
    gap: float
    precision: float | None
    recall: float | None
    f1: float | None
    view: float | None


def agreements(frames: Sequence[Frame]) -> list[Agreement]:
    """Of each part with its own frames and with every other part's, where they have a clip in common.

    Frames without a label file, and those whose image cannot be read, are left out.
    """
    parts = grouped((frame for frame in frames if frame.has_label and not frame.fault), lambda frame: frame.part)
    pairs = {both: list(nearest(parts[both[0]], parts[both[1]])) for both in product(parts, repeat=2)}
    return [agreement(found) for found in pairs.values() if found]


def nearest(frames: Iterable[Frame], others: Iterable[Frame]) -> Iterator[tuple[Frame, Frame]]:
    """Each frame with the one of ``others`` in its clip whose number is nearest, of two the lower; never with itself.

    Frames that have none are left out.
    """
    by_clip = grouped(others, lambda frame: frame.clip)
    for frame in frames:
        own = [other for other in by_clip.get(frame.clip, ()) if other.path != frame.path]
        if own:
            yield frame, min(own, key=lambda other: (_gap(frame, other), _number(other)))


def agreement(pairs: Sequence[tuple[Frame, Frame]]) -> Agreement:
    """What is right of the second frames' labels, taken for the first's; at least one pair, all of the same parts."""
    labels = [(_corners(frame), _corners(other)) for frame, other in pairs]
    right = sum(int(match(_as_found(copied), own)[:, 0].sum()) for own, copied in labels)
    said, there = sum(len(copied) for _, copied in labels), sum(len(own) for own, _ in labels)
    views = [(frame.label.view, other.label.view) for frame, other in pairs]
    known = [own == copied for own, copied in views if UNLABELLED not in (own, copied)]
    return Agreement(
        part=pairs[0][0].part,
        source=pairs[0][1].part,
        frames=len(pairs),
        gap=float(median(_gap(frame, other) for frame, other in pairs)),
        precision=_share(right, said),
        recall=_share(right, there),
        f1=_share(2 * right, said + there),
        view=_share(sum(known), len(known)),
    )


def _corners(frame: Frame) -> Tensor:
    """(m, 5) class and corners of a frame's boxes."""
    boxes = torch.from_numpy(frame.label.boxes).double()
    return torch.cat((boxes[:, :1], xywh_to_xyxy(boxes[:, 1:]) * SCALE), 1)


def _as_found(boxes: Tensor) -> Tensor:
    """(m, 6) labelled boxes as detections, all equally sure."""
    return torch.cat((boxes[:, 1:], torch.ones_like(boxes[:, :1]), boxes[:, :1]), 1)


def _number(frame: Frame) -> int:
    numbers = LAST_NUMBER.findall(frame.path.stem)
    return int(numbers[-1]) if numbers else 0


def _gap(frame: Frame, other: Frame) -> int:
    return abs(_number(frame) - _number(other))


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
