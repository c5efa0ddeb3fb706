"""A run watched live, or looked at afterwards, from the csv files in its folder alone; the training does not notice.

python -m utils.monitor runs/train/exp  (until its last epoch, or Ctrl-C; --once for a single look)
"""

from __future__ import annotations

import argparse
import math
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from utils.config import from_root
from utils.flags import check_range
from utils.log import InputError, printable, run_script
from utils.loggers import read_results

Row = Mapping[str, float]

LOSSES = ("box", "obj", "cls", "view")
FIGURES = {"precision": "P", "recall": "R", "F1": "F1", "mAP_0.5": "mAP50", "mAP_0.5:0.95": "mAP50-95"}
FIGURES |= {"view_accuracy": "view acc", "view_macro_f1": "view F1"}
RATES, TASKS = ("x/lr0", "x/lr1", "x/lr2"), ("det", "view")
LEAKAGE = {"leakage/patients": "are of patients in train", "leakage/near_identical": "look like one of train"}
STEPS, STEP_BYTES = 500, 1000  # the end of balance.csv: a long one is not read whole at every look; 77 columns fit


def block(rows: Sequence[Row], balance: Sequence[Row], now: float, changed: float) -> str:
    """The screen for results.csv's rows (one or more), changed at a time, and balance.csv's last ones (or none)."""
    last = rows[-1]
    losses = [name for name in LOSSES if _known(last, f"train/{name}_loss") or _known(last, f"val/{name}_loss")]
    best = {name: row for name in FIGURES if (row := best_row(rows, f"metrics/{name}")) is not None}
    table = (
        ("loss", losses),
        *((part, [_number(last[f"{part}/{name}_loss"]) for name in losses]) for part in ("train", "val")),
        ("figures", [FIGURES[name] for name in best]),
        ("last", [_number(last[f"metrics/{name}"], ".4f") for name in best]),
        ("best", [_number(row[f"metrics/{name}"], ".4f") for name, row in best.items()]),
        ("in epoch", [f"{int(row['epoch']) + 1}" for row in best.values()]),
        ("rates", [_number(last[name]) for name in RATES if _known(last, name)]),
    )
    lines = [_progress(rows, now - changed), *(_line(label, cells) for label, cells in table if cells)]
    weights = [f"{task} {last[f'weight/{task}']:.4g}" for task in TASKS if _known(last, f"weight/{task}")]
    lines += [f"{'weights':<9}{', '.join(weights)}"] if weights else []
    lines += [_balance(balance)] if balance else []
    leaks = [f"{100 * last[name]:.3g}% {words}" for name, words in LEAKAGE.items() if last[name] > 0]
    lines += [f"LEAKAGE  of val's frames {', '.join(leaks)}"] if leaks else []
    return "\n".join(lines)


def finished(rows: Sequence[Row]) -> bool:
    """Whether the last planned epoch is there; a file that does not say how many are planned is never finished."""
    return bool(rows) and rows[-1]["epoch"] + 1 >= rows[-1]["epochs"]


def seconds_left(rows: Sequence[Row]) -> float:
    """The mean time of the epochs so far, for each that is left; NaN where either is unknown."""
    last = rows[-1]
    timed = sum(_known(row, "seconds") for row in rows)  # not those of before the column was there
    return (last["epochs"] - last["epoch"] - 1) * last["seconds"] / timed if timed else math.nan


def best_row(rows: Sequence[Row], name: str) -> Row | None:
    """The first row in which a column is highest; None where no row has it."""
    return max((row for row in rows if _known(row, name)), key=lambda row: row[name], default=None)


