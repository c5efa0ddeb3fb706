"""A report of echo studies as one HTML file: valves by clips, each clip played with its boxes; it fetches nothing.

Markup, looks and behaviour are files of their own beside this one (``study_page.html``, ``.css``, ``.js``; and
``review.css``, ``review.js`` for a page on which a reader corrects). Here they become one page with a report and its
pictures. The content policy names their hashes: nothing else runs, and nothing is fetched.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from utils.files import write_whole

_HERE = Path(__file__).resolve().parent
_PLACES = re.compile(r"\{\{(\w+)\}\}")  # in study_page.html


class Pictures(Protocol):
    """The pictures of a clip, masked frames on a smaller scale; iterating gives their JPEG bytes, in order.

    Attributes:
        frames: the frame number of each, rising; a long clip may have lost some of them.
        size: (width, height) in pixels, of all of them.
    """

    @property
    def frames(self) -> Sequence[int]: ...

    @property
    def size(self) -> tuple[int, int]: ...

    def __iter__(self) -> Iterator[bytes]: ...


@dataclass(frozen=True)
class ReviewAccess:
    """What lets a page save corrections.

    Attributes:
        token: the server's secret; a page without it is refused.
    """

    token: str


def write_page(
    path: Path, report: Mapping[str, Any], pictures: Mapping[str, Pictures], review: ReviewAccess | None = None
) -> None:
    """Write the page whole, picture by picture: they need not fit into memory.

    Args:
        report: what study.json holds.
        pictures: of a clip, by its id; a clip may have none.
        review: for a page on which frames can be corrected; its server has to be there.
    """

    def write(file: BinaryIO) -> None:
        for part in page_parts(report, pictures, review):
            file.write(part)

    write_whole(path, write)


def page_parts(
    report: Mapping[str, Any], pictures: Mapping[str, Pictures], review: ReviewAccess | None = None
) -> Iterator[bytes]:
    """The page's bytes in pieces, the arguments as of :func:`write_page`."""
    looks, script = _asset("study_page.css"), _asset("study_page.js")
    if review is not None:
        looks, script = looks + _asset("review.css"), script + _asset("review.js")
    clips = [clip["id"] for study in report["studies"] for clip in study["clips"]]
    kept = {clip: pictures[clip] for clip in clips if clip in pictures and len(pictures[clip].frames)}
    sizes = {clip: {"frames": [*map(int, held.frames)], "size": [*map(int, held.size)]} for clip, held in kept.items()}
    texts = {
        "policy": _policy(looks, script, review is not None),
        "style": looks,
        "script": script,
        "report": _data(report),
        "kept": _data(sizes),
        "review": _data(None if review is None else {"token": review.token}),
    }
    # Only the template is searched for places: what is filled in may hold anything.
    for number, piece in enumerate(_PLACES.split(_asset("study_page.html"))):
        if number % 2 == 0:
            yield piece.encode()
        elif piece == "pictures":
            for clip, held in kept.items():
                yield from _picture_blocks(clips.index(clip), held)
        else:
            yield texts[piece].encode()


def _picture_blocks(clip: int, held: Pictures) -> Iterator[bytes]:
    """Blocks of data that no browser runs or decodes by itself: the script reads those that it shows."""
    count = 0
    for jpeg in held:
        head = f'<script type="application/octet-stream" id="picture-{clip}-{count}">'
        yield head.encode() + base64.b64encode(jpeg) + b"</script>\n"
        count += 1
    if count != len(held.frames):
        raise ValueError(f"clip {clip}: expected a picture for each of {len(held.frames)} frames, got {count}")


def _asset(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _policy(looks: str, script: str, review: bool) -> str:
    """A content security policy under which only the page's own style and script count."""
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (looks, script)]
    rules = ["default-src 'none'", "img-src data: blob:", f"style-src 'sha256-{hashes[0]}'"]
    rules += [f"script-src 'sha256-{hashes[1]}'", "base-uri 'none'", "form-action 'none'"]
    return "; ".join([*rules, "connect-src 'self'"] if review else rules)


def _data(content: Any) -> str:
    """Json inside of a script block, where ``<`` could end it; what is not finite becomes null."""
    plain = json.loads(json.dumps(content), parse_constant=lambda _: None)
    text = json.dumps(plain, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
