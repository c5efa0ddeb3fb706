"""utils.interrupt: signals are noted, raise where they may, and end a script with one line and their code."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from utils import interrupt
from utils.config import ROOT
from utils.interrupt import SIGNALS, Interrupts, held_back
from utils.log import Interrupted, run_script

OPTIONS = argparse.Namespace(traceback=False)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noted_and_raises_where_it_is_asked_for(number: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    with Interrupts() as interrupts:
        interrupts.check()
        assert interrupts.signal == 0
        send(number)
        assert interrupts.signal == number
        assert len(caplog.messages) == 1 and "Ctrl-C once more ends at once" in caplog.text
        with pytest.raises(Interrupted) as raised:
            interrupts.check()
    assert raised.value.signal == number and interrupts.signal == number


@pytest.mark.parametrize("number", SIGNALS)
def test_at_once_a_signal_raises_where_it_meets_the_program(number: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    reached = []
    with Interrupts() as interrupts, pytest.raises(Interrupted) as raised, interrupts.at_once():
        reached.append(1)
        send(number)
        reached.append(2)
    assert reached == [1] and raised.value.signal == number
    assert not caplog.messages


def test_at_once_also_what_came_before_it_raises() -> None:
    with Interrupts() as interrupts:
        send(signal.SIGTERM)
        with pytest.raises(Interrupted), interrupts.at_once():
            raise AssertionError("within")
        send(signal.SIGTERM)  # outside of it again: noted already


def test_after_at_once_a_signal_is_noted_again() -> None:
    with Interrupts() as interrupts:
        with interrupts.at_once():
            pass
        with contextlib.suppress(ZeroDivisionError), interrupts.at_once():
            _ = 1 / 0
        send(signal.SIGINT)
        assert interrupts.signal == signal.SIGINT


@pytest.mark.parametrize("first", SIGNALS)
def test_a_second_sigterm_is_ignored(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupt, "PATIENCE", -1.0)
    with Interrupts() as interrupts:
        send(first)
        send(signal.SIGTERM)
        assert interrupts.signal == first


@pytest.mark.parametrize("first", SIGNALS)
def test_a_second_ctrl_c_ends_at_once_unless_it_is_the_first_one_passed_on(
    first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Interrupts() as interrupts:
        monkeypatch.setattr(interrupt, "PATIENCE", 60.0)
        send(first)
        send(signal.SIGINT)
        assert interrupts.signal == first
        monkeypatch.setattr(interrupt, "PATIENCE", -1.0)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_held_back_all_signals_wait_for_the_end_and_none_is_lost() -> None:
    class FirstError(Exception):
        pass

    def first(*_: object) -> None:
        raise FirstError

    before, done = signal.signal(signal.SIGUSR1, first), []
    try:
        with Interrupts() as interrupts:
            with pytest.raises(FirstError), held_back():
                send(signal.SIGUSR1)
                send(signal.SIGTERM)
                done.append(interrupts.signal)
            assert done == [0] and interrupts.signal == signal.SIGTERM
            assert signal.getsignal(signal.SIGUSR1) is first
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_held_back_an_error_of_the_work_comes_out_and_handlers_are_put_back() -> None:
    handlers = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(ZeroDivisionError), held_back():
        _ = 1 / 0
    assert [signal.getsignal(number) for number in SIGNALS] == handlers


def test_held_back_in_another_thread_the_work_is_done() -> None:
    done: list[int] = []

    def work() -> None:
        with held_back():
            done.append(1)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [1]


def test_interrupted_is_not_taken_for_an_error_by_who_catches_those() -> None:
    assert not issubclass(Interrupted, Exception)


def test_a_process_that_stands_apart_is_not_reached_by_what_its_group_is_sent(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys, time; sys.path.insert(0, sys.argv[1]); from utils.interrupt import stand_apart\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    stand_apart(); open(sys.argv[2], 'w').close(); time.sleep(60); os._exit(7)\n"
        "while not os.path.exists(sys.argv[2]): time.sleep(0.01)\n"
        "for number in (signal.SIGINT, signal.SIGTERM): signal.signal(number, signal.SIG_IGN)\n"
        "os.killpg(0, signal.SIGTERM); os.killpg(0, signal.SIGINT); os.kill(child, signal.SIGINT)\n"
        "time.sleep(0.2); print(os.waitpid(child, os.WNOHANG)[0]); os.kill(child, signal.SIGKILL)\n"
    )
    command = [sys.executable, "-c", program, str(ROOT), str(tmp_path / "ready")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, start_new_session=True)
    assert done.stdout == "0\n"  # it goes on


def test_handlers_are_put_back_also_after_an_error() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(ZeroDivisionError), Interrupts():
        assert not set(before) & {signal.getsignal(number) for number in SIGNALS}
        _ = 1 / 0
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_outside_of_the_main_thread_signals_stay_as_they_are() -> None:
    found = []

    def work() -> None:
        with Interrupts() as interrupts, interrupts.at_once():
            found.append((interrupts.signal, *map(signal.getsignal, SIGNALS)))

    before = [signal.getsignal(number) for number in SIGNALS]
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(0, *before)] and [signal.getsignal(number) for number in SIGNALS] == before


@pytest.mark.parametrize("traceback", [False, True])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(
    ("hint", "lines"),
    [("go on so", "ERROR: interrupted: go on so\n"), ("", "ERROR: interrupted\n"), (None, "")],
)
def test_a_script_ends_with_one_line_and_the_signals_code(
    number: int, code: int, hint: str | None, lines: str, traceback: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(options: argparse.Namespace) -> None:
        raise Interrupted(number, hint)

    assert run_script(main, argparse.Namespace(traceback=traceback)) == code
    assert capsys.readouterr().err == lines


def test_a_script_that_is_sent_a_second_ctrl_c_ends_with_its_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(options: argparse.Namespace) -> None:
        with Interrupts():
            send(signal.SIGTERM)
            send(signal.SIGINT)

    monkeypatch.setattr(interrupt, "PATIENCE", -1.0)
    assert run_script(main, OPTIONS) == 130
    assert capsys.readouterr().err.splitlines()[1:] == ["ERROR: interrupted"]
