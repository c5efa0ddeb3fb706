"""What the frames of a clip come to: its view, pooled, and each valve's regurgitation as tracks of boxes over time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from utils.boxes import box_iou


@dataclass(frozen=True)
class ClipRules:
    """How frames become findings.

    Attributes:
        iou: boxes of one class are linked over this.
        gap: frames, of those that were looked at, that a track may miss between two of its boxes.
        frames: a track with fewer is uncertain.
        agreement: a view on which a smaller share of the frames agrees is uncertain.
    """

    iou: float = 0.3
    gap: int = 5
    frames: int = 3
    agreement: float = 0.7


@dataclass(frozen=True, eq=False)
class FrameFindings:
    """What was found in one frame of a clip.

    Attributes:
        number: of the frame in its clip, from 0.
        time: seconds from the first frame; None where unknown.
        boxes: (n, 6) x1, y1, x2, y2 in pixels of the whole frame, confidence, class.
        view: (nv,) probabilities; None of a network without views.
    """

    number: int
    time: float | None
    boxes: NDArray[np.float32]
    view: NDArray[np.float32] | None = None


@dataclass(frozen=True, eq=False)
class ClipView:
    """The view of a clip.

    Attributes:
        index: of the view.
        probabilities: (nv,), the mean over the frames.
        agreement: share of frames that by themselves show this view.
        frames: how many these are.
        uncertain: fewer agree than the rules ask.
    """

    index: int
    probabilities: NDArray[np.float64]
    agreement: float
    frames: int
    uncertain: bool

    @property
    def confidence(self) -> float:
        """The mean probability of the view."""
        return float(self.probabilities[self.index])


@dataclass(frozen=True, eq=False)
class TrackedBox:
    """A box of a track, and the frame that it was found in."""

    frame: FrameFindings
    box: NDArray[np.float32]  # (4,) x1, y1, x2, y2 in pixels of the whole frame
    confidence: float

    @property
    def size(self) -> float:
        """Square pixels."""
        return float((self.box[2] - self.box[0]) * (self.box[3] - self.box[1]))


@dataclass
class Track:
    """One valve's regurgitation over time: boxes of one class, a frame each, in order."""

    label: int
    boxes: list[TrackedBox] = field(default_factory=list)
    last: int = 0  # place of the last box's frame among those of the clip

    @property
    def peak(self) -> TrackedBox:
        """The surest box, of equal ones the first."""
        return max(self.boxes, key=lambda found: found.confidence)

    @property
    def largest(self) -> TrackedBox:
        """The largest box, of equal ones the first."""
        return max(self.boxes, key=lambda found: found.size)

    def uncertain(self, rules: ClipRules) -> bool:
        """Whether it covers too few frames."""
        return len(self.boxes) < rules.frames


def pool_view(frames: Sequence[FrameFindings], rules: ClipRules) -> ClipView | None:
    """The clip's view: the one of the highest mean probability; None where no frame has a view."""
    views = [frame.view for frame in frames if frame.view is not None]
    if not views:
        return None
    stacked = np.stack(views).astype(np.float64)
    mean = stacked.mean(0)
    index = int(mean.argmax())
    agreeing = int((stacked.argmax(1) == index).sum())
    share = agreeing / len(views)
    return ClipView(index, mean, share, agreeing, share < rules.agreement)


def link(frames: Sequence[FrameFindings], rules: ClipRules) -> list[Track]:
    """Tracks of the boxes in a clip's frames, by onset, then by class.

    Frame by frame, the boxes of each class are given to that class's open tracks so that the sum of overlaps with
    their last boxes is largest, as in SORT without its motion model (Bewley et al. 2016, arXiv:1602.00763). A box that
    overlaps no track's last box by more than ``rules.iou`` begins one; a track that has missed more than ``rules.gap``
    frames is ended.
    """
    tracks: list[Track] = []
    for place, frame in enumerate(frames):
        for label in sorted({int(row[5]) for row in frame.boxes}):
            found = [TrackedBox(frame, row[:4], float(row[4])) for row in frame.boxes if int(row[5]) == label]
            live = [track for track in tracks if track.label == label and place - track.last - 1 <= rules.gap]
            continued = dict(_pairs(live, found, rules.iou))
            for index, box in enumerate(found):
                if index in continued:
                    track = live[continued[index]]
                else:
                    track = Track(label)
                    tracks.append(track)
                track.boxes.append(box)
                track.last = place
    return tracks


def _pairs(tracks: Sequence[Track], found: Sequence[TrackedBox], least: float) -> Iterator[tuple[int, int]]:
    """Which box goes on which track."""
    if not tracks or not found:
        return
    from scipy.optimize import linear_sum_assignment  # not above: it takes a third of a second, and few need it

    boxes, lasts = (
        torch.from_numpy(np.stack(rows)) for rows in ([b.box for b in found], [t.boxes[-1].box for t in tracks])
    )
    overlaps = box_iou(boxes, lasts).numpy()
    overlaps = np.where(overlaps > least, overlaps, 0)
    for box, track in zip(*linear_sum_assignment(-overlaps), strict=True):
        if overlaps[box, track]:
            yield int(box), int(track)
