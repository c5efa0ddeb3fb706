"""Compare methods, or runs that exist: one table with what is beyond the noise, figures, and a page to explore.

python compare.py runs/train/exp runs/train/exp2 --task test
python compare.py --methods single_det single_view detached static gradnorm dual --seeds 0 1 2 --img 256 --epochs 12
python compare.py --methods static gradnorm --grid gradnorm_alpha=0,0.5,1,1.5 --data my_data.yaml --epochs 100
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import train_dual_backbone
import val
from models.balancers import BALANCERS
from models.dual import RESNETS
from models.yolo import parameter_count
from utils import checkpoint
from utils.comparison import (
    COLUMNS,
    OF_BOTH,
    OF_BOXES,
    OF_VIEWS,
    Comparison,
    Run,
    csv_rows,
    difference_rows,
    differences_csv,
    markdown,
)
from utils.comparison_page import write_page
from utils.comparison_plots import page_table, panels, write_pictures
from utils.complexity import gflops
from utils.config import ROOT, DatasetConfig, find_file, from_here, from_root, load_hyperparameters, load_yaml
from utils.devices import Compute, select_compute
from utils.files import check_name, new_run_folder, write_text
from utils.flags import BOOTSTRAP, COMMON, Flag, check_range, from_keywords, parse
from utils.intervals import drawn_figures, units_of
from utils.log import LOGGER, InputError, run_script
from utils.loggers import read_history, read_results
from utils.outcomes import Outcomes
from utils.paired import Measured
from utils.pretrained import IMAGENET
from utils.report import figure_at, figure_of, read_metrics
from utils.resume import ended
from utils.study import check_installed, open_study, work
from utils.trainings import DUAL, Training, parse_grid, plan_trainings, write_hyps
from utils.validation import Validation, checked_dataset, validate

# Flags of the training scripts that are handed on, with what they are there.
HANDED_ON = ("cfg", "data", "hyp", "epochs", "batch-size", "imgsz", "weights", "cache", "workers", "threads",
             "optimizer", "rect", "noautoanchor", "single-cls")  # fmt: skip
OF_DUAL = ("classifier", "classifier-weights", "classifier-optimizer", "parallel")
_BY_NAME = {flag.names.split()[0]: flag for flag in train_dual_backbone.FLAGS}
FLAGS = (
    *(_BY_NAME[name] for name in HANDED_ON),
    *(_BY_NAME[name] for name in OF_DUAL),
    Flag("methods", (), f"to train: {', '.join(BALANCERS)}, {DUAL}, or {DUAL}:CLASSIFIER", nargs="+"),
    Flag("seeds", (0,), "of the trainings of each method", int, nargs="+"),
    Flag("grid", (), "key=a,b,... of the hyp file: each method once for each value; needs optuna", nargs="+"),
    Flag("storage", "", "where processes and machines share the grid's study (default: a file in the folder)"),
    Flag("task", "val", "split on which all runs are validated again", choices=("train", "val", "test")),
    Flag("checkpoint", "last", "of each run: last, or best, which was chosen on val", choices=("last", "best")),
    Flag("project", "runs/compare", "folder of the comparisons", from_here),
    Flag("name", "exp", "folder of this comparison; with --methods it is gone on with if it is there"),
    BOOTSTRAP,
    *COMMON,
)
NO_LOSS = dict.fromkeys(("box", "obj", "cls"))  # of an ensemble
SEED_IN_NAME = re.compile(r"(.+?)-seed(\d+)(?:-(.+))?")


def main(options: argparse.Namespace) -> Path:
    """Compare as the options say and return the folder of the comparison."""
    if bool(options.runs) == bool(options.methods):
        raise InputError("expected run folders to compare, or --methods to train, and not both")
    of_training = sorted({"seeds", "grid", "storage", "epochs"} & options.typed) if options.runs else []
    if of_training:
        raise InputError(f"--{of_training[0]}: expected with --methods; runs that exist are as they are")
    check_range(options, "bootstrap", 0)
    check_name(options.name)
    if options.runs:
        folders = list(dict.fromkeys(found_folder(name) for name in options.runs))
        labels = [named(folder) for folder in folders]
        if len(set(labels)) < len(labels):  # of different projects
            labels = [(str(folder), 0) for folder in folders]
        folder = None
    else:
        trainings = planned(options)
        folder = trained(trainings, options)
        folders = [training.folder for training in trainings]
        labels = [(training.label, training.seed) for training in trainings]
    comparison, views = compared(folders, labels, options)
    folder = folder or new_run_folder(from_root(options.project), options.name, options.exist_ok)
    write(comparison, views, folder)
    print(f"\n{markdown(comparison, everything=False)}\nResults in {folder}; comparison.html opens in any browser")
    return folder


def found_folder(name: str) -> Path:
    """A run's folder as typed, or below the repository."""
    path = Path(name).expanduser()
    folder = path if path.is_dir() else from_root(name)
    if not folder.is_dir():
        raise InputError(f"{name}: expected the folder of a run, got no folder")
    return folder.resolve()


def named(folder: Path) -> tuple[str, int]:
    """Method and seed of a run, as compare.py names folders; of any other folder its name, and seed 0."""
    match = SEED_IN_NAME.fullmatch(folder.name)
    if match is None:
        return folder.name, 0
    return " ".join(part for part in (match[1], match[3]) if part), int(match[2])


def planned(options: argparse.Namespace) -> list[Training]:
    """The trainings that ``--methods``, ``--seeds`` and ``--grid`` ask for, all checked before the first is made."""
    for method in options.methods:
        name, _, classifier = method.partition(":")
        if name not in (*BALANCERS, DUAL) or (classifier and name != DUAL):
            raise InputError(f"--methods {method}: expected one of {', '.join(BALANCERS)}, {DUAL}, {DUAL}:CLASSIFIER")
        classifier = classifier or (options.classifier if name == DUAL else "")
        if classifier and classifier not in RESNETS:
            find_file(f"{classifier.removesuffix('.yaml')}.yaml", "models/hub", "models", flag=f"--methods {method}:")
    methods = list(dict.fromkeys(options.methods))
    if "gradnorm_static" in methods and "gradnorm" not in methods[: methods.index("gradnorm_static")]:
        raise InputError("--methods gradnorm_static: expected gradnorm before it, whose weights it keeps")
    if "gradnorm_static" in methods and options.grid:
        raise InputError("--methods gradnorm_static: expected no --grid with it, as no single gradnorm comes before it")
    if min(options.seeds) < 0:
        raise InputError(f"--seeds: expected numbers of at least 0, got {min(options.seeds)}")
    hyp = find_file(options.hyp, "hyp", flag="--hyp")
    grid = parse_grid(options.grid, hyp)
    folder = from_root(options.project) / options.name
    common = {name: handed(options, name) for name in HANDED_ON}
    # scripts are started in the repository, where a path that was typed elsewhere means another file
    common |= {"device": options.device, "hyp": str(hyp.resolve())}
    common["data"] = str(find_file(options.data, "data", flag="--data").resolve())
    if "cfg" in options.typed:  # typed for a script, it also replaces the anchors of --weights
        common["cfg"] = str(find_file(options.cfg, "models", "models/hub", flag="--cfg").resolve())
    else:
        common.pop("cfg")
    common["weights"] = file_typed(options.weights, "weights")
    common |= {"noplots": True, "bootstrap": 0}
    if options.amp is not None:
        common["amp" if options.amp else "no-amp"] = True
    of_dual = {name: handed(options, name) for name in OF_DUAL}
    if options.classifier_weights != IMAGENET:
        of_dual["classifier-weights"] = file_typed(options.classifier_weights, "classifier-weights")
    seeds = list(dict.fromkeys(options.seeds))
    return plan_trainings(methods, seeds, grid, folder, common, of_dual, load_yaml(hyp))


def file_typed(name: str, flag: str) -> str:
    """A file of weights that a flag names, as a path that holds everywhere; nothing where it names none."""
    path = Path(name).expanduser()
    if name and not path.is_file():
        raise InputError(f"--{flag} {name}: no such file")
    return str(path.resolve()) if name else ""


def handed(options: argparse.Namespace, name: str) -> Any:
    """A flag's value for a training script."""
    return getattr(options, name.replace("-", "_"))


def trained(trainings: Sequence[Training], options: argparse.Namespace) -> Path:
    """Make the trainings that are missing, or cut off; returns the folder of all."""
    folder = trainings[0].folder.parent
    if (folder / "comparison.csv").exists() and not any(training.folder.exists() for training in trainings):
        raise InputError(f"{folder}: expected a comparison of these trainings or none, got one of others; take --name")
    for training in trainings:
        training.check_settings()
    if options.grid:
        check_installed()
    folder.mkdir(parents=True, exist_ok=True)
    write_hyps(trainings)
    if options.grid:
        by_name = {training.folder.name: training for training in trainings}
        storage = options.storage or f"sqlite:///{folder / 'study.db'}"
        # without the repository's own place, so that it is one study for machines that keep theirs elsewhere
        title = folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder
        study = open_study(storage, list(by_name), title=title.as_posix())
        work(study, list(by_name), lambda name: by_name[name].make())
    for training in trainings:  # after a study, what was removed since it was finished there
        training.make()
    return folder


