"""The page of a report: what it holds, that it fetches nothing, and what a reader does with it in a browser."""

from __future__ import annotations

import base64
import json
import math
import re
import tracemalloc
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.chromium import ALT, SHIFT, Browser
from tests.studies import FRAMES, NOTICE, ODD, Kept, report_of, small
from utils import study_page
from utils.study_page import write_page

ASSETS = [path for path in Path(study_page.__file__).parent.iterdir() if path.suffix in (".html", ".css", ".js")]


class Tags(HTMLParser):
    """All tags of a page with their attributes, and what is inside of its blocks of data by their ids."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.all: list[tuple[str, dict[str, str | None]]] = []
        self.blocks: dict[str, str] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.all.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.all and self.all[-1][0] == "script" and (name := self.all[-1][1].get("id")):
            self.blocks[name] = self.blocks.get(name, "") + data


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "study.html"
    write_page(path, *small())
    return path


def policy_of(tags: Tags) -> str:
    return next(looks["content"] or "" for _, looks in tags.all if looks.get("http-equiv") == "Content-Security-Policy")


def test_the_page_fetches_nothing(page: Path) -> None:
    tags = Tags(page.read_text(encoding="utf-8"))
    assert not [(tag, looks) for tag, looks in tags.all if {"src", "action", "data", "style", "onclick"} & set(looks)]
    assert [looks["href"] for tag, looks in tags.all if "href" in looks] == ["data:,", "#studies", "#settings"]
    policy = policy_of(tags)
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert "connect-src" not in policy
    for asset in ASSETS:
        name, text = asset.name, asset.read_text(encoding="utf-8")
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|@import|url\((?!#)", text), name
        assert "</script" not in text.lower().replace("</script>\n", "") or name == "study_page.html"
        assert "innerHTML" not in text and "insertAdjacent" not in text and "eval(" not in text


def test_what_files_are_called_is_no_markup(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    tags = Tags(text)
    assert "alert(1)</script>" not in text and ODD not in text
    assert [looks for tag, looks in tags.all if tag == "script" and "type" not in looks] == [{}]  # one that runs
    report = json.loads(tags.blocks["report"])
    assert report == small()[0] and report["studies"][0]["clips"][1]["file"] == ODD


def test_pictures_are_inert_blocks_in_their_order(page: Path) -> None:
    tags, (_, pictures) = Tags(page.read_text(encoding="utf-8")), small()
    for clip, held in enumerate(pictures.values()):
        blocks = [tags.blocks[f"picture-{clip}-{i}"] for i in range(len(held.frames))]
        assert [base64.b64decode(block) for block in blocks] == list(held.jpegs)
    kinds = {looks["type"] for tag, looks in tags.all if tag == "script" and "type" in looks}
    assert kinds == {"application/json", "application/octet-stream"}
    assert json.loads(tags.blocks["kept"])["clip-aa02"] == {"frames": [0, 3, 6, 9], "size": [160, 120]}


def test_values_that_are_not_finite_are_unknown(tmp_path: Path) -> None:
    report, pictures = small()
    report["studies"][0]["clips"][0]["view"]["confidence"] = math.nan
    write_page(tmp_path / "page.html", report, pictures)
    read = json.loads(Tags((tmp_path / "page.html").read_text(encoding="utf-8")).blocks["report"])
    assert read["studies"][0]["clips"][0]["view"]["confidence"] is None


def test_pictures_that_are_missing_leave_no_page(tmp_path: Path) -> None:
    report, pictures = small()
    pictures["clip-aa01"] = Kept(range(FRAMES), (160, 120), pictures["clip-aa01"].jpegs[:-1])
    with pytest.raises(ValueError, match="a picture for each of 12 frames, got 11"):
        write_page(tmp_path / "page.html", report, pictures)
    assert not list(tmp_path.iterdir())


def test_pictures_need_not_fit_into_memory(tmp_path: Path) -> None:
    report, pictures = small()

    class Many:
        frames, size = range(200), (160, 120)

        def __iter__(self) -> Iterator[bytes]:
            return (bytes([number]) * 100_000 for number in range(200))

    tracemalloc.start()
    try:
        write_page(tmp_path / "page.html", report, {**pictures, "clip-aa01": Many()})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (tmp_path / "page.html").stat().st_size > 200 * 133_000 and peak < 3_000_000


# --- in a browser -----------------------------------------------------------------------------------------------------

FIRST = "study.players.get('clip-aa01')"
SECOND = "study.players.get('clip-aa02')"


@pytest.fixture
def opened(browser: Browser, page: Path) -> Iterator[Browser]:
    """The page, freshly opened; whatever a test does, nothing may go wrong and nothing may be fetched."""
    browser.errors.clear()
    browser.fetched.clear()
    browser.resize(1280, 900)
    browser.open(page.as_uri())
    yield browser
    assert browser.errors == []
    assert [name for name in browser.fetched if not name.startswith("data:")] == [page.as_uri()]


def pixels(browser: Browser) -> list[int]:
    """Sums of the colours of the first clip's picture, once the picture of its frame is drawn."""
    browser.until(f"{FIRST}.painted === {FIRST}.frame")
    script = f"""(() => {{ const canvas = {FIRST}.canvas, sums = [0, 0, 0];
      const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
      for (let i = 0; i < data.length; i++) if (i % 4 < 3) sums[i % 4] += data[i];
      return sums; }})()"""
    found: list[int] = browser.run(script)
    return found


