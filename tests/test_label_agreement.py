"""utils/label_agreement.py: which frame a label is copied from, and what of the copies is right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.phantoms import Box, write_frame, write_yaml
from utils.config import load_dataset_config
from utils.findings import Frame, read_frames
from utils.label_agreement import Agreement, agreements, nearest

Labels = dict[str, tuple[list[Box], int | None]]
SHAPE = (48, 64)
HERE: Box = (1, 10, 10, 30, 30)
NEAR: Box = (1, 12, 12, 32, 32)  # IoU with HERE .68
OVERLAPS: Box = (1, 18, 10, 38, 30)  # IoU with HERE .43
OTHER_VALVE: Box = (2, 10, 10, 30, 30)


def frames_of(folder: Path, labels: Labels, **keys: Any) -> list[Frame]:
    for name, (boxes, view) in labels.items():
        write_frame(folder, f"{name}.png", SHAPE, boxes, view)
    return read_frames(load_dataset_config(write_yaml(folder, **keys)))


def only(found: list[Agreement], part: str, source: str) -> Agreement:
    (that,) = (row for row in found if (row.part, row.source) == (part, source))
    return that


def test_boxes_are_right_that_overlap_a_box_of_their_class_by_half(tmp_path: Path) -> None:
    labels: Labels = {
        "train/p01-c01-f01": ([HERE], 0), "val/p01-c01-f02": ([NEAR], 0),
        "train/p01-c02-f01": ([HERE], 0), "val/p01-c02-f02": ([OVERLAPS], 1),
        "train/p01-c03-f01": ([HERE], 1), "val/p01-c03-f05": ([OTHER_VALVE], 1),
        "train/p01-c04-f01": ([], None), "val/p01-c04-f02": ([HERE], 1),
    }  # fmt: skip
    found = only(agreements(frames_of(tmp_path, labels)), "val", "train")
    assert found.frames == 4 and found.gap == 1.0
    assert (found.precision, found.recall, found.f1) == (1 / 3, 1 / 4, 2 / 7)
    assert found.view == pytest.approx(2 / 3)  # of three frames; the fourth's neighbour has none


def test_the_nearest_frame_by_number_is_copied_of_two_the_lower_and_never_the_frame_itself(tmp_path: Path) -> None:
    labels: Labels = {f"train/p01-c01-f{n:03d}": ([HERE], 0) for n in (2, 9, 10, 11, 100)}
    alone: Labels = {"train/p01-c02-f010": ([HERE], 0), "val/p02-c01-f001": ([HERE], 0)}
    frames = frames_of(tmp_path, labels | alone)
    pairs = {frame.path.stem: other.path.stem for frame, other in nearest(frames, frames)}
    assert pairs == {
        "p01-c01-f002": "p01-c01-f009", "p01-c01-f009": "p01-c01-f010", "p01-c01-f010": "p01-c01-f009",
        "p01-c01-f011": "p01-c01-f010", "p01-c01-f100": "p01-c01-f011",
    }  # fmt: skip


def test_parts_that_two_people_labelled_agree_within_and_not_across(tmp_path: Path) -> None:
    train: Labels = {f"train/p01-c01-f{n:02d}": ([HERE], 0) for n in (1, 3, 5)}
    val: Labels = {f"val/p01-c01-f{n:02d}": ([HERE], 1) for n in (2, 4, 6)}
    found = agreements(frames_of(tmp_path, train | val))
    assert [(row.part, row.source, row.view) for row in found] == [
        ("train", "train", 1.0), ("train", "val", 0.0), ("val", "train", 0.0), ("val", "val", 1.0),
    ]  # fmt: skip
    assert {row.f1 for row in found} == {1.0}


def test_nothing_is_compared_without_clips_or_without_labels(tmp_path: Path) -> None:
    labels: Labels = {f"train/p01-c01-f{n:02d}": ([HERE], 0) for n in (1, 2)}
    assert agreements(frames_of(tmp_path / "stills", labels | {"val/p02-c01-f01": ([], 0)}, group=None)) == []
    frames = frames_of(tmp_path / "clips", labels | {"val/p02-c01-f01": ([], 0)})
    assert [(row.part, row.source) for row in agreements(frames)] == [("train", "train")]
    (tmp_path / "clips" / "labels" / "train" / "p01-c01-f02.txt").unlink()
    assert agreements(read_frames(load_dataset_config(tmp_path / "clips" / "data.yaml"))) == []


def test_frames_without_boxes_and_views_have_no_figures(tmp_path: Path) -> None:
    labels: Labels = {f"train/p01-c01-f{n:02d}": ([], None) for n in (1, 2)}
    (found,) = agreements(frames_of(tmp_path, labels | {"val/p02-c01-f01": ([], 0)}))
    assert (found.frames, found.precision, found.recall, found.f1, found.view) == (2, None, None, None, None)


def test_the_smallest_boxes_agree_with_their_copies(tmp_path: Path) -> None:
    labels: Labels = {f"train/p01-c01-f{n:02d}": ([HERE], 0) for n in (1, 2)}
    frames = frames_of(tmp_path, labels | {"val/p02-c01-f01": ([], 0)})
    for frame in frames[:2]:
        frame.label.boxes[:, 1:] = np.array([0.5, 0.5, 1e-3, 1e-3], np.float32)
    assert agreements(frames)[0].f1 == 1.0
