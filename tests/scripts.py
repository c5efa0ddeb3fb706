"""Running the scripts as a user does: in a process of their own, on a small phantom dataset."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from utils.config import ROOT

SMALL = ("--img", "64", "--batch", "8", "--epochs", "2", "--cfg")


def phantom_yaml(folder: Path, patients: int = 9, frames: int = 2) -> Path:
    """A dataset yaml in ``folder`` whose frames (96 x 128 pixels) are made at first use, beside it."""
    path = folder / "small.yaml"
    path.write_text(
        f"path: {folder / 'phantom'}\n"
        "train: images/train\nval: images/val\ntest: images/test\n"
        "names: [AR, MR, PR, TR]\nview_names: [PLAX, PSAX, A4C]\ngroup: '^(p\\d+)-'\n"
        f"generate: {{name: phantom, patients: {patients}, frames: {frames}, height: 96, width: 128}}\n"
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
