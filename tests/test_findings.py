"""utils/findings.py: each fault is found under its own rule, and a faultless dataset has none."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.phantoms import Box, encode, label_text, picture, write_frame, write_yaml
from utils.config import load_dataset_config
from utils.findings import Finding, Frame, Rule, find_all, read_frames
from utils.labels import label_path

SHAPE = (48, 64)
CLEAN = ("train/p01-c01-f01", "train/p01-c01-f02", "train/p01-c01-f03", "val/p02-c01-f01", "val/p02-c01-f02")


def box(index: int, label: int = 1) -> Box:
    """A box of 12 x 10 pixels, elsewhere for each index, so that no two frames are alike."""
    return label, 2 + 3 * index, 4 + 2 * index, 14 + 3 * index, 14 + 2 * index


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with a faultless dataset: the frames of CLEAN, each with an MR box, all of one view."""
    folder = tmp_path / "data"
    for index, name in enumerate(CLEAN):
        write_frame(folder, f"{name}.png", SHAPE, [box(index)], 0)
    return folder


def frame(folder: Path, name: str) -> Path:
    return folder / "images" / f"{name}.png"


def relabel(folder: Path, name: str, boxes: list[Box], view: int | None) -> None:
    label_path(frame(folder, name)).write_text(label_text(SHAPE, boxes, view))


def audited(folder: Path, **keys: Any) -> tuple[list[Frame], list[Finding]]:
    config = load_dataset_config(write_yaml(folder, **keys))
    frames = read_frames(config)
    return frames, find_all(frames, config)


def findings(folder: Path, **keys: Any) -> list[Finding]:
    return audited(folder, **keys)[1]


def only(found: list[Finding], rule: Rule) -> Finding:
    """The single finding, which must be of that rule."""
    assert [finding.rule for finding in found] == [rule]
    return found[0]


def names(found: Finding) -> list[str]:
    return [frame.path.stem for frame in found.frames]


def test_a_faultless_dataset_has_no_findings(data: Path) -> None:
    frames, found = audited(data)
    assert found == [] and len(frames) == len(CLEAN)


def test_every_frame_is_read_once_a_part_in_the_order_of_the_lists(data: Path) -> None:
    frames, _ = audited(data)
    assert [f"{frame.part}/{frame.path.stem}" for frame in frames] == list(CLEAN)
    first = frames[0]
    assert (first.shape, first.fault, first.classes, first.view) == (SHAPE, "", ("MR",), "PLAX")
    assert (first.patient, first.clip, first.has_label, first.kinds) == ("p01", "p01-c01", True, "MR")
    assert len({frame.digest for frame in frames}) == len(CLEAN)


def test_the_gravest_rule_comes_first_whichever_frame_breaks_it(data: Path) -> None:
    label_path(frame(data, CLEAN[0])).unlink()
    relabel(data, CLEAN[1], [(1, 30, 20, 35, 32)], 1)
    frame(data, CLEAN[4]).write_bytes(b"no image")
    rules = [finding.rule for finding in findings(data)]
    assert rules == [Rule.UNDECODABLE, Rule.VIEWS, Rule.TINY, Rule.NO_LABEL]
    assert rules == sorted(rules, key=list(Rule).index)


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"no image", encode(".png", picture())[:40]])
def test_an_image_that_cannot_be_decoded(data: Path, content: bytes) -> None:
    frame(data, CLEAN[0]).write_bytes(content)
    found = only(findings(data), Rule.UNDECODABLE)
    assert (found.part, found.path, names(found)) == ("train", frame(data, CLEAN[0]), ["p01-c01-f01"])
    assert found.text and str(found.path) not in found.text


def test_a_listed_image_that_is_missing_and_its_label_that_is_left(data: Path) -> None:
    (data / "list.txt").write_text("".join(f"images/{name}.png\n" for name in CLEAN[:3]))
    frame(data, CLEAN[0]).unlink()
    found = findings(data, train="list.txt")
    assert [(finding.rule, finding.path) for finding in found] == [
        (Rule.UNDECODABLE, frame(data, CLEAN[0])),
        (Rule.ORPHAN, label_path(frame(data, CLEAN[0]))),
    ]


