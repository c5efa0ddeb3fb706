"""Thumbnails of frames, in sections, as one html page that needs nothing besides itself: no script, no network."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from utils.draw import draw, ground_truth
from utils.images import read_image
from utils.letterbox import resize
from utils.log import progress

MAX_PICTURES = 300  # about 3 MB of page
THUMBNAIL = 200  # pixels of a thumbnail's longer side
JPEG_QUALITY = 85

STYLE = f"""
body {{ margin: 0 auto; max-width: 1400px; padding: 1.5rem; background: #fff; color: #1c1e21;
  font: 15px/1.45 system-ui, sans-serif; }}
h1 {{ margin: 0 0 .3rem; font-size: 1.5rem; }}
h2 {{ margin: 2.2rem 0 .2rem; padding-top: .8rem; border-top: 1px solid #d5d8dc; font-size: 1.15rem; }}
h2 small {{ color: #5a6067; font-weight: normal; }}
p {{ margin: .2rem 0 .8rem; }}
h2::first-letter, section p::first-letter {{ text-transform: uppercase; }}
nav a {{ margin-right: 1.2rem; color: #0b57a4; white-space: nowrap; }}
.grid {{ display: grid; grid-template-columns: repeat(auto-fill, minmax({THUMBNAIL + 18}px, 1fr)); gap: .8rem; }}
figure {{ margin: 0; padding: 8px; border: 1px solid #d5d8dc; border-radius: 6px; background: #f7f8f9; }}
img {{ display: block; margin: 0 auto .4rem; }}
figcaption {{ font-size: .8rem; overflow-wrap: anywhere; }}
figcaption b {{ display: block; }}
"""
HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
"""


@dataclass(frozen=True, eq=False)
class Picture:
    """A frame to show.

    Attributes:
        path: of its image file.
        note: said under its name.
        boxes: (n, 5) class, centre x, centre y, width, height, normalised.
        view: drawn into its corner, or None.
    """

    path: Path
    note: str
    boxes: NDArray[np.float32]
    view: str | None


@dataclass(frozen=True)
class Section:
    """Pictures under one heading, and what to do about them."""

    title: str
    advice: str
    pictures: Sequence[Picture]


def contact_sheet(
    title: str, lead: str, sections: Sequence[Section], names: Sequence[str], limit: int = MAX_PICTURES
) -> str:
    """The page's html; every text in it is escaped.

    Args:
        title: of the page.
        lead: a sentence below it.
        sections: in their order; one without pictures is left out.
        names: of the box classes.
        limit: thumbnails at most. Small sections are shown whole, large ones share what is left; the page says how
            many are left out.

    Raises:
        InputError: a picture cannot be read.
    """
    sections = [section for section in sections if section.pictures]
    counts = [len(section.pictures) for section in sections]
    shares = fair_shares(counts, limit)
    lead = " ".join([lead, *_left_out(sum(counts), sum(shares))])
    with progress(range(0), "Thumbnails", total=sum(shares), unit="frame", leave=False) as bar:
        blocks = []
        for number, (section, share) in enumerate(zip(sections, shares, strict=True)):
            figures = []
            for picture in section.pictures[:share]:
                figures.append(_figure(picture, names))
                bar.update()
            blocks.append(_block(section, number, figures))
    links = "".join(f'<a href="#s{number}">{_text(section.title)}</a>\n' for number, section in enumerate(sections))
    return (
        f"{HEAD}<title>{_text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{_text(title)}</h1>\n<p>{_text(lead)}</p>\n<nav>\n{links}</nav>\n{''.join(blocks)}</body>\n</html>\n"
    )


def fair_shares(counts: Sequence[int], limit: int) -> list[int]:
    """How many of each count are taken, at most ``limit`` in all: what a small one leaves goes to the larger ones."""
    shares = [0] * len(counts)
    for place, index in enumerate(sorted(range(len(counts)), key=lambda index: counts[index])):
        shares[index] = min(counts[index], limit // (len(counts) - place))
        limit -= shares[index]
    return shares


def thumbnail(picture: Picture, names: Sequence[str]) -> NDArray[np.uint8]:
    """The frame (h, w, 3) RGB, its longer side 200 pixels, with boxes and view drawn at that size."""
    image = resize(read_image(picture.path), THUMBNAIL)
    boxes = ground_truth(picture.boxes, (image.shape[0], image.shape[1]))
    return draw(image, boxes, names, picture.view, line_thickness=1)


def _figure(picture: Picture, names: Sequence[str]) -> str:
    image = thumbnail(picture, names)
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    data = base64.b64encode(cv2.imencode(".jpg", bgr, (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))[1].tobytes()).decode()
    name = _text(picture.path.name)
    return (
        f'<figure><img width="{image.shape[1]}" height="{image.shape[0]}" alt="{name}" title="{_text(picture.path)}" '
        f'src="data:image/jpeg;base64,{data}"><figcaption><b>{name}</b>{_text(picture.note)}</figcaption></figure>\n'
    )


def _block(section: Section, number: int, figures: Sequence[str]) -> str:
    total = len(section.pictures)
    count = f"{total} frame{'s' * (total > 1)}" if len(figures) == total else f"{len(figures)} of {total} frames"
    return (
        f'<section id="s{number}">\n<h2>{_text(section.title)} <small>{count}</small></h2>\n'
        f'<p>{_text(section.advice)}</p>\n<div class="grid">\n{"".join(figures)}</div>\n</section>\n'
    )


def _left_out(total: int, shown: int) -> list[str]:
    return [] if shown == total else [f"{shown} of {total} thumbnails are shown, {total - shown} are left out."]


def _text(value: object) -> str:
    return html.escape(str(value))
