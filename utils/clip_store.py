"""What was found in each file of a study, and small pictures of its frames, kept on disk until the report is made."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np

from utils.clips import FrameFindings
from utils.ledger import Entry, Ledger
from utils.letterbox import Image
from utils.predict import Prediction
from utils.regions import Rectangle
from utils.sources import Frame

LONGEST_SIDE = 512  # pixels of a picture
QUALITY = 80  # of its JPEG: 15 KB or so
LENGTH = "<I"  # precedes each picture in its file


@dataclass
class StoredFrames:
    """The frames of one file.

    Attributes:
        height, width: of the frames, in pixels.
        total: frames that the file promises; None where it does not say, or is a still.
        fps: frames a second of the file; None where unknown.
        seen: what the network saw; None where that is the whole frame.
        cm_per_pixel: of x and y in it; None where unknown.
        frames: in order.
    """

    height: int
    width: int
    total: int | None
    fps: float | None
    seen: Rectangle | None
    cm_per_pixel: tuple[float, float] | None
    frames: list[FrameFindings] = field(default_factory=list)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width

    def as_text(self) -> str:
        """As json."""
        rows = [
            [frame.number, frame.time, frame.boxes.tolist(), None if frame.view is None else frame.view.tolist()]
            for frame in self.frames
        ]
        return json.dumps({**vars(self), "frames": rows})

    @classmethod
    def from_text(cls, text: str) -> StoredFrames:
        """What :meth:`as_text` wrote."""
        content: dict[str, Any] = json.loads(text)
        for name in ("seen", "cm_per_pixel"):
            content[name] = None if content[name] is None else tuple(content[name])
        content["frames"] = [
            FrameFindings(
                number, time, np.array(boxes, np.float32).reshape(-1, 6),
                None if view is None else np.array(view, np.float32),
            )
            for number, time, boxes, view in content["frames"]
        ]  # fmt: skip
        return cls(**content)


class ClipStore:
    """Keeps frames file by file, in a run's ledger, so that a later start has those of an earlier one.

    Args:
        ledger: of the run.
        pictures: whether small pictures of the frames are kept, too.
    """

    def __init__(self, ledger: Ledger, pictures: bool) -> None:
        self._ledger, self._pictures = ledger, pictures
        self._stored: StoredFrames | None = None
        self._draft: Path | None = None
        self._file: BinaryIO | None = None

    def take(self, frame: Frame, prediction: Prediction, shown: Image) -> None:
        """Keep one frame of the file in hand; ``shown`` is what may be seen of it, (H, W, 3) RGB."""
        if self._stored is None:
            height, width = frame.image.shape[:2]
            seen, scale = (None, None) if frame.area is None else (frame.area.seen, frame.area.cm_per_pixel)
            self._stored = StoredFrames(height, width, frame.total, frame.fps, seen, scale)
            if self._pictures:
                self._draft = self._ledger.draft(".jpegs")
                self._file = self._draft.open("wb")
        self._stored.frames.append(FrameFindings(frame.number or 0, frame.time, prediction.boxes, prediction.view))
        if self._file is not None:
            picture = encoded(shown)
            self._file.write(struct.pack(LENGTH, len(picture)) + picture)

    def end(self, entry: Entry, whole: bool) -> None:
        """End the file in hand; what was kept of one that is not whole is dropped, as it will be detected anew."""
        stored, self._stored = self._stored, None
        file, self._file = self._file, None
        if file is not None:
            file.close()
        if self._draft is not None:
            if whole:
                self._draft.replace(_pictures_of(self._ledger, entry))
            else:
                self._draft.unlink()
            self._draft = None
        if stored is not None and whole:
            draft = self._ledger.draft(".json")  # as safe as the marker that follows, which waits for the disk
            draft.write_text(stored.as_text(), encoding="utf-8")
            draft.replace(_frames_of(self._ledger, entry))


def encoded(image: Image) -> bytes:
    """A small JPEG of a frame (H, W, 3) RGB."""
    height, width = image.shape[:2]
    scale = LONGEST_SIDE / max(height, width)
    if scale < 1:
        size = max(round(width * scale), 1), max(round(height * scale), 1)
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return data.tobytes()


def stored_frames(ledger: Ledger, entry: Entry) -> StoredFrames | None:
    """What is kept of a file; None where nothing could be read of it."""
    path = _frames_of(ledger, entry)
    return StoredFrames.from_text(path.read_text(encoding="utf-8")) if path.is_file() else None


@dataclass
class StoredPictures:
    """The small pictures of a clip, which stay on the disk; iterated, JPEG bytes in the order of ``frames``.

    Attributes:
        files: of :class:`ClipStore`, one for each file of the clip.
        numbers: that the frames have in the clip, a list for each file.
        stride: every so many-th picture is given.
    """

    files: Sequence[Path]
    numbers: Sequence[Sequence[int]]
    stride: int = 1

    @property
    def frames(self) -> list[int]:
        """The numbers of the frames that there are pictures of."""
        return [number for numbers in self.numbers for number in numbers][:: self.stride]

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the first picture, in pixels."""
        first = cv2.imdecode(np.frombuffer(next(iter(self)), np.uint8), cv2.IMREAD_COLOR)
        assert first is not None  # we wrote it
        return first.shape[1], first.shape[0]

    def __iter__(self) -> Iterator[bytes]:
        place = 0
        for path in self.files:
            with path.open("rb") as file:
                while head := file.read(struct.calcsize(LENGTH)):
                    data = file.read(*struct.unpack(LENGTH, head))
                    if place % self.stride == 0:
                        yield data
                    place += 1


def stored_pictures(ledger: Ledger, entries: Sequence[Entry], numbers: Sequence[Sequence[int]]) -> StoredPictures:
    """The pictures of a clip that is made of one file or of several."""
    return StoredPictures([_pictures_of(ledger, entry) for entry in entries], numbers)


def _frames_of(ledger: Ledger, entry: Entry) -> Path:
    return ledger.clips / f"{entry.index:07}.json"


def _pictures_of(ledger: Ledger, entry: Entry) -> Path:
    return ledger.clips / f"{entry.index:07}.jpegs"
