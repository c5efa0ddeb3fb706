"""How much does the view's gradient disturb detection, and which balancer helps?

    python benchmarks/interference.py --folds datasets/my_folds --csv runs/interference.csv
    python benchmarks/interference.py --data my_data.yaml --size s --img 320 --epochs 30 --view-layers 9 \
        --methods single_det static:0.1 gradnorm

Trains the joint network once for each part of the data, layer that the view head reads, and method, and appends a row
to the csv when a training is finished: started again, it goes on with what is missing. A method is a name of ``train.py
--balance``; after a colon stands the view's weight, or GradNorm's alpha, or, for ``single_...``, a factor of the
learning rate. ``gradnorm_static`` keeps the mean weights of the same part's ``gradnorm``, which comes before it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import train
from benchmarks.rows import append_row, find_row, read_rows
from models.balancers import BALANCERS
from utils.config import ROOT, find_file, from_here, from_root, load_yaml
from utils.flags import COMMON, IMGSZ, Flag, parse
from utils.log import LOGGER, InputError, run_script
from utils.report import figure_at
from utils.splits import read_folds

METHODS = (
    *("single_det", "single_view", "detached"),
    *(f"static:{weight}" for weight in ("0.005", "0.01", "0.05", "0.0667", "0.25", "1")),
    *("gradnorm", "gradnorm_static"),
)
KEYS = ("data", "hyp", "size", "img", "epochs", "seed", "view_layer", "method")
FIGURES = {  # column -> place in metrics.json
    "mAP50": ("map50",), "F1": ("f1",),
    "view_accuracy": ("view", "accuracy"), "view_balanced_accuracy": ("view", "balanced_accuracy"),
    "view_macro_F1": ("view", "macro_f1"), "view_log_loss": ("view", "log_loss"),
    "conflicting": ("balance", "conflicting"), "conflicting_features": ("balance", "conflicting_features"),
    "norm_ratio": ("balance", "norm_ratio"),
}  # fmt: skip
COLUMNS = (*KEYS, *FIGURES, "mean_weight_det", "mean_weight_view", "minutes", "run")
SINGLE = ("single_det", "single_view")
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
    Flag("csv", "runs/interference/interference.csv", "where rows are appended", from_here),
    Flag("project", "runs/interference", "folder of the trainings", from_here),
    *COMMON,
)


def main(options: argparse.Namespace) -> None:
    """Make the trainings that the csv lacks, then print the means over parts and seeds."""
    yamls = chosen_data(options)
    for method in options.methods:
        hyperparameters(options.hyp, method)  # what is wrong with one is found before the first training
    path = from_root(options.csv)
    for data in yamls:
        for layer in options.view_layers:
            for method in options.methods:
                key = (data, options.hyp, options.size, options.imgsz, options.epochs, options.seed, layer, method)
                wanted = dict(zip(KEYS, map(str, key), strict=True))
                if find_row(path, wanted) is None:
                    append_row(path, COLUMNS, wanted | training(options, wanted, path))
    print_table(read_rows(path))


def chosen_data(options: argparse.Namespace) -> list[Path]:
    """The dataset yamls that the options of :data:`FLAGS` name."""
    if bool(options.folds) == bool(options.data):
        raise InputError("--folds and --data: expected one of them")
    yamls = read_folds(from_root(options.folds)) if options.folds else [find_file(options.data, "data", flag="--data")]
    wrong = [number for number in options.only_folds if not 0 < number <= len(yamls)]
    if wrong:
        raise InputError(f"--only-folds: expected numbers from 1 to {len(yamls)}, got {wrong[0]}")
    return [yamls[number - 1] for number in options.only_folds] or yamls


def hyperparameters(source: str, method: str) -> dict[str, Any]:
    """The hyp file's mapping with what a method changes in it."""
    name, _, value = method.partition(":")
    if name not in BALANCERS:
        raise InputError(f"--methods {method}: expected one of {', '.join(BALANCERS)}")
    hyp = load_yaml(find_file(source, "hyp", flag="--hyp")) | {"balance": name}
    if value:
        try:
            number = float(value)
        except ValueError:
            raise InputError(f"--methods {method}: expected a number after the colon, got {value!r}") from None
        if name == "gradnorm":
            hyp["gradnorm_alpha"] = number
        elif name in SINGLE:
            hyp["lr0"] *= number
        else:
            hyp["classification_weight"] = number
    return hyp


