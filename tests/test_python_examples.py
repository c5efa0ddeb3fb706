"""The Python examples of the documents, run as they stand in a folder like a user's."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.exported import exported, saved
from utils.config import ROOT

BLOCKS = [
    pytest.param(block, id=f"{document}-{number}")
    for document in ("README.md", "docs/deployment.md")
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", (ROOT / document).read_text("utf-8"), re.S))
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository's code with best.pt, best.onnx (its suppression inside) and frame.png beside it."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("clone")
    for name in ("hubconf.py", "utils", "models", "hyp"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "best.pt").write_bytes(saved("joint").read_bytes())
    (folder / "best.onnx").write_bytes(exported("onnx", nms=True).read_bytes())
    Image.open(ROOT / "docs" / "images" / "phantom.jpg").crop((0, 0, 320, 240)).save(folder / "frame.png")
    return folder


def test_there_are_some() -> None:
    assert len(BLOCKS) == 4


@pytest.mark.parametrize("block", BLOCKS)
def test_an_example_runs_as_it_stands(folder: Path, block: str) -> None:
    code = block.replace("size=640", "size=64")  # else a minute's work for a tiny network of 64 pixels
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout
