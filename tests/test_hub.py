"""utils.hub: results in the forms that YOLOv5's users take them in."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from tests.test_predict import ALONE, BOXES, NAMES, PREDICTION, frame
from utils.draw import draw
from utils.hub import Results, channels_last
from utils.images import read_image
from utils.log import InputError
from utils.predict import Prediction

TIMED = Prediction(PREDICTION.boxes, PREDICTION.view, NAMES, PREDICTION.view_names, frame(), (1.0, 20.0, 0.5))
BARE = Prediction(ALONE.boxes, None, NAMES, PREDICTION.view_names, frame(20), (2.0, 40.0, 1.5))


@pytest.fixture
def results() -> Results:
    """Of a frame of 48 x 80 with two boxes, and one of 20 x 80 without."""
    return Results([TIMED, BARE], ["f.jpg", "g.jpg"], (2, 3, 64, 64))


def test_boxes_come_as_tensors_in_four_forms(results: Results) -> None:
    assert all(len(part) == 2 for part in (results.pred, results.xyxy, results.xywh, results.xyxyn, results.xywhn))
    assert torch.equal(results.xyxy[0], torch.from_numpy(BOXES)) and results.pred[0] is results.xyxy[0]
    assert results.xywh[0][0].tolist() == pytest.approx([15, 21, 20, 30, 0.81, 1])
    assert results.xyxyn[0][0].tolist() == pytest.approx([5 / 80, 6 / 48, 25 / 80, 36 / 48, 0.81, 1])
    assert results.xywhn[0][0].tolist() == pytest.approx([15 / 80, 21 / 48, 20 / 80, 30 / 48, 0.81, 1])
    assert results.xyxy[1].shape == results.xywhn[1].shape == (0, 6)
    assert (results.n, len(results), results.s) == (2, 2, (2, 3, 64, 64))
    assert results.names == {0: "AR", 1: "MR", 2: "PR", 3: "TR"} and results.view_names == ("PSAX", "A4C")
    assert results.t == (1.5, 30.0, 1.0)  # the mean of an image
    assert results.views == [TIMED.view, None] and results.ims[0] is TIMED.image


def test_data_frames_have_yolov5s_columns(results: Results) -> None:
    tables = results.pandas()
    rest = ["confidence", "class", "name"]
    for key in ("xyxy", "xyxyn"):
        assert [list(table) for table in getattr(tables, key)] == [["xmin", "ymin", "xmax", "ymax", *rest]] * 2
    for key in ("xywh", "xywhn"):
        assert [list(table) for table in getattr(tables, key)] == [["xcenter", "ycenter", "width", "height", *rest]] * 2
    for key in ("xyxy", "xyxyn", "xywh", "xywhn"):
        first, second = getattr(tables, key)
        np.testing.assert_allclose(first.iloc[:, :6].to_numpy(float), getattr(results, key)[0].numpy())
        assert first["name"].tolist() == ["MR", "TR"] and first["class"].tolist() == [1, 3] and not len(second)
    assert isinstance(results.xyxy[0], torch.Tensor)  # the original is as it was
    assert "MR" in tables.xyxy[0].to_json(orient="records")


def test_the_text_has_a_line_an_image_and_the_times(results: Results, capsys: pytest.CaptureFixture[str]) -> None:
    expected = (
        "image 1/2: 48x80 1 MR, 1 TR; view A4C 0.97\n"
        "image 2/2: 20x80 (no detections)\n"
        "Speed: 1.5ms pre-process, 30.0ms inference, 1.0ms NMS per image at shape (2, 3, 64, 64)"
    )
    assert str(results) == repr(results) == expected
    results.print()
    assert capsys.readouterr().out == expected + "\n"


def test_a_list_has_the_results_of_each_image(results: Results) -> None:
    first, second = results.tolist()
    assert (first.n, first.files, first.s, first.t) == (1, ["f.jpg"], (1, 3, 64, 64), (1.0, 20.0, 0.5))
    assert torch.equal(first.xyxy[0], results.xyxy[0]) and second.ims[0] is BARE.image


def test_rendered_frames_are_drawn_and_take_the_place_of_the_plain_ones(results: Results) -> None:
    plain = TIMED.image.copy()
    rendered = results.render()
    np.testing.assert_array_equal(rendered[0], draw(plain, BOXES, NAMES, "A4C 0.97"))
    assert results.ims is rendered
    np.testing.assert_array_equal(TIMED.image, plain)
    hidden = results.render(labels=False)[0]
    np.testing.assert_array_equal(hidden, draw(plain, BOXES, NAMES, "A4C 0.97", hide_labels=True))


def test_pictures_are_saved_to_a_folder_of_their_own(
    results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in ("exp", "exp2", "exp3"):
        assert results.save() == Path("runs/detect") / number
    assert "2 pictures saved to" in capsys.readouterr().out
    assert results.save(exist_ok=True) == Path("runs/detect/exp")
    assert {path.name for path in Path("runs/detect/exp").iterdir()} == {"f.jpg", "g.jpg"}
    results.save(labels=False, save_dir=tmp_path / "mine")
    written = read_image(tmp_path / "mine" / "f.jpg").astype(int)
    assert np.abs(written - results.render(labels=False)[0]).mean() < np.abs(written - results.render()[0]).mean()


def test_crops_hold_what_lies_in_the_boxes_though_frames_were_rendered(results: Results, tmp_path: Path) -> None:
    results.render()
    crops = results.crop(save_dir=tmp_path / "c")
    assert [crop["label"] for crop in crops] == ["MR 0.81", "TR 0.40"]
    np.testing.assert_array_equal(crops[0]["im"], frame()[6:36, 5:25])
    np.testing.assert_array_equal(crops[1]["im"], frame()[2:20, 0:11])  # to whole pixels, outwards
    assert [int(x) for x in crops[0]["box"]] == [5, 6, 25, 36]
    assert (float(crops[0]["conf"]), int(crops[0]["cls"])) == (pytest.approx(0.81), 1)
    assert read_image(tmp_path / "c" / "crops" / "MR" / "f.jpg").shape == (30, 20, 3)
    assert len(results.crop(save=False, save_dir=tmp_path / "none")) == 2 and not (tmp_path / "none").exists()


@pytest.mark.parametrize("name", ["../../outside", "a/b", "", "..", "a\nb"])
def test_crops_never_lie_outside_their_folder_or_over_each_other(tmp_path: Path, name: str) -> None:
    twice = Prediction(np.repeat(BOXES[:1], 2, 0), None, ("", name), (), frame())
    Results([twice, twice], ["f.jpg", "f2.jpg"], (2, 3, 64, 64)).crop(save_dir=tmp_path / "run" / "exp")
    crops = list(tmp_path.rglob("*.jpg"))
    assert len(crops) == 4
    assert {path.parent.parent for path in crops} == {tmp_path / "run" / "exp" / "crops"}
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_pictures_are_shown_where_there_is_a_place_for_them(
    results: Results, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from PIL import Image as pillow

    opened: list[Any] = []
    monkeypatch.setattr(pillow.Image, "show", lambda picture: opened.append(np.asarray(picture)))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    with caplog.at_level(logging.WARNING, logger="echo"):
        results.show()
    assert not opened and caplog.text.count("no screen here; results.save()") == 1
    monkeypatch.setenv("DISPLAY", ":0")
    results.show()
    np.testing.assert_array_equal(opened[0], results.render()[0])
    shown: list[Any] = []
    notebook = SimpleNamespace(get_ipython=lambda: 1, display=SimpleNamespace(display=shown.append))
    monkeypatch.setitem(sys.modules, "IPython", notebook)
    results.show()
    assert len(opened) == len(shown) == 2


def test_channels_are_put_last_and_nothing_else_is_changed() -> None:
    first = frame().transpose(2, 0, 1)
    for given in (first, torch.from_numpy(first.copy()), torch.from_numpy(frame())):
        np.testing.assert_array_equal(channels_last(given), frame())
    narrow = np.zeros((3, 9, 3), np.uint8)  # three pixels high
    assert channels_last(narrow) is narrow and channels_last("f.png") == "f.png"
    assert channels_last(first[:1]).shape == (48, 80, 1)
    with pytest.raises(InputError, match=r"got a batch \(2, 3, 8, 8\); list\(batch\)"):
        channels_last(np.zeros((2, 3, 8, 8), np.uint8))


def test_colours_of_a_saved_picture_are_the_frames(tmp_path: Path) -> None:
    red = np.zeros((40, 60, 3), np.uint8)
    red[..., 0] = 255
    folder = Results([Prediction(BOXES[:0], None, NAMES, (), red)], ["f.jpg"], (1, 3, 64, 64)).save(
        save_dir=tmp_path / "s"
    )
    stored = cv2.imread(str(folder / "f.jpg"))
    assert stored is not None and stored[20, 30, 2] > 250 and stored[20, 30, 0] < 5
