"""Which recipe is best for the next patient? An ablation table, made on your own data.

    python benchmarks/recipe.py --data my_data.yaml --candidates augment larger
    python benchmarks/recipe.py --data my_data.yaml --seeds 0 1 --candidates base
    python benchmarks/recipe.py --data my_data.yaml
    python benchmarks/recipe.py --data my_data.yaml --show

Trains the candidates of benchmarks/recipe.yaml, each once for every fold and seed, and prints what they reach on
patients that they were not trained on, and how far from the base on the same folds and seeds. Folds are made of the
train part alone, by patient; the other parts are never looked at. A finished training is a row of recipe.csv in
--project and is not made again: started again, the search goes on, also within a training that was cut off. Only
outcomes are kept of a finished training, not its weights.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import train
from benchmarks.candidates import BASE, Candidate, Settings, base_settings, read_candidates, settled
from benchmarks.recipe_table import FIGURES, compared, print_table
from benchmarks.rows import append_row, find_row, read_rows
from utils import checkpoint
from utils.config import find_file, from_here, from_root, load_dataset_config
from utils.dataset import prepare
from utils.devices import select_compute
from utils.files import LAST, write_text
from utils.flags import BOOTSTRAP, COMMON, IMGSZ, THREADS, Flag, check_range, parse
from utils.labels import label_path
from utils.log import LOGGER, InputError, Interrupted, run_script
from utils.report import figure_at, read_metrics
from utils.resume import ended, read_or_predecessor
from utils.split_files import list_images
from utils.splits import divide, pool, write

KEYS = ("candidate", "settings", "fold", "seed")
COLUMNS = (*KEYS, *FIGURES, "minutes", "changes")
FOLD_SEED = 0
FLAGS = (
    Flag("data", "", "dataset yaml; folds are made of its train part"),
    Flag("folds", 3, "number of folds", int),
    Flag("only-folds", (), "numbers of the folds to take (all)", int, nargs="+"),
    Flag("seeds", (0,), "of the trainings", int, nargs="+"),
    Flag("candidates", (), "names from the table (all); the base comes first in any case", nargs="+"),
    Flag("table", "benchmarks/recipe.yaml", "candidates, with their reasons"),
    Flag("show", False, "print what there is, and train nothing"),
    Flag("cfg", "models/yolov5n.yaml", "network yaml of the base"),
    Flag("weights", "", "checkpoint that all trainings start from, which has seen none of the train part"),
    Flag("hyp", "hyp/joint_training_rules.yaml", "hyperparameters of the base"),
    Flag(IMGSZ, 224, "pixels, of the base", int),
    Flag("epochs", 15, "of the base", int),
    Flag("workers", 8, "processes that load frames, at most one a core", int),
    THREADS,
    BOOTSTRAP,
    Flag("project", "runs/recipe", "folder of recipe.csv, the folds and the trainings", from_here),
    *COMMON,
)


@dataclasses.dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
        settings, digest: what it is made with, and ten signs of that and of the folds.
        data: dataset yaml of its fold.
    """

    candidate: Candidate
    settings: Settings
    digest: str
    data: Path
    fold: int
    seed: int

    @property
    def key(self) -> dict[str, str]:
        """Of its row, see :data:`KEYS`."""
        return dict(zip(KEYS, map(str, (self.candidate.name, self.digest, self.fold, self.seed)), strict=True))

    @property
    def name(self) -> str:
        """Of its run's folder; other settings have another."""
        return run_name(self.key)


def run_name(key: Mapping[str, str]) -> str:
    """The folder of a row's training."""
    return f"{key['candidate']}-fold{key['fold']}-seed{key['seed']}-{key['settings']}"


def main(options: argparse.Namespace) -> None:
    """Make the trainings that the csv lacks, then print the table of all that are finished."""
    jobs, digests = planned(options)
    path = from_root(options.project) / "recipe.csv"
    failed = [] if options.show else search(jobs, path, options)
    report(path, digests, options.bootstrap)
    if failed:
        raise InputError(f"{len(failed)} of {len(jobs)} trainings failed, the next start tries them again: {failed[0]}")