def compared(
    folders: Sequence[Path], labels: Sequence[tuple[str, int]], options: argparse.Namespace
) -> tuple[Comparison, int]:
    """All runs validated on one split by one evaluator; also the number of views, 0 where none are learned."""
    paths = [checkpoint_of(folder, options.checkpoint) for folder in folders]
    found = [checkpoint.read(path) for path in paths]
    for kind in ("names", "view_names"):
        first, source = next(((getattr(one, kind), one.path) for one in found if getattr(one, kind)), ((), Path()))
        for one in found:
            here = getattr(one, kind)
            if here and here != first:
                raise InputError(f"{one.path}: {kind}: expected {list(first)}, as {source} has, got {list(here)}")
    data = str(data_of(folders, options))
    compute = select_compute(options.device, options.amp, options.threads)
    asked: dict[str, Any] = {"data": data, "weights": [""], "bootstrap": 0, "workers": options.workers}
    asked |= {"single_cls": options.single_cls} | ({"imgsz": options.imgsz} if "imgsz" in options.typed else {})
    settings = from_keywords(val.FLAGS, asked)
    loss_hyp = replace(  # the same for all, whatever each was trained with
        load_hyperparameters(find_file(options.hyp, "hyp", flag="--hyp")), label_smoothing=0.0, fl_gamma=0.0,
        view_label_smoothing=0.0, view_focal_gamma=0.0, view_class_weights=(),
    )  # fmt: skip
    sizes: dict[int, str] = {}
    windows: dict[int, str] = {}
    sources: list[str] = []
    runs: list[Run] = []
    samples: list[Outcomes] = []
    warned: dict[str, list[str]] = {}
    for folder, (method, seed), one in zip(folders, labels, found, strict=True):
        LOGGER.info("Validating %s", one.path)
        config = checked_dataset(settings, one)
        size = one.image_size if settings.imgsz is None else settings.imgsz
        validation = validate(one, config, options.task, size, compute, settings, 0, loss_hyp)
        result = validation.assessment.outcomes
        if samples and frames_of(result) != frames_of(samples[0]):
            raise InputError(f"{one.path}: expected the frames that {found[0].path} was validated on, got others")
        samples.append(result)
        for warning in [*validation.warnings, *doubts(one, options)]:
            warned.setdefault(warning, []).append(folder.name)
        sizes.setdefault(validation.content["settings"]["imgsz"], folder.name)
        windows.setdefault(validation.content["settings"]["clip_window"], folder.name)
        sources.append(validation.content["settings"]["confidence_from"])
        runs.append(measured(folder, method, seed, one, validation, options))
    unit, units, _ = units_of(samples[0])
    setting = said(samples[0], config, options, compute, sources)
    if len(sizes) > 1:
        there = ", ".join(f"{size} ({name})" for size, name in sizes.items())
        warned[f"image sizes differ, {there}: losses, GFLOPs and milliseconds do not compare; --img takes one"] = [
            folder.name for folder in folders
        ]
    if len(windows) > 1:
        there = ", ".join(f"{frames} ({name})" for frames, name in windows.items())
        warned[f"clip windows differ, {there}: frames are averaged with their neighbours in some runs alone"] = [
            folder.name for folder in folders
        ]
    views = max(len(sample.view_names) for sample in samples)
    warnings = [warning if len(of) == len(runs) else f"{', '.join(of)}: {warning}" for warning, of in warned.items()]
    return Comparison(runs, unit, len(units), options.bootstrap, setting, warnings), views


def frames_of(result: Outcomes) -> list[str]:
    """The frames of a validation, as far as they must agree between runs that are paired.

    Their order does not matter where patients or clips are drawn; where frames are, it does (``--rect`` changes it).
    """
    drawn_by_name = result.patients is not None or result.clips is not None
    return sorted(result.files) if drawn_by_name else list(result.files)


def checkpoint_of(folder: Path, which: str) -> Path:
    """A run's checkpoint."""
    path = folder / "weights" / f"{which}.pt"
    if not path.is_file():
        raise InputError(f"{folder}: expected a run with weights/{which}.pt, got none; train.py leaves one")
    return path


