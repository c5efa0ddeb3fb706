"""utils/contact_sheet.py: a page that stands alone, shows what it says it shows, and is safe whatever a name holds."""

from __future__ import annotations

import base64
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.phantoms import NAMES, encode, picture, write_image
from utils.contact_sheet import THUMBNAIL, Picture, Section, contact_sheet, fair_shares, thumbnail
from utils.log import InputError

NONE = np.zeros((0, 5), np.float32)
WHOLE_LEFT_HALF = np.array([[1, 0.25, 0.5, 0.5, 1]], np.float32)


class Page(HTMLParser):
    """Tags, attributes and text of a page; every tag that is opened must be closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[dict[str, str | None]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.append(dict(attrs))
        if tag not in ("meta", "img"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def images(self) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in zip(self.tags, self.attributes, strict=True) if tag == "img"]


def section(tmp_path: Path, count: int = 1, title: str = "tiny box") -> Section:
    path = write_image(tmp_path / "a.png")
    return Section(title, "look at it", [Picture(path, f"reason {i}", NONE, None) for i in range(count)])


def test_a_page_shows_each_frame_with_its_name_and_reason(tmp_path: Path) -> None:
    path = write_image(tmp_path / "p01-f0001.png")
    page = Page(contact_sheet("Title", "Lead.", [Section("one", "do", [Picture(path, "why", NONE, "A4C")])], NAMES))
    assert [image["alt"] for image in page.images] == ["p01-f0001.png"]
    for text in ("Title", "Lead.", "one", "1 frame", "do", "p01-f0001.png", "why"):
        assert text in page.text
    assert "1 frames" not in page.text and "left out" not in page.text


def test_the_embedded_pictures_are_jpeg_thumbnails_of_the_frames(tmp_path: Path) -> None:
    (image,) = Page(contact_sheet("t", "l", [section(tmp_path)], NAMES)).images
    kind, _, data = str(image["src"]).partition(",")
    assert kind == "data:image/jpeg;base64"
    decoded = cv2.imdecode(np.frombuffer(base64.b64decode(data, validate=True), np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None and decoded.shape == (150, THUMBNAIL, 3)  # of 24 x 32
    assert (image["width"], image["height"]) == ("200", "150")
    np.testing.assert_allclose(decoded[75, 100], (0, 0, 255), atol=6)  # red, in OpenCV's order


def test_the_page_needs_nothing_besides_itself(tmp_path: Path) -> None:
    text = contact_sheet("t", "l", [section(tmp_path)], NAMES)
    page = Page(text)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "http:" not in text and "https:" not in text and "@import" not in text and "url(" not in text
    assert all(not key.startswith("on") for attributes in page.attributes for key in attributes)
    links = [attributes["href"] for attributes in page.attributes if "href" in attributes]
    assert links == ["#s0"] and "s0" in [attributes.get("id") for attributes in page.attributes]


def test_every_text_is_escaped(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>&\"'"
    path = write_image(tmp_path / "<img src=x onerror=y>&\"'.png")
    sections = [Section(evil, evil, [Picture(path, evil, NONE, "A4C")])]
    page = Page(contact_sheet(evil, evil, sections, NAMES))
    assert "script" not in page.tags and len(page.images) == 1
    assert page.images[0]["alt"] == path.name and page.images[0]["title"] == str(path)
    assert set(page.images[0]) == {"width", "height", "alt", "title", "src"}
    assert page.text.count(evil) == 7  # title, heading, lead, link, the section's heading and advice, note


def test_what_is_over_the_limit_is_left_out_and_told(tmp_path: Path) -> None:
    sections = [section(tmp_path, 7, "many"), section(tmp_path, 2, "few"), section(tmp_path, 0, "none")]
    page = Page(contact_sheet("t", "Lead.", sections, NAMES, limit=5))
    assert len(page.images) == 5
    assert "Lead. 5 of 9 thumbnails are shown, 4 are left out." in page.text
    assert "3 of 7 frames" in page.text and "2 frames" in page.text
    assert "none" not in page.text
    assert "reason 2" in page.text and "reason 3" not in page.text  # the first ones are kept


def test_a_page_without_pictures_is_a_page() -> None:
    page = Page(contact_sheet("t", "Nothing.", [], NAMES))
    assert "Nothing." in page.text and not page.images


@pytest.mark.parametrize(
    ("counts", "limit", "shares"),
    [
        ([], 10, []),
        ([3, 4], 10, [3, 4]),
        ([100, 2, 100], 10, [4, 2, 4]),
        ([100, 2, 5], 10, [4, 2, 4]),
        ([5, 5, 5], 2, [0, 1, 1]),
        ([7, 0], 5, [5, 0]),
        ([7], 0, [0]),
    ],
)
def test_small_sections_are_whole_and_large_ones_share_the_rest(
    counts: list[int], limit: int, shares: list[int]
) -> None:
    assert fair_shares(counts, limit) == shares


def test_boxes_are_drawn_into_the_thumbnail_where_they_are(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encode(".png", picture((0, 0, 0), 300, 400)))
    drawn = thumbnail(Picture(path, "", WHOLE_LEFT_HALF, None), NAMES).astype(int).sum(2)
    assert drawn.shape == (150, 200)
    assert (drawn[:, 99:103].max(1) > 300).all()  # its right side, in the middle of the frame
    assert (drawn[:, 106:] == 0).all() and (drawn[60:140, 6:94] == 0).all()
    plain = thumbnail(Picture(path, "", NONE, None), NAMES)
    assert not plain.any() and thumbnail(Picture(path, "", NONE, "A4C"), NAMES)[:15, :30].any()


@pytest.mark.parametrize(("height", "width"), [(1, 400), (400, 1), (4, 4), (3000, 20)])
def test_a_thumbnail_is_bounded_whatever_the_frames_shape(tmp_path: Path, height: int, width: int) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encode(".png", picture((0, 0, 0), height, width)))
    shape = thumbnail(Picture(path, "", WHOLE_LEFT_HALF, "A4C"), NAMES).shape
    assert max(shape[:2]) == THUMBNAIL and min(shape[:2]) >= 1


def test_a_picture_that_cannot_be_read_is_an_error_that_names_it(tmp_path: Path) -> None:
    gone = Section("t", "a", [Picture(tmp_path / "gone.png", "", NONE, None)])
    with pytest.raises(InputError, match=r"gone\.png"):
        contact_sheet("t", "l", [gone], NAMES)
