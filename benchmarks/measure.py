"""What the benchmarks of speed share: the machine, ways timed in turns, programs timed, a table and its json."""

from __future__ import annotations

import datetime
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
import yaml

from utils.config import ROOT, from_here, from_root, load_dataset_config
from utils.dataset import prepare
from utils.devices import cores
from utils.files import write_json
from utils.flags import Flag
from utils.log import InputError, progress

JSON = Flag("json", "", "where the figures are written, too; runs/benchmarks/SCRIPT.json unless given", from_here)
NAMES = {0: "AR", 1: "MR", 2: "PR", 3: "TR"}
Row = dict[str, Any]


@dataclass(frozen=True)
class Machine:
    """What figures depend on beside the program."""

    processor: str
    cores: int
    bf16: str
    gigabytes: int
    gpu: str
    python: str
    torch: str

    @classmethod
    def this(cls) -> Machine:
        """The machine that this process runs on."""
        return cls(
            processor=_processor(),
            cores=cores(),
            bf16=", ".join(_bf16()) or "none",
            gigabytes=round(psutil.virtual_memory().total / 1e9),
            gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
            python=platform.python_version(),
            torch=torch.__version__,
        )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _bf16() -> list[str]:
    """The instructions for bf16 that torch finds in the processor."""
    checks = {"AVX512-BF16": "_is_avx512_bf16_supported", "AMX": "_is_amx_tile_supported"}
    return [name for name, check in checks.items() if getattr(torch.cpu, check, bool)()]


def in_turns(ways: Mapping[str, Callable[[], float]], rounds: int, description: str) -> dict[str, list[float]]:
    """Call each way once a round, beginning with another one each time, so that a slow minute hits all alike.

    Args:
        ways: each returns its figure.

    Returns:
        For each way its figures, a round each.
    """
    figures: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    with progress(range(0), description, total=rounds * len(ways), unit="run") as bar:
        for number in range(rounds):
            start = number % len(names)
            for name in names[start:] + names[:start]:
                figures[name].append(ways[name]())
                bar.update()
    return figures


def ratio(mine: Sequence[float], plain: Sequence[float]) -> float:
    """The median over rounds of mine / plain."""
    return statistics.median(a / b for a, b in zip(mine, plain, strict=True))


def seconds(command: Sequence[str]) -> float:
    """Wall-clock seconds of a program, import included.

    Raises:
        InputError: it failed; the last line it wrote is given.
    """
    start = time.perf_counter()
    _output(command)
    return time.perf_counter() - start


def answer(command: Sequence[str]) -> Row:
    """The last line that a program prints, as json."""
    found: Row = json.loads(_output(command).strip().splitlines()[-1])
    return found


def _output(command: Sequence[str]) -> str:
    """What a program prints; the last line that it wrote as an InputError where it fails."""
    ended = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    if ended.returncode:
        lines = (ended.stderr or ended.stdout).strip().splitlines() or [f"exit code {ended.returncode}"]
        raise InputError(f"{' '.join(command)}: failed: {lines[-1]}")
    return ended.stdout


def phantom_yaml(folder: Path, **size: int) -> Path:
    """A dataset yaml in a folder, with phantom frames made beside it.

    Args:
        size: of :class:`utils.phantom.PhantomConfig`.
    """
    splits = {split: f"images/{split}" for split in ("train", "val", "test")}
    content: dict[str, Any] = {
        "path": str(folder / "frames"), **splits, "names": NAMES, "view_names": ["PLAX", "PSAX", "A4C"],
        "group": r"^(p\d+)-", "generate": {"name": "phantom", **size},
    }  # fmt: skip
    path = folder / "phantom.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    prepare(load_dataset_config(path))
    return path


def report(name: str, rows: Sequence[Row], path: str = "") -> None:
    """Print rows as a table and write them, with machine, date and command, as json.

    Args:
        name: of the script.
        rows: with the same keys each; a float is shown with three digits.
        path: of the json file; empty for the usual place.
    """
    machine = Machine.this()
    shown = [{key: _shown(value) for key, value in row.items()} for row in rows]
    widths = {key: max(len(key), *(len(row[key]) for row in shown)) for key in shown[0]}
    print(f"\n{machine.processor}, {machine.cores} cores, bf16 by {machine.bf16}, GPU {machine.gpu}, ", end="")
    print(f"torch {machine.torch}, {torch.get_num_threads()} threads\n")
    for row in ({key: key for key in widths}, *shown):
        print("  ".join(row[key].ljust(width) for key, width in widths.items()).rstrip())
    file = from_root(path or f"runs/benchmarks/{name}.json")
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "script": name, "command": " ".join(["python", *sys.argv]), "machine": vars(machine),
        "date": datetime.date.today().isoformat(), "threads": torch.get_num_threads(), "rows": list(rows),
    }  # fmt: skip
    write_json(file, content)
    print(f"\nFigures in {file}")


def _shown(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
