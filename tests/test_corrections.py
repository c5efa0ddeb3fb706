"""utils.corrections: what a reader may say of a frame, and the data set that comes of it."""

from __future__ import annotations

import json
import math
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.studies import NAMES, VIEW_NAMES, area_of, image_of, review_in
from utils import corrections
from utils.config import load_dataset_config
from utils.corrections import Corrections, Refused, Review
from utils.dataset import EchoDataset
from utils.groups import patients
from utils.images import read_image
from utils.labels import UNLABELLED, pixel_corners, read_label
from utils.log import InputError
from utils.regions import unknown

BOXES = [{"class": 1, "box": [100, 60.5, 150, 110]}, {"class": 3, "box": [40, 100, 80, 140.25]}]


def said(**keys: Any) -> dict[str, Any]:
    """What a page sends."""
    return {"clip": "clip-aa01", "frame": 3, "reader": "A. Reader", "boxes": BOXES, "view": 2, **keys}


@pytest.fixture
def review(tmp_path: Path) -> Review:
    return review_in(tmp_path)


@pytest.fixture
def kept(review: Review) -> Corrections:
    return Corrections(review)


def test_a_correction_is_a_sample_of_what_the_network_saw(kept: Corrections) -> None:
    kept.save(said())
    area = area_of("clip-aa01")
    assert area is not None and area.seen != (0, 0, 320, 240)
    left, top, right, bottom = area.seen
    picture = read_image(kept.folder / "images" / "clip-aa01-00003.png")
    assert np.array_equal(picture, area.crop(area.masked(image_of("clip-aa01", 3))))
    assert not np.array_equal(picture, area.crop(image_of("clip-aa01", 3)))  # what may not be shown is black
    label = read_label(kept.folder / "labels" / "clip-aa01-00003.txt", 4, 3)
    assert label.problems == () and label.view == 2 and label.boxes[:, 0].tolist() == [1, 3]
    corners = pixel_corners(label.boxes, (bottom - top, right - left)) + np.array([left, top, left, top])
    assert corners.ravel().tolist() == pytest.approx([100, 60.5, 150, 110, 40, 100, 80, 140.25], abs=1e-3)


def test_a_clip_that_the_network_saw_whole_is_kept_whole(kept: Corrections) -> None:
    kept.save(said(clip="clip-aa03", frame=0, boxes=[{"class": 0, "box": [0, 0, 320, 240]}], view=None))
    assert np.array_equal(read_image(kept.folder / "images" / "clip-aa03-00000.png"), image_of("clip-aa03", 0))
    assert (kept.folder / "labels" / "clip-aa03-00000.txt").read_text() == "0 0.500000 0.500000 1.000000 1.000000\n"


@pytest.mark.parametrize(
    ("boxes", "view", "text"),
    [([], 1, "\n0 1 0\n"), ([], None, ""), (BOXES[:1], None, None), (BOXES[:1], 0, None)],
)
def test_boxes_and_view_may_each_be_absent(
    kept: Corrections, boxes: list[dict[str, Any]], view: int | None, text: str | None
) -> None:
    kept.save(said(boxes=boxes, view=view))
    path = kept.folder / "labels" / "clip-aa01-00003.txt"
    label = read_label(path, 4, 3)
    assert (len(label.boxes), label.view, label.problems) == (len(boxes), UNLABELLED if view is None else view, ())
    assert text is None or path.read_text() == text


def test_a_box_is_cut_off_where_the_network_sees_no_more(kept: Corrections) -> None:
    area = area_of("clip-aa01")
    assert area is not None
    kept.save(said(boxes=[{"class": 0, "box": [0, 100, 320, 240]}]))
    label = read_label(kept.folder / "labels" / "clip-aa01-00003.txt", 4, 3)
    height = area.seen[3] - area.seen[1]
    assert label.problems == ()
    assert pixel_corners(label.boxes, (height, 1))[0].tolist() == pytest.approx([0, 100 - area.seen[1], 1, height])


def test_a_sidecar_says_who_when_and_what_the_network_had_said(kept: Corrections) -> None:
    answer = kept.save(said(frame=9, reader="  Ärztin 三 "))
    read = json.loads((kept.folder / "sidecars" / "clip-aa01-00009.json").read_text(encoding="utf-8"))
    assert read == answer and kept.all() == [answer]
    assert (read["reader"], read["study"], read["weights"]) == ("Ärztin 三", "study-1", "5a" * 32)
    assert read["saved"].endswith("+00:00") and len(read["saved"]) == 25
    assert read["boxes"][0] == {"class": 1, "name": "MR", "box": [100, 60.5, 150, 110]}
    assert read["view"] == {"class": 2, "name": "A4C"}
    assert [box["name"] for box in read["network"]["boxes"]] == ["MR", "TR"]
    assert read["network"]["boxes"][0]["confidence"] == pytest.approx(0.77)
    assert read["network"]["view"] == [0.1, 0.1, 0.8]