def duration(seconds: float) -> str:
    """As 1:23:45; "?" where unknown."""
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(round(max(seconds, 0)), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _progress(rows: Sequence[Row], silent: float) -> str:
    done, total = int(rows[-1]["epoch"]) + 1, rows[-1]["epochs"]
    share = f"{total:.0f} ({min(int(100 * done / total), 100)}%)" if 0 < total < math.inf else "?"
    text = f"epoch {done}/{share}   spent {duration(rows[-1]['seconds'])}"
    if finished(rows):
        return f"{text}   finished"
    # a run that stopped early looks like one in a long epoch: only the silence tells
    ago = f"{max(silent, 0):.0f} s" if silent < 100 else duration(silent)
    return f"{text}   left {duration(seconds_left(rows))}   last change {ago} ago"


def _balance(rows: Sequence[Row]) -> str:
    names = (*(f"weight/{task}" for task in TASKS), "cosine/weight")
    *weights, cosines = ([row[name] for row in rows if _known(row, name)] for name in names)
    means = (_number(sum(values) / len(values), ".3g") if values else "-" for values in weights)
    share = f"{sum(cosine < 0 for cosine in cosines) / len(cosines):.0%}" if cosines else "-"
    return (
        f"{'balance':<9}step {rows[-1]['step']:.0f}; in the last {len(rows)}: mean weights "
        f"{', '.join(f'{task} {mean}' for task, mean in zip(TASKS, means, strict=True))}, opposed gradients {share}"
    )


def _line(label: str, cells: Sequence[str]) -> str:
    return f"{label:<9}" + "".join(f"{cell:>11}" for cell in cells)


def _number(value: float, form: str = ".4g") -> str:
    return "-" if math.isnan(value) else format(value, form)


def _known(row: Row, name: str) -> bool:
    return math.isfinite(row.get(name, math.nan))


def read_rows(folder: Path) -> list[dict[str, float]]:
    """The run's rows; none before its results.csv is there, which is written whole: half of it is an InputError."""
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a run's folder, got {'a file' if folder.exists() else 'no such folder'}")
    path = folder / "results.csv"
    try:
        rows = read_results(path)
        text = path.read_text(encoding="utf-8") if path.is_file() else "epoch\n"
        if "epoch" not in text.partition("\n")[0].replace(" ", "").split(",") or not text.endswith("\n"):
            raise ValueError("its beginning or end is missing")
        if not all(row["epoch"].is_integer() and row["epoch"] >= 0 for row in rows):
            raise ValueError("a row without its epoch")
    except ValueError as error:
        raise InputError(
            f"{path}: expected the rows of a training, got something else: {printable(str(error), 200)}"
        ) from error
    return rows


def read_steps(folder: Path) -> list[dict[str, float]]:
    """The run's last steps, up to 500; none without a balance.csv, and without a last line that is being written."""
    path = folder / "balance.csv"
    if not path.is_file():
        return []
    with path.open("rb") as file:
        header = file.readline(STEPS * STEP_BYTES)
        file.seek(max(file.tell(), file.seek(0, 2) - (STEPS + 1) * STEP_BYTES))
        lines = file.read().split(b"\n")[:-1][-STEPS:]
    try:
        names = header.decode().strip().split(",")
        cells = [line.decode().split(",") for line in lines]
        rows = [{n: float(cell or "nan") for n, cell in zip(names, row, strict=True)} for row in cells]
        if rows and names[:2] != ["epoch", "step"]:
            raise ValueError(f"columns {','.join(names[:2])[:60]}")
    except ValueError as error:
        raise InputError(
            f"{path}: expected the steps of a training, got something else: {printable(str(error), 200)}"
        ) from error
    return rows


def watch(folder: Path, interval: float, once: bool = False, sleep: Callable[[float], object] = time.sleep) -> None:
    """Show a run until its last epoch is there; redrawn in place on a terminal, else a block for each new epoch."""
    path, live = folder / "results.csv", sys.stdout.isatty() and not once
    shown, height = math.nan, 0  # the epoch of the last block; the lines that stand on the terminal
    while True:
        rows = read_rows(folder)
        if once and not rows:
            raise InputError(f"{folder}: expected a run's folder with epochs in its results.csv, got none")
        text, epoch = f"waiting for the first epoch in {path}", -1.0
        if rows:
            text, epoch = block(rows, read_steps(folder), time.time(), path.stat().st_mtime), rows[-1]["epoch"]
        if live:  # cut to the terminal's width: a line that wraps would take two rows
            lines = [line[: shutil.get_terminal_size((100, 24)).columns] for line in text.splitlines()]
            up = f"\x1b[{height}A\r\x1b[J" if height else ""
            height = len(lines)
            print(up + "\n".join(lines), flush=True)
        elif epoch != shown:
            print(text, flush=True)
        shown = epoch
        if once or finished(rows):
            return
        sleep(interval)


def main(options: argparse.Namespace) -> None:
    """Watch as the options say; Ctrl-C is the usual way to leave, and no error."""
    check_range(options, "interval", 0.1, 3600)
    here = Path(options.folder)
    try:
        watch(here if here.exists() else from_root(options.folder), options.interval, options.once)
    except KeyboardInterrupt:
        print(flush=True)


def start(argv: Sequence[str] | None = None) -> int:
    """Watch as the command line says."""
    parser = argparse.ArgumentParser(
        "utils.monitor", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", help="of the run, such as runs/train/exp; from here, else below the repository")
    parser.add_argument("--interval", type=float, default=2.0, help="seconds between two looks (default: 2)")
    parser.add_argument("--once", action="store_true", help="show how the run stands now, and end")
    parser.add_argument("--traceback", action="store_true", help="show where an error arose")
    return run_script(main, parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(start())
