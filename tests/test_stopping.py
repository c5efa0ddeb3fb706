"""utils.stopping: signals become wishes; exit codes."""

from __future__ import annotations

import argparse
import os
import signal
import threading

import pytest

from utils.log import run_script
from utils.stopping import Stopped, stoppable, with_exit_code

OPTIONS = argparse.Namespace(traceback=False)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_noted_and_the_next_one_ends_the_work(number: int) -> None:
    before = signal.getsignal(number)
    with stoppable() as wish:
        assert wish.number is None
        os.kill(os.getpid(), number)
        assert wish.number == number
        with pytest.raises(Stopped, match="interrupted twice"):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_outside_of_the_main_thread_signals_stay_as_they_are() -> None:
    found = []

    def work() -> None:
        with stoppable() as wish:
            found.append((wish.number, signal.getsignal(signal.SIGTERM)))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(None, before)]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("message", ["go on so", ""])
def test_exit_codes_and_one_line(number: int, code: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    def main(options: argparse.Namespace) -> None:
        raise Stopped(number, message)

    with pytest.raises(SystemExit) as ended:
        run_script(with_exit_code(main), OPTIONS)
    assert ended.value.code == code
    assert capsys.readouterr().err == (f"ERROR: {message}\n" if message else "")


def test_what_ends_well_returns_what_it_made() -> None:
    assert with_exit_code(lambda options: 3)(OPTIONS) == 3
