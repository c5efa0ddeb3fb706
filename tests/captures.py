"""Videos whose frames tell their numbers, and a stand-in for OpenCV's reader of them. No test stands here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from utils.sources import Frame


def write_video(path: Path, frames: int = 10) -> Path:
    """Frame ``i`` is grey of value 20 * i, so that a frame tells its number."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (64, 48))
    for i in range(frames):
        writer.write(np.full((48, 64, 3), 20 * i, np.uint8))
    writer.release()
    return path


def shown_numbers(frames: list[Frame]) -> list[int]:
    return [round(float(frame.image.mean()) / 20) for frame in frames]


class FakeCapture:
    """Stands in for cv2.VideoCapture: ``frames`` pictures whose value is their number, ``promised`` in the header."""

    frames, promised, fps, opened = 20, -1.0, 30.0, True
    damaged = frozenset[int]()
    addresses: list[Any]
    released: int

    def __init__(self, address: Any) -> None:
        self.addresses.append(address)
        self.at = -1

    def isOpened(self) -> bool:
        return self.opened

    def get(self, name: int) -> float:
        return {cv2.CAP_PROP_FRAME_COUNT: self.promised, cv2.CAP_PROP_FPS: self.fps}.get(name, 64.0)

    def grab(self) -> bool:
        self.at += 1
        return self.at < self.frames

    def retrieve(self) -> tuple[bool, NDArray[np.uint8] | None]:
        if self.at in self.damaged:
            return False, None
        return True, np.full((2, 2, 3), (0, 0, self.at), np.uint8)  # BGR

    def release(self) -> None:
        type(self).released += 1
