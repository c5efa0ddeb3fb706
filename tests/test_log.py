"""utils/log.py: what a script prints and how it exits."""

from __future__ import annotations

import argparse
import errno
import io
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from utils.log import LOGGER, InputError, one_line, progress, run_script, setup

ROOT = Path(__file__).resolve().parents[1]
FULL = OSError(errno.ENOSPC, "No space left on device", "/data/last.pt")
ERRORS = [
    (InputError("a.yaml: expected a number,\n  got 'x'"), "ERROR: a.yaml: expected a number, got 'x'"),
    (FileNotFoundError(errno.ENOENT, "No such file or directory", "a.pt"), "ERROR: a.pt: No such file or directory"),
    (PermissionError(errno.EACCES, "Permission denied"), "ERROR: Permission denied"),
    (FULL, "ERROR: /data/last.pt: No space left on device; free some space there and start again"),
    (MemoryError(), "ERROR: MemoryError"),
    (KeyError("x"), "ERROR: KeyError: 'x' (a fault of this program; --traceback shows where)"),
    (RuntimeError("one\ntwo"), "ERROR: RuntimeError: one two (a fault of this program"),
    (ZeroDivisionError(), "ERROR: ZeroDivisionError: ZeroDivisionError (a fault of this program"),
]


@pytest.fixture(autouse=True)
def logger_as_before() -> Iterator[None]:
    before = LOGGER.handlers[:], LOGGER.level, LOGGER.propagate
    yield
    LOGGER.handlers[:], LOGGER.level, LOGGER.propagate = before


def options(traceback: bool = False) -> argparse.Namespace:
    return argparse.Namespace(traceback=traceback)


def raising(error: BaseException) -> Callable[[argparse.Namespace], None]:
    def main(given: argparse.Namespace) -> None:
        raise error

    return main


def test_success_is_code_0_and_main_gets_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    given = options()
    seen: list[argparse.Namespace] = []
    assert run_script(seen.append, given) == 0
    assert seen == [given]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("error", "line"), ERRORS, ids=lambda value: type(value).__name__)
def test_an_error_is_one_line_on_standard_error_and_code_1(
    capsys: pytest.CaptureFixture[str], error: Exception, line: str
) -> None:
    assert run_script(raising(error), options()) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(line) and err.count("\n") == 1 and err.endswith("\n")


def test_a_full_disk_comes_with_advice() -> None:
    assert "with --resume" in one_line(FULL)
    assert "--resume" not in one_line(OSError(errno.EIO, "Input/output error", "/data/last.pt"))


def test_ctrl_c_is_code_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_script(raising(KeyboardInterrupt()), options()) == 130
    assert capsys.readouterr().err == "ERROR: interrupted\n"


@pytest.mark.parametrize("error", [*(error for error, _ in ERRORS), KeyboardInterrupt()], ids=repr)
def test_traceback_lets_every_error_through(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        run_script(raising(error), options(traceback=True))
    assert caught.value is error


def test_a_reader_that_left_ends_the_script_in_silence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = io.StringIO()
    monkeypatch.setattr(sys, "stdout", broken)
    assert run_script(raising(BrokenPipeError(errno.EPIPE, "Broken pipe")), options()) == 1
    assert sys.stdout is not broken  # else the interpreter would fail again when it flushes at exit
    sys.stdout.close()
    monkeypatch.undo()
    assert capsys.readouterr().err == ""


def test_an_exit_that_main_asks_for_is_left_alone() -> None:
    with pytest.raises(SystemExit, match="3"):
        run_script(raising(SystemExit(3)), options())


def test_lines_are_bare_for_information_and_named_above_it(capsys: pytest.CaptureFixture[str]) -> None:
    setup()
    setup()  # a second call does not double the lines
    LOGGER.debug("unseen")
    LOGGER.info("epoch %d", 3)
    LOGGER.warning("careful")
    assert capsys.readouterr().err == "epoch 3\nWARNING: careful\n"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("  spread \t over\r\n lines "), "spread over lines"),
        (ValueError(), "ValueError"),
        (OSError("no number"), "no number"),
        (OSError(errno.ENOENT, "No such file", Path("a b.txt")), "a b.txt: No such file"),
    ],
)
def test_one_line(error: Exception, text: str) -> None:
    assert one_line(error) == text


def test_progress_gives_the_items_and_redraws_rarely_in_a_log_file(capsys: pytest.CaptureFixture[str]) -> None:
    bar = progress(iter("abc"), "letters", total=3)
    assert (bar.mininterval, bar.total) == (10.0, 3)
    assert list(bar) == ["a", "b", "c"]
    assert capsys.readouterr().err.count("letters") == 2  # at the start and at the end


def test_nothing_is_configured_at_import() -> None:
    code = (
        "import logging, utils.log; echo, root = logging.getLogger('echo'), logging.getLogger();"
        "print(echo.handlers, root.handlers, echo.level, echo.propagate)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[] [] 0 True\n", "")
