"""What reaches the user: log lines, progress bars, and errors that are meant for them. A leaf: imports nothing of ours.

Nothing is configured at import; a script calls :func:`setup` (through :func:`run_script`) and libraries only use
``LOGGER``.
"""

from __future__ import annotations

import argparse
import errno
import io
import logging
import os
import reprlib
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

LOGGER = logging.getLogger("echo")
T = TypeVar("T")


class InputError(Exception):
    """Something the user gave (a file, a flag, a key) cannot be used.

    The message is one line that names the file or flag, what was expected and what came. Scripts print it without a
    traceback and exit with code 1.
    """


class Interrupted(BaseException):
    """A signal asked the program to end, and nothing was lost.

    No ``Exception``, as KeyboardInterrupt is none: libraries catch those and say something else instead.

    Attributes:
        signal: its number; a shell sees 128 more than it as the exit code.
        hint: how to go on, for the user; None where another process says so, and this one is to say nothing.
    """

    def __init__(self, number: int, hint: str | None = "") -> None:
        super().__init__(f"interrupted{': ' if hint else ''}{hint}")
        self.signal, self.hint = number, hint


class _TqdmHandler(logging.Handler):
    """Writes log lines to standard error, above a progress bar that is on screen instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def setup() -> None:
    """Send log lines to standard error, bare for information and with the level's name for anything above it.

    Standard output escapes, as standard error does, what of a file's name is no text, instead of ending the script.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    handler = _TqdmHandler()
    handler.setFormatter(_LevelFormatter())
    LOGGER.handlers[:] = [handler]
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False


class _LevelFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return text if record.levelno <= logging.INFO else f"{record.levelname}: {text}"


def progress(
    items: Iterable[T],
    description: str,
    total: int | None = None,
    unit: str = "it",
    leave: bool = True,
    delay: float = 0.0,
    initial: int = 0,
) -> tqdm[T]:
    """A progress bar over ``items``; in a log file (no terminal) it redraws every 10 seconds only.

    There is none where the logger is told to be quieter than usual, as in processes that another one speaks for.

    Args:
        delay: seconds before the bar appears at all, for work that is often too short for one.
        initial: items that were done before.
    """
    interval = 0.1 if sys.stderr.isatty() else 10.0
    return tqdm(
        items, desc=description, total=total, unit=unit, leave=leave, delay=delay, initial=initial,
        mininterval=interval, dynamic_ncols=True, disable=LOGGER.level > logging.INFO,
    )  # fmt: skip


def run_script(main: Callable[[argparse.Namespace], object], options: argparse.Namespace) -> int:
    """Run a script's ``main(options)`` and turn what the user can mend into one line on standard error.

    Returns:
        The exit code: 0, 1 after an error, 130 after Ctrl-C, 143 after SIGTERM where a script saves first. With
        ``options.traceback`` errors propagate instead.
    """
    setup()
    try:
        main(options)
    except KeyboardInterrupt:
        if options.traceback:
            raise
        LOGGER.error("interrupted")
        return 130
    except Interrupted as error:
        if error.hint is not None:
            LOGGER.error(one_line(error))
        return 128 + error.signal
    except BrokenPipeError:  # the reader of our output left (`... | head`): nothing to report, and nowhere to
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115  (kept open: the interpreter flushes it at exit)
        return 1
    except (InputError, OSError, MemoryError) as error:
        if options.traceback:
            raise
        LOGGER.error(one_line(error))
        return 1
    except Exception as error:
        if options.traceback:
            raise
        LOGGER.error("%s: %s (a fault of this program; --traceback shows where)", type(error).__name__, one_line(error))
        return 1
    return 0


def printable(text: str, longest: int = 80) -> str:
    """A name out of a file, for a message: of limited length, what a terminal would obey replaced."""
    shown = "".join(character if character.isprintable() else "?" for character in text[: longest + 1])
    return shown if len(shown) <= longest else f"{shown[: longest - 3]}..."


def one_line(error: BaseException) -> str:
    """An exception's message on a single line; ``OSError`` as ``FILE: reason``."""
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        if error.errno == errno.ENOSPC:
            text += "; free some space there and start again (with --resume for a training)"
    else:
        text = str(error) or type(error).__name__
    return " ".join(text.split())


def shown(value: object) -> str:
    """A value from a file, for a message: its repr, of limited length, whatever is in it."""
    try:
        return printable(_REPR.repr(value), 200)
    except ValueError:  # a number of thousands of digits
        return f"a {type(value).__name__}"


_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxlist, _REPR.maxtuple, _REPR.maxdict = 3, 12, 12, 12
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 100
