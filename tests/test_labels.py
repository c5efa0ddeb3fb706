"""utils/labels.py: every rule of a label file, and that a faulty row costs only itself."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

from utils import labels
from utils.labels import MAX_PROBLEMS, UNLABELLED, Label, Problem, centre_form, label_path, pixel_corners, read_label

BOX, OTHER = "1 0.5 0.5 0.2 0.1", "3 0.25 0.75 0.1 0.3"
GOLDEN = json.loads((Path(__file__).parent / "golden/geometry.json").read_text())["segments"]


def read(tmp_path: Path, text: str | bytes, nc: int = 4, nv: int = 3) -> Label:
    path = tmp_path / "frame.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_label(path, nc, nv)


def rules(label: Label) -> list[tuple[int | None, str]]:
    return [(problem.line, problem.rule) for problem in label.problems]


def assert_boxes(label: Label, *rows: str) -> None:
    expected = np.array([row.split() for row in rows], np.float32).reshape(-1, 5)
    assert label.boxes.dtype == np.float32 and label.boxes.shape == expected.shape
    np.testing.assert_allclose(label.boxes, expected, atol=1e-6)


# --- where the file is -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("/data/images/train/a.jpg", "/data/labels/train/a.txt"),
        ("images/a.png", "labels/a.txt"),
        ("/images/b/images/c/images/a.jpg", "/images/b/images/c/labels/a.txt"),
        ("/data/images.old/images2/a.jpg", "/data/images.old/images2/a.txt"),
        ("/data/images/images", "/data/labels/images.txt"),
        ("/data/images/a.b.jpg", "/data/labels/a.b.txt"),
        ("a.jpg", "a.txt"),
    ],
)
def test_the_last_images_folder_becomes_labels(image: str, expected: str) -> None:
    assert label_path(Path(image)) == Path(expected)


# --- box rows --------------------------------------------------------------------------------------------------------


def test_rows_of_five_columns_are_boxes(tmp_path: Path) -> None:
    label = read(tmp_path, f"{BOX}\n{OTHER}\n0.0 0 0 1 1e0\n")
    assert_boxes(label, BOX, OTHER, "0 0 0 1 1")
    assert label.view == UNLABELLED and label.problems == ()


def test_a_polygon_and_a_box_row_may_stand_in_one_file(tmp_path: Path) -> None:
    triangle, square = "2 0.1 0.2 0.5 0.4 0.3 0.8", "0 0.5 0.5 0.7 0.5 0.7 0.9 0.5 0.9"
    label = read(tmp_path, f"{BOX}\n{triangle}\n{OTHER}\n{square}\n")
    assert_boxes(label, BOX, "2 0.3 0.5 0.4 0.6", OTHER, "0 0.6 0.7 0.2 0.4")
    assert label.problems == ()


def test_polygons_give_the_boxes_of_yolov5(tmp_path: Path) -> None:
    rows = [" ".join(["1", *(str(value) for point in points for value in point)]) for points in GOLDEN["points"]]
    label = read(tmp_path, "\n".join(rows))
    np.testing.assert_allclose(label.boxes[:, 1:], GOLDEN["xywh"], rtol=1e-6)


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        ("4 0.5 0.5 0.1 0.1", "expected a class from 0 to 3, got 4"),
        ("-1 0.5 0.5 0.1 0.1", "expected a class from 0 to 3, got -1"),
        ("1.5 0.5 0.5 0.1 0.1", "expected a class from 0 to 3, got 1.5"),
        ("nan 0.5 0.5 0.1 0.1", "expected a class from 0 to 3, got nan"),
        ("inf 0.5 0.5 0.1 0.1", "expected a class from 0 to 3, got inf"),
        ("4 0.1 0.1 0.2 0.1 0.2 0.2", "expected a class from 0 to 3, got 4"),
        ("0 1.001 0.5 0.1 0.1", "expected coordinates from 0 to 1, got 1.001"),
        ("0 0.5 -0.01 0.1 0.1", "expected coordinates from 0 to 1, got -0.01"),
        ("0 0.5 0.5 nan 0.1", "expected coordinates from 0 to 1, got nan"),
        ("0 0.5 0.5 0.1 inf", "expected coordinates from 0 to 1, got inf"),
        ("0 0.1 0.1 0.2 1.1 0.2 0.2", "expected coordinates from 0 to 1, got 1.1"),
        ("0 0.5 half 0.1 0.1", "expected numbers, got 'half'"),
        ("mitral 0.5 0.5 0.1 0.1", "expected numbers, got 'mitral'"),
        ("0,0.5,0.5,0.1,0.1", "expected 5 columns (cls x y w h), or a class and 3 or more corners, got 1 columns"),
        ("0 0.5 0.5 0.1", "expected 5 columns (cls x y w h), or a class and 3 or more corners, got 4 columns"),
        ("0 0.5 0.5 0.1 0.1 0.9", "expected 5 columns (cls x y w h), or a class and 3 or more corners, got 6 columns"),
        ("0 .1 .1 .2 .2 .3 .1 .4", "expected 5 columns (cls x y w h), or a class and 3 or more corners, got 8 columns"),
        ("0 0.5 0.5 0 0.1", "expected a box with a width and a height, got one of size 0"),
        ("0 0.5 0.5 1e-60 0.1", "expected a box with a width and a height, got one of size 0"),
        ("1_0 0.5 0.5 0.1 0.1", "expected numbers, got '1_0'"),
        ("0 0.5 0.5 0.1 0", "expected a box with a width and a height, got one of size 0"),
        ("0 0.1 0.3 0.2 0.3 0.5 0.3", "expected a box with a width and a height, got one of size 0"),
        (BOX, "the same box stands in an earlier row"),
        ("1.0 0.50 .5 2e-1 0.1", "the same box stands in an earlier row"),
    ],
)
def test_a_faulty_row_is_left_out_and_told_and_the_rest_counts(tmp_path: Path, row: str, rule: str) -> None:
    label = read(tmp_path, f"{BOX}\n{row}\n{OTHER}\n\n0 1 0\n")
    assert_boxes(label, BOX, OTHER)
    assert label.view == 1
    assert label.problems == (Problem(tmp_path / "frame.txt", 2, rule, "row left out"),)


def test_boxes_that_differ_in_class_alone_are_both_kept(tmp_path: Path) -> None:
    label = read(tmp_path, "0 0.5 0.5 0.2 0.1\n1 0.5 0.5 0.2 0.1\n")
    assert label.boxes[:, 0].tolist() == [0, 1] and label.problems == ()


# --- the view row ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "boxes", "view"),
    [
        (f"{BOX}\n\n0 1 0\n", 1, 1),
        (f"{BOX}\n{OTHER}\n\n0 0 1", 2, 2),
        (f"{BOX}\n0 1 0\n", 1, 1),  # its length tells it from a box
        (f"0 0 1\n\n{BOX}\n", 1, 2),
        ("1 0 0\n", 0, 0),
        ("\n\n0 1 0\n\n", 0, 1),
        (f"{BOX}\n\n0.0 1.0 0.0\n", 1, 1),
        (f"{BOX}\n \t \n  0\t1 0  \n", 1, 1),
        (f"{BOX}\n", 1, UNLABELLED),
        ("", 0, UNLABELLED),
    ],
)
def test_a_view_row_is_read(tmp_path: Path, text: str, boxes: int, view: int) -> None:
    label = read(tmp_path, text)
    assert (len(label.boxes), label.view, label.problems) == (boxes, view, ())


@pytest.mark.parametrize("row", ["0 1 0", "1", "0 0 0 0", "1 1 1"])
def test_without_views_a_view_row_is_passed_over(tmp_path: Path, row: str) -> None:
    label = read(tmp_path, f"{BOX}\n\n{row}\n{OTHER}\n", nv=0)
    assert_boxes(label, BOX, OTHER)
    assert (label.view, label.problems) == (UNLABELLED, ())


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        ("0 1", "expected a view row of 3 columns, got 2"),
        ("0 1 0 0", "expected a view row of 3 columns, got 4"),
        ("1", "expected a view row of 3 columns, got 1"),
        ("0 0 0", "expected a view row with exactly one 1, got 0 0 0"),
        ("1 0 1", "expected a view row with exactly one 1, got 1 0 1"),
        ("0.2 0.8 0", "expected 5 columns (cls x y w h), or a class and 3 or more corners, got 3 columns"),
        ("0 2 0", "expected 5 columns (cls x y w h), or a class and 3 or more corners, got 3 columns"),
    ],
)
def test_a_faulty_view_row_leaves_the_frame_without_a_view(tmp_path: Path, row: str, rule: str) -> None:
    label = read(tmp_path, f"{BOX}\n\n{row}\n")
    assert_boxes(label, BOX)
    assert label.view == UNLABELLED and rules(label) == [(3, rule)]


def test_of_two_view_rows_the_first_counts(tmp_path: Path) -> None:
    label = read(tmp_path, f"{BOX}\n\n0 1 0\n0 0 1\n")
    assert label.view == 1 and rules(label) == [(4, "expected one view row, got a second one")]


@pytest.mark.parametrize(
    ("nv", "text", "boxes", "view"),
    [
        (5, "1 .5 .5 1 1\n2 .5 .5 .5 .5\n\n0 0 1 0 0\n", 2, 2),  # after the empty line: a view
        (5, "1 .5 .5 1 1\n0 1 1 1 1\n", 2, UNLABELLED),  # without one: a box at the corner
        (5, "0 0 0 0 1\n", 0, 4),  # alone: a view
        (7, "1 .5 .5 1 1\n\n0 0 0 1 0 0 0\n", 1, 3),
        (7, "1 .5 .5 1 1\n0 0 0 1 0 1 1\n", 2, UNLABELLED),  # a polygon
        (3, "1 .5 .5 .5 .5\n\n0 0 0 1 0 1 1\n", 2, UNLABELLED),  # with 3 views, 7 columns are a polygon anywhere
        (0, "\n0 0 0 1 0 1 1\n", 1, UNLABELLED),
    ],
)
def test_as_many_views_as_a_box_row_has_columns(tmp_path: Path, nv: int, text: str, boxes: int, view: int) -> None:
    label = read(tmp_path, text, nv=nv)
    assert (len(label.boxes), label.view, label.problems) == (boxes, view, ())


# --- the file --------------------------------------------------------------------------------------------------------


def test_a_missing_file_is_background_without_a_view(tmp_path: Path) -> None:
    label = read_label(tmp_path / "gone.txt", 4, 3)
    assert label.boxes.shape == (0, 5) and label.boxes.dtype == np.float32
    assert (label.view, label.problems) == (UNLABELLED, ())


@pytest.mark.parametrize("text", ["", "\n", " \t\n\n  \n", b"\xef\xbb\xbf", b"\r\n\r\n"])
def test_an_empty_file_is_background_without_a_view(tmp_path: Path, text: str | bytes) -> None:
    label = read(tmp_path, text)
    assert (label.boxes.shape, label.view, label.problems) == ((0, 5), UNLABELLED, ())


@pytest.mark.parametrize("ends", ["\r\n", "\r", "\n"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_byte_order_marks_and_line_ends_of_other_systems(tmp_path: Path, start: str, ends: str) -> None:
    label = read(tmp_path, start + ends.join([BOX, OTHER, "", "0 0 1", ""]))
    assert_boxes(label, BOX, OTHER)
    assert (label.view, label.problems) == (2, ())


def test_a_file_that_is_no_text_is_background_and_told(tmp_path: Path) -> None:
    label = read(tmp_path, b"\xff\xd8\xff\xe0" + bytes(range(256)))
    (problem,) = label.problems
    assert label.boxes.shape == (0, 5) and problem.line is None and problem.action == "taken as background"
    assert problem.rule.startswith("cannot be read as text: 'utf-8' codec")
    (tmp_path / "folder.txt").mkdir()
    (problem,) = read_label(tmp_path / "folder.txt", 4, 3).problems
    assert "directory" in problem.rule


def test_an_oversized_file_is_left_out_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels, "MAX_LABEL_BYTES", 100)
    assert_boxes(read(tmp_path, BOX.ljust(100)), BOX)
    label = read(tmp_path, BOX.ljust(101))
    assert label.boxes.shape == (0, 5) and rules(label) == [(None, "expected under 100 bytes of labels")]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    (problem,) = read_label(tmp_path / "pipe.txt", 4, 3).problems
    assert "device" in problem.rule and problem.action == "taken as background"


def test_a_path_with_a_null_byte_is_background_and_told(tmp_path: Path) -> None:
    (problem,) = read_label(tmp_path / "a\0.txt", 4, 3).problems
    assert "null byte" in problem.rule


def test_many_boxes_are_read_at_once_and_many_faults_are_counted(tmp_path: Path) -> None:
    rows = [f"0 0.5 0.5 0.25 0.{number:05}" for number in range(1, 40_001)]
    start = time.process_time()
    label = read(tmp_path, "\n".join([*rows, *rows[:500], "x y"]))
    assert time.process_time() - start < 10 and len(label.boxes) == 40_000
    assert len(label.problems) == MAX_PROBLEMS + 1
    assert label.problems[-1][1:] == (40_501, "401 more rows with faults up to here", "rows left out")


@pytest.mark.parametrize(
    "row", ["0 0.5 0.5 0.1 " + "9" * 10_000, "x" * 10_000 + " 0 0 1 1", "1 " * 10_000, "\x1b[2J 0 0 1 1"]
)
def test_what_stands_in_a_faulty_row_is_told_in_a_short_printable_line(tmp_path: Path, row: str) -> None:
    (problem,) = read(tmp_path, row).problems
    assert len(problem.rule) < 300 and problem.rule.isprintable()


def test_problems_are_in_the_order_of_the_file_and_name_file_and_line(tmp_path: Path) -> None:
    label = read(tmp_path, f"9 0 0 1 1\n{BOX}\n{BOX}\n\n1 1 0\n")
    assert [problem.line for problem in label.problems] == [1, 3, 5]
    path = tmp_path / "frame.txt"
    assert str(label.problems[0]) == f"{path}:1: expected a class from 0 to 3, got 9; row left out"
    assert str(Problem(path, None, "empty", "frame left out")) == f"{path}: empty; frame left out"


def test_pixel_corners_are_cut_off_at_the_frames_edge() -> None:
    boxes = np.array([[0, 0.5, 0.5, 0.5, 0.25], [3, 0, 1, 0.5, 0.5]], np.float32)
    np.testing.assert_allclose(pixel_corners(boxes, (40, 80)), [[20, 15, 60, 25], [0, 30, 20, 40]])
    assert pixel_corners(np.zeros((0, 5), np.float32), (40, 80)).shape == (0, 4)


def test_the_centre_form_is_the_way_back_from_pixel_corners() -> None:
    row = (0.5, 0.25, 0.5, 0.125)
    (corners,) = pixel_corners(np.array([[1, *row]], np.float32), (40, 80)).tolist()
    assert centre_form(corners, (40, 80)) == row


# --- kept between starts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["", "0 0.1 0.2 0.3 0.4\n", "0 0.1 0.2 0.3 0.4\n1 0.3333333 0.7 1e-7 0.123456789\n\n0 1 0\n", "9 9\n0 0 0\nä\n"],
)
def test_a_label_survives_as_plain_values(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text(text, encoding="utf-8")
    label = read_label(path, 4, 3)
    again = Label.from_content(path, json.loads(json.dumps(label.content())))
    assert again.boxes.dtype == label.boxes.dtype and again.boxes.tobytes() == label.boxes.tobytes()
    assert again.boxes.shape == label.boxes.shape and again.boxes.flags.writeable
    assert again.view == label.view and again.problems == label.problems
    assert [str(problem) for problem in again.problems] == [str(problem) for problem in label.problems]


def test_a_file_that_is_itself_at_fault_has_no_content(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xff\xfe")
    assert read_label(path, 4, 3).content() is None


@pytest.mark.parametrize("content", [None, 3, [], [[[1, 2]], 0, []], ["x", 0, []], [[], "x", []], [[], 0, [3]]])
def test_content_that_is_no_label_is_refused(content: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        Label.from_content(Path("a.txt"), content)
