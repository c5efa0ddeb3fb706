"""Cross-validation: every fold in turn, then the figures of each fold, and of all frames pooled.

A frame's prediction comes from the network that saw neither it nor its patient. The confidence at which a fold's boxes
count is found on the other folds' frames, so that no fold's figures are taken at a confidence of its own.
"""

from __future__ import annotations

import argparse
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from utils import checkpoint, outcomes
from utils.assessment import Assessment, assess
from utils.canvas import save
from utils.config import from_root, load_dataset_config
from utils.diagrams import Folds, folds_figure
from utils.files import LAST, write_json, write_text
from utils.launch import MARK, run_folder
from utils.log import LOGGER, InputError, printable
from utils.metrics import detection_figures
from utils.outcomes import Outcomes
from utils.outputs import csv_text
from utils.processes import ALONE, Processes
from utils.report import figure_at, interval_of, metrics, read_metrics, write_figures
from utils.resume import ended, read_or_predecessor
from utils.split_files import list_images
from utils.splits import read_folds
from utils.table import table

# Column of folds.csv, as in results.csv -> place in metrics.json
FIGURES: Mapping[str, tuple[str, ...]] = {
    "mAP_0.5": ("map50",),
    "mAP_0.5:0.95": ("map",),
    "precision": ("precision",),
    "recall": ("recall",),
    "F1": ("f1",),
    "view_accuracy": ("view", "accuracy"),
    "view_balanced_accuracy": ("view", "balanced_accuracy"),
    "view_macro_f1": ("view", "macro_f1"),
}
WORDS = {  # on screen and in the picture, where they are not the column's own
    "mAP_0.5": "mAP50",
    "mAP_0.5:0.95": "mAP50-95",
    "precision": "P",
    "recall": "R",
    "view_macro_f1": "view macro-F1",
}
SHOWN = ("mAP_0.5", "mAP_0.5:0.95", "F1", "view_accuracy", "view_macro_f1")  # in the picture


def cross_validate(
    options: argparse.Namespace,
    resumed: checkpoint.Checkpoint | None,
    train: Callable[[argparse.Namespace, checkpoint.Checkpoint | None], Path],
    processes: Processes = ALONE,
) -> Path:
    """Train on every fold of ``--folds``, then pool; returns the folder of the whole.

    Args:
        options: of a training script.
        resumed: of the fold that was cut off; folds that are finished are then left as they are.
        train: one training, or the rest of one.
        processes: that train together; the main one pools.
    """
    if "data" in options.typed:
        raise InputError("--folds --data: expected one of them; the folds have dataset yamls of their own")
    typed = Path(options.folds).expanduser()
    source = (typed if typed.is_dir() else from_root(options.folds)).resolve()
    yamls = read_folds(source)
    check_folds(yamls)
    if resumed:
        folder = resumed.path.parents[2]
    else:
        folder = run_folder(from_root(options.project), options.name, options.exist_ok, processes)
        present = [name for name in ("metrics.json", *(path.stem for path in yamls)) if (folder / name).exists()]
        if present and not processes.restarts:
            raise InputError(f"{folder}: expected no {present[0]} in it; --resume goes on with a run that was cut off")

    def train_fold(yaml_file: Path) -> None:
        own = {"data": str(yaml_file), "project": str(folder), "name": yaml_file.stem, "exist_ok": True}
        own["folds"] = str(source)  # a resumed run may be started elsewhere
        last = folder / yaml_file.stem / LAST
        begun = read_or_predecessor(last) if resumed and last.exists() else None
        if begun is None or not ended(begun):
            train(argparse.Namespace(**{**vars(options), **own}), begun)

    try:
        for number, path in enumerate(yamls, 1):
            LOGGER.info("Fold %d of %d: %s", number, len(yamls), path)
            train_fold(path)
    finally:
        if processes.main and {path.name for path in folder.iterdir()} <= {MARK}:
            shutil.rmtree(folder)  # what was wrong with the input has been found before the first fold
    if processes.main:
        summarise(folder, [path.stem for path in yamls], options.bootstrap, not options.noplots)
    return folder


def check_folds(yamls: Sequence[Path]) -> None:
    """Refuse folds that cannot be trained or pooled, before the first of them is trained.

    Raises:
        InputError: a yaml or one of its lists cannot be read; classes, views or patterns differ between folds.
    """
    configs = [load_dataset_config(path) for path in yamls]
    for config in configs:
        for key in ("names", "view_names", "group", "clip"):
            if getattr(config, key) != getattr(configs[0], key):
                raise InputError(
                    f"{config.file}: {key}: expected that of {configs[0].file}, as in folds of one dataset"
                )
        for part in ("train", "val"):
            if config.generate is None:
                list_images(config, part)


def summarise(folder: Path, folds: Sequence[str], draws: int, plots: bool = True) -> dict[str, Any]:
    """Pool the outcomes of the folds (folders below ``folder``) and print the table.

    Writes ``metrics.json``, whose content it returns, ``folds.csv`` and, unless ``plots`` is off, the figures.
    """
    parts = with_confidence_of_the_others([outcomes.load(folder / name / "outcomes.npz") for name in folds])
    whole = outcomes.pooled(parts)
    assessment = assess(whole, draws, counted=True)
    warnings = _warnings(folder, folds, parts)
    settings = {"folds": list(folds), "confidence_from": "the other folds, for each fold (mean)"}
    content = metrics(assessment, settings, warnings)
    rows = {name: _row(assess(part, draws=0, counted=True)) for name, part in zip(folds, parts, strict=True)}
    content["folds"] = rows
    write_text(folder / "folds.csv", csv_text(_csv_rows(rows, content)))
    if plots:
        write_figures(assessment, folder, warnings)
        _plot(rows, content, folder / "folds.png", warnings)
    write_json(folder / "metrics.json", content)  # last, as with it all folds count as pooled: see utils.resume
    print(f"\nAll {len(folds)} folds, each validated by the network that was not trained on it\n")
    print(table(content))
    print("\n" + fold_table(content))
    print(f"\nResults in {folder}")
    return content


