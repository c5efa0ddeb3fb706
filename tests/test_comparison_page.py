"""The page of a comparison: what it holds, that it fetches nothing, and what a browser makes of it."""

from __future__ import annotations

import html
import json
import math
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.chromium import installed
from utils import comparison_page
from utils.comparison_page import Curve, PageTable, Panel, write_page

ODD = "<script>alert(1)</script> & \"quotes\" 'too' <%= 1 %> {{ 1 }} $$x^2$$ @y 三"
COLUMNS = (("method", "Method", None), ("minutes", "Minutes <b>", 1), ('a "key"', "mAP 0.5:0.95", 4))
ROWS: tuple[Mapping[str, str | float | None], ...] = (
    {"method": "fixed", "minutes": 9.54, 'a "key"': 0.5},
    {"method": ODD, "minutes": 101.26, 'a "key"': 0.25},
    {"method": "gradnorm", "minutes": math.nan, 'a "key"': 0.75},
    {"method": "pcgrad", "minutes": 10.0, 'a "key"': None},
    {"method": "mgda", "minutes": -2, 'a "key"': math.inf},
)
TABLE = PageTable(COLUMNS, ROWS, frozenset({(0, "minutes"), (2, 'a "key"')}))
FLAT = Curve(f"{ODD}, seed 1", range(21), [0.5] * 21, 0, "of two seeds")
LOW = Curve("seed 2", range(21), [0.25] * 21, 0, "of two seeds")
PANELS = (
    Panel(ODD, f"epoch {ODD}", f"loss {ODD}", [FLAT, LOW], [(math.log(3), f"chance {ODD}")]),
    Panel("points", "x", "y", [Curve(f"run {i}", [i], [i], i, "runs") for i in range(8)], joined=False),
    Panel("a hole", "epoch", "y", [Curve("fixed", [0, 1, 2], [0.5, math.nan, 0.25], 7), Curve("one", [1], [1], 1)]),
    Panel("nothing", "epoch", "y", [Curve("fixed", [0, 1], [math.nan, math.inf], 0)], [(1.0, "chance")]),
)
NOTES = ["★: beyond the noise", ODD]

# What a reader does, done by a script: it waits for the page, sorts, hovers and clicks, and leaves what it saw as
# text. The library keeps every widget in a shadow tree, hence the walk.
PROBE = """
<script>
const seen = {errors: []};
for (const kind of ["error", "unhandledrejection", "securitypolicyviolation"])
  window.addEventListener(kind, event =>
    seen.errors.push(`${kind}: ${event.message || event.reason || event.violatedDirective}`));
window.alert = () => seen.errors.push("alert: a name was run as a script");
function everything(root, selector) {
  const found = [...root.querySelectorAll(selector)];
  for (const node of root.querySelectorAll("*"))
    if (node.shadowRoot) found.push(...everything(node.shadowRoot, selector));
  return found;
}
const all = selector => everything(document, selector);
const sleep = ms => new Promise(done => setTimeout(done, ms));
async function until(what, ready) {
  for (let i = 0; i < 200; i++) { if (ready()) return; await sleep(50); }
  throw new Error(`waited in vain for ${what}`);
}
function table() {
  const rows = all(".slick-row").sort((a, b) => parseFloat(a.style.top) - parseFloat(b.style.top));
  return rows.map(row => [...row.querySelectorAll(".slick-cell")].map(cell => cell.textContent));
}
async function sorted(column) { all(".slick-header-column")[column].click(); await sleep(300); return table(); }
function point(area, x, y, kind) {
  const init = {clientX: x, clientY: y, bubbles: true, composed: true, pointerType: "mouse", pointerId: 1};
  area.dispatchEvent(new PointerEvent(kind, {...init, isPrimary: true}));
}
function inked() {  // pixels of the first panel in the palette's first colour
  const canvas = all("canvas").find(node => node.getBoundingClientRect().height > 200);
  const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  let count = 0;
  for (let i = 0; i < data.length; i += 4)
    count += data[i] === 0x00 && data[i + 1] === 0x72 && data[i + 2] === 0xb2 && data[i + 3] === 255;
  return count;
}
async function hover(area) {
  const box = area.getBoundingClientRect();
  for (let y = box.top + 20; y < box.bottom; y += 3) {
    point(area, box.left + box.width / 2, y, "pointermove");
    await sleep(30);
    const tooltip = all(".bk-Tooltip").find(node => node.getBoundingClientRect().width > 0);
    if (tooltip) return everything(tooltip.shadowRoot || tooltip, ":not(style)").map(node => node.textContent.trim());
  }
  return null;
}
async function read() {
  await until("the library", () => window.Bokeh && Bokeh.documents.length);
  await until("the table", () => all(".slick-row").length);
  await until("the panels", () => all("canvas").length >= PANELS && Bokeh.documents[0].is_idle);
  seen.titles = all(".slick-header-column").map(node => node.textContent);
  seen.cut = all(".slick-header-column").filter(title => {  // the name or the sorting's arrow fell out of its box
    const box = title.getBoundingClientRect();
    return [...title.querySelectorAll("span")].map(part => part.getBoundingClientRect())
      .some(part => part.left < box.left || part.right > box.right || part.top > box.top + 12);
  }).map(title => title.textContent);
  seen.bold = all(".winner").map(node => [node.textContent, getComputedStyle(node).fontWeight]);
  seen.rows = table();
  seen.up = await sorted(1);
  seen.down = await sorted(1);
  seen.other = await sorted(2);
  const area = all(".bk-CanvasPanel, .bk-events").find(node => node.getBoundingClientRect().height > 200);
  seen.tooltip = await hover(area);
  const lines = Bokeh.documents[0].roots()[1].renderers;
  const before = lines.map(line => line.visible), inkedBefore = inked();
  const item = all(".bk-item").find(node => node.textContent.includes("seed"));
  point(item, 0, 0, "pointerdown");
  await until("the hidden curves to go", () => inked() === 0);
  seen.visible = [before, lines.map(line => line.visible)];
  seen.inked = [inkedBefore, inked()];
  const fetched = performance.getEntriesByType("resource").map(entry => entry.name);
  seen.fetched = fetched.filter(name => !/^(data|blob):/.test(name));
  seen.wide = document.documentElement.scrollWidth > innerWidth;
}
window.addEventListener("load", () => read().catch(error => seen.errors.push(`${error}`)).finally(() => {
  const place = document.createElement("pre");
  place.id = "seen";
  place.textContent = JSON.stringify(seen);
  document.body.append(place);
}));
</script>
"""


