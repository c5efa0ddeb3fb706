"""Runs that exist, validated again on one split by one evaluator, so that their figures compare."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from models.yolo import parameter_count
from utils import checkpoint
from utils.checkpoint import Checkpoint
from utils.comparison import COLUMNS, OF_BOTH, OF_BOXES, OF_VIEWS, Comparison, Run
from utils.complexity import gflops
from utils.config import Hyperparameters, find_file, load_yaml
from utils.devices import Compute
from utils.intervals import drawn_figures, units_of
from utils.log import LOGGER, InputError
from utils.loggers import read_history, read_results
from utils.outcomes import Outcomes
from utils.paired import Measured
from utils.report import figure_at, figure_of, read_metrics
from utils.resume import ended
from utils.validation import Validation, checked_dataset, validate

NO_LOSS = dict.fromkeys(("box", "obj", "cls"))  # of an ensemble


@dataclass(frozen=True)
class Opened:
    """A run that exists.

    Attributes:
        method, seed: of its row in the table.
        found: the checkpoint that stands for it.
    """

    folder: Path
    method: str
    seed: int
    found: Checkpoint


@dataclass(frozen=True)
class Evaluator:
    """How all runs are validated.

    Attributes:
        settings: of val.py, the dataset among them; an image size of None is each training's own.
        which: checkpoint of each run, last or best.
        draws: of the bootstrap, the same ones for all runs.
        loss_hyp: from :func:`comparable`.
        gains: name of the file that these are from.
    """

    settings: argparse.Namespace
    split: str
    which: str
    compute: Compute
    draws: int
    loss_hyp: Hyperparameters
    gains: str

    def validate(self, found: Checkpoint) -> Validation:
        """A checkpoint on the split."""
        config, size = checked_dataset(self.settings, found), self.settings.imgsz
        return validate(found, config, self.split, size, self.compute, self.settings, 0, self.loss_hyp)


@dataclass(frozen=True)
class Validated:
    """What is kept of a run's validation, which itself holds all frames.

    Attributes:
        settings: of its metrics.json.
        warnings: that must stand beside its figures.
    """

    run: Run
    outcomes: Outcomes
    settings: Mapping[str, Any]
    warnings: Sequence[str] = ()

    @property
    def name(self) -> str:
        """Of its folder."""
        return Path(self.run.folder).name


def opened(folders: Sequence[Path], labels: Sequence[tuple[str, int]], which: str) -> list[Opened]:
    """The runs in these folders.

    Args:
        labels: method and seed of each.
        which: of a run's checkpoints: last, or best.

    Raises:
        InputError: one has no such checkpoint, or other classes or views than another.
    """
    paths = [checkpoint_of(folder, which) for folder in folders]
    found = [checkpoint.read(path) for path in paths]
    check_names(found)
    return [Opened(folder, *label, one) for folder, label, one in zip(folders, labels, found, strict=True)]


def checkpoint_of(folder: Path, which: str) -> Path:
    """A run's checkpoint."""
    path = folder / "weights" / f"{which}.pt"
    if not path.is_file():
        raise InputError(f"{folder}: expected a run with weights/{which}.pt, got none; train.py leaves one")
    return path


def check_names(found: Sequence[Checkpoint]) -> None:
    """Raise an InputError where two runs that learn boxes, or views, learn others."""
    for kind in ("names", "view_names"):
        first, source = next(((getattr(one, kind), one.path) for one in found if getattr(one, kind)), ((), Path()))
        for one in found:
            here = getattr(one, kind)
            if here and here != first:
                raise InputError(f"{one.path}: {kind}: expected {list(first)}, as {source} has, got {list(here)}")


def dataset_of(folders: Sequence[Path]) -> Path:
    """The one dataset that all runs were trained with."""
    named = {}
    for folder in folders:
        if not (folder / "opt.yaml").is_file():
            raise InputError(f"{folder}: expected opt.yaml, which names its dataset, got none; --data names one")
        named[str(load_yaml(folder / "opt.yaml").get("data", ""))] = folder
    if len(named) > 1:
        raise InputError(f"--data: expected one dataset for all runs; they were trained with {', '.join(named)}")
    return find_file(next(iter(named)), "data", flag="--data")


def comparable(hyp: Hyperparameters) -> Hyperparameters:
    """The same gains without smoothing, focal terms and weights of views: losses of all, however each was trained."""
    return replace(
        hyp, label_smoothing=0.0, fl_gamma=0.0, view_label_smoothing=0.0, view_focal_gamma=0.0, view_class_weights=()
    )


def revalidated(runs: Sequence[Opened], evaluator: Evaluator) -> list[Validated]:
    """Each run on the split, in their order.

    Raises:
        InputError: one does not go with the dataset, or was validated on other frames than the first.
    """
    done: list[Validated] = []
    for run in runs:
        LOGGER.info("Validating %s", run.found.path)
        validation = evaluator.validate(run.found)
        outcomes = validation.assessment.outcomes
        if done and frames_of(outcomes) != frames_of(done[0].outcomes):
            first = runs[0].found.path
            raise InputError(f"{run.found.path}: expected the frames that {first} was validated on, got others")
        warnings = [*validation.warnings, *doubts(run.found, evaluator.which, evaluator.split)]
        row = measured(run, validation, evaluator.draws)
        done.append(Validated(row, outcomes, validation.content["settings"], warnings))
    return done


