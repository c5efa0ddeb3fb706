"""utils.review: who is answered, what with, and a reader's work in a browser, saved by the real server."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.chromium import ALT, CTRL, SHIFT, Browser
from tests.studies import review_in, small
from tests.test_corrections import said
from tests.test_study_page import Tags, policy_of
from utils.config import ROOT
from utils.labels import read_label
from utils.log import InputError
from utils.review import HEADER, MOST_BYTES, Server, started
from utils.study_page import ReviewAccess, page_parts


@dataclass(frozen=True)
class Answer:
    status: int
    text: str
    headers: dict[str, str]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with started(review_in(tmp_path)) as server:
        yield server


def ask(server: Server, method: str = "GET", place: str = "", content: Any = None, **headers: str | None) -> Answer:
    """An answer to a request that is right except for what is given; a header that is None is left out."""
    usual: dict[str, str | None] = {"Host": server.host, HEADER: server.access.token}
    body = content if isinstance(content, (bytes, type(None))) else json.dumps(content).encode()
    if body is not None:
        usual |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
    usual |= {name.replace("_", "-"): value for name, value in headers.items()}
    path = place if place.startswith(("/", "http")) else f"/{server.access.token}/{place}"
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=60)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in usual.items():
        if value is not None:
            connection.putheader(name, value)
    connection.endheaders(body)
    answer = connection.getresponse()
    found = Answer(answer.status, answer.read().decode(), dict(answer.getheaders()))
    connection.close()
    return found


def test_the_page_and_what_it_saves(server: Server) -> None:
    page = ask(server)
    assert page.status == 200 and server.access.token in page.text and "connect-src 'self'" in page.text
    assert page.headers["Cache-Control"] == "no-store" and page.headers["X-Frame-Options"] == "DENY"
    assert json.loads(ask(server, place="corrections").text) == {"corrections": []}
    answer = ask(server, "POST", "corrections", said(), Origin=f"http://{server.host}")
    assert answer.status == 200
    saved = json.loads(answer.text)["saved"]
    assert json.loads(ask(server, place="corrections").text) == {"corrections": [saved]}
    assert (server.corrections.folder / "labels" / "clip-aa01-00003.txt").is_file()


def test_a_page_for_review_reaches_its_own_server_alone() -> None:
    text = b"".join(page_parts(*small(), ReviewAccess("se<cret"))).decode()
    tags = Tags(text)
    assert policy_of(tags).endswith("connect-src 'self'") and "unsafe" not in policy_of(tags)
    assert json.loads(tags.blocks["review"]) == {"token": "se<cret"} and "se<cret" not in text


def test_it_listens_on_this_machine_alone(server: Server) -> None:
    assert server.socket.getsockname()[0] == "127.0.0.1" and server.url.startswith("http://127.0.0.1:")


@pytest.mark.parametrize(
    ("status", "request_of"),
    [
        (421, {"Host": "evil.example"}),
        (421, {"Host": "localhost"}),
        (421, {"Host": None}),
        (403, {HEADER: None}),
        (403, {HEADER: "x"}),
        (403, {HEADER: "\xe9"}),
        (403, {"Origin": "http://evil.example"}),
        (403, {"Origin": "null"}),
        (415, {"Content_Type": "text/plain"}),
        (415, {"Content_Type": None}),
        (411, {"Content_Length": None}),
        (411, {"Content_Length": "-1"}),
        (411, {"Content_Length": "1e3"}),
        (411, {"Transfer_Encoding": "chunked"}),
        (413, {"Content_Length": str(MOST_BYTES + 1)}),
        (413, {"Content_Length": "9" * 5000}),
        (400, {"content": b"{"}),
        (400, {"content": b"\xff"}),
        (400, {"content": b"[" * 100_000}),
        (400, {"content": b"1" * 5000}),
        (422, {"content": b"NaN"}),
        (422, {"content": said(frame=99)}),
        (422, {"content": b'{"clip": "clip-aa01", "frame": 3, "reader": "a", "view": 1, "boxes": [NaN]}'}),
        (404, {"place": ""}),
        (404, {"place": "/"}),
        (404, {"place": "/corrections"}),
        (404, {"place": "../../etc/passwd"}),
        (404, {"place": "/\xe9"}),
        (405, {"method": "PUT"}),
        (405, {"method": "DELETE"}),
        (405, {"method": "OPTIONS"}),
    ],
)
def test_a_wrong_request_is_one_line_and_saves_nothing(
    server: Server, status: int, request_of: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    words = {"method": "POST", "place": "corrections", "content": said(), **request_of}
    if words["place"] == "/\xe9":
        words["place"] = "/%C3%A9"
    answer = ask(server, **words)
    assert answer.status == status and len(answer.text) < 400
    assert answer.text.count("\n") == 1 and "Traceback" not in answer.text
    assert server.access.token not in answer.text
    assert capfd.readouterr().err == "" and not server.corrections.folder.exists()


@pytest.mark.parametrize("place", ["/", "/favicon.ico", "/wrong/", "http://evil.example/"])
def test_nothing_is_shown_without_the_secret(server: Server, place: str) -> None:
    assert ask(server, place=place).status == 404
    assert ask(server, place="corrections", X_Review_Token=None).status == 403


@pytest.mark.parametrize(
    "data", [b"\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x00" * 9 + b"\r\n"]
)
def test_what_is_no_request_is_no_trouble(server: Server, data: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_connection(("127.0.0.1", server.server_address[1]), timeout=60) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass
    assert ask(server).status == 200 and capfd.readouterr().err == ""


def test_a_disk_that_is_full_is_told_to_the_reader_and_the_server_goes_on(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "corrections")

    with monkeypatch.context() as patch:
        patch.setattr("utils.corrections.write_json", full)
        answer = ask(server, "POST", "corrections", said())
    assert answer.status == 500 and answer.text.startswith("not saved: corrections: No space left")
    assert ask(server, "POST", "corrections", said()).status == 200


def test_a_port_that_is_taken_is_one_line(server: Server) -> None:
    port = server.server_address[1]
    with pytest.raises(InputError, match=f"--port {port}: expected a port that is free"):
        Server(server.review, port)
    with pytest.raises(InputError, match="--port 70000"):
        Server(server.review, 70000)


SCRIPT = """
import sys
from pathlib import Path
from tests.studies import review_in, small
from utils.log import setup
from utils.review import serve
setup()
serve(review_in(Path(sys.argv[1])))
print("ended")
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it(tmp_path: Path, number: int) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ}
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.fullmatch(r"Review at (http://127\.0\.0\.1:(\d+)/[\w-]{32}/) on this machine alone; .*\n", line)
    assert found, line
    with socket.create_connection(("127.0.0.1", int(found[2]))):  # one that says nothing keeps it from nothing
        process.send_signal(number)
        rest, errors = process.communicate(timeout=60)
    assert (process.returncode, rest) == (0, "ended\n") and "Traceback" not in errors


