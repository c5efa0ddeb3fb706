"""utils/monitor.py: a run's state in a few lines, redrawn on a terminal only, from the run's csv files alone."""

from __future__ import annotations

import io
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.scripts import fail, run, succeed
from utils import monitor
from utils.config import ROOT
from utils.files import write_text
from utils.log import InputError
from utils.loggers import COLUMNS, format_results
from utils.monitor import best_row, block, duration, finished, seconds_left, watch

NAN = math.nan
VIEW = ("train/view_loss", "val/view_loss", "metrics/view_accuracy", "metrics/view_macro_f1")
STEP_HEADER = "epoch,step,weight/det,weight/view,cosine/weight,cosine/trunk"


def row(epoch: int, epochs: float = 10, **changed: float) -> dict[str, float]:
    """An epoch of a joint training, each 600 s long; ``changed`` has an underscore pair for a column's slash."""
    figures = {column: 0.01 * i for i, column in enumerate(COLUMNS)}
    figures |= {"epoch": float(epoch), "epochs": epochs, "seconds": 600.0 * (epoch + 1)}
    figures |= {"leakage/patients": 0.0, "leakage/near_identical": 0.0}
    return figures | {name.replace("__", "/"): value for name, value in changed.items()}


def without(figures: dict[str, float], *names: str) -> dict[str, float]:
    return figures | dict.fromkeys(names, NAN)


def write(folder: Path, *rows: dict[str, float]) -> None:
    write_text(folder / "results.csv", format_results(list(rows)))


def lines(*rows: dict[str, float], balance: list[dict[str, float]] | None = None) -> dict[str, list[str]]:
    """The words of each line by its first."""
    text = block(rows, balance or [], now=1007.0, changed=1000.0)
    return {line.split()[0]: line.split()[1:] for line in text.splitlines()}


