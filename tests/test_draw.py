"""Boxes and views drawn into frames: what is drawn, that it stays inside, and that the frame given stays as it was."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from utils import draw as module
from utils.draw import colour, draw, mosaic, save

NAMES = ["AR", "MR", "PR", "TR"]
NAN = float("nan")


def frame(height: int = 240, width: int = 320, grey: int = 100) -> NDArray[np.uint8]:
    return np.full((height, width, 3), grey, np.uint8)


def boxes(*rows: tuple[float, ...]) -> NDArray[np.float64]:
    return np.array(rows, float).reshape(-1, 6)


def shows(image: NDArray[np.uint8], text: str, index: int) -> bool:
    """Whether the whole label of class ``index`` is somewhere in a 320 x 240 frame."""
    mask = module._text_mask(text, module._text_size(frame()))
    label = np.zeros((*mask.shape, 3), np.uint8)
    module._plate(label, mask, 0, 0, colour(index), (0, 0, 0))
    return bool(cv2.matchTemplate(image, label, cv2.TM_SQDIFF).min() < label.size)  # rounded in its Fourier space


def test_colours_differ_are_bright_and_repeat() -> None:
    palette = [colour(i) for i in range(7)]
    for one, other in combinations(palette, 2):
        assert np.abs(np.subtract(one, other)).max() > 60
    for red, green, blue in palette:
        assert 0.299 * red + 0.587 * green + 0.114 * blue > 130  # black text on it is readable
    assert colour(7) == colour(0)


def test_draw_changes_a_copy_only() -> None:
    image = frame()
    image.setflags(write=False)
    flipped = image[:, :, ::-1]  # what a BGR frame turned to RGB looks like: not contiguous
    for given in (image, flipped):
        drawn = draw(given, boxes((50, 60, 150, 160, 0.9, 1)), NAMES, "A4C")
        assert drawn.dtype == np.uint8 and drawn.shape == image.shape
        assert (image == 100).all() and (drawn != 100).any()
        assert tuple(drawn[110, 50]) == colour(1)


def test_nothing_to_draw_gives_the_frame_back() -> None:
    for none in (np.zeros((0, 6)), np.zeros(0), np.zeros((0, 4), np.float32)):
        drawn = draw(frame(), none, NAMES)
        assert (drawn == 100).all()


@pytest.mark.parametrize(
    "corner",
    [(0, 0, 40, 30), (290, 0, 319, 30), (0, 215, 30, 239), (290, 215, 320, 240), (0, 0, 320, 240), (-50, -9, 400, 300)],
)
def test_labels_are_whole_wherever_the_box_is(corner: tuple[float, ...]) -> None:
    drawn = draw(frame(), boxes((*corner, 0.5, 2)), NAMES)
    assert shows(drawn, "PR 0.50", 2)


def test_labels_do_not_cover_each_other_or_the_view() -> None:
    rows = [(100.0, 80.0, 180.0, 160.0, 0.9 - 0.1 * i, i) for i in range(3)] + [(0, 12, 60, 60, 0.3, 3)]
    drawn = draw(frame(), boxes(*rows), NAMES, "PLAX")
    for i, text in enumerate(["AR 0.90", "MR 0.80", "PR 0.70", "TR 0.30"]):
        assert shows(drawn, text, i)
    plain = draw(frame(), boxes(), NAMES, "PLAX")
    ink = np.argwhere(module._text_mask("PLAX", module._text_size(frame())) == 255).T
    assert (drawn[ink[0], ink[1]] == plain[ink[0], ink[1]]).all()


def test_only_the_neighbourhood_of_a_box_changes() -> None:
    changed = np.argwhere((draw(frame(), boxes((100, 100, 200, 150, 0.5, 0)), NAMES) != 100).any(2))
    height = module._text_mask("AR 0.50", module._text_size(frame())).shape[0]
    assert changed[:, 0].min() >= 96 - height and changed[:, 0].max() <= 154
    assert changed[:, 1].min() >= 96 and changed[:, 1].max() <= 204


def test_what_labels_say() -> None:
    box = (100.0, 100.0, 200.0, 150.0)
    assert shows(draw(frame(), boxes((*box, 0.876, 0)), NAMES), "AR 0.88", 0)
    truth = draw(frame(), boxes((*box, NAN, 0)), NAMES)
    assert shows(truth, "AR", 0) and not shows(truth, "AR nan", 0)
    assert np.array_equal(truth, draw(frame(), boxes((*box, 0.876, 0)), NAMES, hide_conf=True))
    assert shows(draw(frame(), boxes((*box, NAN, 9)), NAMES), "9", 9)
    bare = draw(frame(), boxes((*box, 0.876, 0)), NAMES, hide_labels=True)
    assert (bare[:90] == 100).all() and tuple(bare[125, 100]) == colour(0)


def test_the_view_is_in_the_corner_with_labels_hidden_too() -> None:
    drawn = draw(frame(), boxes(), NAMES, "A4C", hide_labels=True)
    changed = np.argwhere((drawn != 100).any(2))
    assert changed.min(0).tolist() == [0, 0] and changed.max(0)[0] < 30 and changed.max(0)[1] < 80
    assert drawn.max() > 200 and drawn.min() < 60  # light on dark


def test_boxes_that_cannot_be_shown_are_left_out() -> None:
    rows = boxes(
        (NAN, 0, 9, 9, 0.5, 0), (0, 0, np.inf, 9, 0.5, 0), (400, 10, 500, 90, 0.5, 0), (-9, -9, -1, -1, 0.5, 0)
    )
    assert (draw(frame(), rows, NAMES) == 100).all()


def test_the_surest_box_lies_on_top() -> None:
    rows = boxes((50, 50, 150, 150, 0.9, 0), (50, 50, 150, 150, 0.3, 1), (50, 50, 150, 150, NAN, 2))
    for order in ([0, 1, 2], [2, 1, 0]):
        assert tuple(draw(frame(), rows[order], NAMES, hide_labels=True)[100, 50]) == colour(0)


def test_line_thickness() -> None:
    widths = [
        int((draw(frame(), boxes((50, 50, 150, 150, NAN, 0)), NAMES, line_thickness=t)[100, :100] != 100).any(1).sum())
        for t in (1, 3, 7)
    ]
    assert widths[0] < widths[1] < widths[2]


@pytest.mark.parametrize("name", ["Klappe Ö", "клапан", "三尖瓣", "a\nb", "", "x" * 200])
def test_any_name_can_be_drawn(name: str) -> None:
    drawn = draw(frame(), boxes((100, 100, 200, 150, 0.5, 0)), [name], name)
    assert drawn.shape == (240, 320, 3) and (drawn != 100).any()


def test_letters_outside_ascii_are_not_question_marks() -> None:
    assert not np.array_equal(module._text_mask("Ö", 16), module._text_mask("?", 16))
    assert not np.array_equal(module._text_mask("Ö", 16), module._text_mask("O", 16))


def test_a_tiny_frame() -> None:
    for height, width in ((8, 8), (1, 1), (40, 12)):
        assert draw(frame(height, width), boxes((0, 0, 5, 5, 0.5, 0)), NAMES, "PLAX").shape == (height, width, 3)


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(ValueError, match=r"image: expected \(H, W, 3\) uint8, got \(4, 4\)"):
        draw(np.zeros((4, 4), np.uint8), boxes(), NAMES)
    with pytest.raises(ValueError, match=r"boxes: expected \(n, 6\), got \(2, 4\)"):
        draw(frame(), np.zeros((2, 4)), NAMES)


def test_mosaic_shows_every_frame_at_its_proportions() -> None:
    frames = [frame(100, 200, 200), frame(100, 100, 220), frame(50, 100, 240)]
    grid = mosaic(frames, columns=3)
    assert [int((grid == grey).all(2).sum()) for grey in (200, 220, 240)] == [100 * 200, 100 * 100, 100 * 200]
    assert grid.shape[0] == 100 + 2 * 4 and grid.shape[1] == 3 * 204 + 4


@pytest.mark.parametrize("count", [1, 2, 5, 16])
@pytest.mark.parametrize("max_side", [300, 1920])
def test_mosaic_keeps_to_its_largest_side(count: int, max_side: int) -> None:
    titles = [f"patient-{i}-a-rather-long-file-name-for-a-cell.jpg" for i in range(count)]
    grid = mosaic([frame(480, 640, 200)] * count, titles, max_side=max_side)
    assert min(max_side, 640) * 0.9 < max(grid.shape) <= max_side


def test_mosaic_titles_stay_in_their_cells() -> None:
    titles = ["first.jpg", "a-very-long-name-that-does-not-fit-into-a-cell-of-this-width-0001.jpg"]
    frames = [frame(60, 160, 200)] * 2
    with_titles, without = mosaic(frames, titles), mosaic(frames)
    assert with_titles.shape[0] > without.shape[0] and with_titles.shape[1] == without.shape[1]
    assert (with_titles == 200).all(2).sum() == 2 * 60 * 160  # no title covers a frame
    short = module._shorten(titles[1], 10, 160)
    assert short.startswith("a-very") and short.endswith("1.jpg") and "…" in short
    assert module._shorten("a.jpg", 10, 160) == "a.jpg"
    assert module._shorten("a.jpg", 10, 3) == ""


def test_mosaic_of_nothing_and_wrong_titles() -> None:
    assert mosaic([]).shape == (64, 64, 3)
    with pytest.raises(ValueError, match="titles: expected one for each of 1 frames, got 2"):
        mosaic([frame()], ["a", "b"])


@pytest.mark.parametrize("name", ["a.png", "Straße 心.png", "a.jpg", "a.bmp", "a.PNG"])
def test_save_writes_rgb_in_the_suffix_format(tmp_path: Path, name: str) -> None:
    image = frame()
    image[:, :, 0] = 200
    save(tmp_path / name, image)
    back = cv2.imdecode(np.frombuffer((tmp_path / name).read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    assert back is not None
    assert np.abs(back[:, :, ::-1].astype(int) - image).max() <= 2


@pytest.mark.parametrize("name", ["a.xyz", "a", "missing/a.png"])
def test_save_says_when_it_cannot(tmp_path: Path, name: str) -> None:
    with pytest.raises(OSError, match=Path(name).name):
        save(tmp_path / name, frame())
