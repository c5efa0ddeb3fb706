"""Compare methods, or runs that exist: one table with what is beyond the noise, figures, and a page to explore.

python compare.py runs/train/exp runs/train/exp2 --task test
python compare.py --methods single_det single_view detached static gradnorm dual --seeds 0 1 2 --img 256 --epochs 12
python compare.py --methods static gradnorm --grid gradnorm_alpha=0,0.5,1,1.5 --data my_data.yaml --epochs 100
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import train_dual_backbone
import val
from models.balancers import BALANCERS
from models.dual import RESNETS
from utils.comparison import Comparison, csv_rows, difference_rows, differences_csv, markdown
from utils.comparison_page import write_page
from utils.comparison_plots import page_table, panels, write_pictures
from utils.config import ROOT, find_file, from_here, from_root, load_hyperparameters, load_yaml
from utils.devices import select_compute
from utils.files import check_name, new_run_folder, write_text
from utils.flags import BOOTSTRAP, COMMON, Flag, check_range, from_keywords, parse
from utils.log import InputError, run_script
from utils.pretrained import IMAGENET
from utils.revalidation import Evaluator, comparable, compared, dataset_of, opened, revalidated
from utils.study import check_installed, open_study, work
from utils.trainings import DUAL, Training, parse_grid, plan_trainings, write_hyps

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
    runs = opened(folders, labels, options.checkpoint)
    evaluator = evaluator_of(folders, options)
    validated = revalidated(runs, evaluator)
    comparison = compared(validated, evaluator)
    views = max(len(one.outcomes.view_names) for one in validated)  # 0 where none are learned
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


def evaluator_of(folders: Sequence[Path], options: argparse.Namespace) -> Evaluator:
    """How all runs are validated: as the options say, on the dataset that all were trained with unless told another."""
    given = "data" in options.typed or options.methods
    data = find_file(options.data, "data", flag="--data") if given else dataset_of(folders)
    compute = select_compute(options.device, options.amp, options.threads)
    asked = {"data": str(data), "bootstrap": 0, "workers": options.workers, "single_cls": options.single_cls}
    if "imgsz" in options.typed:
        asked["imgsz"] = options.imgsz
    settings = from_keywords(val.FLAGS, asked)
    hyp = find_file(options.hyp, "hyp", flag="--hyp")
    return Evaluator(
        settings, split=options.task, which=options.checkpoint, compute=compute, draws=options.bootstrap,
        loss_hyp=comparable(load_hyperparameters(hyp)), gains=hyp.name,
    )  # fmt: skip


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
