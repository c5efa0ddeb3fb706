"""Official weights: found, refused in a line that helps, fetched whole and checked."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from utils import releases
from utils.log import InputError
from utils.releases import FILES, fetch, locate

CONTENT = bytes(range(256)) * 4000
SUM = hashlib.sha256(CONTENT).hexdigest()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server on this machine that has one file."""
    folder = tmp_path_factory.mktemp("release")
    (folder / "yolov5n.pt").write_bytes(CONTENT)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No proxy between the test and its own server, and a folder to fetch into."""
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.chdir(tmp_path)


def test_each_file_has_a_size_and_a_sum() -> None:
    assert all(name.startswith("yolov5") and size > 4e6 and len(bytes.fromhex(sum_)) == 32
               for name, (size, sum_) in FILES.items())  # fmt: skip
    assert len({sum_ for _, sum_ in FILES.values()}) == len(FILES) == 9


def test_what_is_on_disk_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("yolov5s.pt").touch()
    assert locate(Path("yolov5s.pt"), True) == Path("yolov5s.pt")
    repository = tmp_path / "repository"
    repository.mkdir()
    (repository / "yolov5m.pt").touch()
    monkeypatch.setattr(releases, "ROOT", repository)
    assert locate(Path("yolov5m.pt")) == repository / "yolov5m.pt"
    assert locate(Path("mine.pt"), True) == Path("mine.pt")  # whoever reads it says that it is missing


def test_what_is_not_is_fetched_only_if_that_is_asked(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(releases, "RELEASE", server)
    monkeypatch.setattr(releases, "FILES", {"yolov5n.pt": (len(CONTENT), SUM)})
    with pytest.raises(
        InputError, match=rf"yolov5n\.pt: no such file; --download fetches {server}.*or put it at .*/yol"
    ):
        locate(Path("yolov5n.pt"))
    assert not list(Path().iterdir())
    assert locate(Path("yolov5n.pt"), True).read_bytes() == CONTENT
    with pytest.raises(InputError, match="no such folder"):
        locate(Path("nowhere/yolov5n.pt"), True)


@pytest.mark.parametrize(
    ("name", "size", "sum_", "words"),
    [
        ("yolov5n.pt", len(CONTENT) + 1, SUM, f"expected {len(CONTENT) + 1:,} bytes, got {len(CONTENT):,}"),
        ("yolov5n.pt", len(CONTENT) - 1, SUM, f"expected {len(CONTENT) - 1:,} bytes, got more"),
        ("yolov5n.pt", len(CONTENT), "0" * 64, f"expected SHA-256 {'0' * 64}, got {SUM}"),
        ("absent.pt", len(CONTENT), SUM, "expected to fetch it, got 404"),
    ],
)
def test_another_file_than_expected_leaves_nothing(server: str, name: str, size: int, sum_: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        fetch(f"{server}/{name}", Path("x.pt"), size, sum_)
    assert not list(Path().iterdir()) and "\n" not in str(caught.value)


def test_without_a_network_one_line_says_where_the_file_goes() -> None:
    with pytest.raises(InputError, match=r"expected to fetch it, got .*; from another machine, it goes to .*/x\.pt"):
        fetch("http://127.0.0.1:9/yolov5n.pt", Path("x.pt"), 1, SUM)
    assert not list(Path().iterdir())