@pytest.mark.browser
def test_the_page_shows_what_the_report_says(opened: Browser) -> None:
    text = opened.run("document.body.innerText")
    assert text.count(NOTICE) == 2 and "5a" * 32 in text and "best.pt" in text
    assert "View A4C 0.71, in 83 % of 12 frames" in text and "no scale known" in text
    assert "not a file that can be read" in text and text.count("alert(1)") == 3
    rows = opened.run("[...document.querySelectorAll('.findings tbody tr')].map(row => row.innerText)")
    assert len(rows) == 8 and "not found" in rows[0] and rows[1].count("0.77") == 2
    assert rows[3].count("uncertain") == 2 and "hatch" not in rows[3]
    hatched = "[...document.querySelectorAll('.unsure button')].map(b => getComputedStyle(b).backgroundImage)"
    assert len(opened.run(hatched)) == 2 and all("gradient" in image for image in opened.run(hatched))
    assert opened.run("[...document.querySelectorAll('#clip-aa01 .tracks tbody tr')].length") == 2
    assert opened.run(f"{FIRST}.frame") == 9  # the peak


@pytest.mark.browser
def test_a_cell_of_the_table_leads_to_its_frame(opened: Browser) -> None:
    opened.click("tbody tr:nth-child(4) td:nth-of-type(2) button")
    assert opened.run(f"[{SECOND}.frame, document.activeElement === {SECOND}.stage]") == [8, True]
    opened.run("document.querySelector('tbody tr:nth-child(4) td:nth-of-type(1) button').focus()")
    opened.key("Enter")
    assert opened.run(f"[{FIRST}.frame, document.activeElement === {FIRST}.stage]") == [8, True]
    opened.key("Home")
    opened.click("#clip-aa01 .tracks button")
    assert opened.run(f"{FIRST}.frame") == 9
    box = opened.run(f"{FIRST}.stage.getBoundingClientRect().toJSON()")
    assert box["top"] >= 0 and box["bottom"] <= 900


@pytest.mark.browser
def test_keys_step_through_a_clip(opened: Browser) -> None:
    opened.run(f"{FIRST}.stage.focus()")
    frames = []
    for key, modifiers in (("Home", 0), ("ArrowRight", 0), ("ArrowRight", SHIFT), ("ArrowLeft", 0), ("End", 0)):
        opened.key(key, modifiers)
        frames.append(opened.run(f"{FIRST}.frame"))
    assert frames == [0, 1, 11, 10, 11]
    opened.key("ArrowLeft", ALT)  # the browser's own
    opened.key("b")
    assert opened.run(f"[{FIRST}.shown, {FIRST}.overlay.children.length, {FIRST}.frame]") == [False, 0, 11]
    opened.key("-")
    assert opened.run(f"{FIRST}.speed") == 0.5
    assert "Frame 11 of 12, 0.37 s" in opened.run(f"{FIRST}.readout.textContent")


