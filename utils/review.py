"""A report on which a reader corrects frames: its page, served to this machine alone, and what the page saves.

Only 127.0.0.1 is listened on. The address holds a secret, since others may use the machine; each request must name this
address as its host (a page elsewhere may have made its own name lead here), and what saves must bring the secret once
more in a header, which no other site's page can send.
"""

from __future__ import annotations

import hmac
import json
import secrets
import socketserver
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from utils.corrections import Corrections, Refused, Review
from utils.interrupt import Interrupts
from utils.log import LOGGER, InputError, one_line, printable
from utils.study_page import ReviewAccess, page_parts

__all__ = ["HEADER", "Review", "Server", "serve", "started"]

HEADER = "X-Review-Token"
MOST_BYTES = 200_000  # of a correction
PATIENCE = 60.0  # seconds in which a request has to arrive
_GUARDS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class _Wrong(Exception):
    """A request that is answered by one line."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class Server(ThreadingHTTPServer):
    """Answers on 127.0.0.1, each request in a thread.

    Args:
        port: to listen on; 0 for a free one.

    Attributes:
        url: of the page, with its secret.
        host: that requests have to name.
    """

    daemon_threads = True  # an open connection does not keep the program from ending

    def __init__(self, review: Review, port: int = 0) -> None:
        self.review, self.corrections = review, Corrections(review)
        self.access = ReviewAccess(secrets.token_urlsafe(24))
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except (OSError, OverflowError) as error:
            raise InputError(f"--port {port}: expected a port that is free, got: {one_line(error)}") from error
        self.host = f"127.0.0.1:{self.server_address[1]}"
        self.url = f"http://{self.host}/{self.access.token}/"

    def server_bind(self) -> None:
        """Without the look-up of the machine's name, which may ask a network for it."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that has gone is nothing to report."""
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, OSError):
            LOGGER.error("A request could not be answered: %s: %s", type(error).__name__, one_line(error))


class _Handler(BaseHTTPRequestHandler):
    server: Server
    timeout = PATIENCE
    server_version, sys_version = "echo-review", ""

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def _answer(self, method: Callable[[], None]) -> None:
        try:
            self._check_host()
            method()
        except _Wrong as error:
            self._send(error.status, "text/plain; charset=utf-8", f"{error}\n".encode())
        except OSError:  # the browser has gone
            self.close_connection = True

    def _get(self) -> None:
        if self._is_at("/"):
            self._send_page()
        elif self._is_at("/corrections"):
            self._check_token()
            self._send_json({"corrections": self.server.corrections.all()})
        else:
            raise _Wrong(HTTPStatus.NOT_FOUND, "expected the address that was printed, with all of its letters")

    def _post(self) -> None:
        if not self._is_at("/corrections"):
            raise _Wrong(HTTPStatus.NOT_FOUND, "expected the address that was printed, with all of its letters")
        self._check_token()
        origin = self.headers.get("Origin")
        if origin not in (None, f"http://{self.server.host}"):
            raise _Wrong(HTTPStatus.FORBIDDEN, f"expected a request of the page itself, got {printable(str(origin))}")
        content = self._read_json()
        try:
            saved = self.server.corrections.save(content)
        except Refused as error:
            raise _Wrong(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)) from error
        except Exception as error:  # the disk is full, a file has gone: the reader hears of it, and the server goes on
            LOGGER.error("A correction could not be saved: %s", one_line(error))
            raise _Wrong(HTTPStatus.INTERNAL_SERVER_ERROR, f"not saved: {one_line(error)}") from error
        self._send_json({"saved": saved})

    def _check_host(self) -> None:
        if self.headers.get_all("Host") != [self.server.host]:
            raise _Wrong(HTTPStatus.MISDIRECTED_REQUEST, f"expected the host {self.server.host}")

    def _is_at(self, place: str) -> bool:
        return hmac.compare_digest(self.path.encode(), f"/{self.server.access.token}{place}".encode())

    def _check_token(self) -> None:
        if not hmac.compare_digest(self.headers.get(HEADER, "").encode(), self.server.access.token.encode()):
            raise _Wrong(HTTPStatus.FORBIDDEN, "expected a request of the page itself")

    def _read_json(self) -> Any:
        if self.headers.get_content_type() != "application/json":
            raise _Wrong(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "expected application/json")
        length = self.headers.get("Content-Length", "")
        if "Transfer-Encoding" in self.headers or not (length.isascii() and length.isdigit()):
            raise _Wrong(HTTPStatus.LENGTH_REQUIRED, "expected the length of what is sent")
        if len(length) > 9 or int(length) > MOST_BYTES:
            raise _Wrong(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"expected at most {MOST_BYTES:,} bytes")
        data = self.rfile.read(int(length))
        try:
            if len(data) < int(length):
                raise ValueError("it ends before its end")
            return json.loads(data.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise _Wrong(HTTPStatus.BAD_REQUEST, f"expected json, got something else: {one_line(error)}") from error

    def _send_page(self) -> None:
        """In pieces as they are made: the page ends where the connection does."""
        review = self.server.review
        self._begin(HTTPStatus.OK, "text/html; charset=utf-8")
        self.end_headers()
        for part in page_parts(review.report, review.pictures, self.server.access):
            self.wfile.write(part)

    def _send_json(self, content: Any) -> None:
        self._send(HTTPStatus.OK, "application/json", json.dumps(content).encode())

    def _send(self, status: HTTPStatus, kind: str, content: bytes) -> None:
        self._begin(status, kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _begin(self, status: HTTPStatus, kind: str) -> None:
        self.close_connection = True
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Connection": "close", **_GUARDS}.items():
            self.send_header(name, value)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """One line for what is no request that is known here, not a page."""
        status = HTTPStatus(code)
        if status == HTTPStatus.NOT_IMPLEMENTED:
            status = HTTPStatus.METHOD_NOT_ALLOWED
        elif status == HTTPStatus.HTTP_VERSION_NOT_SUPPORTED:
            status = HTTPStatus.BAD_REQUEST
        text = printable(message or status.phrase)
        self._send(status, "text/plain; charset=utf-8", f"{text}\n".encode())

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing: addresses hold the secret."""


@contextmanager
def started(review: Review, port: int = 0) -> Iterator[Server]:
    """A server at work while the context is entered; leaving it waits for a correction that is being saved."""
    with Server(review, port) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
            server.corrections.wait()


def serve(review: Review, port: int = 0) -> None:
    """Serve a review until Ctrl-C or SIGTERM; the address is printed.

    Raises:
        InputError: the port is taken.
    """
    with Interrupts() as interrupts, started(review, port) as server:
        print(f"Review at {server.url} on this machine alone; Ctrl-C ends it", flush=True)
        wait = threading.Event()
        while not interrupts.signal:
            wait.wait(0.2)
