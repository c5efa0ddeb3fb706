"""utils/outputs.py: label rows, csv rows, COCO's files, and names that do not collide."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest

from utils.labels import read_label
from utils.outputs import (
    CSV_HEADER,
    UniqueNames,
    coco_labels,
    coco_rows,
    csv_rows,
    csv_text,
    cut_out,
    folder_name,
    frame_name,
    harmless,
    image_ids,
    label_rows,
    view_row,
)
from utils.source_files import is_video

BOXES = np.array([[10, 20, 50, 100, 0.876543, 2], [0, 0, 400, 200, 0.25, 0]], np.float32)
NONE = np.zeros((0, 6), np.float32)
NAMES, VIEWS = ("AR", "MR", "PR"), ("PLAX", "A4C")


def test_names_are_unique_and_stay_with_their_file() -> None:
    unique = UniqueNames()
    paths = [Path(name) for name in ("a/x.jpg", "b/x.jpg", "b/x.png", "c/y.jpg", "d/x_2.jpg", "e/x_3.jpg")]
    given = [unique(path) for path in paths]
    assert given == ["x", "x_2", "x_3", "y", "x_2_2", "x_3_2"]
    assert [unique(path) for path in reversed(paths)] == given[::-1]
    assert unique(Path("frame.001.png")) == "frame.001"


@pytest.mark.parametrize(
    ("confidence", "corners", "expected"),
    [
        (False, False, ["2 0.075 0.3 0.1 0.4", "0 0.5 0.5 1 1"]),
        (True, False, ["2 0.075 0.3 0.1 0.4 0.876543", "0 0.5 0.5 1 1 0.25"]),
        (False, True, ["2 10 20 50 100", "0 0 0 400 200"]),
        (True, True, ["2 10 20 50 100 0.876543", "0 0 0 400 200 0.25"]),
    ],
)
def test_label_rows_in_both_formats(confidence: bool, corners: bool, expected: list[str]) -> None:
    assert label_rows(BOXES, (200, 400), confidence, corners) == expected
    assert label_rows(NONE, (200, 400), confidence, corners) == []


def test_what_is_cut_out_are_the_pixels_that_a_box_touches() -> None:
    image = np.arange(8 * 10 * 3, dtype=np.uint8).reshape(8, 10, 3)
    for box, place in {
        (2.2, 1.0, 4.0, 3.1): (slice(1, 4), slice(2, 4)),
        (-3.0, -0.5, 1.5, 20.0): (slice(0, 8), slice(0, 2)),
        (-4.0, -4.0, -1.0, -1.0): (slice(0, 0), slice(0, 0)),
    }.items():
        assert np.array_equal(cut_out(image, np.array([*box, 0.9, 1])), image[place])


def test_written_rows_are_labels_that_training_reads(tmp_path: Path) -> None:
    rows = [*label_rows(BOXES, (200, 400), with_confidence=False), "", view_row(np.array([0.2, 0.8]))]
    (tmp_path / "a.txt").write_text("\n".join(rows) + "\n")
    label = read_label(tmp_path / "a.txt", 3, 2)
    np.testing.assert_allclose(label.boxes, [[2, 0.075, 0.3, 0.1, 0.4], [0, 0.5, 0.5, 1, 1]], atol=1e-6)
    assert label.view == 1 and label.problems == ()


@pytest.mark.parametrize(("view", "expected"), [([0.2, 0.5, 0.3], "0 1 0"), ([0.5, 0.5], "1 0"), ([0.0, 0.1], "0 1")])
def test_the_view_row_is_one_hot(view: list[float], expected: str) -> None:
    assert view_row(np.array(view)) == expected


def test_csv_rows_are_one_a_box() -> None:
    rows = csv_rows("a.png", None, BOXES, NAMES, np.array([0.25, 0.75]), VIEWS)
    assert rows == [
        ["a.png", "PR", "0.88", "", "10.0", "20.0", "50.0", "100.0", "A4C", "0.7500"],
        ["a.png", "AR", "0.25", "", "0.0", "0.0", "400.0", "200.0", "A4C", "0.7500"],
    ]
    assert {len(row) for row in rows} == {len(CSV_HEADER)}
    assert CSV_HEADER[:3] == ("Image Name", "Prediction", "Confidence")


def test_a_frame_without_boxes_keeps_one_csv_row() -> None:
    assert csv_rows("clip.mp4", 0, NONE, NAMES, np.array([0.9, 0.1]), VIEWS) == [
        ["clip.mp4", "", "", "0", "", "", "", "", "PLAX", "0.9000"]
    ]
    assert csv_rows("clip.mp4", 17, NONE, NAMES, None, ()) == [["clip.mp4", "", "", "17", *[""] * 6]]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "＝1+1", "＠SUM(A1)"])
def test_text_that_a_spreadsheet_would_run_is_disarmed(text: str) -> None:
    ((name, label, *_, view, _),) = csv_rows(text, None, BOXES[1:], (text,), np.array([1.0, 0.0]), (text, "B"))
    assert (name, label, view) == (f"'{text}",) * 3
    assert csv_rows(text, None, NONE, (), None, ())[0][0] == f"'{text}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x;=1+1", "x;'=1+1"),
        ("x\n=1", "x\n'=1"),
        ("x\t+1", "x\t'+1"),
        ("\n=1", "'\n'=1"),
        ("a-b;c=d", "a-b;c=d"),
        ("; @x", "; '@x"),
    ],
)
def test_a_formula_behind_another_separator_is_disarmed(text: str, expected: str) -> None:
    assert harmless(text) == expected


def test_numbers_in_a_csv_text_stay_numbers() -> None:
    cells = [-0.5, 3, "-0.25", "+1e-05", "-x", "=1", "-1-1", None]
    assert csv_text([cells]) == "-0.5,3,-0.25,+1e-05,'-x,'=1,'-1-1,None\n"


def test_a_file_name_that_is_no_text_can_be_written() -> None:
    (row,) = csv_rows("a\udcff.png", None, NONE, (), None, ())
    assert row[0].encode() == b"a\\udcff.png"


@pytest.mark.parametrize("label", ["x" * 999, "心" * 999, "\ud800", "\x7f", "x" * 199 + "é"])
def test_a_folder_of_any_class_name_can_be_made(tmp_path: Path, label: str) -> None:
    (tmp_path / folder_name(label)).mkdir()
    assert len(folder_name(label).encode()) <= 200


def test_harmless_text_stays_as_it_is_also_with_commas() -> None:
    rows = csv_rows('a=1, "b".png', None, BOXES[1:], ("A-R",), np.array([1.0]), ("P+",))
    file = io.StringIO()
    csv.writer(file).writerows(rows)
    assert list(csv.reader(io.StringIO(file.getvalue()))) == rows
    assert (rows[0][0], rows[0][1], rows[0][8]) == ('a=1, "b".png', "A-R", "P+")


@pytest.mark.parametrize(("name", "image"), [("frame.png", "frame"), ("000042.jpg", 42), ("12a.jpg", "12a")])
def test_coco_rows_have_corner_width_and_height(name: str, image: int | str) -> None:
    (given,) = image_ids([Path("images") / name])
    assert given == image
    assert coco_rows(BOXES, given) == [
        {"image_id": image, "category_id": 2, "bbox": [10.0, 20.0, 40.0, 80.0], "score": 0.87654},
        {"image_id": image, "category_id": 0, "bbox": [0.0, 0.0, 400.0, 200.0], "score": 0.25},
    ]
    assert coco_rows(NONE, given) == []


@pytest.mark.parametrize(
    ("files", "ids"),
    [
        (["a/x.jpg", "b/x.jpg", "a/y.jpg"], ["x", "x_2", "y"]),
        (["a/0007.jpg", "a/0012.jpg"], [7, 12]),
        (["a/7.jpg", "b/7.jpg", "b/007.jpg", "b/9.jpg", "a/8.jpg"], [7, 10, 11, 9, 8]),
        (["a/7.jpg", "a/7b.jpg"], ["7", "7b"]),  # of one kind: pycocotools sorts them
        (["a/20240131235959123456.jpg", "a/1.jpg"], ["20240131235959123456", "1"]),
        ([], []),
    ],
)
def test_image_ids_are_unique_stems_and_numbers_where_all_are(files: list[str], ids: list[int | str]) -> None:
    assert image_ids([Path(file) for file in files]) == ids


def test_coco_labels_are_in_pixels_of_the_file_and_cut_off_at_its_edge() -> None:
    rows = np.array([[2, 0.075, 0.3, 0.1, 0.4], [0, 0.0, 0.5, 0.5, 1]], np.float32)
    nothing = np.zeros((0, 5), np.float32)
    content = coco_labels([7, 8], ["a/7.jpg", "b/7.jpg"], [(200, 400), (10, 20)], [rows, nothing], NAMES)
    assert content["images"] == [
        {"id": 7, "file_name": "a/7.jpg", "width": 400, "height": 200},
        {"id": 8, "file_name": "b/7.jpg", "width": 20, "height": 10},
    ]
    assert content["categories"] == [{"id": i, "name": name} for i, name in enumerate(NAMES)]
    first, second = content["annotations"]
    assert first == {
        "id": 1, "image_id": 7, "category_id": 2, "iscrowd": 0,
        "bbox": pytest.approx([10, 20, 40, 80], rel=1e-6), "area": pytest.approx(3200, rel=1e-6),
    }  # fmt: skip
    assert (second["id"], second["bbox"], second["area"]) == (2, [0, 0, 100, 200], 20000)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["clip.mp4", "clip_0.jpg", "clip_1.jpg"], ["clip", "clip_0_2", "clip_1_2"]),
        (["clip_0.jpg", "clip.mp4"], ["clip_0", "clip_2"]),  # whose frames are clip_2_0, ...
        (["clip.avi", "clip.jpg", "b/clip.jpg"], ["clip", "clip-2", "clip-3"]),
        (["a/clip.avi", "b/clip.avi", "clip_2_7.jpg"], ["clip", "clip-2", "clip_2_7"]),
    ],
)
def test_a_frame_of_a_video_never_takes_the_name_of_another_file(files: list[str], expected: list[str]) -> None:
    unique = UniqueNames()
    given = {name: unique(Path(name), is_video(Path(name))) for name in files}
    assert list(given.values()) == expected
    taken = [name for file, name in given.items() if not is_video(Path(file))]
    for file, name in given.items():
        taken += [frame_name(name, number) for number in range(100)] if is_video(Path(file)) else []
    assert len(taken) == len(set(taken))


def test_names_that_were_given_earlier_stay() -> None:
    unique = UniqueNames()
    unique.give(Path("z/a.jpg"), "a", False)
    unique.give(Path("z/b.avi"), "b", True)
    assert [unique(Path(name)) for name in ("a.jpg", "z/a.jpg", "b_3.jpg")] == ["a_2", "a", "b_3_2"]
    assert frame_name("a", None) == "a"


@pytest.mark.parametrize(
    ("label", "expected"), [("MR", "MR"), ("a/b\\c", "a_b_c"), ("..", "_"), ("", "_"), (" x. ", "x"), ("a\nb", "a_b")]
)
def test_a_class_name_stays_within_its_folder(label: str, expected: str) -> None:
    assert folder_name(label) == expected
