"""Running the scripts as a user does: in a process of their own, on a small phantom dataset."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.config import ROOT

SMALL = ("--img", "64", "--batch", "8", "--epochs", "2", "--cfg")


def phantom_yaml(folder: Path, patients: int = 9, frames: int = 2) -> Path:
    """A dataset yaml in ``folder`` whose frames (96 x 128 pixels) are made at first use, beside it."""
    path = folder / "small.yaml"
    path.write_text(
        f"path: {json.dumps(str(folder / 'phantom'), ensure_ascii=False)}\n"
        "train: images/train\nval: images/val\ntest: images/test\n"
        "names: [AR, MR, PR, TR]\nview_names: [PLAX, PSAX, A4C]\ngroup: '^(p\\d+)-'\n"
        f"generate: {{name: phantom, patients: {patients}, frames: {frames}, height: 96, width: 128}}\n",
        encoding="utf-8",
    )
    return path


def tiny_cfg(folder: Path, source: str = "models/yolov5n.yaml") -> Path:
    """A network yaml like ``source``, an eighth as wide as the full size."""
    path = folder / f"tiny-{Path(source).name}"
    text = (ROOT / source).read_text()
    lines = ["width_multiple: 0.125" if line.startswith("width_multiple") else line for line in text.splitlines()]
    path.write_text("\n".join(lines) + "\n")
    return path


def run(script: str, *arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a script of the repository, or a module by its dotted name (from there), and wait for it."""
    start = [str(ROOT / script)] if script.endswith(".py") else ["-m", script]
    command = [sys.executable, *start, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd or ROOT, capture_output=True, text=True, timeout=300, check=False)


def succeed(script: str, *arguments: str | Path, cwd: Path | None = None) -> str:
    """Run a script that must end well; returns its standard output."""
    done = run(script, *arguments, cwd=cwd)
    assert done.returncode == 0, f"{script} {arguments}: exit code {done.returncode}\n{done.stderr[-3000:]}"
    return done.stdout


def fail(script: str, *arguments: str | Path) -> str:
    """Run a script that must end with one error line and exit code 1; returns that line."""
    done = run(script, *arguments)
    assert done.returncode == 1, f"{script} {arguments}: exit code {done.returncode}\n{done.stderr[-3000:]}"
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.replace("\r", "\n").splitlines() if line.startswith("ERROR:")]
    assert len(lines) == 1, done.stderr
    return lines[0]


# Scripts one after the other, as `python SCRIPT` and `python -m MODULE` start them. What they print goes to standard
# error, so that standard output holds the exit codes alone; an error that a script does not catch gives code 70.
RUNNER = """
import contextlib, json, runpy, sys, traceback

codes = []
for script, *arguments in json.loads(sys.argv[1]):
    sys.argv, code = [script, *arguments], 0
    with contextlib.redirect_stdout(sys.stderr):
        try:
            if script.endswith(".py"):
                runpy.run_path(script, run_name="__main__")
            else:
                runpy.run_module(script, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
            code = 70
    codes.append(code)
print(json.dumps(codes))
"""


@dataclass(frozen=True)
class Done:
    """What came of several scripts: each one's exit code, and all that they printed."""

    codes: list[int]
    text: str


def run_in_one_process(
    commands: Sequence[Sequence[str | Path]],
    root: Path = ROOT,
    cwd: Path = ROOT,
    environment: Mapping[str, str] | None = None,
    before: Sequence[str] = (),
    prepare: Callable[[], None] | None = None,
) -> Done:
    """Run scripts one after the other in one process, since importing torch takes longer than most of what they do.

    Args:
        commands: each a script of the repository, a path of another, or a module, and its arguments.
        root: the repository, or a copy of it.
        environment: of the process, this one's unless given; root is added to its ``PYTHONPATH``.
        before: words before the interpreter.
        prepare: called in the child before it starts.
    """
    given = dict(os.environ if environment is None else environment)
    given["PYTHONPATH"] = os.pathsep.join([*filter(None, [given.get("PYTHONPATH")]), str(root)])
    words = [[str(word) for word in command] for command in commands]
    for command in words:
        if command[0].endswith(".py"):
            command[0] = str(root / command[0])
    done = subprocess.run(
        [*before, sys.executable, "-c", RUNNER, json.dumps(words)],
        cwd=cwd, env=given, preexec_fn=prepare, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return Done(json.loads(done.stdout), done.stderr)