def training(options: argparse.Namespace, key: dict[str, str], path: Path) -> dict[str, Any]:
    """Train, and return the figures of the last epoch.

    Args:
        key: of the row, see :data:`KEYS`.
        path: of the csv, in which ``gradnorm_static`` finds the run whose weights it keeps.
    """
    name, finished = key["method"].partition(":")[0], ""
    if name == "gradnorm_static":
        row = find_row(path, key | {"method": "gradnorm"})
        if row is None:
            raise InputError("--methods gradnorm_static: expected gradnorm before it, whose weights it keeps")
        finished = row["run"]
    folder = from_root(options.project)
    folder.mkdir(parents=True, exist_ok=True)
    label = "-".join([Path(key["data"]).stem, *(key[k] for k in KEYS[2:])]).replace(":", "-")
    files = {
        "hyp": (folder / f"{label}-hyp.yaml", hyperparameters(options.hyp, key["method"])),
        "cfg": (folder / f"{label}.yaml", joint_description(options.size, int(key["view_layer"]))),
    }
    for file, content in files.values():
        file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    LOGGER.info("%s, view head on layer %s: %s", key["data"], key["view_layer"], key["method"])
    run = train.run(
        data=key["data"], imgsz=options.imgsz, epochs=options.epochs, seed=options.seed, project=str(folder),
        name=label, device=options.device, amp=options.amp, noplots=True, noval=True, bootstrap=0,
        balance_from=finished, **{kind: str(file) for kind, (file, _) in files.items()},
    )  # fmt: skip
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    found = {column: figure_at(metrics, *place) for column, place in FIGURES.items()}
    if name in SINGLE:  # the other head was never trained
        other = "view" if name == "single_det" else ("mAP50", "F1")
        found = {column: None if column.startswith(other) else figure for column, figure in found.items()}
    det, view = metrics["balance"]["mean_weights"]
    minutes = metrics["settings"]["training_seconds"] / 60
    return found | {"mean_weight_det": det, "mean_weight_view": view, "minutes": minutes, "run": str(run)}


def joint_description(size: str, view_layer: int) -> dict[str, Any]:
    """The joint network's yaml with the view head on another layer."""
    description = load_yaml(ROOT / "models" / f"yolov5{size}.yaml")
    for row in description["head"]:
        if row[2] == "ViewHead":
            row[0] = view_layer
    return description


def print_table(rows: Sequence[dict[str, str]]) -> None:
    """Means over the parts of the data and the seeds."""
    shown = ("mAP50", "F1", "view_accuracy", "view_balanced_accuracy", "view_macro_F1", "conflicting", "minutes")
    groups: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in KEYS if key not in ("data", "seed")), []).append(row)
    print(f"\n{'training':<44}{'head':>5}  {'method':<18}{'runs':>5}" + "".join(f"{name:>24}" for name in shown))
    for (*setting, layer, method), found in groups.items():
        label = " ".join([Path(setting[0]).stem, *setting[1:]])
        values = [[float(row[name]) if row[name] else np.nan for row in found] for name in shown]
        means = [np.mean(known) if (known := [v for v in of if not np.isnan(v)]) else np.nan for of in values]
        cells = ("" if np.isnan(mean) else f"{mean:.3f}" for mean in means)
        print(f"{label:<44}{layer:>5}  {method:<18}{len(found):>5}" + "".join(f"{cell:>24}" for cell in cells))


if __name__ == "__main__":
    sys.exit(run_script(main, parse(FLAGS, __doc__ or "")))
