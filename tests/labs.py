"""A lab's folder with a study in it: DICOM loops, a video, frames, stray files; and a network that sees a green mark.

No test stands here.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

import detect
from tests.dicoms import burnt, loop, write_dicom
from tests.exported import saved
from utils.draw import save
from utils.letterbox import Geometry, Image
from utils.neighbours import FrameOutput
from utils.predict import Looked, Prediction, Predictor
from utils.regions import COLOUR, FLAT, Region

STUDY, PATIENT, INSTANCE = "1.2.826.0.1.3680043.8.498.1", "Mustermann", "1.2.826.0.1.3680043.8.498.77"
SIZE = (96, 128)  # height, width
REGION = Region((20, 16, 120, 92), FLAT, COLOUR, (0.05, 0.1))
MARK = (40, 30, 60, 50)  # in pixels of the whole frame
GREEN = (0, 255, 0)


def marked(frames: NDArray[np.uint8], numbers: Sequence[int], mark: tuple[int, int, int, int] = MARK) -> Any:
    """Frames of which some have a green rectangle, which :func:`seen` finds."""
    frames = frames.copy()
    x1, y1, x2, y2 = mark
    frames[list(numbers), y1:y2, x1:x2] = GREEN
    return frames


def lab(folder: Path) -> Path:
    """The folder: a loop of 8 frames with a region, one of 6 without, a video, 4 frames of a clip, a still, others."""
    first = burnt(marked(loop(8, *SIZE), range(2, 7)), PATIENT)
    write_dicom(
        folder / "IMG1", first, syntax="rle", regions=[REGION], frame_time=40, study=STUDY, SOPInstanceUID=INSTANCE,
        AcquisitionTime="120000", PatientName=f"{PATIENT}^Erika", PatientID="ID-4711",
    )  # fmt: skip
    write_dicom(
        folder / "sub" / "early.dcm", burnt(loop(6, *SIZE), PATIENT), study=STUDY, AcquisitionTime="110000",
        PatientID="ID-4711",
    )  # fmt: skip
    video = cv2.VideoWriter(str(folder / f"{PATIENT}.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 25, SIZE[::-1])
    for frame in marked(loop(5, *SIZE), [1, 2, 3]):
        video.write(frame[..., ::-1])
    video.release()
    (folder / "frames").mkdir()
    for number, frame in zip((2, 9, 10, 11), marked(loop(4, *SIZE), [1, 2]), strict=True):
        save(folder / "frames" / f"{PATIENT}-c1-f{number}.png", frame)
    save(folder / "frames" / "still.png", loop(1, *SIZE)[0])
    (folder / "broken.dcm").write_bytes((folder / "IMG1").read_bytes()[:700])
    (folder / "report.pdf").write_bytes(b"%PDF-1.4")
    return folder


def looked(
    self: Predictor, images: Sequence[Image], clips: Sequence[Hashable], batch_size: int = 0
) -> list[FrameOutput[Looked]]:
    """In place of a network: keeps the images for :func:`seen`."""
    place = Geometry((0, 0), 1.0, 1.0, 0, 0)
    return [FrameOutput(Looked(image, place, ()), clip, None, None) for image, clip in zip(images, clips, strict=True)]


def seen(self: Predictor, outputs: Sequence[FrameOutput[Looked]]) -> list[Prediction]:
    """In place of a network: MR where it is green, A4C wherever there is such, else not sure between two views."""
    found = []
    for image in (output.frame.image for output in outputs):
        rows, columns = np.nonzero((image[..., 1] > 180) & (image[..., 0] < 90) & (image[..., 2] < 90))
        boxes = np.zeros((0, 6), np.float32)
        if len(rows) > 50:
            corners = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            boxes = np.array([[*corners, 0.9, 1]], np.float32)
        view = np.array([0.1, 0.1, 0.8] if len(boxes) else [0.1, 0.46, 0.44], np.float32)
        found.append(Prediction(boxes, view, self.names, self.view_names, image))
    return found


@pytest.fixture
def mark_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network that sees the mark."""
    monkeypatch.setattr(Predictor, "look", looked)
    monkeypatch.setattr(Predictor, "settle", seen)


def reported(folder: Path, **options: Any) -> Path:
    """A run of detect.py with a report, beside the folder."""
    given: dict[str, Any] = {
        "weights": str(saved("joint")), "source": str(folder), "project": str(folder.parent / "runs"), "device": "cpu",
        "amp": False, "save_study": True,
    }  # fmt: skip
    return detect.run(**given | options)
