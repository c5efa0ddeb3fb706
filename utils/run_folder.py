"""A training run's folder: the files it begins with and the files it ends with."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from utils import outcomes
from utils.assessment import assess
from utils.balance_log import BalanceSummary, read_balance
from utils.balance_plots import write_balance_figures
from utils.batches import EpochSampler
from utils.canvas import save
from utils.config import Hyperparameters, plain
from utils.files import write_json, write_text
from utils.parts import Parts
from utils.pictures import write_batch_pictures, write_training_pictures
from utils.plan import Outcome, Plan
from utils.plots import labels_figure, results_figure
from utils.processes import Processes
from utils.report import metrics, write_figures
from utils.resume import FIGURES
from utils.table import table

FROM_HYP = ("balance", "cos_lr", "label_smoothing", "patience", "seed")  # flags that a hyp file may set, too

# what says how a run stands: of an earlier one, it would be believed of this
OF_A_RUN = (
    FIGURES, "balance.csv", "results.csv", "training_history.json", "outcomes.npz", "data_problems.txt",
    "weights/last.pt", "weights/last_previous.pt", "weights/best.pt",
)  # fmt: skip


def stored_options(options: argparse.Namespace) -> dict[str, Any]:
    """The options as opt.yaml and checkpoints hold them."""
    return plain({key: value for key, value in vars(options).items() if key != "typed"})


def write_start(
    folder: Path, options: argparse.Namespace, hyp: Hyperparameters, parts: Parts, names: Sequence[str]
) -> None:
    """The files a run begins with: its settings, its data's faults, and what the data look like."""
    for name in OF_A_RUN:  # with --exist-ok, of an earlier one, which --resume must not take for this
        (folder / name).unlink(missing_ok=True)
    settings = plain(dataclasses.asdict(hyp))
    write_text(folder / "hyp.yaml", yaml.safe_dump(settings, sort_keys=False))
    used = {**stored_options(options), **{name: settings[name] for name in FROM_HYP}, "save_dir": str(folder)}
    write_text(folder / "opt.yaml", yaml.safe_dump(used, sort_keys=False))
    if parts.problems:
        write_text(folder / "data_problems.txt", "".join(f"{problem}\n" for problem in parts.problems))
    if options.noplots:
        return
    boxes = np.concatenate([label.boxes for label in parts.train.labels])
    labels = labels_figure(boxes, parts.train.views(), names, parts.train.config.view_names)
    save(labels, folder / "labels.jpg")
    keys = list(EpochSampler(len(parts.train), hyp.seed, not options.rect))
    for number in range(3):
        chosen = keys[number * options.batch_size : (number + 1) * options.batch_size]
        if chosen:
            write_training_pictures(parts.train, chosen, names, folder / f"train_batch{number}.jpg")


def forget_figures(plan: Plan, processes: Processes) -> None:
    """Remove what says that a run is finished, where it goes on with more epochs."""
    if processes.main and not plan.standing.ended:
        (plan.folder / FIGURES).unlink(missing_ok=True)


def write_end(outcome: Outcome, parts: Parts, plan: Plan, options: argparse.Namespace) -> None:
    """The files a run ends with, and its table of figures on screen."""
    assert outcome.evaluation is not None
    outcomes.save(plan.outcomes, outcomes.outcomes_of(outcome.evaluation, parts.val, plan.view_names))
    settings = {
        "weights": str(plan.last), "data": str(parts.val.config.file), "split": "val", "epoch": outcome.epochs,
        "best_epoch": outcome.best_epoch, "imgsz": plan.image_size, "batch_size": options.batch_size * 2,
        **dataclasses.asdict(plan.thresholds), "confidence_from": "this part, which flatters",
        "training_seconds": round(outcome.seconds, 1), "peak_memory_bytes": outcome.peak_memory,
    }  # fmt: skip
    assessment = assess(outcomes.load(plan.outcomes), options.bootstrap, plan.hyp.seed)
    content = metrics(assessment, settings, parts.warnings, parts.leakage.content(), outcome.evaluation)
    balance = read_balance(plan.balance) if plan.balance.is_file() else []
    summary = BalanceSummary.of(balance, plan.hyp.balance) if balance else None
    if summary is not None:
        content["balance"] = plain(dataclasses.asdict(summary))
    if not options.noplots:
        if balance:
            write_balance_figures(balance, plan.folder, plan.hyp.balance, parts.warnings)
        results = results_figure(plan.folder / "results.csv", "\n".join(parts.warnings))
        save(results, plan.folder / "results.png")
        write_figures(assessment, plan.folder, parts.warnings)
        write_batch_pictures(
            parts.val, outcome.evaluation, plan.names, plan.view_names, plan.folder, options.batch_size * 2
        )
    write_json(plan.folder / FIGURES, content)  # last, as a run that has it is not gone on with: see utils.resume.ended
    made, best = _words(outcome.epochs), _words(outcome.best_epoch)
    print(f"\nLast of {made} epochs on {parts.val.config.file} val; best.pt is of epoch {best}\n")
    print(table(content))
    if summary is not None:
        print(f"\n{summary.sentence()}")
    print(f"\n{outcome.seconds / 60:.1f} minutes, {outcome.peak_memory / 1e9:.1f} GB of memory at most")
    print(f"Results in {plan.folder}")


def _words(epochs: int | Mapping[str, int]) -> str:
    """A number of epochs, or those of the parts where they differ."""
    if isinstance(epochs, int):
        return str(epochs)
    if len(set(epochs.values())) == 1:
        return str(next(iter(epochs.values())))
    return ", ".join(f"{number} ({part})" for part, number in epochs.items())
