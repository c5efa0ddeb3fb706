"""detect.py's own parts; test_main_job.py runs it as a user does."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest

import detect
from utils.flags import parse
from utils.predict import Prediction
from utils.sources import Frame


def options(*arguments: str) -> argparse.Namespace:
    return parse(detect.FLAGS, "", list(arguments))


def frame(path: str, number: int | None = None) -> Frame:
    image = np.zeros((40, 60, 3), np.uint8)
    return Frame(image, Path(path), number, None, None)


PREDICTION = Prediction(np.array([[5, 5, 25, 35, 0.9, 1]], np.float32), np.array([0.1, 0.9], np.float32))


def test_frames_of_one_name_from_two_folders_do_not_overwrite_each_other(tmp_path: Path) -> None:
    with detect.Writer(tmp_path, options("--save-txt"), ("a", "b"), ("x", "y")) as writer:
        assert writer.take(frame("one/f.jpg"), PREDICTION)
        assert writer.take(frame("two/f.jpg"), PREDICTION)
    assert {path.name for path in tmp_path.glob("*.jpg")} == {"f.jpg", "f_2.jpg"}
    assert {path.name for path in (tmp_path / "labels").iterdir()} == {"f.txt", "f_2.txt"}


def test_a_label_file_holds_boxes_an_empty_line_and_the_view_row(tmp_path: Path) -> None:
    with detect.Writer(tmp_path, options("--save-txt", "--save-view", "--nosave"), ("a", "b"), ("x", "y")) as writer:
        writer.take(frame("f.jpg"), PREDICTION)
        writer.take(frame("g.jpg"), Prediction(np.zeros((0, 6), np.float32), PREDICTION.view))
    assert (tmp_path / "labels" / "f.txt").read_text() == "1 0.25 0.5 0.333333 0.75\n\n0 1\n"
    assert (tmp_path / "labels" / "g.txt").read_text() == "\n0 1\n"
    assert not list(tmp_path.glob("*.jpg"))


def test_corners_in_pixels_and_confidence_on_request(tmp_path: Path) -> None:
    arguments = options("--save-txt", "--save-format", "1", "--save-conf", "--nosave")
    with detect.Writer(tmp_path, arguments, ("a", "b"), ("x", "y")) as writer:
        writer.take(frame("f.jpg"), PREDICTION)
    assert (tmp_path / "labels" / "f.txt").read_text() == "1 5 5 25 35 0.9\n"


@pytest.mark.parametrize("name", ["../../outside", "a/b", "", ".."])
def test_a_class_name_never_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with detect.Writer(folder, options("--save-crop", "--nosave"), ("a", name), ("x", "y")) as writer:
        writer.take(frame("f.jpg"), PREDICTION)
    (crop,) = folder.rglob("*.jpg")
    assert crop.parent.parent == folder / "crops"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_formats_that_cannot_be_written_become_png(tmp_path: Path) -> None:
    with detect.Writer(tmp_path, options(), ("a", "b"), ("x", "y")) as writer:
        writer.take(frame("f.pfm"), PREDICTION)
    assert (tmp_path / "f.png").is_file()
