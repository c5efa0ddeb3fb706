"""What does each echo filter bring, and what all together?

    python benchmarks/preprocessing.py --folds datasets/my_folds --csv runs/preprocessing.csv
    python benchmarks/preprocessing.py --data my_data.yaml --size s --img 320 --epochs 30 --steps none sector_mask

Trains the joint network once for each part of the data and step, and appends a row to the csv when a training is
finished: started again, it goes on with what is missing. The hyp files of the trainings differ in the filters alone; a
filter has its value of ``utils.preprocess.TYPICAL``, and in ``none`` all are off, whatever ``--hyp`` asks for.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import train
from benchmarks.rows import DATA_FLAGS, append_row, chosen_data, find_row, read_rows
from utils.config import find_file, from_here, from_root, hyperparameters_from, load_yaml
from utils.flags import COMMON, IMGSZ, Flag, parse
from utils.log import LOGGER, run_script
from utils.preprocess import TYPICAL, Preprocessor
from utils.report import figure_at

NONE = "none"
STEPS: dict[str, dict[str, Any]] = {
    NONE: {}, **{name: {name: value} for name, value in TYPICAL.items()}, "all": dict(TYPICAL),
}  # fmt: skip
KEYS = ("data", "hyp", "size", "img", "epochs", "seed", "step")
FIGURES = {  # column -> place in metrics.json
    "mAP50": ("map50",), "F1": ("f1",),
    "view_accuracy": ("view", "accuracy"), "view_balanced_accuracy": ("view", "balanced_accuracy"),
    "view_macro_F1": ("view", "macro_f1"),
}  # fmt: skip
COLUMNS = (*KEYS, *FIGURES, "minutes", "run")
FLAGS = (
    *DATA_FLAGS,
    Flag("size", "n", "of the network", choices=tuple("nsmlx")),
    Flag(IMGSZ, 224, "pixels", int),
    Flag("epochs", 15, "of each training", int),
    Flag("seed", 42, "of each training", int),
    Flag("steps", tuple(STEPS), "what to compare", nargs="+", choices=tuple(STEPS)),
    Flag("hyp", "hyp/joint_training_rules.yaml", "hyperparameters of all, but for the filters"),
    Flag("csv", "runs/preprocessing/preprocessing.csv", "where rows are appended", from_here),
    Flag("project", "runs/preprocessing", "folder of the trainings", from_here),
    *COMMON,
)


def main(options: argparse.Namespace) -> None:
    """Make the trainings that the csv lacks, then print the means over parts and seeds."""
    yamls = chosen_data(options)
    hyperparameters(options.hyp, NONE)  # what is wrong with it is found before the first training
    path = from_root(options.csv)
    for data in yamls:
        for step in options.steps:
            key = (data, options.hyp, options.size, options.imgsz, options.epochs, options.seed, step)
            wanted = dict(zip(KEYS, map(str, key), strict=True))
            if find_row(path, wanted) is None:
                append_row(path, COLUMNS, wanted | training(options, wanted))
    print_table(read_rows(path))


def hyperparameters(source: str, step: str) -> dict[str, Any]:
    """The hyp file's mapping with the filters of a step, and no others."""
    path = find_file(source, "hyp", flag="--hyp")
    hyp = load_yaml(path) | asdict(Preprocessor()) | STEPS[step]
    hyperparameters_from(hyp, path)
    return hyp


def training(options: argparse.Namespace, key: dict[str, str]) -> dict[str, Any]:
    """Train, and return the figures of the last epoch; ``key`` is the row's, see :data:`KEYS`."""
    folder = from_root(options.project)
    folder.mkdir(parents=True, exist_ok=True)
    label = "-".join([Path(key["data"]).stem, *(key[k] for k in KEYS[2:])])
    hyp = folder / f"{label}-hyp.yaml"
    hyp.write_text(yaml.safe_dump(hyperparameters(options.hyp, key["step"]), sort_keys=False), encoding="utf-8")
    LOGGER.info("%s: %s", key["data"], key["step"])
    run = train.run(
        data=key["data"], cfg=f"models/yolov5{options.size}.yaml", hyp=str(hyp), imgsz=options.imgsz,
        epochs=options.epochs, seed=options.seed, project=str(folder), name=label, device=options.device,
        amp=options.amp, noplots=True, noval=True, bootstrap=0,
    )  # fmt: skip
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    found = {column: figure_at(metrics, *place) for column, place in FIGURES.items()}
    return found | {"minutes": metrics["settings"]["training_seconds"] / 60, "run": str(run)}


def print_table(rows: Sequence[dict[str, str]]) -> None:
    """Means over the parts of the data and the seeds; behind each the mean difference to ``none`` of the same ones."""
    shared = [key for key in KEYS if key != "step"]
    plain = {tuple(row[key] for key in shared): row for row in rows if row["step"] == NONE}
    groups: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in KEYS if key not in ("data", "seed")), []).append(row)
    names = "".join(f"{name:>25}" for name in FIGURES)
    print(f"\n{'training':<44}{'step':<12}{'runs':>5}{names}{'minutes':>9}")
    for (*setting, step), found in groups.items():
        label = " ".join([Path(setting[0]).stem, *setting[1:]])
        cells = []
        for name in FIGURES:
            differences = []
            for row in found:
                other = plain.get(tuple(row[key] for key in shared))
                if step != NONE and other is not None and row[name] and other[name]:
                    differences.append(float(row[name]) - float(other[name]))
            known = [float(row[name]) for row in found if row[name]]
            cells.append(_mean(known, ".3f") + (f" ({_mean(differences, '+.3f')})" if differences else ""))
        minutes = _mean([float(row["minutes"]) for row in found], ".1f")
        print(f"{label:<44}{step:<12}{len(found):>5}{''.join(f'{cell:>25}' for cell in cells)}{minutes:>9}")


def _mean(values: Sequence[float], form: str) -> str:
    return format(np.mean(values), form) if values else ""


if __name__ == "__main__":
    sys.exit(run_script(main, parse(FLAGS, __doc__ or "")))