# --- in a browser -----------------------------------------------------------------------------------------------------

FIRST = "study.players.get('clip-aa01')"
DRAFT = f"review.drafts.get('clip-aa01/' + {FIRST}.frame)"
STATE = "document.querySelector('#clip-aa01 .state').textContent"


@pytest.fixture
def opened(browser: Browser, server: Server) -> Iterator[Browser]:
    """The page of a fresh server, with a reader's name typed in."""
    browser.errors.clear()
    browser.fetched.clear()
    browser.open(server.url)
    browser.click("#reader-name")
    browser.write("A. Reader")
    yield browser
    assert browser.errors == []
    assert {name for name in browser.fetched if not name.startswith("data:")} <= {
        server.url, f"{server.url}corrections"
    }  # fmt: skip
    browser.run("review.drafts.clear()")  # what is not saved would hold the page


def point(browser: Browser, x: float, y: float) -> tuple[float, float]:
    """A point of the first clip's frame, in pixels of the window."""
    return browser.place("#clip-aa01 .overlay", x / 320, y / 240)


def edit(browser: Browser, frame: int) -> None:
    browser.run(f"{FIRST}.jump({frame})")
    browser.click("#clip-aa01 .edit")


def boxes(browser: Browser) -> list[tuple[int, list[float]]]:
    """The boxes of the draft in hand: class and corners."""
    found = browser.run(f"{DRAFT}.boxes")
    return [(item["class"], item["box"]) for item in found]


