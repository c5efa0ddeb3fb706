"""A headless Chromium that tests talk to through two pipes (DevTools' protocol); no test stands here."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from select import select
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 30.0  # seconds that anything may take
_KEYS = {" ": ("Space", 32), "Enter": ("Enter", 13), "Tab": ("Tab", 9), "Delete": ("Delete", 46), "Home": ("Home", 36),
         "End": ("End", 35), "ArrowLeft": ("ArrowLeft", 37), "ArrowUp": ("ArrowUp", 38),
         "ArrowRight": ("ArrowRight", 39), "ArrowDown": ("ArrowDown", 40), "Escape": ("Escape", 27)}  # fmt: skip
# Chromium reads from file descriptor 3 and writes to 4.
_START = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)
ALT, CTRL, SHIFT = 1, 2, 8


def installed() -> str:
    """The browser's path; where there is none, the test that asks counts as skipped."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"no Chromium on this machine: looked for {', '.join(BROWSERS)}")
    return program


class Browser:
    """One page in one browser, with real keys and a real mouse; a context manager.

    Attributes:
        errors: of scripts and of the page's policy, so far.
        fetched: addresses that the page asked for.
    """

    def __init__(self, folder: Path, width: int = 1280, height: int = 900) -> None:
        words = [
            installed(),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
        ]
        words += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
        words += [f"--user-data-dir={folder / 'profile'}", "--remote-debugging-pipe", "about:blank"]
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (to_browser, from_browser)]  # free to become 3 and 4
        self._process = subprocess.Popen(
            [sys.executable, "-ISc", _START, *map(str, ends), *words], pass_fds=ends, stderr=subprocess.DEVNULL
        )
        for end in (to_browser, from_browser, *ends):
            os.close(end)
        self._rest, self._number, self._session = b"", 0, ""
        self.errors: list[str] = []
        self.fetched: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.resize(width, height)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a method of the protocol."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._out, data) :]
        while True:
            answer = self._message()
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                result: dict[str, Any] = answer["result"]
                return result
            self._note(answer)

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            assert select([self._in], [], [], PATIENCE)[0], "the browser says nothing"
            part = os.read(self._in, 1 << 20)
            assert part, "the browser has ended"
            self._rest += part
        text, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        return message

    def _note(self, event: dict[str, Any]) -> None:
        method, content = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(content["exceptionDetails"])[:2000])
        elif method == "Log.entryAdded" and content["entry"]["level"] == "error":
            self.errors.append(content["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.fetched.append(content["request"]["url"])
        elif method == "Page.javascriptDialogOpening":
            self.errors.append(f"dialog: {content['message']}")

    def open(self, address: str) -> None:
        """Open a page and wait until it says that it is ready."""
        self.call("Page.navigate", url=address)
        self.until("document.documentElement?.dataset.ready === 'yes'")

    def run(self, expression: str) -> Any:
        """What a JavaScript expression gives; promises are waited for."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, expression: str) -> None:
        """Wait for an expression to become true."""
        end = time.monotonic() + PATIENCE
        while not self.run(expression):
            assert time.monotonic() < end, f"waited in vain for {expression}"
            time.sleep(0.03)

    def key(self, key: str, modifiers: int = 0) -> None:
        """Press and release a key; a letter or digit as itself."""
        code, number = _KEYS.get(key, (f"Digit{key}" if key.isdigit() else f"Key{key.upper()}", ord(key[0].upper())))
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "") if not modifiers & (ALT | CTRL) else ""
        common = {"key": key, "code": code, "windowsVirtualKeyCode": number, "modifiers": modifiers}
        self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **common)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def write(self, text: str) -> None:
        """Type a text into what has the focus."""
        self.call("Input.insertText", text=text)

    def place(self, selector: str, x: float = 0.5, y: float = 0.5) -> tuple[float, float]:
        """A point of an element, as a fraction of its size, in pixels of the window; scrolls there."""
        found = self.run(
            f"(() => {{ const node = document.querySelector({json.dumps(selector)});"
            "node.scrollIntoView({block: 'center'}); const box = node.getBoundingClientRect();"
            f"return [box.left + {x} * box.width, box.top + {y} * box.height]; }})()"
        )
        return found[0], found[1]

    def click(self, selector: str, x: float = 0.5, y: float = 0.5) -> None:
        """A click on a point of an element."""
        self.drag(self.place(selector, x, y), None)

    def drag(self, start: tuple[float, float], end: tuple[float, float] | None) -> None:
        """Press the mouse at one point and release it at another, or where it was pressed."""
        moves = [("mouseMoved", start, 0), ("mousePressed", start, 1)]
        if end is not None:
            middle = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
            moves += [("mouseMoved", middle, 1), ("mouseMoved", end, 1)]
        moves.append(("mouseReleased", end or start, 0))
        for kind, (x, y), buttons in moves:
            button = "none" if kind == "mouseMoved" and not buttons else "left"
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button=button, buttons=buttons, clickCount=1)

    def resize(self, width: int, height: int) -> None:
        """Set the window's size."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )  # fmt: skip

    def screenshot(self, path: Path, whole: bool = False) -> None:
        """Save what is seen as PNG, or the whole page."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=whole, **self._clip(whole))
        path.write_bytes(base64.b64decode(shot["data"]))

    def _clip(self, whole: bool) -> dict[str, Any]:
        if not whole:
            return {}
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        return {"clip": {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}}

    def pdf(self) -> bytes:
        """The page as it would be printed."""
        return base64.b64decode(self.call("Page.printToPDF", printBackground=False)["data"])