def test_corrections_are_a_data_set_that_a_training_takes(kept: Corrections) -> None:
    for frame in (3, 4):
        kept.save(said(frame=frame))
    kept.save(said(clip="clip-aa03", frame=0, boxes=[], view=1))
    config = load_dataset_config(kept.folder / "data.yaml")
    assert config.names == NAMES and config.view_names == VIEW_NAMES
    for part in ("train", "val"):
        dataset = EchoDataset(config, part, 64, strict=True)
        assert len(dataset) == 3 and dataset.views().tolist() == [2, 2, 1]
    assert patients(config, dataset.files) == ["clip-aa01", "clip-aa01", "clip-aa03"]


def test_names_of_any_kind_can_be_read_again(review: Review) -> None:
    names = ("no", "1", "a: b", "# 三 'x' \"y\"")
    kept = Corrections(replace(review, names=names, view_names=()))
    kept.save(said(view=None))
    config = load_dataset_config(kept.folder / "data.yaml")
    assert config.names == names and config.view_names == ()


def test_nothing_is_overwritten(kept: Corrections) -> None:
    first = kept.save(said(reader="one", view=0))
    label = (kept.folder / "labels" / "clip-aa01-00003.txt").read_bytes()
    kept.save(said(reader="two", boxes=[]))
    (kept.folder / "data.yaml").write_text("a reader's own")
    third = kept.save(said(reader="three", boxes=[]))
    earlier = kept.folder / "earlier"
    expected = {f"clip-aa01-00003-{number}{suffix}" for number in (1, 2) for suffix in (".png", ".txt", ".json")}
    assert {path.name for path in earlier.iterdir()} == expected
    assert json.loads((earlier / "clip-aa01-00003-1.json").read_text()) == first
    assert (earlier / "clip-aa01-00003-1.txt").read_bytes() == label
    assert json.loads((earlier / "clip-aa01-00003-2.json").read_text())["reader"] == "two"
    assert kept.all() == [third] and (kept.folder / "data.yaml").read_text() == "a reader's own"