def save(browser: Browser) -> None:
    browser.click("#clip-aa01 .save")
    browser.until(f"{STATE}.startsWith('Saved')")


@pytest.mark.browser
def test_a_frame_is_corrected_with_the_mouse(opened: Browser, server: Server) -> None:
    edit(opened, 0)  # the network found nothing in it
    opened.run("document.querySelectorAll('#clip-aa01 input[type=radio]')[2].click()")
    opened.drag(point(opened, 100, 80), point(opened, 160, 130))
    assert boxes(opened) == [(2, pytest.approx([100, 80, 160, 130], abs=1))]
    opened.drag(point(opened, 130, 105), point(opened, 140, 95))  # moved
    assert boxes(opened) == [(2, pytest.approx([110, 70, 170, 120], abs=1))]
    opened.drag(point(opened, 170, 120), point(opened, 190, 140))  # a corner
    assert boxes(opened) == [(2, pytest.approx([110, 70, 190, 140], abs=1))]
    opened.drag(point(opened, 150, 105), point(opened, 319, 20))  # no further than the network sees
    right = server.review.report["studies"][0]["clips"][0]["area"][2]
    assert boxes(opened)[0][1][2] == pytest.approx(right) and boxes(opened)[0][1][0] == pytest.approx(right - 80, abs=1)
    opened.drag(point(opened, 40, 150), point(opened, 70, 180))
    assert len(boxes(opened)) == 2
    opened.click("#clip-aa01 .delete")
    assert len(boxes(opened)) == 1 and opened.run(STATE) == "Not saved yet"
    opened.run("(select => { select.value = 1; select.dispatchEvent(new Event('change')); })"
               "(document.querySelector('#clip-aa01 .frame-view'))")  # fmt: skip
    save(opened)
    label = read_label(server.corrections.folder / "labels" / "clip-aa01-00000.txt", 4, 3)
    assert label.problems == () and label.view == 1 and label.boxes[:, 0].tolist() == [2]
    (sidecar,) = server.corrections.all()
    assert sidecar["reader"] == "A. Reader" and sidecar["network"]["boxes"] == []


@pytest.mark.browser
def test_a_frame_is_corrected_with_keys(opened: Browser, server: Server) -> None:
    before = server.review.report["studies"][0]["clips"][0]["tracks"][0]["boxes"][6][1:5]
    edit(opened, 9)
    assert [label for label, _ in boxes(opened)] == [1, 3] and opened.run(f"document.activeElement === {FIRST}.stage")
    opened.key("Tab")
    assert opened.run("document.activeElement.getAttribute('aria-label')").startswith("MR box, ")
    opened.key("ArrowRight", ALT)
    opened.key("ArrowUp", ALT | CTRL)
    opened.key("ArrowLeft", SHIFT)
    opened.key("1")
    x1, y1, x2, y2 = before
    assert boxes(opened)[0] == (0, [x1 + 1, y1 - 10, x2, y2 - 10])
    opened.key("Tab")
    opened.key("Delete")
    assert len(boxes(opened)) == 1 and opened.run(f"document.activeElement === {FIRST}.stage")
    opened.key("4")
    opened.key("n")
    assert [label for label, _ in boxes(opened)] == [0, 3]
    opened.key("Escape")
    assert opened.run("review.correctors.get('clip-aa01').selected") == -1
    opened.key("s")
    opened.until(f"{STATE}.startsWith('Saved')")
    label = read_label(server.corrections.folder / "labels" / "clip-aa01-00009.txt", 4, 3)
    assert label.problems == () and label.view == -1 and label.boxes[:, 0].tolist() == [0, 3]
    opened.key("ArrowLeft")  # steps, as it does without a correction
    assert opened.run(f"{FIRST}.frame") == 8 and opened.run("review.drafts.size") == 1