def planned(options: argparse.Namespace) -> tuple[list[Job], dict[str, str]]:
    """The trainings that are asked for, and each candidate's digest; what is wrong with any is found here."""
    check_range(options, "epochs imgsz folds", 1)
    check_range(options, "bootstrap workers", 0)
    if min(options.seeds) < 0:
        raise InputError(f"--seeds: expected numbers of at least 0, got {min(options.seeds)}")
    wrong = [number for number in options.only_folds if not 0 < number <= options.folds]
    if wrong:
        raise InputError(f"--only-folds: expected numbers from 1 to {options.folds}, got {wrong[0]}")
    source = find_file(options.table, "benchmarks", flag="--table")
    table = read_candidates(source)
    unknown = [name for name in options.candidates if name not in table]
    if unknown:
        raise InputError(f"--candidates {unknown[0]}: expected some of {', '.join(table)}")
    base = base_settings(options.cfg, options.hyp, imgsz=options.imgsz, epochs=options.epochs)
    chosen = dict.fromkeys((BASE, *(options.candidates or table)))
    settings = {}
    for name, candidate in table.items():
        try:
            settings[name] = settled(candidate, base, source)
        except InputError:  # another base may have what this one lacks, such as a view head
            if name in chosen:
                raise
    precision = str(select_compute(options.device, options.amp, options.threads).amp)
    yamls, content = made_folds(options)
    start = [hashlib.sha256(weights.read_bytes()).hexdigest()] if (weights := start_of(options)) else []
    digests = {name: found.digest(content, precision, *start) for name, found in settings.items()}
    jobs = [
        Job(table[name], settings[name], digests[name], yamls[fold - 1], fold, seed)
        for seed in dict.fromkeys(options.seeds)
        for name in chosen
        for fold in dict.fromkeys(options.only_folds or range(1, options.folds + 1))
    ]
    return jobs, digests


def start_of(options: argparse.Namespace) -> Path | None:
    """The checkpoint that all trainings start from, or None."""
    return find_file(options.weights, "", flag="--weights").resolve() if options.weights else None


