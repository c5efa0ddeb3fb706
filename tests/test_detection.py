"""utils.detection: frames in batches."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from utils.detection import Detection, batches, with_first
from utils.interrupt import Interrupts
from utils.letterbox import Geometry, Image
from utils.log import InputError
from utils.neighbours import FrameOutput
from utils.predict import Looked, Prediction
from utils.regions import Area
from utils.sources import Frame


def numbered(count: int) -> Iterator[Frame]:
    for number in range(count):
        yield Frame(np.zeros((4, 4, 3), np.uint8), Path("clip.avi"), number, None, None)


@pytest.mark.parametrize(("count", "sizes"), [(0, []), (2, [2]), (6, [3, 3]), (7, [3, 3, 1])])
def test_batches_keep_order_and_the_last_is_what_is_left(count: int, sizes: list[int]) -> None:
    found = list(batches(numbered(count), 3))
    assert [len(batch) for batch in found] == sizes
    assert [frame.number for batch in found for frame in batch] == list(range(count))


def test_frames_before_an_error_of_the_source_still_come() -> None:
    def broken() -> Iterator[Frame]:
        yield from numbered(4)
        raise InputError("clip.avi: damaged")

    found = []
    with pytest.raises(InputError, match="damaged"):
        for batch in batches(broken(), 3):
            found.append(len(batch))
    assert found == [3, 1]


def test_a_first_frame_comes_first() -> None:
    frames = numbered(3)
    assert [frame.number for frame in with_first(next(frames), (frame for frame in frames))] == [0, 1, 2]


class Counting:
    """In place of a predictor: frame number n is seen with a confidence of n / 100."""

    clip_window = 2

    def __init__(self, broken_at: int = -1) -> None:
        self.settled, self.broken_at = 0, broken_at

    def look(self, images: Sequence[Image], clips: Sequence[Hashable], size: int) -> list[FrameOutput[Looked]]:
        place = Geometry((4, 4), 1.0, 1.0, 0, 0)
        return [
            FrameOutput(
                Looked(image, place, ()), clip, torch.tensor([[2.0, 2, 2, 2, image[0, 0, 0] / 100, 1.0]]), None
            )
            for image, clip in zip(images, clips, strict=True)
        ]  # fmt: skip

    def settle(self, outputs: Sequence[FrameOutput[Looked]]) -> list[Prediction]:
        self.settled += 1
        if self.settled == self.broken_at:
            raise MemoryError("out of memory")
        found = []
        for output in outputs:
            assert output.boxes is not None
            boxes = np.array([[1, 1, 3, 3, float(output.boxes[0, 4] * output.boxes[0, 5]), 0]], np.float32)
            found.append(Prediction(boxes, None, image=output.frame.image))
        return found


def clip(count: int, name: str = "a.avi", area: Area | None = None) -> list[Frame]:
    return [Frame(np.full((4, 4, 3), n, np.uint8), Path(name), n, None, None, None, area) for n in range(count)]


def detection(predictor: Counting, size: int = 3) -> Detection:
    return Detection(Namespace(), predictor, (), (), size)  # type: ignore[arg-type]


def test_each_frame_comes_with_its_own_mean_and_in_order() -> None:
    frames = [*clip(7), *clip(2, "b.avi"), Frame(np.full((4, 4, 3), 50, np.uint8), Path("still.png"))]
    made = detection(Counting())
    pairs = [pair for ready in made.predicted(batches(frames, 3), Interrupts()) for pair in ready]
    assert [frame for frame, _ in pairs] == frames and made.frames == made.boxes == len(frames)
    for frame, prediction in pairs:
        assert prediction.image is frame.image
        last = {"a.avi": 6, "b.avi": 1}.get(str(frame.path))
        number = int(frame.image[0, 0, 0])
        near = [number] if last is None else range(max(number - 2, 0), min(number + 2, last) + 1)
        expected = (number + sum(near) / len(near)) / 2 / 100
        assert prediction.boxes[0, 4] == pytest.approx(expected, abs=1e-6)


def test_frames_before_an_error_of_the_source_are_all_settled_and_then_it_is_raised() -> None:
    def broken() -> Iterator[Frame]:
        yield from clip(4)
        raise InputError("a.avi: damaged")

    found = []
    with pytest.raises(InputError, match="damaged"):
        for ready in detection(Counting()).predicted(batches(broken(), 3), Interrupts()):
            found += [frame.number for frame, _ in ready]
    assert found == [0, 1, 2, 3]


def test_after_an_error_of_the_network_nothing_is_written_under_another_frame() -> None:
    found = []
    with pytest.raises(MemoryError):
        for ready in detection(Counting(broken_at=2)).predicted(batches(clip(12), 4), Interrupts()):
            found += [(frame.number, int(prediction.image[0, 0, 0])) for frame, prediction in ready]
    assert found == [(0, 0), (1, 1)]


def test_a_signal_ends_it_after_what_has_been_seen() -> None:
    interrupts, found = Interrupts(), []
    for ready in detection(Counting()).predicted(batches(clip(12), 3), interrupts):
        found += [frame.number for frame, _ in ready]
        interrupts.signal = 15
    assert found == [0, 1, 2]


def test_frames_that_were_seen_in_another_place_are_not_averaged_with() -> None:
    everything = np.ones((4, 4), bool)
    frames = [*clip(1, area=Area((0, 0, 4, 4), everything)), *clip(3, area=Area((1, 0, 4, 4), everything))[1:]]
    pairs = [pair for ready in detection(Counting()).predicted(batches(frames, 3), Interrupts()) for pair in ready]
    assert [float(found.boxes[0, 4]) for _, found in pairs] == pytest.approx([0, 0.0125, 0.0175])