def with_confidence_of_the_others(parts: Sequence[Outcomes]) -> list[Outcomes]:
    """Each fold with the operating confidence that is best for the other folds' frames together."""
    if len(parts) < 2:
        raise InputError(f"expected 2 or more folds, got {len(parts)}")
    chosen = []
    for number, part in enumerate(parts):
        others = outcomes.pooled([other for place, other in enumerate(parts) if place != number])
        best = detection_figures(others.correct, others.confidence, others.predicted, others.labelled).confidence
        chosen.append(replace(part, operating=np.full(len(part), best)))
    return chosen


def _warnings(folder: Path, folds: Sequence[str], parts: Sequence[Outcomes]) -> list[str]:
    """What the folds' own figures warn of, and frames that were validated more than once."""
    found: list[str] = []
    for name in folds:
        own = read_metrics(folder / name / "metrics.json")
        found += [f"{name}: {printable(warning, 1000)}" for warning in own.get("warnings", [])]
    files = [set(part.files) for part in parts]
    twice = sum(map(len, files)) - len(set().union(*files))
    if twice:
        found.append(f"{twice} frames are in the validation part of more than one fold")
    return found


def _row(assessment: Assessment) -> dict[str, Any]:
    """Figures of one fold; NaN for those of boxes where it has none labelled."""
    content = metrics(assessment, {})
    patients = {"patients": content["patients"]["count"]} if "patients" in content else {}
    figures = {name: value for name, key in FIGURES.items() if (value := figure_at(content, *key)) is not None}
    if not content["labels"]:
        figures |= {name: math.nan for name, key in FIGURES.items() if key[0] != "view"}
    return {"frames": content["frames"], **patients, "confidence": content["confidence"], **figures}


def _columns(folds: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Those that any fold has, in their order."""
    known = ("frames", "patients", "confidence", *FIGURES)
    return [column for column in known if any(column in row for row in folds.values())]


def summary_rows(content: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The folds, their mean and standard deviation, and the pooled figures with their intervals' ends, by row name.

    A figure that a fold lacks is left out of mean and standard deviation.
    """
    folds = content["folds"]
    figures = [column for column in _columns(folds) if column in FIGURES]
    of_folds = {column: np.array([row.get(column, math.nan) for row in folds.values()]) for column in figures}
    values = {column: found[~np.isnan(found)] for column, found in of_folds.items()}
    ends = {column: interval_of(content, *FIGURES[column]) for column in figures}
    pooled = {column: figure_at(content, *FIGURES[column]) for column in figures} | {"frames": content["frames"]}
    if "patients" in content:
        pooled["patients"] = content["patients"]["count"]
    return {
        **folds,
        "mean": {column: float(known.mean()) for column, known in values.items() if len(known)},
        "sd": {column: float(known.std(ddof=1)) for column, known in values.items() if len(known) > 1},
        "pooled": pooled,
        "pooled low": {column: pair[0] for column, pair in ends.items() if pair},
        "pooled high": {column: pair[1] for column, pair in ends.items() if pair},
    }


def _csv_rows(folds: Mapping[str, Mapping[str, Any]], content: Mapping[str, Any]) -> list[list[str]]:
    columns = _columns(folds)
    rows = [["fold", *columns, "warnings"]]
    for name, row in summary_rows(content).items():
        of_row = [warning for warning in content["warnings"] if name not in folds or warning.startswith(f"{name}: ")]
        rows.append([name, *(_cell(row.get(column)) for column in columns), "; ".join(of_row)])
    return rows


def _cell(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.6g}"


def fold_table(content: Mapping[str, Any]) -> str:
    """The rows of folds.csv as text."""
    columns = {column: _words(column) for column in _columns(content["folds"]) if column != "confidence"}
    lines = [f"{'fold':<13}" + "".join(f"{word:>{max(len(word) + 3, 9)}}" for word in columns.values())]
    for name, row in summary_rows(content).items():
        cells = (f"{_shown(row.get(column)):>{max(len(word) + 3, 9)}}" for column, word in columns.items())
        lines.append(f"{name:<13}{''.join(cells)}".rstrip())
    return "\n".join(lines)


def _words(column: str) -> str:
    return WORDS.get(column, column.replace("_", " "))


def _shown(value: float | None) -> str:
    if value is None or math.isnan(value):
        return ""
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def _plot(
    folds: Mapping[str, Mapping[str, Any]], content: Mapping[str, Any], path: Path, warnings: Sequence[str]
) -> None:
    known = [column for column in SHOWN if column in _columns(folds)]
    pooled = summary_rows(content)["pooled"]
    figures = {
        _words(column): Folds(
            [row.get(column, math.nan) for row in folds.values()],
            pooled[column],
            interval_of(content, *FIGURES[column]),
        )
        for column in known
    }
    save(folds_figure(figures, "\n".join(warnings)), path)
