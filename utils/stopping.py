"""SIGINT and SIGTERM as a wish that work looks at between two steps, so that nothing in hand is lost."""

from __future__ import annotations

import argparse
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from utils.log import LOGGER

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """Work ended early and orderly because a signal asked for it; the message says how to go on, if anything does."""

    def __init__(self, number: int, message: str = "") -> None:
        super().__init__(message)
        self.number = number


class Wish:
    """Whether a signal has come."""

    def __init__(self) -> None:
        self.number: int | None = None  # of the signal

    def take(self, number: int, frame: FrameType | None = None) -> None:
        """Note a signal; a second one ends the work at once, wherever it is."""
        if self.number is not None:
            raise Stopped(number, "interrupted twice: what was in hand is lost")
        self.number = number


@contextlib.contextmanager
def stoppable() -> Iterator[Wish]:
    """Have SIGINT and SIGTERM noted within the context instead of obeyed; only a main thread can."""
    wish = Wish()
    if threading.current_thread() is not threading.main_thread():
        yield wish
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        for number in SIGNALS:
            signal.signal(number, wish.take)
        yield wish
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def with_exit_code(main: Callable[[argparse.Namespace], object]) -> Callable[[argparse.Namespace], object]:
    """``main`` that ends the process after :class:`Stopped`: with its line and exit code 128 + the signal's number."""

    def work(options: argparse.Namespace) -> object:
        try:
            return main(options)
        except Stopped as stop:
            if str(stop):
                LOGGER.error("%s", stop)
            raise SystemExit(128 + stop.number) from None

    return work