def test_a_faulty_row_is_named_with_its_line(data: Path) -> None:
    path = label_path(frame(data, CLEAN[1]))
    path.write_text("9 0.5 0.5 0.3 0.3\n" + path.read_text())
    found = only(findings(data), Rule.FAULTY)
    assert (found.path, found.line, found.text) == (path, 1, "expected a class from 0 to 3, got 9")
    assert found.reason(found.frames[0]) == "line 1: expected a class from 0 to 3, got 9"


def test_a_label_file_that_is_no_text_leaves_the_frame_without_a_view(data: Path) -> None:
    label_path(frame(data, CLEAN[1])).write_bytes(b"\xff\xfe\x00")
    found = findings(data)
    assert [finding.rule for finding in found] == [Rule.FAULTY, Rule.NO_VIEW]
    assert found[0].line is None and "cannot be read as text" in found[0].text


def test_a_label_file_without_an_image(data: Path) -> None:
    stray = data / "labels/val/p09-c01-f01.txt"
    stray.write_text("")
    found = only(findings(data), Rule.ORPHAN)
    assert (found.part, found.path, found.frames) == ("val", stray, ())
    assert str(data / "images/val") in found.text


def test_label_files_of_images_that_no_part_lists_are_no_orphans(data: Path) -> None:
    (data / "list.txt").write_text(f"images/{CLEAN[0]}.png\n")
    assert findings(data, train="list.txt") == []


def test_an_image_list_beside_images_and_labels_is_no_orphan(tmp_path: Path) -> None:
    for index, name in enumerate(("a", "b")):
        image = write_frame(tmp_path / "made", f"{name}.png", SHAPE, [box(index)], 0)
        image.rename(tmp_path / image.name)
        label_path(image).rename(tmp_path / f"{name}.txt")
    (tmp_path / "train.txt").write_text("a.png\n")
    (tmp_path / "val.txt").write_text("b.png\n")
    assert findings(tmp_path, train="train.txt", val="val.txt", group=None) == []


def test_a_frame_without_a_label_file(data: Path) -> None:
    label_path(frame(data, CLEAN[4])).unlink()
    found = only(findings(data), Rule.NO_LABEL)
    assert (found.part, found.path) == ("val", frame(data, CLEAN[4]))


def test_a_frame_without_a_view_row(data: Path) -> None:
    relabel(data, CLEAN[2], [box(2)], None)
    found = only(findings(data), Rule.NO_VIEW)
    assert (found.part, found.path) == ("train", frame(data, CLEAN[2]))


def test_without_views_in_the_yaml_no_view_is_missed(data: Path) -> None:
    relabel(data, CLEAN[2], [box(2)], None)
    frames, found = audited(data, view_names=None)
    assert found == [] and {frame.view for frame in frames} == {None}


# --- boxes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "top", "right", "bottom", "tiny"),
    [
        (10, 10, 18, 18, False),
        (10, 10, 17, 40, True),
        (10, 10, 40, 17, True),
        (56, 10, 72, 30, False),  # 16 pixels wide, 8 of them in the frame
        (57, 10, 71, 30, True),
        (-7, 10, 7, 30, True),
    ],
)
def test_a_tiny_box_is_under_8_pixels_of_the_frame(
    data: Path, left: int, top: int, right: int, bottom: int, tiny: bool
) -> None:
    relabel(data, CLEAN[0], [(1, left, top, right, bottom)], 0)
    assert [finding.rule for finding in findings(data)] == [Rule.TINY] * tiny


def test_eight_pixels_in_a_frame_that_decimals_do_not_divide_are_not_tiny(data: Path) -> None:
    frame(data, CLEAN[0]).write_bytes(encode(".png", picture((0, 0, 0), 607, 811)))
    row = f"1 0.5 0.5 {8 / 811:.6f} {8 / 607:.6f}"
    label_path(frame(data, CLEAN[0])).write_text(f"{row}\n\n1 0 0\n")
    assert findings(data) == []


def test_the_text_of_a_tiny_box_names_class_and_pixels(data: Path) -> None:
    relabel(data, CLEAN[0], [box(0), (1, 30, 20, 35, 32)], 0)
    assert only(findings(data), Rule.TINY).text == "MR of 5.0 x 12.0 pixels, 2.0% of the frame"


