"""Optional packages: silent, imported on use, and one line where they are missing."""

from __future__ import annotations

import importlib
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from utils import extras
from utils.config import ROOT
from utils.devices import Compute
from utils.log import InputError

CPU = Compute(torch.device("cpu"), None)

SILENT = """
import socket
import sys

def refused(*_):
    raise SystemExit("a socket was asked for")

socket.socket.connect = socket.getaddrinfo = refused
from utils import extras

extras.load(sys.argv[1], "a test")
"""


@pytest.mark.parametrize("package", ["openvino", pytest.param("nncf", marks=pytest.mark.long)])
def test_openvino_reports_to_nobody(tmp_path: Path, package: str) -> None:
    environment = {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "PATH": ""}
    command = [sys.executable, "-c", SILENT, package]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "") and not list(tmp_path.rglob("*"))


@pytest.mark.parametrize("name", ["onnxruntime", "onnxruntime.quantization", "nncf"])
def test_a_package_that_is_missing_or_broken_is_one_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package = name.partition(".")[0]
    for loaded in (package, name):  # whatever an earlier test has imported
        monkeypatch.setitem(sys.modules, loaded, None)
    with pytest.raises(InputError, match=f'--include x: {package} is not installed; pip install "'):
        extras.require([name], "--include x")

    def broken(_: str) -> Any:
        raise ImportError("libx.so: no such file")

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(InputError, match=rf"{package} cannot be loaded \(libx\.so: no such file\); pip install"):
        extras.load(name, "--include x")


def test_exporters_are_quiet_unless_asked(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    for verbose in (False, True):
        with extras.quiet(verbose):
            print("report")
            logging.getLogger("torch.onnx").warning("warned")
        assert ("report" in capsys.readouterr().out) == verbose and ("warned" in caplog.text) == verbose


def test_versions_are_short() -> None:
    assert extras.version(torch).count(".") == 1