@pytest.mark.browser
def test_a_clip_plays_in_its_own_time_and_begins_again(opened: Browser) -> None:
    opened.click("#clip-aa01 .play")
    seen = opened.run(
        f"""new Promise(done => {{ const start = performance.now(), seen = [];
        const look = () => {{ seen.push({FIRST}.frame);
          performance.now() - start > 900 ? done([...new Set(seen)]) : requestAnimationFrame(look); }};
        look(); }})"""
    )
    assert len(seen) >= 10 and {0, 11} & set(seen)  # 0.4 s a round
    assert opened.run(f"[{FIRST}.playing, {FIRST}.playButton.textContent]") == [True, "Pause"]
    opened.run(f"{SECOND}.play()")  # one at a time
    assert opened.run(f"[{FIRST}.playing, {SECOND}.playing]") == [False, True]
    opened.run(f"{SECOND}.stage.focus()")
    opened.key(" ")
    assert opened.run(f"{SECOND}.playing") is False
    opened.until(f"{SECOND}.painted !== undefined")


@pytest.mark.browser
def test_slider_and_timeline_seek_and_the_picture_follows(opened: Browser) -> None:
    opened.click("#clip-aa01 .plot", x=0.5 / 12)
    assert opened.run(f"{FIRST}.frame") == 0
    dull = pixels(opened)
    opened.click("#clip-aa01 .plot", x=6.5 / 12)
    assert opened.run(f"{FIRST}.frame") == 6 and float(opened.run(f"{FIRST}.cursor.style.left")[:-1]) == (
        pytest.approx(100 * 6.5 / 12, abs=0.1)
    )
    bright = pixels(opened)
    assert sum(bright) > 1.05 * sum(dull)  # the jet
    opened.run("document.querySelector('#clip-aa01 input[type=range]').focus()")
    opened.key("ArrowLeft")
    assert opened.run(f"[{FIRST}.frame, {FIRST}.slider.getAttribute('aria-valuetext')]") == [5, "frame 5, 0.17 s"]


@pytest.mark.browser
def test_boxes_lie_where_the_report_says(opened: Browser) -> None:
    report, _ = small()
    track = report["studies"][0]["clips"][0]["tracks"][0]
    frame, x1, y1, x2, y2, _ = track["boxes"][2]
    opened.run(f"{FIRST}.jump({frame})")
    found: dict[str, Any] = opened.run(
        f"""(() => {{ const stage = {FIRST}.stage.getBoundingClientRect();
        const box = {FIRST}.overlay.querySelector('.line').getBoundingClientRect(), scale = 320 / stage.width;
        return {{place: [box.left - stage.left, box.top - stage.top, box.right - stage.left, box.bottom - stage.top]
          .map(value => value * scale), label: {FIRST}.overlay.querySelector('text').textContent}}; }})()"""
    )
    assert found["place"] == pytest.approx([x1, y1, x2, y2], abs=1)
    assert found["label"] == "MR 0.65"
    opened.run(f"{FIRST}.jump(9)")
    dashes = f"[...{FIRST}.overlay.querySelectorAll('.line')].map(line => line.getAttribute('stroke-dasharray'))"
    labels = f"[...{FIRST}.overlay.querySelectorAll('text')].map(text => text.textContent)"
    assert len(set(opened.run(dashes))) == 2 and opened.run(labels) == ["MR 0.77", "TR 0.31 ?"]


@pytest.mark.browser
def test_a_frame_without_a_picture_of_its_own_says_whose_it_is(opened: Browser) -> None:
    opened.run(f"{SECOND}.jump(8)")
    assert "picture of 6" in opened.run(f"{SECOND}.readout.textContent")
    opened.until(f"{SECOND}.painted === 6")
    opened.run(f"{SECOND}.jump(9)")
    assert "picture of" not in opened.run(f"{SECOND}.readout.textContent")


@pytest.mark.browser
def test_everything_can_be_reached_by_keys_and_has_a_name(opened: Browser) -> None:
    reached = []
    for _ in range(40):
        opened.key("Tab")
        reached.append(
            opened.run(
                """(() => { const node = document.activeElement; return [node.className || node.tagName,
            node.getAttribute('aria-label') || node.labels?.[0]?.textContent || node.textContent,
            getComputedStyle(node).outlineStyle]; })()"""
            )
        )
    kinds = [kind for kind, _, _ in reached]
    assert reached[0][1] == "To the findings" and {"play", "stage", "INPUT", "SELECT"} <= set(kinds)
    assert all(name.strip() and outline not in ("none", "") for kind, name, outline in reached if kind != "BODY")


@pytest.mark.browser
def test_text_is_dark_enough(opened: Browser) -> None:
    script = """(() => {
      const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= 0.03928 ? v / 12.92 :
        ((v + 0.055) / 1.055) ** 2.4).reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
      const numbers = text => text.match(/[\\d.]+/g).map(Number), bad = [];
      for (const node of document.querySelectorAll('main *, header *, footer *')) {
        if (node.closest('svg, .stage') || ![...node.childNodes].some(c => c.nodeType === 3 && c.data.trim())) continue;
        let ground = node;
        while (ground
          && (numbers(getComputedStyle(ground).backgroundColor)[3] ?? 1) === 0) ground = ground.parentElement;
        const [a, b] = [getComputedStyle(node).color, getComputedStyle(ground ?? document.body).backgroundColor]
          .map(text => light(numbers(text))).sort((x, y) => y - x);
        if ((a + 0.05) / (b + 0.05) < 4.5) bad.push(node.outerHTML.slice(0, 100));
      }
      return bad; })()"""
    assert opened.run(script) == []


@pytest.mark.browser
def test_the_page_fits_a_telephone_and_a_sheet(opened: Browser) -> None:
    for width in (360, 768, 1800):
        opened.resize(width, 800)
        assert opened.run("document.documentElement.scrollWidth <= innerWidth"), width
    sheet = opened.pdf()
    assert sheet.startswith(b"%PDF") and len(sheet) > 20_000
    opened.call("Emulation.setEmulatedMedia", media="print")
    try:
        shown = "[...document.querySelectorAll(selector)].map(node => node.getClientRects().length)"
        assert set(opened.run(shown.replace("selector", "'.controls, .clip canvas, .skip'"))) == {0}
        assert opened.run("[...document.querySelectorAll('img')].every(img => img.naturalWidth === 160)")
        assert opened.run("document.querySelectorAll('#clip-aa01 .print-only g.box').length") == 2
    finally:
        opened.call("Emulation.setEmulatedMedia", media="")


@pytest.mark.browser
@pytest.mark.parametrize("skipped", [[], [{"file": "a.dcm", "reason": "truncated"}]])
def test_a_page_of_almost_nothing(browser: Browser, tmp_path: Path, skipped: list[dict[str, str]]) -> None:
    browser.errors.clear()
    cases: list[list[list[dict[str, Any]]]] = [[], [[]]]
    for nothing in cases:
        write_page(tmp_path / "page.html", report_of(*nothing, skipped=skipped), {})
        browser.open((tmp_path / "page.html").as_uri())
        text = browser.run("document.body.innerText")
        assert ("No clips." if nothing else "No studies.") in text and ("truncated" in text) == bool(skipped)
    assert browser.errors == []


@pytest.mark.browser
def test_a_clip_that_nothing_is_known_of(browser: Browser, tmp_path: Path) -> None:
    browser.errors.clear()
    report, _ = small()
    clip = report["studies"][0]["clips"][0]
    clip |= {"view": None, "tracks": [], "fps": None, "timeline": {"frame": [0, 2, 4], "time": [None] * 3, "view": []}}
    write_page(tmp_path / "page.html", report, {})
    browser.open((tmp_path / "page.html").as_uri())
    assert "no pictures were kept of this clip" in browser.run("document.body.innerText")
    browser.run(f"{FIRST}.stage.focus()")
    browser.key("End")
    assert browser.run(f"[{FIRST}.frame, {FIRST}.readout.textContent]") == [4, "Frame 4 of 12"]
    assert browser.errors == []


def test_without_a_browser_the_tests_count_as_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(pytest.skip.Exception, match="no Chromium on this machine"):
        Browser(tmp_path)