@pytest.mark.parametrize(("right", "huge"), [(64, True), (62, True), (60, False)])
def test_a_huge_box_is_over_95_percent_of_the_frame(data: Path, right: int, huge: bool) -> None:
    relabel(data, CLEAN[0], [(1, 0, 0, right, 48)], 0)
    assert [finding.rule for finding in findings(data)] == [Rule.HUGE] * huge


def test_boxes_of_a_frame_that_cannot_be_decoded_are_not_measured(data: Path) -> None:
    relabel(data, CLEAN[0], [(1, 10, 10, 11, 11)], 0)
    frame(data, CLEAN[0]).write_bytes(b"no image")
    only(findings(data), Rule.UNDECODABLE)


# --- duplicates ------------------------------------------------------------------------------------------------------


def copy(folder: Path, source: str, target: str) -> None:
    """Make the image of one frame that of another, which gets the same label, too."""
    for place in (lambda path: path, label_path):
        place(frame(folder, target)).write_bytes(place(frame(folder, source)).read_bytes())


def test_the_same_file_twice_in_a_part(data: Path) -> None:
    copy(data, CLEAN[0], CLEAN[2])
    found = only(findings(data), Rule.DUPLICATE)
    assert (found.part, names(found)) == ("train", ["p01-c01-f01", "p01-c01-f03"])
    assert found.text == "the same bytes: train p01-c01-f01.png, train p01-c01-f03.png"


def test_the_same_file_in_two_parts(data: Path) -> None:
    copy(data, CLEAN[0], CLEAN[3])
    found = only(findings(data), Rule.ACROSS)
    assert (found.part, names(found)) == ("train+val", ["p01-c01-f01", "p02-c01-f01"])


def test_three_of_a_kind_are_one_finding(data: Path) -> None:
    for target in (1, 2, 3, 4):
        copy(data, CLEAN[0], CLEAN[target])
    found = only(findings(data), Rule.ACROSS)
    assert len(found.frames) == 5 and found.text.endswith("train p01-c01-f03.png, 2 more")


@pytest.mark.parametrize(
    ("boxes", "view", "differ"),
    [
        ([box(0, label=3)], 0, "box classes"),
        ([], 0, "box classes"),
        ([box(0), box(5)], 0, "box classes"),
        ([box(1)], 0, "box corners (IoU 0.43)"),  # 9 x 8 shared pixels of 168
        ([box(0)], 1, "views"),
        ([box(0)], None, "views"),
        ([box(0, label=3)], 1, "box classes and views"),
    ],
)
def test_the_same_file_with_other_labels_is_named_so(
    data: Path, boxes: list[Box], view: int | None, differ: str
) -> None:
    copy(data, CLEAN[0], CLEAN[2])
    relabel(data, CLEAN[2], boxes, view)
    found = [finding for finding in findings(data) if finding.rule in (Rule.CONTRADICTION, Rule.DUPLICATE)]
    assert [finding.rule for finding in found] == [Rule.CONTRADICTION, Rule.DUPLICATE]
    assert found[0].text == f"the same bytes, but {differ} differ: train p01-c01-f01.png, train p01-c01-f03.png"
    assert names(found[0]) == ["p01-c01-f01", "p01-c01-f03"]


def test_the_same_boxes_in_another_order_or_as_polygons_are_the_same_label(data: Path) -> None:
    relabel(data, CLEAN[0], [box(0), (3, 30, 20, 40, 40)], 0)
    copy(data, CLEAN[0], CLEAN[2])
    corners = f"3 {30 / 64:.5f} {20 / 48:.5f} {40 / 64:.5f} {20 / 48:.5f} {40 / 64:.5f} {40 / 48:.5f}"
    label_path(frame(data, CLEAN[2])).write_text(f"{corners}\n{label_text(SHAPE, [box(0)], 0)}")
    assert Rule.CONTRADICTION not in {finding.rule for finding in findings(data)}
    assert Rule.DUPLICATE in {finding.rule for finding in findings(data)}