class Tags(HTMLParser):
    """All tags of a page with their attributes, and the texts of each kind; what is inside a script is no tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.all: list[tuple[str, dict[str, str | None]]] = []
        self.texts: defaultdict[str, list[str]] = defaultdict(list)
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.all.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts[self.all[-1][0] if self.all else ""].append(data)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "comparison.html"
    write_page(path, f"Methods {ODD}", TABLE, PANELS, NOTES)
    return path


def test_the_page_fetches_nothing(page: Path) -> None:
    tags = Tags(page.read_text()).all
    assert not [(tag, looks) for tag, looks in tags if {"src", "href", "action", "data"} & set(looks)]
    assert "link" not in {tag for tag, _ in tags}
    policy = next(looks["content"] for tag, looks in tags if looks.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and "default-src 'none'" in policy and "http" not in policy
    assert 1e6 < page.stat().st_size < 1e7


def test_what_users_named_is_no_markup(page: Path) -> None:
    tags = Tags(page.read_text())
    assert "<script>alert" not in page.read_text()
    ours = {"html", "head", "meta", "title", "style", "script", "body", "h1", "h2", "div", "p", "section"}
    assert {tag for tag, _ in tags.all} <= ours
    assert f"Methods {ODD}" in tags.texts["title"] and f"Methods {ODD}" in tags.texts["h1"]
    assert ODD in tags.texts["h2"] and tags.texts["p"] == [*NOTES, "no values"]


def test_a_page_of_almost_nothing(tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", "", PageTable([], []), [], [])
    write_page(tmp_path / "page.html", "", PageTable(COLUMNS, []), [Panel("", "", "", [])], [])
    assert "no values" in (tmp_path / "page.html").read_text()


def test_a_curve_of_unequal_length_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shorter"):
        write_page(tmp_path / "page.html", "", TABLE, [Panel("", "", "", [Curve("a", [1, 2], [1], 0)])], [])
    assert not list(tmp_path.iterdir())


def test_importing_loads_no_plotting_library() -> None:
    code = "import sys, utils.comparison_page; sys.exit(bool({'bokeh', 'matplotlib', 'pandas'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(comparison_page.__file__).parents[1]).returncode == 0


def opened(page: Path, folder: Path) -> dict[str, Any]:
    """What the probe saw of a copy of the page, in a browser that reaches no network."""
    browser = installed()
    copy = folder / "probed.html"
    copy.write_text(page.read_text().replace("<title>", PROBE.replace("PANELS", "3") + "<title>", 1))
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    command += ["--disable-background-networking", "--proxy-server=127.0.0.1:9"]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND"]
    command += [f"--user-data-dir={folder / 'profile'}", "--window-size=1300,1500"]
    # The browser's own clock, which stands still while it works: a busy machine only makes the test slower.
    command += ["--virtual-time-budget=40000", "--dump-dom", copy.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    _, found, rest = done.stdout.partition('<pre id="seen">')
    assert found, f"the page left nothing; exit code {done.returncode}\n{done.stderr[-3000:]}"
    seen: dict[str, Any] = json.loads(html.unescape(rest.partition("</pre>")[0]))
    return seen


def test_without_a_browser_the_test_counts_as_skipped(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(pytest.skip.Exception, match="no Chromium on this machine"):
        opened(page, tmp_path)


@pytest.mark.browser
def test_in_a_browser(page: Path, tmp_path: Path) -> None:
    seen = opened(page, tmp_path)
    assert seen["errors"] == [] and seen["fetched"] == [] and not seen["wide"]
    assert seen["titles"] == [title for _, title, _ in COLUMNS] and seen["cut"] == []
    minutes = {"fixed": "★ 9.5", ODD: "101.3", "gradnorm": "-", "pcgrad": "10.0", "mgda": "-2.0"}
    scores = {"fixed": "0.5000", ODD: "0.2500", "gradnorm": "★ 0.7500", "pcgrad": "-", "mgda": "-"}
    assert seen["rows"] == [[name, minutes[name], scores[name]] for name in minutes]
    assert seen["bold"] == [["★ 9.5", "700"], ["★ 0.7500", "700"]]
    rising = ["mgda", "fixed", "pcgrad", ODD, "gradnorm"]  # as numbers: 10.0 and 101.3 come after 9.5
    assert [row[0] for row in seen["up"]] == rising
    assert [row[0] for row in seen["down"]] == rising[::-1]
    assert [row[2] for row in seen["other"]] == ["0.2500", "0.5000", "★ 0.7500", "-", "-"]
    assert seen["tooltip"] is not None and FLAT.name in seen["tooltip"] and "0.5" in seen["tooltip"]
    assert seen["visible"] == [[True] * 5, [False] * 4 + [True]]  # marks and lines of both seeds, not the chance
    assert seen["inked"][0] > 1000 and seen["inked"][1] == 0, seen["inked"]
