"""Signals that ask a script to end: what it has in hand is saved, then it leaves. Nothing is installed at import."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

from utils.log import LOGGER, Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)
PATIENCE = 1.0  # seconds after which another Ctrl-C is meant as one; a launcher passes the first on at once


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Within, no signal's handler is called; those of the signals that came are called at the end, in their order.

    For calls into libraries that lose an exception which a handler raises within them, or end the process by it.
    Outside the main thread, where Python calls no handlers, nothing is done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    with contextlib.ExitStack() as after:
        after.callback(_raise_all, came)
        for number in signal.valid_signals():
            handler = signal.getsignal(number)
            if callable(handler):
                after.callback(signal.signal, number, handler)
                signal.signal(number, lambda number, _: came.append(number))
        yield


def _raise_all(numbers: Sequence[int]) -> None:
    """Let this process be sent signals, also those that come after one whose handler raises."""
    with contextlib.ExitStack() as waiting:
        for number in reversed(numbers):
            waiting.callback(signal.raise_signal, number)


def stand_apart() -> None:
    """Leave a Ctrl-C, and what is sent to all of a process group, to the parent: for processes that it ends itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setpgid"):  # not Windows
        os.setpgid(0, 0)


class Interrupts:
    """Notes SIGINT and SIGTERM while it is entered, for whoever asks at a moment when stopping does no harm.

    Of the signals that follow only a Ctrl-C counts, and only after :data:`PATIENCE`: it ends at once. Outside the main
    thread, as in some notebooks, no handler can be installed, and nothing is noted.

    Attributes:
        signal: the one that came, or 0.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._when = 0.0
        self._at_once = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def check(self) -> None:
        """Raise :class:`utils.log.Interrupted` if a signal has come."""
        if self.signal:
            raise Interrupted(self.signal)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Within, a signal raises where it meets the program: for work that may be cut anywhere."""
        self._at_once = True
        try:
            self.check()  # what comes before this line is seen here, what comes after it raises by itself
            yield
        finally:
            self._at_once = False

    def _note(self, number: int, _: FrameType | None) -> None:
        again = bool(self.signal)
        if again and number == signal.SIGINT and time.monotonic() - self._when > PATIENCE:
            raise KeyboardInterrupt
        if again:
            return
        self.signal, self._when = number, time.monotonic()
        if self._at_once:
            raise Interrupted(number)
        LOGGER.info("Stopping once what is in hand is saved; Ctrl-C once more ends at once")