class Screen(io.StringIO):
    """A standard output that is a terminal, or is not."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], Screen]:
    """Replaces standard output, 100 columns wide."""

    def replace(terminal: bool) -> Screen:
        found = Screen(terminal)
        monkeypatch.setattr(sys, "stdout", found)
        monkeypatch.setenv("COLUMNS", "100")
        return found

    return replace


def events(*actions: Callable[[], object]) -> Callable[[float], object]:
    """A sleep in which, one call after the other, something happens; a further call is a fault of the loop."""
    left = list(actions)
    return lambda _seconds: left.pop(0)()


def test_every_figure_stands_under_its_name() -> None:
    found = lines(row(0), row(1))
    assert found["loss"] == ["box", "obj", "cls", "view"]
    assert found["train"] == ["0.01", "0.02", "0.03", "0.14"]
    assert found["val"] == ["0.08", "0.09", "0.1", "0.15"]
    assert found["figures"] == ["P", "R", "F1", "mAP50", "mAP50-95", "view", "acc", "view", "F1"]
    assert found["last"] == ["0.0400", "0.0500", "0.1600", "0.0600", "0.0700", "0.1700", "0.1800"]
    assert found["rates"] == ["0.11", "0.12", "0.13"]
    assert found["weights"] == ["det", "0.19,", "view", "0.2"]
    assert not {"balance", "LEAKAGE"} & set(found)


def test_the_whole_block_is_pinned() -> None:
    rows = [row(0, metrics__recall=0.5), row(1, leakage__patients=0.25)]
    balance = [{"epoch": 1.0, "step": 7.0, "weight/det": 1.5, "weight/view": 0.5, "cosine/weight": -0.5}]
    assert block(rows, balance, 1007, 1000).splitlines() == [
        "epoch 2/10 (20%)   spent 0:20:00   left 1:20:00   last change 7 s ago",
        "loss             box        obj        cls       view",
        "train           0.01       0.02       0.03       0.14",
        "val             0.08       0.09        0.1       0.15",
        "figures            P          R         F1      mAP50   mAP50-95   view acc    view F1",
        "last          0.0400     0.0500     0.1600     0.0600     0.0700     0.1700     0.1800",
        "best          0.0400     0.5000     0.1600     0.0600     0.0700     0.1700     0.1800",
        "in epoch           1          1          1          1          1          1          1",
        "rates           0.11       0.12       0.13",
        "weights  det 0.19, view 0.2",
        "balance  step 7; in the last 1: mean weights det 1.5, view 0.5, opposed gradients 100%",
        "LEAKAGE  of val's frames 25% are of patients in train",
    ]


def test_lines_stay_within_100_characters() -> None:
    wide = dict.fromkeys(COLUMNS, -1.23456789e-123) | {"seconds": 9e6, "epoch": 9998.0, "epochs": 99999.0}
    wide |= {"leakage/patients": 1.0, "leakage/near_identical": 1.0}
    step = {"epoch": 99.0, "step": 1234567.0, "weight/det": 1e-123, "weight/view": 1e-123, "cosine/weight": -1.0}
    text = block([wide], [step] * 500, 1e6, 0.0)
    assert len(text.splitlines()) == 12 and max(map(len, text.splitlines())) <= 100, text


def test_best_is_the_highest_with_the_first_epoch_that_had_it() -> None:
    rows = [row(0, metrics__F1=NAN), row(1, metrics__F1=0.75), row(2, metrics__F1=0.75), row(3, metrics__F1=0.5)]
    assert best_row(rows, "metrics/F1") is rows[1]
    found = lines(*rows)
    assert (found["last"][2], found["best"][2], found["in"][1 + 2]) == ("0.5000", "0.7500", "2")  # counted from 1
    assert found["in"] == ["epoch", "1", "1", "2", "1", "1", "1", "1"]
    assert best_row(rows[:1], "metrics/F1") is None


def test_time_left_is_the_mean_epoch_for_each_that_is_left() -> None:
    rows = [row(0, seconds=100.0), row(1, seconds=500.0), row(2, seconds=600.0)]
    assert seconds_left(rows) == 7 * 200
    assert "3/10 (30%) spent 0:10:00 left 0:23:20" in " ".join(lines(*rows)["epoch"])


def test_time_left_of_a_run_that_an_older_version_began_counts_the_timed_epochs() -> None:
    assert seconds_left([row(0, seconds=NAN), row(1, seconds=NAN), row(2, seconds=50.0)]) == 7 * 50


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00:00"), (0.4, "0:00:00"), (59.6, "0:01:00"), (5025, "1:23:45"), (3599.9, "1:00:00"),
        (445500, "123:45:00"), (-3, "0:00:00"), (NAN, "?"), (math.inf, "?"),
    ],
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("age", "words"), [(-5, "0 s ago"), (0, "0 s ago"), (99, "99 s ago"), (100, "0:01:40 ago"), (7384, "2:03:04 ago")]
)
def test_the_last_change_tells_a_silent_run(age: float, words: str) -> None:
    assert block([row(0)], [], 5000.0 + age, 5000.0).splitlines()[0].endswith(f"last change {words}")


def test_a_finished_run_says_so_instead_of_its_age() -> None:
    rows = [row(epoch) for epoch in range(10)]
    assert " ".join(lines(*rows)["epoch"]) == "10/10 (100%) spent 1:40:00 finished"
    assert finished(rows) and not finished(rows[:9]) and not finished([])
    assert finished([row(11)])  # more than planned: resumed with fewer
    assert not finished([row(9, epochs=NAN)])


def test_percents_are_full_at_the_end_only() -> None:
    assert "(99%)" in lines(row(998, epochs=1000))["epoch"]
    assert "(100%)" in lines(row(999, epochs=1000))["epoch"]


def test_a_detection_only_run_has_no_view_columns() -> None:
    found = lines(without(row(0), *VIEW, "weight/det", "weight/view", "leakage/patients", "leakage/near_identical"))
    assert found["loss"] == ["box", "obj", "cls"] and len(found["train"]) == len(found["val"]) == 3
    assert found["figures"] == ["P", "R", "F1", "mAP50", "mAP50-95"] and len(found["best"]) == 5
    assert not {"weights", "LEAKAGE"} & set(found) and "nan" not in str(found)


def test_an_epoch_without_validation_has_dashes_beside_the_best() -> None:
    names = [name for name in COLUMNS if name.startswith(("val/", "metrics/"))]
    found = lines(row(0), without(row(1), *names))
    assert found["val"] == ["-"] * 4 and found["last"] == ["-"] * 7 and found["best"][0] == "0.0400"
    assert not {"figures", "last", "best"} & set(lines(without(row(1), *names)))


def test_an_epoch_of_which_nothing_is_known_is_a_line() -> None:
    bare = dict.fromkeys(COLUMNS, NAN) | {"epoch": 0.0}
    assert block([bare], [], 1.0, 1.0) == "epoch 1/?   spent ?   left ?   last change 0 s ago"


@pytest.mark.parametrize(
    ("patients", "alike", "words"),
    [
        (0.5, 0.0, "50% are of patients in train"),
        (NAN, 0.0004, "0.04% look like one of train"),
        (0.994, 0.25, "99.4% are of patients in train, 25% look like one of train"),
        (NAN, NAN, None),
        (0.0, 0.0, None),
    ],
)
def test_leakage_is_a_warning_where_there_is_any(patients: float, alike: float, words: str | None) -> None:
    found = lines(row(0, leakage__patients=patients, leakage__near_identical=alike)).get("LEAKAGE")
    assert (found and " ".join(found)) == (words and f"of val's frames {words}")


def test_steps_are_summed_up_and_unknown_cells_left_out() -> None:
    cosines, weights = (-0.5, 0.5, NAN, -0.1, 0.0), (1.0, 2.0, NAN, 3.0, 2.0)
    steps = [
        {"epoch": 0.0, "step": i + 1.0, "weight/det": det, "weight/view": 0.25, "cosine/weight": cosine}
        for i, (cosine, det) in enumerate(zip(cosines, weights, strict=True))
    ]
    words = "step 5; in the last 5: mean weights det 2, view 0.25, opposed gradients 50%"
    assert " ".join(lines(row(0), balance=steps)["balance"]) == words
    words = "step 3; in the last 1: mean weights det -, view -, opposed gradients -"
    assert " ".join(lines(row(0), balance=[{"epoch": 0.0, "step": 3.0}])["balance"]) == words


def test_without_a_terminal_each_epoch_is_a_block_once(tmp_path: Path, screen: Callable[[bool], Screen]) -> None:
    out = screen(False)
    rows = [row(epoch, epochs=3) for epoch in range(3)]
    nothing: Callable[[], None] = lambda: None  # noqa: E731
    grow = [lambda count=count: write(tmp_path, *rows[:count]) for count in (1, 2, 3)]
    watch(tmp_path, 9.0, sleep=events(nothing, grow[0], nothing, nothing, grow[1], nothing, grow[2]))
    text = out.getvalue()
    assert "\x1b" not in text and "\r" not in text
    firsts = [line[:11] for line in text.splitlines() if line.startswith(("epoch", "waiting"))]
    assert firsts == ["waiting for", "epoch 1/3 (", "epoch 2/3 (", "epoch 3/3 ("]
    assert f"waiting for the first epoch in {tmp_path / 'results.csv'}" in text


def test_a_run_that_starts_anew_in_the_folder_is_shown_again(tmp_path: Path, screen: Callable[[bool], Screen]) -> None:
    out = screen(False)
    write(tmp_path, row(0, epochs=4), row(1, epochs=4))
    watch(tmp_path, 9.0, sleep=events(lambda: write(tmp_path, row(0, epochs=1))))
    assert [line[:9] for line in out.getvalue().splitlines() if "epoch" in line[:5]] == ["epoch 2/4", "epoch 1/1"]


def test_on_a_terminal_a_block_is_drawn_over_the_one_before(tmp_path: Path, screen: Callable[[bool], Screen]) -> None:
    out = screen(True)
    rows = [row(0, epochs=2), row(1, epochs=2, leakage__patients=0.5)]
    happen = events(lambda: write(tmp_path, rows[0]), lambda: None, lambda: write(tmp_path, *rows))
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        happen(seconds)

    watch(tmp_path, 9.0, sleep=sleep)
    waiting, first, again, last = out.getvalue().split("\x1b[J")
    assert waiting.endswith("\n\x1b[1A\r") and first.endswith("\n\x1b[10A\r") and again.endswith("\n\x1b[10A\r")
    assert waiting.startswith("waiting") and first.startswith("epoch 1/2") and again.startswith("epoch 1/2")
    assert last.startswith("epoch 2/2") and len(last.splitlines()) == 11 and last.endswith("\n") and "\x1b" not in last
    assert slept == [9.0] * 3


def test_lines_are_cut_to_a_narrow_terminal(
    tmp_path: Path, screen: Callable[[bool], Screen], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = screen(True)
    monkeypatch.setenv("COLUMNS", "30")
    write(tmp_path, row(0, epochs=1))
    watch(tmp_path, 9.0)
    assert max(map(len, out.getvalue().splitlines())) == 30


@pytest.mark.parametrize("terminal", [False, True])
def test_once_and_a_finished_run_never_wait(tmp_path: Path, screen: Callable[[bool], Screen], terminal: bool) -> None:
    out = screen(terminal)
    write(tmp_path, row(0))
    watch(tmp_path, 9.0, once=True, sleep=events())
    write(tmp_path, row(0, epochs=1))
    watch(tmp_path, 9.0, sleep=events())
    assert out.getvalue().count("epoch 1/1") == 2 and "\x1b" not in out.getvalue()


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("traceback", [[], ["--traceback"]])
def test_ctrl_c_is_no_error(
    tmp_path: Path, screen: Callable[[bool], Screen], monkeypatch: pytest.MonkeyPatch, traceback: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    write(tmp_path, row(0))
    out = screen(True)
    monkeypatch.setattr(monitor, "watch", lambda *arguments: interrupt())
    assert monitor.start([str(tmp_path), *traceback]) == 0
    assert out.getvalue() == "\n" and capsys.readouterr().err == ""


def test_damage_and_loss_while_watching_are_errors(tmp_path: Path, screen: Callable[[bool], Screen]) -> None:
    screen(False)
    folder = tmp_path / "exp"
    folder.mkdir()
    write(folder, row(0))
    with pytest.raises(InputError, match=r"results\.csv: expected the rows"):
        watch(folder, 9.0, sleep=events(lambda: (folder / "results.csv").write_text("half")))
    (folder / "results.csv").unlink()
    with pytest.raises(InputError, match=r"exp: expected a run's folder, got no such folder"):
        watch(folder, 9.0, sleep=events(folder.rmdir))


def test_on_the_command_line(tmp_path: Path) -> None:
    write(tmp_path, *(row(epoch, epochs=2) for epoch in range(2)))
    text = succeed("utils.monitor", tmp_path, "--once")
    assert text == succeed("utils.monitor", tmp_path) and text.startswith("epoch 2/2 (100%)   spent 0:20:00   finished")
    assert "\x1b" not in text


def test_errors_on_the_command_line(tmp_path: Path) -> None:
    assert "nowhere: expected a run's folder, got no such folder" in fail("utils.monitor", tmp_path / "nowhere")
    line = fail("utils.monitor", tmp_path, "--once")
    assert str(tmp_path) in line and "expected a run's folder with epochs in its results.csv" in line
    (tmp_path / "results.csv").write_text("half")
    line = fail("utils.monitor", tmp_path)
    assert f"{tmp_path / 'results.csv'}: expected the rows of a training" in line
    assert "got a file" in fail("utils.monitor", tmp_path / "results.csv")
    assert "--interval: expected 0.1 to 3600, got 0.0" in fail("utils.monitor", tmp_path, "--interval", "0")
    assert run("utils.monitor").returncode == 2


def test_a_relative_folder_is_as_typed_or_below_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Path] = []
    monkeypatch.setattr(monitor, "watch", lambda folder, *others: found.append(folder))
    (tmp_path / "exp").mkdir()
    monkeypatch.chdir(tmp_path)
    assert monitor.start(["exp"]) == monitor.start(["utils"]) == 0
    assert [path.resolve() for path in found] == [tmp_path.resolve() / "exp", ROOT / "utils"]


def test_it_opens_csv_files_only_and_needs_no_torch(tmp_path: Path) -> None:
    """Seen from outside, by Python's own record of the files that are opened."""
    write(tmp_path, row(0))
    (tmp_path / "balance.csv").write_text(f"{STEP_HEADER}\n0,1,1,0.5,0.25,-0.25\n")
    for name in ("opt.yaml", "hyp.yaml", "training_history.json", "run.log"):
        (tmp_path / name).write_text("{damaged")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "last.pt").write_bytes(b"damaged")
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in tmp_path.rglob("*") if path.is_file()}
    code = (
        "import json, sys\n"
        "opened = []\n"
        "sys.addaudithook(lambda event, found: event == 'open' and opened.append(str(found[0])))\n"
        "from utils.monitor import start\n"
        "assert start([sys.argv[1], '--once']) == 0\n"
        "print(json.dumps([[n for n in opened if n.startswith(sys.argv[1])], sorted(sys.modules)]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    opened, modules = json.loads(done.stdout.splitlines()[-1])
    assert {Path(name).name for name in opened} == {"results.csv", "balance.csv"}
    assert not {"torch", "torchvision", "matplotlib", "pandas", "numpy"} & set(modules)
    after = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in tmp_path.rglob("*") if path.is_file()}
    assert before == after
