"""Who may import whom, read off the source; and that importing anything of ours has no effect on the outside."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("models", "utils")
SCRIPTS = sorted(path.stem for path in ROOT.glob("*.py"))
MODULES = sorted(f"{folder}.{p.stem}" for folder in PACKAGES for p in (ROOT / folder).glob("*.py") if p.stem[0] != "_")

# What a module may import of ours, where that is less than everything but scripts.
LEAVES: dict[str, set[str]] = {
    "utils.boxes": set(),
    "utils.schedule": set(),
    "utils.log": set(),
    "utils.yaml_file": set(),
    "utils.files": {"utils.log"},
    "utils.processes": {"utils.log"},
    "utils.interrupt": {"utils.log"},
}
MODELS_MAY_USE = {"utils.boxes", "utils.log"}
MAY_IMPORT_MODELS = {
    f"utils.{name}"
    for name in (
        *("engine", "evaluation", "trainer", "balancing", "runtimes", "checkpoint"),
        *("exports", "sessions", "agreement", "starting", "ensembles"),
        *("loss", "optim", "complexity", "learner", "building", "revalidation"),  # they need a network's types
    )
}
HEAVY = (
    "matplotlib",
    "seaborn",
    "pandas",
    "sklearn",
    "imagehash",
    "thop",
    "torchjd",
    "bokeh",
    "optuna",
    "requests",
    "pydicom",
    "pylibjpeg",
    "av",
    "highdicom",
    "dicognito",
)  # seconds each, and most runs need none


SLOW = ("torchvision", "torch._dynamo")  # for a ResNet; for optimizers, exports


def tree(module: str) -> ast.Module:
    return ast.parse((ROOT / (module.replace(".", "/") + ".py")).read_text(encoding="utf-8"))


def imports(module: str) -> set[str]:
    """Full names of the modules that a module imports, wherever in it the import stands."""
    found: set[str] = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{module}:{node.lineno}: a relative import"
            # `from utils import plots` imports the module utils.plots, `from utils.plots import draw` utils.plots
            found |= {f"{node.module}.{n.name}" for n in node.names} if node.module in PACKAGES else {node.module}
    return found


def ours(module: str) -> set[str]:
    return {name for name in imports(module) if name.split(".")[0] in (*PACKAGES, *SCRIPTS, "benchmarks", "tests")}


def test_there_is_something_to_check() -> None:
    assert {"models.yolo", "models.heads", *LEAVES, "utils.engine"} <= set(MODULES) and "train" in SCRIPTS
    assert ours("models.yolo") >= {"models.heads", "utils.log"} and "torch" in imports("models.heads")


@pytest.mark.parametrize("module", LEAVES)
def test_leaves_import_nothing_of_ours_but_the_log(module: str) -> None:
    assert ours(module) <= LEAVES[module]


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("models.")])
def test_models_import_only_models_and_two_leaves(module: str) -> None:
    assert {name for name in ours(module) if not name.startswith("models.")} <= MODELS_MAY_USE


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("models.")])
def test_models_need_torch_and_torchvision_alone(module: str) -> None:
    foreign = {name.split(".")[0] for name in imports(module) - ours(module)}
    optional = {"torchjd"} if module == "models.surgery" else set()  # on use: what every import loads is checked below
    assert foreign - set(sys.stdlib_module_names) <= {"torch", "torchvision"} | optional
    assert "argparse" not in foreign


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("models.")])
def test_models_print_nothing(module: str) -> None:
    calls = [node.func for node in ast.walk(tree(module)) if isinstance(node, ast.Call)]
    assert not [call for call in calls if isinstance(call, ast.Name) and call.id in ("print", "open", "eval", "exec")]


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("utils.")])
def test_only_a_few_utils_import_models(module: str) -> None:
    used = {name for name in ours(module) if name.startswith("models.")}
    assert not used or module in MAY_IMPORT_MODELS


@pytest.mark.parametrize("module", MODULES)
def test_no_module_imports_a_script(module: str) -> None:
    assert {name.split(".")[0] for name in ours(module)} <= set(PACKAGES)


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_run_nothing_when_imported(script: str) -> None:
    """Only definitions, imports, constants, a docstring, and the lines behind `if __name__ == "__main__"`."""
    for node in tree(script).body:
        call = isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant)
        branch = isinstance(node, ast.If) and "__name__" not in ast.unparse(node.test)
        loop = isinstance(node, (ast.For, ast.While, ast.With, ast.Try))
        assert not (call or branch or loop), f"{script}.py:{node.lineno}"


@pytest.mark.parametrize("script", [script for script in SCRIPTS if script != "export"])
def test_scripts_start_without_what_takes_as_long_as_torch(script: str) -> None:
    program = f"import sys, {script}; print([name for name in {SLOW} if name in sys.modules])"
    command = [sys.executable, "-c", program]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60).stdout == "[]\n"


PROBE = """
import importlib, json, socket, subprocess, sys

used = []

class Socket(socket.socket):
    def __init__(self, *arguments, **keywords):
        used.append(f"socket: {arguments}")
        raise OSError("no socket at import")

class Popen(subprocess.Popen):
    def __init__(self, *arguments, **keywords):
        used.append(f"process: {arguments}")
        raise OSError("no process at import")

socket.socket = Socket
import torch  # it asks ldconfig for libraries
subprocess.Popen = Popen
for name in sys.argv[2:]:
    importlib.import_module(name)
loaded = [name for name in sys.argv[1].split(",") if name in sys.modules]
print(json.dumps({"used": used, "loaded": loaded, "modules": [n for n in sys.argv[2:] if n in sys.modules]}))
"""


def test_importing_everything_opens_writes_starts_and_loads_nothing(tmp_path: Path) -> None:
    work, home = tmp_path / "work", tmp_path / "home"
    work.mkdir()
    home.mkdir()
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("XDG_", "MPL", "TORCH", "PYTHON"))},
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": str(home),
    }
    command = [sys.executable, "-c", PROBE, ",".join(HEAVY), *MODULES, *SCRIPTS]
    ended = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    report = json.loads(ended.stdout)  # so nothing else was printed
    assert report == {"used": [], "loaded": [], "modules": [*MODULES, *SCRIPTS]}
    assert not list(work.iterdir()) and not list(home.rglob("*"))
    assert ended.stderr == ""
