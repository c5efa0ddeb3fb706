"""How much does the view's gradient disturb detection, and which balancer helps?

    python benchmarks/interference.py --folds datasets/my_folds --csv runs/interference.csv
    python benchmarks/interference.py --data my_data.yaml --size s --img 320 --epochs 30 --view-layers 9 \
        --methods single_det static:0.1 gradnorm

Trains the joint network once for each part of the data, layer that the view head reads, and method, and appends a row
to the csv when a training is finished: started again, it goes on with what is missing. A method is a name of ``train.py
--balance``; after a colon stands the view's weight, or GradNorm's alpha, or, for ``single_...``, a factor of the
learning rate. ``gradnorm_static`` keeps the mean weights of the ``gradnorm`` before it.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import train
from models.balancers import BALANCERS
from utils.config import ROOT, find_file, from_root, load_yaml
from utils.flags import COMMON, IMGSZ, Flag, parse
from utils.log import LOGGER, InputError, run_script
from utils.splits import read_folds

METHODS = (
    *("single_det", "single_view", "detached"),
    *(f"static:{weight}" for weight in ("0.005", "0.01", "0.05", "0.066667", "0.25", "1")),
    *("gradnorm", "gradnorm_static"),
)
KEYS = ("data", "size", "img", "epochs", "seed", "view_layer", "method")
FIGURES = {  # column -> place in metrics.json
    "mAP50": ("map50",), "F1": ("f1",),
    "view_accuracy": ("view", "accuracy"), "view_balanced_accuracy": ("view", "balanced_accuracy"),
    "view_macro_F1": ("view", "macro_f1"), "view_log_loss": ("view", "log_loss"),
    "conflicting": ("balance", "conflicting"), "conflicting_features": ("balance", "conflicting_features"),
    "norm_ratio": ("balance", "norm_ratio"),
}  # fmt: skip
COLUMNS = (*KEYS, *FIGURES, "mean_weight_det", "mean_weight_view", "minutes")
FLAGS = (
    Flag("folds", "", "folder of utils.splits: each fold in turn"),
    Flag("data", "", "dataset yaml, instead of folds"),
    Flag("only-folds", (), "numbers of the folds to take (all)", int, nargs="+"),
    Flag("size", "n", "of the network", choices=tuple("nsmlx")),
    Flag(IMGSZ, 224, "pixels", int),
    Flag("epochs", 15, "of each training", int),
    Flag("seed", 42, "of each training", int),
    Flag("view-layers", (9, 17), "layers that the view head reads", int, nargs="+"),
    Flag("methods", METHODS, "what to compare", nargs="+"),
    Flag("hyp", "hyp/joint_training_rules.yaml", "hyperparameters of all"),
    Flag("csv", "runs/interference/interference.csv", "where rows are appended"),
    Flag("project", "runs/interference", "folder of the trainings"),
    *COMMON,
)


def main(options: argparse.Namespace) -> None:
    """Make the trainings that the csv lacks, then print the means over the parts."""
    if bool(options.folds) == bool(options.data):
        raise InputError("--folds and --data: expected one of them")
    yamls = read_folds(from_root(options.folds)) if options.folds else [find_file(options.data, "data", flag="--data")]
    if options.only_folds:
        yamls = [yamls[number - 1] for number in options.only_folds]
    path = from_root(options.csv)
    for data in yamls:
        for layer in options.view_layers:
            for method in options.methods:
                key = (str(data.stem), options.size, options.imgsz, options.epochs, options.seed, layer, method)
                wanted = dict(zip(KEYS, map(str, key), strict=True))
                if not any(wanted.items() <= row.items() for row in read_rows(path)):
                    append_row(path, wanted | training(options, data, layer, method))
    print_table(read_rows(path))


def training(options: argparse.Namespace, data: Path, layer: int, method: str) -> dict[str, Any]:
    """Train, and return the figures of the last epoch."""
    folder = from_root(options.project)
    folder.mkdir(parents=True, exist_ok=True)
    name, _, value = method.partition(":")
    if name not in BALANCERS:
        raise InputError(f"--methods {method}: expected one of {', '.join(BALANCERS)}")
    hyp = load_yaml(find_file(options.hyp, "hyp", flag="--hyp")) | {"balance": name}
    if value:
        key = {"gradnorm": "gradnorm_alpha", "single_det": "lr0", "single_view": "lr0"}.get(
            name, "classification_weight"
        )
        hyp[key] = float(value) * (hyp["lr0"] if key == "lr0" else 1)
    description = load_yaml(ROOT / "models" / f"yolov5{options.size}.yaml")
    description["head"][-1][0] = layer
    prefix = f"{data.stem}-{options.size}{options.imgsz}-{layer}"
    label = f"{prefix}-{method.replace(':', '-')}"
    files = {"hyp": (folder / f"{label}-hyp.yaml", hyp), "cfg": (folder / f"{label}.yaml", description)}
    for path, content in files.values():
        path.write_text(yaml.safe_dump(content, sort_keys=False))
    LOGGER.info("%s, view head on layer %d: %s", data, layer, method)
    run = train.run(
        data=str(data), imgsz=options.imgsz, epochs=options.epochs, seed=options.seed, project=str(folder), name=label,
        device=options.device, amp=options.amp, noplots=True, noval=True, bootstrap=0,
        balance_from=str(folder / f"{prefix}-gradnorm") if name == "gradnorm_static" else "",
        **{key: str(path) for key, (path, _) in files.items()},
    )  # fmt: skip
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    found = {column: _at(metrics, place) for column, place in FIGURES.items()}
    if name in ("single_det", "single_view"):  # the other head was never trained
        other = "view" if name == "single_det" else ("mAP50", "F1")
        found = {column: None if column.startswith(other) else figure for column, figure in found.items()}
    det, view = metrics["balance"]["mean_weights"]
    minutes = metrics["settings"]["training_seconds"] / 60
    return found | {"mean_weight_det": det, "mean_weight_view": view, "minutes": minutes}


def _at(content: Any, place: Sequence[str]) -> float | None:
    for name in place:
        content = content[name]
    return None if content is None else float(content)


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of the csv; none of an absent one."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Add a finished training."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.is_file()
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow({k: "" if v is None else f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()})


def print_table(rows: Sequence[dict[str, str]]) -> None:
    """Means over the parts of the data."""
    shown = ("mAP50", "F1", "view_accuracy", "view_balanced_accuracy", "view_macro_F1", "conflicting", "minutes")
    groups: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in ("size", "view_layer", "method")), []).append(row)
    print(f"\n{'size':<6}{'head':>5}  {'method':<18}{'runs':>5}" + "".join(f"{name:>24}" for name in shown))
    for (size, layer, method), found in groups.items():
        values = [[float(row[name]) if row[name] else np.nan for row in found] for name in shown]
        means = [np.mean(known) if (known := [v for v in of if not np.isnan(v)]) else np.nan for of in values]
        cells = ("" if np.isnan(mean) else f"{mean:.3f}" for mean in means)
        print(f"{size:<6}{layer:>5}  {method:<18}{len(found):>5}" + "".join(f"{cell:>24}" for cell in cells))


if __name__ == "__main__":
    sys.exit(run_script(main, parse(FLAGS, __doc__ or "")))
