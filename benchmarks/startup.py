"""How long do the scripts take to start: until their imports are done, and until the first batch is through?

    python benchmarks/startup.py --weights runs/train/exp/weights/best.pt

Seconds from the start of the process, on a few phantom frames at 320 pixels; of a training, the first batch (16 frames)
is through when its gradients are there, of val.py and detect.py, when its boxes are. The file cache is warm: each
script is started once before. train.py and train_dual_backbone.py build yolov5s from scratch.
"""

from __future__ import annotations

import importlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

FLAGS_OF = {
    "train": ["--imgsz", "320", "--batch-size", "16"],
    "train_dual_backbone": ["--imgsz", "320", "--batch-size", "16"],
    "val": ["--imgsz", "320"],
    "detect": ["--imgsz", "320"],
}


class Through(Exception):
    """The first batch is through."""


def main() -> None:
    """Time the scripts and print the table."""
    from benchmarks.measure import JSON, answer, in_turns, phantom_yaml, report
    from utils.checkpoint import one_checkpoint
    from utils.flags import Flag, parse

    options = parse(
        (
            Flag("weights", "", "checkpoint of a training, for val.py and detect.py", nargs="+"),
            Flag("scripts", tuple(FLAGS_OF), "to start", nargs="+", choices=tuple(FLAGS_OF)),
            Flag("rounds", 5, "in which each script is started once", int),
            JSON,
        ),
        __doc__ or "",
    )
    weights = one_checkpoint(options.weights).resolve()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = phantom_yaml(folder, patients=12)
        found: dict[str, list[dict[str, float]]] = {script: [] for script in options.scripts}

        def timed(script: str) -> float:
            given = ["--data", str(data)] if script != "detect" else ["--source", str(folder / "frames/images/val")]
            given += ["--weights", str(weights)] if script in ("val", "detect") else []
            child = [str(Path(__file__)), "--child", script, *FLAGS_OF[script], *given, "--project", str(folder)]
            found[script].append(answer(child))
            return found[script][-1]["first batch"]

        figures = in_turns(
            {script: lambda script=script: timed(script) for script in options.scripts},  # type: ignore[misc]
            options.rounds + 1, "scripts",
        )  # fmt: skip
    rows = [
        {
            "script": f"{script}.py",
            "import s": statistics.median(row["import"] for row in found[script][1:]),
            "first batch s": statistics.median(figures[script][1:]),
        }
        for script in options.scripts
    ]
    report("startup", rows, options.json)


def child(script: str, words: list[str]) -> None:
    """Run a script until its first batch is through; prints seconds since the process began."""
    module = importlib.import_module(script)
    imported = since_start()
    stop_after_first_batch(script)
    from utils.flags import parse

    try:
        module.main(parse(module.FLAGS, "", words))
    except Through:
        print(json.dumps({"import": imported, "first batch": since_start()}))


def stop_after_first_batch(script: str) -> None:
    """Make what a batch ends with raise :class:`Through`."""
    from utils import engine, evaluation, predict

    def ending(function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **keywords: Any) -> None:
            function(*arguments, **keywords)
            raise Through

        return called

    engine.Cut.backward = ending(engine.Cut.backward)  # type: ignore[method-assign]
    if script in ("val", "detect"):
        module: Any = evaluation if script == "val" else predict
        module.non_max_suppression = ending(module.non_max_suppression)


def since_start() -> float:
    """Seconds since the process began."""
    import psutil

    return time.time() - psutil.Process().create_time()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.argv[3:])
    else:
        main()
