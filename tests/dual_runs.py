"""Runs of train_dual_backbone.py on small data, made once a process, and what is compared of them. No test stands here.

Nothing changes these runs: what is cut or damaged is a copy.
"""

from __future__ import annotations

import functools
import math
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

import train_dual_backbone
from models.yolo import Network
from tests.scripts import phantom_yaml, tiny_cfg
from tests.test_resume import cut
from utils.config import ROOT
from utils.loggers import read_results

_FOLDER = tempfile.TemporaryDirectory(prefix="echo-dual-")  # removed when the process ends


@functools.cache
def place() -> Path:
    """Small data, tiny networks, and a hyp file with dropout, so that random numbers matter."""
    folder = Path(_FOLDER.name)
    phantom_yaml(folder)
    tiny_cfg(folder)
    tiny_cfg(folder, "models/hub/yolov5s.yaml")
    hyp = yaml.safe_load((ROOT / "hyp" / "joint_training_rules.yaml").read_text())
    (folder / "hyp.yaml").write_text(yaml.safe_dump({**hyp, "view_dropout": 0.3}))
    return folder


@functools.cache
def turns() -> Path:
    """A run whose parts took turns."""
    return fit("turns")


@functools.cache
def parallel() -> Path:
    """The same run, in two processes."""
    return fit("parallel", parallel=True)


@functools.cache
def joint() -> Path:
    """A checkpoint of a joint network."""
    torch.manual_seed(5)
    description = yaml.safe_load((place() / "tiny-yolov5n.yaml").read_text())
    return cut(Network(description, nc=4, nv=3), place() / "joint" / "weights" / "best.pt").path


def keywords(**changes: Any) -> dict[str, Any]:
    """Of a two-epoch run of a tiny detector and YOLOv5n's backbone, with what ``changes`` say instead."""
    folder = place()
    return {
        "data": str(folder / "small.yaml"), "cfg": str(folder / "tiny-yolov5n.yaml"), "hyp": str(folder / "hyp.yaml"),
        "classifier": "yolov5n", "imgsz": 64, "batch_size": 8, "epochs": 2, "project": str(folder / "runs"),
        "noplots": True, "bootstrap": 0, "threads": 1, "workers": 0, "save_period": 1, **changes,
    }  # fmt: skip


def fit(name: str, **changes: Any) -> Path:
    return train_dual_backbone.run(**keywords(name=name, **changes))


def tiny() -> str:
    """A ``--classifier`` that is quicker than YOLOv5n."""
    return str(place() / "tiny-yolov5s.yaml")


def content(folder: Path, part: str, file: str = "last") -> dict[str, Any]:
    found: dict[str, Any] = torch.load(folder / part / "weights" / f"{file}.pt", weights_only=True)
    return found


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def same_part(first: Path, second: Path, part: str) -> bool:
    """Whether a part's weights, their mean and its best ones are bit-identical in two runs."""
    a, b = content(first, part), content(second, part)
    best = content(first, part, "best")["ema"], content(second, part, "best")["ema"]
    return equal(a["network"], b["network"]) and equal(a["ema"], b["ema"]) and equal(*best)


def figures(run: Path) -> list[dict[str, float]]:
    """The rows of its results.csv, but for the time it took; an empty cell as -1."""
    rows = read_results(run / "results.csv")
    return [
        {name: -1.0 if math.isnan(cell) else cell for name, cell in row.items() if name != "seconds"} for row in rows
    ]