@pytest.mark.browser
def test_what_was_saved_is_shown_again(opened: Browser, server: Server) -> None:
    edit(opened, 9)
    opened.drag(point(opened, 40, 100), point(opened, 70, 130))
    opened.run(f"{FIRST}.jump(4)")
    assert opened.run(STATE) == "" and opened.run("review.drafts.has('clip-aa01/9')")  # kept while elsewhere
    opened.run(f"{FIRST}.jump(9)")
    assert len(boxes(opened)) == 3 and opened.run(STATE) == "Not saved yet"
    save(opened)
    opened.open(server.url)
    opened.until("review.saved.size === 1")
    assert opened.run("document.getElementById('reader-name').value") == "A. Reader"
    assert opened.run(STATE).startswith("Corrected by A. Reader, 20")
    labels = f"[...{FIRST}.overlay.querySelectorAll('text')].map(text => text.textContent)"
    assert opened.run(labels) == ["MR (reader)", "TR (reader)", "AR (reader)"]
    assert opened.run("document.querySelectorAll('#clip-aa01 .mark').length") == 1
    assert opened.run("document.querySelector('.corrected-count').textContent") == "1 frame corrected"
    opened.click("#clip-aa01 .edit")
    opened.click("#clip-aa01 .reset")
    assert [label for label, _ in boxes(opened)] == [1, 3]


@pytest.mark.browser
def test_a_reader_hears_why_nothing_is_saved(opened: Browser, server: Server) -> None:
    opened.run("document.getElementById('reader-name').value = ' '")
    edit(opened, 9)
    opened.click("#clip-aa01 .save")
    assert "type your name" in opened.run(STATE) and opened.run("document.activeElement.id") == "reader-name"
    opened.write("B")
    opened.run(f"{DRAFT}.boxes.push({{class: 0, box: [300, 2, 318, 8]}})")
    opened.click("#clip-aa01 .save")
    opened.until(f"{STATE}.startsWith('Not saved: box: expected 2 pixels a side')")
    assert not server.corrections.folder.exists()
    opened.errors.clear()  # the browser's own line about 422


@pytest.mark.browser
def test_a_frame_without_a_picture_of_its_own_cannot_be_corrected(opened: Browser) -> None:
    opened.run("study.players.get('clip-aa02').jump(7)")
    opened.click("#clip-aa02 .edit")
    assert "no picture of its own" in opened.run("document.querySelector('#clip-aa02 .state').textContent")
    assert opened.run("document.querySelector('#clip-aa02 .tools').hidden")


@pytest.mark.browser
def test_a_network_without_views_asks_for_none(browser: Browser, tmp_path: Path) -> None:
    review = review_in(tmp_path)
    report = {**review.report, "view_names": []}
    for clip in review.report["studies"][0]["clips"]:
        clip["view"], clip["timeline"]["view"] = None, []
    with started(replace(review, report=report, view_names=())) as server:
        browser.open(server.url)
        edit(browser, 9)
        assert not browser.run("document.querySelector('#clip-aa01 .frame-view')")
        browser.click("#reader-name")
        browser.write("A")
        save(browser)
        browser.click("#clip-aa01 .play")  # ends the correction
        browser.until("document.querySelector('#clip-aa01 .tools').hidden && review.drafts.size === 0")
        assert server.corrections.all()[0]["view"] is None
