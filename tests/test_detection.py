"""utils.detection: frames in batches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from utils.detection import batches, with_first
from utils.log import InputError
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