def made_folds(options: argparse.Namespace) -> tuple[list[Path], str]:
    """The dataset yaml of each fold of the train part, and ten signs of all frames, labels and folds."""
    config = load_dataset_config(find_file(options.data, "data", flag="--data"))
    prepare(config)
    list_images(config, "train")  # what is wrong with it is told under its own name
    frames = pool(dataclasses.replace(config, splits={"train": config.splits["train"]}))
    divisions = divide(frames, options.folds, None, FOLD_SEED)
    said = (config.names, config.view_names, config.group, config.clip, config.generate)
    digest = hashlib.sha256(repr(said).encode())
    for division in divisions:
        for index in division.parts["val"]:
            path = frames.files[index]
            own = path.relative_to(config.root) if path.is_relative_to(config.root) else path.name
            label = label_path(path)
            digest.update(
                f"{division.name} {own} {path.stat().st_size} ".encode("utf-8", "surrogateescape")
                + (label.read_bytes() if label.is_file() else b"")
            )
    signs = digest.hexdigest()[:10]
    where = hashlib.sha256(str(config.root.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:4]
    place = from_root(options.project).resolve() / f"folds{options.folds}-{signs}-{where}"  # data may be moved
    yamls = [place / f"{division.name}.yaml" for division in divisions]
    if not all(path.is_file() for path in yamls):
        shutil.rmtree(place, ignore_errors=True)  # of a start that was cut off here
        write(frames, divisions, place)
    return yamls, signs


def search(jobs: Sequence[Job], path: Path, options: argparse.Namespace) -> list[str]:
    """Make what the csv lacks; returns what was wrong with trainings that failed, after which the others go on.

    Raises:
        InputError: the base failed, with which all others are compared.
    """
    left = [job for job in jobs if find_row(path, job.key) is None]
    failed, spent = [], [float(row["minutes"]) for row in read_rows(path)]
    LOGGER.info("%d trainings, %d of them finished", len(jobs), len(jobs) - len(left))
    for number, job in enumerate(left):
        hours = f", about {sum(spent) / len(spent) * (len(left) - number) / 60:.1f} hours left" if spent else ""
        place = f"fold {job.fold}, seed {job.seed}"
        LOGGER.info("Training %d of %d: %s, %s%s", number + 1, len(left), job.candidate.name, place, hours)
        LOGGER.info("%s (%s)", job.candidate.why, job.candidate.changes or "as it is")
        try:
            row = trained(job, path.parent, options)
        except Interrupted as error:
            raise Interrupted(error.signal, "nothing is lost; the same command goes on") from None
        except InputError as error:
            if job.candidate.name == BASE:
                raise
            LOGGER.error("%s, %s: %s", job.candidate.name, place, error)
            failed.append(f"{job.candidate.name}, {place}: {error}")
            continue
        append_row(path, COLUMNS, job.key | row | {"changes": job.candidate.changes})
        shutil.rmtree(path.parent / job.name / "weights", ignore_errors=True)
        spent.append(row["minutes"])
    return failed


def trained(job: Job, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Train, or go on where it was cut off, and return the figures of the last epoch."""
    run = folder / job.name
    last, machine = run / LAST, {"threads": options.threads, "workers": options.workers}
    begun = cut_off(last, job.data)
    if begun is None:
        shutil.rmtree(run, ignore_errors=True)
        files = {"hyp": job.settings.hyp, "cfg": job.settings.network}
        paths = {kind: folder / f"{job.candidate.name}-{job.digest}-{kind}.yaml" for kind in files}
        for kind, content in files.items():
            write_text(paths[kind], yaml.safe_dump(dict(content), sort_keys=False))
        train.run(
            data=str(job.data), seed=job.seed, project=str(folder), name=job.name, exist_ok=True, noplots=True,
            bootstrap=0, device=options.device, amp=options.amp, weights=str(start_of(options) or ""),
            **{kind: str(path) for kind, path in paths.items()},
            **job.settings.flags, **machine,
        )  # fmt: skip
    elif not ended(begun):
        train.run(resume=str(last), device=options.device, **machine)
    content = read_metrics(run / "metrics.json")
    figures = {name: figure_at(content, *place) for name, place in FIGURES.items()}
    return figures | {"minutes": content["settings"]["training_seconds"] / 60}


def cut_off(last: Path, data: Path) -> checkpoint.Checkpoint | None:
    """The training that a checkpoint belongs to, if it can go on; a damaged one, or one from elsewhere, cannot."""
    if not last.is_file():
        return None
    try:
        found = read_or_predecessor(last)
    except InputError as error:
        LOGGER.warning("%s: begun anew", error)
        return None
    return found if (found.content.get("options") or {}).get("data") == str(data) else None


def report(path: Path, digests: Mapping[str, str], draws: int) -> None:
    """Print the table of the csv's rows that were made with the present data and settings."""
    rows = read_rows(path)
    found: dict[str, list[dict[str, str]]] = {}
    for name, signs in digests.items():
        alike = [row for row in rows if (row["candidate"], row["settings"]) == (name, signs)]
        if known := [row for row in alike if outcomes_of(path, row).is_file()]:
            found[name] = known
    runs = {
        name: {(int(row["fold"]), int(row["seed"])): outcomes_of(path, row) for row in own}
        for name, own in found.items()
    }
    minutes = {name: sum(float(row["minutes"]) for row in own) / len(own) for name, own in found.items()}
    print_table(compared(runs, draws), minutes, draws)
    left_out = len(rows) - sum(map(len, found.values()))
    if left_out:
        print(f"{left_out} rows are left out: of other data, settings or precision, or their outcomes are gone.")


def outcomes_of(path: Path, row: Mapping[str, str]) -> Path:
    """The outcomes of a row of the csv."""
    return path.parent / run_name(row) / "outcomes.npz"


if __name__ == "__main__":
    sys.exit(run_script(main, parse(FLAGS, __doc__ or "")))