def data_of(folders: Sequence[Path], options: argparse.Namespace) -> Path:
    """The dataset to validate on: ``--data``, or the one that all runs were trained with."""
    if "data" in options.typed or options.methods:
        return find_file(options.data, "data", flag="--data")
    named = {}
    for folder in folders:
        if not (folder / "opt.yaml").is_file():
            raise InputError(f"{folder}: expected opt.yaml, which names its dataset, got none; --data names one")
        named[str(load_yaml(folder / "opt.yaml").get("data", ""))] = folder
    if len(named) > 1:
        raise InputError(f"--data: expected one dataset for all runs; they were trained with {', '.join(named)}")
    return find_file(next(iter(named)), "data", flag="--data")


def measured(
    folder: Path, method: str, seed: int, found: checkpoint.Checkpoint, validation: Validation,
    options: argparse.Namespace,
) -> Run:  # fmt: skip
    """A run's figures: of its validation, of its network, and of what its training took."""
    content, result = validation.content, validation.assessment.outcomes
    drawn = drawn_figures(result, options.bootstrap, seed=0)  # the same draws for all runs
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
    }
    values["gflops"] = gflops(network, content["settings"]["imgsz"])
    values["ms_per_frame"] = sum(content["speed_ms"].values())
    figures |= {key: Measured(value) for key, value in {**values, **spent(folder)}.items()}
    balance = found.hyp.balance
    absent = {"single_det": (*OF_VIEWS, *OF_BOTH), "single_view": (*OF_BOXES, *OF_BOTH)}.get(balance, ())
    figures = {k: v for k, v in figures.items() if k not in absent and not math.isnan(v.value)}
    history = read_history(folder / "training_history.json") or read_results(folder / "results.csv")
    return Run(method, seed, str(folder), figures, history)


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


def doubts(found: checkpoint.Checkpoint, options: argparse.Namespace) -> list[str]:
    """Why a run may not be what it seems."""
    doubtful = []
    if options.checkpoint == "last" and not ended(found):
        doubtful.append(f"not at its end: the checkpoint is of epoch {found.content['epoch'] + 1}")
    if options.checkpoint == "best" and options.task == "val":
        doubtful.append("best.pt was chosen on this part, which flatters")
    return doubtful


def said(
    result: Outcomes, config: DatasetConfig, options: argparse.Namespace, compute: Compute, sources: Sequence[str]
) -> list[str]:
    """What was compared where.

    Args:
        sources: where each run's confidence comes from.
    """
    flatters = ", which is this part and flatters" if options.task == "val" else ""
    patients = f" of {len(set(result.patients))} patients" if result.patients else ""
    views = f"; chance for {len(result.view_names)} views is a loss of {math.log(len(result.view_names)):.4f}"
    return [
        f"{config.file.name}, {options.task}: {len(result)} frames{patients}, {len(result.labelled)} boxes"
        + (views if result.view_names else ""),
        f"{options.checkpoint}.pt of each run, on {compute}",
        f"P, R and F1 at the confidence (conf) that is best on: {', '.join(dict.fromkeys(sources))}{flatters}",
        f"Losses of all with the gains of {Path(options.hyp).name}, without smoothing; the view's is its log loss",
    ]


def write(comparison: Comparison, views: int, folder: Path) -> None:
    """comparison.csv, comparison.md, the pictures and the page."""
    write_text(folder / "comparison.csv", csv_rows(comparison))
    write_text(folder / "differences.csv", differences_csv(comparison))
    write_text(folder / "comparison.md", markdown(comparison))
    found = panels(comparison, views)
    beyond = [
        f"Beyond the noise: {row[0]}, {row[1]} {row[2]}" for row in difference_rows(comparison) if row[-1] == "yes"
    ]
    write_pictures(found, folder, "\n".join(comparison.warnings))
    write_page(folder / "comparison.html", "Comparison", page_table(comparison), found, comparison.notes() + beyond)


def run(*runs: str, **keywords: Any) -> Path:
    """Compare from a notebook: ``run("runs/train/exp", "runs/train/exp2")``; returns the comparison's folder."""
    options = from_keywords(FLAGS, keywords)
    options.runs = list(runs)
    return main(options)


if __name__ == "__main__":
    sys.exit(run_script(main, parse(FLAGS, __doc__ or "", positional=("runs", "folders of runs to compare"))))