@pytest.mark.parametrize("failing", ["write_whole", "write_json"])
def test_what_fails_in_between_loses_nothing(kept: Corrections, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    first = kept.save(said(reader="one"))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(corrections, failing, full)
        with pytest.raises(OSError, match="No space"):
            kept.save(said(reader="two"))
    assert json.loads((kept.folder / "earlier" / "clip-aa01-00003-1.json").read_text()) == first
    assert kept.save(said(reader="three"))["reader"] == kept.all()[0]["reader"] == "three"


def test_two_tabs_at_once_lose_nothing(kept: Corrections) -> None:
    readers = [f"reader {number}" for number in range(12)]
    threads = [threading.Thread(target=kept.save, args=(said(reader=reader),)) for reader in readers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    files = [*(kept.folder / "earlier").glob("*.json"), *(kept.folder / "sidecars").glob("*.json")]
    assert sorted(json.loads(path.read_text())["reader"] for path in files) == sorted(readers)
    assert len(list((kept.folder / "earlier").glob("*.png"))) == 11


def test_faults_in_a_folder_are_passed_over(kept: Corrections) -> None:
    answer = kept.save(said())
    for name, text in {
        "clip-aa01-00004.json": "{", "clip-aa01-00005.json": "[]", "clip-aa01-00006.json": '{"clip": 1, "frame": "x"}',
        "another-00001.json": '{"clip": "another", "frame": 1}',
        "clip-aa01-00007.json": json.dumps(answer | {"frame": 7, "boxes": [{"class": 1, "box": "x"}]}),
        "clip-aa01-00008.json": json.dumps(answer),
    }.items():  # fmt: skip
        (kept.folder / "sidecars" / name).write_text(text)
    assert kept.all() == [answer]


def box(*corners: Any, label: Any = 0) -> dict[str, Any]:
    return {"class": label, "box": list(corners)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "expected a mapping, got NoneType"),
        ([], "expected a mapping, got list"),
        ({}, "expected the keys boxes, clip, frame, reader, view"),
        ({**said(), "more": 1}, "expected the keys"),
        (said(clip="clip-none"), 'clip: expected one of this report, got "clip-none"'),
        (said(clip="../clip-aa01"), "clip: expected one of this report"),
        (said(clip=["clip-aa01"]), "clip: expected one of this report"),
        (said(frame=12), "frame: expected one of clip-aa01 that has a picture, got 12"),
        (said(frame=-1), "frame: expected"),
        (said(frame=3.0), "frame: expected"),
        (said(frame=True), "frame: expected"),
        (said(frame="3"), "frame: expected"),
        (said(clip="clip-aa02", frame=4), "frame: expected one of clip-aa02 that has a picture"),
        (said(reader=""), "reader: expected a name"),
        (said(reader="   "), "reader: expected a name"),
        (said(reader="a\nb"), "reader: expected a name"),
        (said(reader="a" * 101), "reader: expected a name"),
        (said(reader=7), "reader: expected a name"),
        (said(view=3), "view: expected null or a number from 0 to 2, got 3"),
        (said(view="A4C"), "view: expected null"),
        (said(view=True), "view: expected null"),
        (said(boxes={}), "boxes: expected a list"),
        (said(boxes=[box(1, 1, 9, 9)] * 301), "boxes: expected a list of at most 300"),
        (said(boxes=[[0, 1, 1, 9, 9]]), "boxes: expected class and box of each"),
        (said(boxes=[box(1, 1, 9, 9, label=4)]), "class: expected a number from 0 to 3, got 4"),
        (said(boxes=[box(1, 1, 9, 9, label=-1)]), "class: expected"),
        (said(boxes=[box(1, 1, 9, 9, label="MR")]), "class: expected"),
        (said(boxes=[box(1, 1, 9)]), "box: expected four numbers"),
        (said(boxes=[box(1, 1, 9, "9")]), "box: expected four numbers"),
        (said(boxes=[box(1, 1, 9, None)]), "box: expected four numbers"),
        (said(boxes=[box(1, 1, 9, math.nan)]), "box: expected four numbers"),
        (said(boxes=[box(1, 1, math.inf, 9)]), "box: expected four numbers"),
        (said(boxes=[box(1, 1, 10**400, 9)]), "box: expected four numbers"),
        (said(boxes=[box(1, 1, 10**5000, 9)]), "box: expected four numbers"),
        (said(boxes=[box(-1, 1, 9, 9)]), "box: expected 0 <= x1 < x2 <= 320"),
        (said(boxes=[box(1, 1, 321, 9)]), "box: expected 0 <= x1 < x2 <= 320"),
        (said(boxes=[box(1, 1, 9, 241)]), "box: expected 0 <= x1 < x2 <= 320"),
        (said(boxes=[box(9, 1, 1, 9)]), "box: expected 0 <= x1 < x2 <= 320"),
        (said(boxes=[box(9, 1, 9, 9)]), "box: expected 0 <= x1 < x2 <= 320"),
        (said(boxes=[box(50, 50, 51, 90)]), "box: expected 2 pixels a side within"),
        (said(boxes=[box(300, 2, 318, 8)]), "box: expected 2 pixels a side within"),  # beside the sector
        (said(boxes=[BOXES[0], BOXES[0]]), "boxes: expected each box once"),
    ],
)
def test_what_is_no_correction_is_refused_and_leaves_nothing(kept: Corrections, content: Any, message: str) -> None:
    with pytest.raises(Refused) as refused:
        kept.save(content)
    text = str(refused.value)
    assert text.startswith(message) and "\n" not in text and len(text) < 300
    assert not kept.folder.exists()


def test_a_clip_of_which_nothing_may_be_shown_cannot_be_corrected(review: Review) -> None:
    kept = Corrections(replace(review, area_of=lambda clip, frame: unknown(image_of(clip, frame))))
    with pytest.raises(Refused, match="nothing of this frame may be shown"):
        kept.save(said())


def test_frames_that_have_changed_are_not_taken(review: Review) -> None:
    kept = Corrections(replace(review, image_of=lambda clip, frame: image_of(clip, frame)[:100]))
    with pytest.raises(InputError, match="expected frames of 320 x 240, got 320 x 100"):
        kept.save(said())


def test_a_report_whose_ids_are_paths_is_refused(review: Review) -> None:
    review.report["studies"][0]["clips"][0]["id"] = "../x"
    with pytest.raises(ValueError, match=r"part of a file's name, got '\.\./x'"):
        Corrections(review)
