"""The way of detect.py's frames: in batches through the network to the writer, until they end or a signal comes."""

from __future__ import annotations

import argparse
import itertools
import time
from collections import deque
from collections.abc import Generator, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from utils.interrupt import Interrupts
from utils.ledger import Ledger
from utils.log import progress
from utils.neighbours import FrameOutput, Neighbours
from utils.output_names import OutputNames
from utils.predict import Looked, Prediction, Predictor
from utils.runtimes import described
from utils.sources import FRAMES_AHEAD, Frame
from utils.writer import BackgroundWriter, Writer


@dataclass
class Detection:
    """What is detected with, and what has come of it so far.

    Attributes:
        options: of detect.py.
        predictor: of the network.
        names, view_names: to show.
        size: frames that the network takes at once.
        naming: of what is written; files keep their names unless given.
        seconds, frames, boxes: of the network; seen; found.
    """

    options: argparse.Namespace
    predictor: Predictor
    names: tuple[str, ...]
    view_names: tuple[str, ...]
    size: int
    naming: OutputNames = field(default_factory=OutputNames)
    seconds: float = 0.0
    frames: int = 0
    boxes: int = 0

    def writer(
        self, folder: Path, ledger: Ledger | None = None, failures: Mapping[Path, str] | None = None
    ) -> Writer | BackgroundWriter:
        """A writer into a run's folder, in a thread of its own; not yet entered."""
        writer = Writer(folder, self.options, self.names, self.view_names, ledger, failures, self.naming)
        # a window belongs to the main thread, and its key to the frame that it shows
        return writer if self.options.view_img else BackgroundWriter(writer, max(self.size, FRAMES_AHEAD))

    def work(
        self, arriving: Generator[Frame, None, None], total: int | None, writer: Writer | BackgroundWriter,
        interrupts: Interrupts,
    ) -> bool:  # fmt: skip
        """Detect in all frames and write what is found; False where a signal or the user's window ended it early.

        What the network has seen is written in any case, and then the writer is closed.
        """
        shown = progress(arriving, "detection", total=total, unit="frame")
        with writer as writing:
            for pairs in self.predicted(batches(shown, self.size), interrupts):
                if not all(writing.take(*pair) for pair in pairs):
                    return False
            if interrupts.signal:
                return False
            writing.complete()
        return True

    def predicted(
        self, arriving: Iterable[Sequence[Frame]], interrupts: Interrupts
    ) -> Generator[list[tuple[Frame, Prediction]], None, None]:
        """Batches of frames -> frames with what the network sees in them, boxes in pixels of the whole frame.

        Frames of a file are averaged with their neighbours, if the predictor has a window for that, and come as much
        later. An error of a frame that cannot be read, or a signal, comes after the frames before it; what goes wrong
        with the network comes at once.
        """
        neighbours: Neighbours[Looked] = Neighbours(self.predictor.clip_window)
        waiting: deque[Frame] = deque()
        error: Exception | None = None

        def settled(start: float, outputs: Sequence[FrameOutput[Looked]]) -> list[tuple[Frame, Prediction]]:
            found = self.predictor.settle(outputs)
            self.frames, self.boxes = self.frames + len(found), self.boxes + sum(map(len, found))
            self.seconds += time.perf_counter() - start
            return [_placed(waiting.popleft(), prediction) for prediction in found]

        batches_left = iter(arriving)
        while not interrupts.signal:
            try:
                batch = next(batches_left, None)
            except Exception as caught:
                error = caught
                break
            if batch is None:
                break
            start = time.perf_counter()
            waiting.extend(batch)
            seen, clips = [frame.seen for frame in batch], [_clip(frame) for frame in batch]
            outputs = self.predictor.look(seen, clips, self.size)
            yield settled(start, [ready for output in outputs for ready in neighbours.add(output)])
        yield settled(time.perf_counter(), neighbours.flush())
        if error is not None:
            raise error

    def summary(self) -> str:
        """What was found, how fast, and where the network computes."""
        computes = described(self.predictor.network, self.predictor.compute)
        speed = self.seconds * 1000 / max(self.frames, 1)
        return f"{self.boxes} boxes in {self.frames} frames, {speed:.1f} ms a frame ({computes})"


def _clip(frame: Frame) -> Hashable:
    """Whose neighbours' findings may count for a frame: those of its file, if it holds several, seen in one place."""
    return None if frame.number is None else (frame.path, None if frame.area is None else frame.area.seen)


def _placed(frame: Frame, prediction: Prediction) -> tuple[Frame, Prediction]:
    """A frame, and what was found where the network looked in pixels of all of it."""
    if frame.area is None:
        return frame, prediction
    return frame, replace(prediction, boxes=frame.area.moved(prediction.boxes))


def batches(frames: Iterable[Frame], size: int) -> Iterator[list[Frame]]:
    """Frames in lists of ``size``, the last as long as it comes; an error of theirs after the frames before it."""
    error: Exception | None = None
    arriving = iter(frames)
    while error is None:
        batch: list[Frame] = []
        try:
            for frame in itertools.islice(arriving, size):
                batch.append(frame)
        except Exception as caught:
            error = caught
        if batch:
            yield batch
        elif error is None:
            return
    raise error


def with_first(first: Frame, arriving: Generator[Frame, None, None]) -> Generator[Frame, None, None]:
    """Frames whose first one was asked for already."""
    yield first
    yield from arriving
