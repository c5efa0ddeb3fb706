"""Pictures and tiny data sets for tests: dark frames with a white rectangle where each box is. No test stands here."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray

from utils.config import load_dataset_config
from utils.dataset import EchoDataset

NAMES = ("AR", "MR", "PR", "TR")
VIEW_NAMES = ("PLAX", "PSAX", "A4C")
RED, GREEN = (255, 0, 0), (0, 255, 0)
SHAPES = [(48, 64), (64, 48), (60, 60), (30, 97), (97, 30), (50, 64), (64, 64), (20, 64), (64, 20)]
Box = tuple[int, int, int, int, int]  # class, then left, top, right, bottom in pixels


def picture(rgb: tuple[int, int, int] = RED, height: int = 24, width: int = 32) -> NDArray[np.uint8]:
    """(H, W, 3) of one colour."""
    return np.full((height, width, 3), rgb, np.uint8)


def encode(suffix: str, values: NDArray[Any], *options: int) -> bytes:
    """The bytes of an image file; ``values`` in OpenCV's order, BGR."""
    return cv2.imencode(suffix, values, options)[1].tobytes()


def write_image(path: Path, rgb: tuple[int, int, int] = RED) -> Path:
    """An image file of one colour; missing folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(path.suffix, picture(rgb)[..., ::-1]))
    return path


def draw_frame(shape: tuple[int, int], boxes: Sequence[Box]) -> NDArray[np.uint8]:
    """A dark frame (H, W, 3), white inside of each box."""
    image = np.zeros((*shape, 3), np.uint8)
    for _, left, top, right, bottom in boxes:
        image[top:bottom, left:right] = 255
    return image


def label_text(shape: tuple[int, int], boxes: Sequence[Box], view: int | None = None) -> str:
    """The label file of such a frame; ``view`` None leaves the view row out."""
    height, width = shape
    rows = [
        f"{label} {(left + right) / 2 / width} {(top + bottom) / 2 / height} "
        f"{(right - left) / width} {(bottom - top) / height}"
        for label, left, top, right, bottom in boxes
    ]
    if view is not None:
        rows += ["", " ".join(str(int(index == view)) for index in range(len(VIEW_NAMES)))]
    return "".join(f"{row}\n" for row in rows)


def write_frame(
    folder: Path, name: str, shape: tuple[int, int], boxes: Sequence[Box] = (), view: int | None = None
) -> Path:
    """``folder/images/name`` (such as train/a.png) and its label file; returns the image's path."""
    image, label = folder / "images" / name, (folder / "labels" / name).with_suffix(".txt")
    for path in (image, label):
        path.parent.mkdir(parents=True, exist_ok=True)
    image.write_bytes(encode(image.suffix, draw_frame(shape, boxes)))
    label.write_text(label_text(shape, boxes, view))
    return image


def settle(folder: Path, seconds: float = 60.0) -> None:
    """As if all files below the folder had last changed so long ago: facts about newer ones are not kept."""
    when = time.time() - seconds
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, (when, when))


def write_yaml(folder: Path, **keys: Any) -> Path:
    """``folder/data.yaml`` of a data set in that folder; ``keys`` are added or replace what it has, None removes."""
    content = {
        "path": str(folder), "train": "images/train", "val": "images/val", "names": list(NAMES),
        "view_names": list(VIEW_NAMES), "group": r"^(p\d+)-",
    }  # fmt: skip
    path = folder / "data.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in (content | keys).items() if value is not None}))
    return path


def make_dataset(
    folder: Path, train: int = 6, val: int = 4, test: int = 0, shape: tuple[int, int] = (48, 64), **keys: Any
) -> Path:
    """A data set of so many frames; returns its yaml.

    Frame ``i`` of a split shows one box of class ``i % 4`` and the view ``i % 3``; two frames come from one patient.
    """
    patient = 0
    for split, count in (("train", train), ("val", val), ("test", test)):
        for i in range(count):
            patient += i % 2 == 0
            left, top = 2 + (7 * i) % (shape[1] // 2), 2 + (5 * i) % (shape[0] // 2)
            box = (i % len(NAMES), left, top, left + shape[1] // 3, top + shape[0] // 3)
            write_frame(folder, f"{split}/p{patient:02}-f{i:04}.png", shape, [box], i % len(VIEW_NAMES))
    splits = {"test": "images/test"} if test else {}
    return write_yaml(folder, **splits, **keys)


def dataset(folder: Path, size: int = 64, split: str = "train", **keywords: Any) -> EchoDataset:
    """A split of the data set in a folder."""
    return EchoDataset(load_dataset_config(folder / "data.yaml"), split, size, **keywords)


def own_box(index: int, shape: tuple[int, int]) -> Box:
    """A box whose class and place tell which frame it belongs to."""
    height, width = shape
    return index % 4, width // 4, height // 4, width // 4 + 6 + index % 5, height // 4 + 5 + index % 7