def frames_of(result: Outcomes) -> list[str]:
    """The frames of a validation, as far as they must agree between runs that are paired.

    Their order does not matter where patients or clips are drawn; where frames are, it does (``--rect`` changes it).
    """
    drawn_by_name = result.patients is not None or result.clips is not None
    return sorted(result.files) if drawn_by_name else list(result.files)


def doubts(found: Checkpoint, which: str, split: str) -> list[str]:
    """Why a run may not be what it seems."""
    doubtful = []
    if which == "last" and not ended(found):
        doubtful.append(f"not at its end: the checkpoint is of epoch {found.content['epoch'] + 1}")
    if which == "best" and split == "val":
        doubtful.append("best.pt was chosen on this part, which flatters")
    return doubtful


def measured(run: Opened, validation: Validation, draws: int) -> Run:
    """A run's figures: of its validation, of its network, and of what its training took."""
    content, found = validation.content, run.found
    drawn = drawn_figures(validation.assessment.outcomes, draws, seed=0)  # the same draws for all runs
    figures = {
        column.key: Measured(value, drawn.get(column.place))
        for column in COLUMNS
        if column.place and (value := figure_at(content, *column.place)) is not None
    }
    network = found.build()
    values = {
        **losses(content, len(found.view_names)),
        "confidence": content["confidence"],
        "parameters": float(parameter_count(network)),
        "gflops": gflops(network, content["settings"]["imgsz"]),
        "ms_per_frame": sum(content["speed_ms"].values()),
        **spent(run.folder),
    }
    figures |= {key: Measured(value) for key, value in values.items()}
    absent = {"single_det": (*OF_VIEWS, *OF_BOTH), "single_view": (*OF_BOXES, *OF_BOTH)}.get(found.hyp.balance, ())
    figures = {k: v for k, v in figures.items() if k not in absent and not math.isnan(v.value)}
    history = read_history(run.folder / "training_history.json") or read_results(run.folder / "results.csv")
    return Run(run.method, run.seed, str(run.folder), figures, history)


def losses(content: Mapping[str, Any], views: int) -> dict[str, float]:
    """The losses of a split but for the view's own, which is its log loss: the mean over the frames that have a view.

    Chance is a log loss of log of the number of views.
    """
    loss = {name: math.nan if value is None else value for name, value in content.get("loss", NO_LOSS).items()}
    detection, log_loss = loss["box"] + loss["obj"] + loss["cls"], figure_at(content, "view", "log_loss")
    view = math.nan if log_loss is None else log_loss
    chance = math.log(views) if views else math.nan
    return {"detection_loss": detection, "total_loss": detection + view, "view_loss_to_chance": view - chance}


def spent(folder: Path) -> dict[str, float]:
    """What a run's training took, as far as its folder says."""
    path = folder / "metrics.json"
    content = read_metrics(path) if path.is_file() else {}
    seconds, held = (figure_of(content, path, "settings", key) for key in ("training_seconds", "peak_memory_bytes"))
    return {"minutes": seconds / 60, "peak_memory_gb": held / 1e9}


def compared(runs: Sequence[Validated], evaluator: Evaluator) -> Comparison:
    """All runs as one table, with what must be said of it."""
    unit, units, _ = units_of(runs[0].outcomes)
    table = [one.run for one in runs]
    return Comparison(table, unit, len(units), evaluator.draws, said(runs, evaluator), warnings_of(runs))


def said(runs: Sequence[Validated], evaluator: Evaluator) -> list[str]:
    """What was compared where."""
    first = runs[0].outcomes
    flatters = ", which is this part and flatters" if evaluator.split == "val" else ""
    patients = f" of {len(set(first.patients))} patients" if first.patients else ""
    nv = max(len(one.outcomes.view_names) for one in runs)  # a detector alone may come first
    views = f"; chance for {nv} views is a loss of {math.log(nv):.4f}" if nv else ""
    sources = dict.fromkeys(one.settings["confidence_from"] for one in runs)
    return [
        f"{Path(runs[0].settings['data']).name}, {evaluator.split}: {len(first)} frames{patients}, "
        f"{len(first.labelled)} boxes{views}",
        f"{evaluator.which}.pt of each run, on {evaluator.compute}",
        f"P, R and F1 at the confidence (conf) that is best on: {', '.join(sources)}{flatters}",
        f"Losses of all with the gains of {evaluator.gains}, without smoothing; the view's is its log loss",
    ]


def warnings_of(runs: Sequence[Validated]) -> list[str]:
    """The warnings of all runs, each with those that it is of unless it is of all; and where runs differ."""
    of: dict[str, list[str]] = {}
    for one in runs:
        for warning in one.warnings:
            of.setdefault(warning, []).append(one.name)
    found = [warning if len(names) == len(runs) else f"{', '.join(names)}: {warning}" for warning, names in of.items()]
    if sizes := differing(runs, "imgsz"):
        found.append(f"image sizes differ, {sizes}: losses, GFLOPs and milliseconds do not compare; --img takes one")
    if windows := differing(runs, "clip_window"):
        found.append(f"clip windows differ, {windows}: frames are averaged with their neighbours in some runs alone")
    return found


def differing(runs: Sequence[Validated], setting: str) -> str:
    """Each value of a setting with the first run that has it; nothing where all have the same."""
    first: dict[Any, str] = {}
    for one in runs:
        first.setdefault(one.settings[setting], one.name)
    return ", ".join(f"{value} ({name})" for value, name in first.items()) if len(first) > 1 else ""