def test_a_box_of_a_pixel_is_the_same_as_itself(data: Path) -> None:
    relabel(data, CLEAN[0], [(1, 30, 20, 31, 21)], 0)
    label_path(frame(data, CLEAN[0])).write_text("1 0.5 0.5 0.0005 0.0005\n\n1 0 0\n")
    copy(data, CLEAN[0], CLEAN[2])
    assert Counter(finding.rule for finding in findings(data)) == {Rule.DUPLICATE: 1, Rule.TINY: 2}


def test_empty_image_files_are_not_duplicates(data: Path) -> None:
    for name in CLEAN[:2]:
        frame(data, name).write_bytes(b"")
    assert [finding.rule for finding in findings(data)] == [Rule.UNDECODABLE] * 2


# --- patients and clips ----------------------------------------------------------------------------------------------


def test_a_patient_in_two_parts(data: Path) -> None:
    write_frame(data, "val/p01-c02-f01.png", SHAPE, [box(6)], 0)
    finding = only(findings(data), Rule.SHARED)
    assert finding.text == "patient p01 has frames in train 3 (100.0% of it), val 1 (33.3% of it)"
    assert (finding.part, finding.path, len(finding.frames)) == ("train+val", None, 4)


def test_names_that_the_group_pattern_does_not_match_are_no_patients(data: Path) -> None:
    for index, part in enumerate(("train", "val")):
        write_frame(data, f"{part}/unknown.png", SHAPE, [box(6 + index)], 0)
    frames, found = audited(data)
    assert [(finding.rule, finding.part) for finding in found] == [(Rule.UNKNOWN, "train"), (Rule.UNKNOWN, "val")]
    assert found[0].path == data / "images/train/unknown.png" and r"^(p\d+)-" in found[0].text
    assert {frame.patient for frame in frames} == {"p01", "p02", None}


def test_without_a_pattern_patients_and_clips_are_passed_over(data: Path) -> None:
    relabel(data, CLEAN[0], [box(0)], 1)
    frames, found = audited(data, group=None)
    assert found == []
    assert {(frame.patient, frame.clip) for frame in frames} == {(None, None)}


def test_clips_by_their_own_pattern_need_no_patients(data: Path) -> None:
    relabel(data, CLEAN[0], [box(0)], 1)
    assert only(findings(data, group=None, clip=r"^(p\d+-c\d+)-"), Rule.VIEWS).text == "clip p01-c01 has PLAX 2, PSAX 1"


def test_a_clip_with_two_views_lists_the_frames_outside_of_its_majority(data: Path) -> None:
    relabel(data, CLEAN[1], [box(1)], 2)
    found = only(findings(data), Rule.VIEWS)
    assert (found.text, names(found), found.part) == ("clip p01-c01 has PLAX 2, A4C 1", ["p01-c01-f02"], "train")
    assert found.reason(found.frames[0]) == "clip p01-c01 has PLAX 2, A4C 1; here MR, A4C"


def test_a_clip_with_two_sets_of_box_classes(data: Path) -> None:
    relabel(data, CLEAN[1], [box(1), box(4, label=3)], 0)
    found = only(findings(data), Rule.CLASSES)
    assert (found.text, names(found)) == ("clip p01-c01 has MR 2, MR+TR 1", ["p01-c01-f02"])


def test_two_boxes_of_a_class_are_the_same_set_as_one(data: Path) -> None:
    relabel(data, CLEAN[1], [box(1), box(4)], 0)
    assert findings(data) == []


def test_where_no_view_is_commonest_all_frames_are_listed(data: Path) -> None:
    relabel(data, CLEAN[3], [box(3)], 1)
    assert names(only(findings(data), Rule.VIEWS)) == ["p02-c01-f01", "p02-c01-f02"]


def test_frames_without_view_or_boxes_do_not_make_a_clip_mixed(data: Path) -> None:
    relabel(data, CLEAN[0], [], 0)
    relabel(data, CLEAN[1], [box(1)], None)
    only(findings(data), Rule.NO_VIEW)


def test_a_clip_over_two_parts_is_looked_at_as_a_whole(data: Path) -> None:
    write_frame(data, "val/p01-c01-f09.png", SHAPE, [box(6)], 1)
    found = [finding for finding in findings(data) if finding.rule is Rule.VIEWS]
    assert [(finding.part, names(finding)) for finding in found] == [("train+val", ["p01-c01-f09"])]
