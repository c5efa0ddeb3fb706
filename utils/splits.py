"""Folds and hold-outs of a dataset, grouped by patient, stratified by box class and view.

python -m utils.splits --data my_data.yaml --folds 5 --out datasets/my_folds
python -m utils.splits --data my_data.yaml --holdout 0.2 0.1 --out datasets/my_holdout  (val, then test)

All frames that the dataset yaml names are pooled and divided anew; nothing is copied, only lists and yaml files are
written.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from utils.config import DatasetConfig, find_file, from_here, from_root, load_dataset_config
from utils.dataset import prepare
from utils.files import write_text
from utils.flags import COMMON, Flag, check_range, from_keywords, parse
from utils.groups import patients, warn_of_unmatched
from utils.labels import label_path, read_label
from utils.log import LOGGER, InputError, progress, run_script
from utils.split_files import list_images
from utils.stratify import Indices, distance, folds, holdout, numbered

FLAGS = (
    Flag("data", "data/phantom.yaml", "dataset yaml; the frames of all its parts are pooled"),
    Flag("folds", None, "write so many folds; each is once the validation part", int),
    Flag("holdout", None, "instead: share of the frames for val and, as a second number, for test", float, nargs="+"),
    Flag("out", "", "folder of the lists and yaml files; nothing in it is overwritten", from_here),
    Flag("seed", 0, "of the search; another one often finds other folds", int),
    *(flag for flag in COMMON if flag.name == "traceback"),
)


@dataclass(frozen=True)
class Pool:
    """All n frames of a dataset.

    Attributes:
        groups: the patient of each frame.
        boxes: (n, nc) boxes of each class.
        views: (n,) column of the view, or -1.
    """

    config: DatasetConfig
    files: list[Path]
    groups: list[str]
    boxes: Indices
    views: Indices

    @property
    def strata(self) -> list[Hashable]:
        """Of each frame: the set of its box classes, and its view; no box and no view are strata, too."""
        shown = (frozenset(np.flatnonzero(row).tolist()) for row in self.boxes)
        return list(zip(shown, self.views.tolist(), strict=True))


@dataclass(frozen=True)
class Division:
    """One way to divide a pool.

    Attributes:
        name: of its yaml file, without the suffix.
        title: said in its first line.
        parts: the frames' indices in train, val and test.
        lists: the file name of each part's list.
    """

    name: str
    title: str
    parts: Mapping[str, Indices]
    lists: Mapping[str, str]


def pool(config: DatasetConfig) -> Pool:
    """Read the labels of all frames that a dataset yaml names; warns about whatever weakens the division."""
    files = _files(config)
    nc, nv = len(config.names), len(config.view_names)
    bar = progress(files, "labels", unit="file", leave=False, delay=1.0)
    labels = [read_label(label_path(path), nc, nv) for path in bar]
    problems = sum(len(label.problems) for label in labels)
    if problems:
        LOGGER.warning("%s: %d problems in its label files; a training lists them", config.file, problems)
    boxes = np.stack([np.bincount(label.boxes[:, 0].astype(int), minlength=nc) for label in labels])
    return Pool(config, files, _groups(config, files), boxes, np.array([label.view for label in labels], np.int64))


def _files(config: DatasetConfig) -> list[Path]:
    """The frames of all parts, each once, under whatever name; without those that do not exist."""
    listed: dict[Path, Path] = {}
    for split in config.splits:
        for path in list_images(config, split):
            listed.setdefault(path.resolve(), path)
    files = [path for path in listed.values() if path.is_file()]
    missing = len(listed) - len(files)
    if not files:
        raise InputError(f"{config.file}: expected images, but none of {missing} listed files exists")
    if missing:
        LOGGER.warning("%s: %d of %d listed files do not exist; left out", config.file, missing, len(listed))
    return files


def _groups(config: DatasetConfig, files: Sequence[Path]) -> list[str]:
    found = patients(config, files)
    if found is None:
        LOGGER.warning(
            "%s: no group pattern, so each frame counts as a patient; frames of one patient can then fall into two "
            "parts, and figures flatter", config.file,
        )  # fmt: skip
        return [str(path) for path in files]
    warn_of_unmatched(config, files)
    return found


def divide(frames: Pool, count: int | None, shares: Sequence[float] | None, seed: int) -> list[Division]:
    """Folds if there is a ``count``, else a hold-out of one share (val) or two (val, test)."""
    source = f"{frames.config.file.name!r}, seed {seed}"
    every = np.arange(len(frames.files))
    if count is not None and shares is None:
        divisions = []
        for number, val in enumerate(folds(frames.groups, frames.strata, count, seed), 1):
            parts, name = {"train": np.setdiff1d(every, val), "val": val}, f"fold{number}"
            lists = {part: f"{name}_{part}.txt" for part in parts}
            divisions.append(Division(name, f"Fold {number} of {count} of {source}", parts, lists))
        return divisions
    if shares is not None and count is None:
        held = holdout(frames.groups, frames.strata, shares, seed)
        parts = {"train": np.setdiff1d(every, np.concatenate(held)), **dict(zip(("val", "test"), held, strict=False))}
        title = f"Hold-out {' '.join(map(str, shares))} of {source}"
        return [Division("holdout", title, parts, {part: f"{part}.txt" for part in parts})]
    raise InputError(f"expected one of --folds and --holdout, got {'neither' if count is None else 'both'}")


def rare_classes(frames: Pool, division: Division) -> Iterator[str]:
    """A line for each part without a box of a class that the whole has, or with such boxes of one patient only."""
    groups, shown = numbered(frames.groups), frames.boxes > 0
    owner = "patient" if frames.config.group else "frame"
    for part, indices in division.parts.items():
        effect = "its figures leave that class out" if part != "train" else "its network never sees that class"
        for label in np.flatnonzero(shown.any(0)):
            name, owners = frames.config.names[label], np.unique(groups[indices][shown[indices, label]])
            if len(owners) == 0:
                yield f"{division.name} {part}: no box of {name}; {effect}"
            elif len(owners) == 1:
                yield f"{division.name} {part}: {name} boxes of 1 {owner} only"


def write(frames: Pool, divisions: Sequence[Division], folder: Path) -> None:
    """Write lists and yaml files into a folder, which is made if it is not there.

    Raises:
        InputError: one of the files exists already, or a frame's name cannot stand in a list; nothing is written.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out {folder}: expected a folder, got a file")
    root, texts = frames.config.root, {}
    for division in divisions:
        for part, name in division.lists.items():
            texts[name] = "".join(f"{_line(frames.files[index], root)}\n" for index in division.parts[part])
    for division in divisions:  # after all lists, so that a yaml never names one that is not there
        texts[f"{division.name}.yaml"] = _yaml(frames.config, division, folder)
    present = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    taken = [name for name in texts if name in present]
    if taken:
        raise InputError(f"--out {folder}: expected a folder without {taken[0]}; nothing is overwritten")
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_text(folder / name, text)


def _line(path: Path, root: Path) -> str:
    """A frame's line in a list: relative lines belong to the root."""
    line = str(path.relative_to(root) if path.is_relative_to(root) else path)
    if line.strip().splitlines() != [line] or any("\ud800" <= sign <= "\udfff" for sign in line):
        raise InputError(
            f"{str(path)!r}: expected a name without line breaks, blanks at its ends or bytes that are no UTF-8"
        )
    return line


def _yaml(config: DatasetConfig, division: Division, folder: Path) -> str:
    content = {
        "path": str(config.root),
        **{part: str(folder / name) for part, name in division.lists.items()},
        "names": list(config.names),
        "view_names": list(config.view_names),
        "group": config.group,
        "clip": config.clip,
        "generate": dict(config.generate) if config.generate else None,
    }
    body = yaml.safe_dump({key: value for key, value in content.items() if value}, sort_keys=False, allow_unicode=True)
    return f"# {division.title}; made by python -m utils.splits\n{body}"


def table(frames: Pool, divisions: Sequence[Division]) -> str:
    """Frames, patients, boxes by class and frames by view: of the whole, then of each part."""
    rows = {"all": np.arange(len(frames.files))}
    for division in divisions:
        stem = "" if len(divisions) == 1 else f"{division.name} "
        rows |= {f"{stem}{part}": indices for part, indices in division.parts.items()}
    width = max(map(len, rows))
    views = [*frames.config.view_names, "no view"] if frames.config.view_names else []
    heads = (["frames", "share", "patients", "shift"], list(frames.config.names), views)
    strata = numbered(frames.strata)
    cells = [heads, *(_figures(frames, strata, indices) for indices in rows.values())]
    blocks = [
        _block(title, lines)
        for title, *lines in zip(("", "boxes", "frames by view"), *cells, strict=True)
        if lines[0]  # a dataset without views has no such block
    ]
    names = ["", "", *rows]
    lines = ["   ".join((name.ljust(width), *row)) for name, *row in zip(names, *blocks, strict=True)]
    return "\n".join(line.rstrip() for line in lines)


def _figures(frames: Pool, strata: Indices, indices: Indices) -> tuple[list[str], list[str], list[str]]:
    """The cells of a part in each block of the table; without a group pattern, patients are unknown."""
    owners = len({frames.groups[index] for index in indices}) if frames.config.group else "-"
    share, whole = len(indices) / len(strata), np.bincount(strata)
    shift = distance(np.bincount(strata[indices], minlength=len(whole)), whole, share)
    nv = len(frames.config.view_names)
    views = np.bincount(frames.views[indices] % (nv + 1), minlength=nv + 1)  # unlabelled, -1, comes last
    size = [str(len(indices)), f"{share:.3f}", str(owners), f"{shift:.3f}"]
    return size, list(map(str, frames.boxes[indices].sum(0))), list(map(str, views)) if nv else []


def _block(title: str, rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of equal width: the title, then the rows, aligned on the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    width = max(len(title), len(lines[0]))
    return [line.ljust(width) for line in (title, *lines)]


def read_folds(folder: Path) -> list[Path]:
    """The yaml files of a folder of folds: fold1.yaml, fold2.yaml, ..., in the order of their numbers.

    Raises:
        InputError: they are not there, or one is missing.
    """
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    numbers = sorted(int(match[1]) for match in map(re.compile(r"fold([1-9]\d*)\.yaml").fullmatch, names) if match)
    if len(numbers) < 2 or numbers != list(range(1, len(numbers) + 1)):
        found = ", ".join(f"fold{number}.yaml" for number in numbers) or "none of them"
        raise InputError(f"{folder}: expected fold1.yaml, fold2.yaml, ... of `python -m utils.splits`, got {found}")
    return [folder / f"fold{number}.yaml" for number in numbers]


def main(options: argparse.Namespace) -> list[Path]:
    """Divide as the options say; returns the yaml files written."""
    check_range(options, "seed", 0)
    if not options.out:
        raise InputError("--out: expected a folder for the lists and yaml files, got none")
    folder = from_root(options.out).resolve()
    config = load_dataset_config(find_file(options.data, "data", flag="--data"))
    prepare(config)
    frames = pool(config)
    divisions = divide(frames, options.folds, options.holdout, options.seed)
    write(frames, divisions, folder)
    for division in divisions:
        for line in rare_classes(frames, division):
            LOGGER.warning(line)
    print(table(frames, divisions))
    print("\nshift: the share of frames by which a part's classes and views differ from those of all; 0 is none")
    target = f"--folds {shlex.quote(str(folder))}"
    if options.folds is None:
        target = f"--data {shlex.quote(str(folder / 'holdout.yaml'))}"
    print(f"Next: python train.py {target}")
    return [folder / f"{division.name}.yaml" for division in divisions]


def run(**keywords: Any) -> list[Path]:
    """Divide from a notebook: ``run(data="my_data.yaml", folds=5, out="datasets/folds")``; returns the yaml files."""
    return main(from_keywords(FLAGS, keywords))


if __name__ == "__main__":
    sys.exit(run_script(main, parse(FLAGS, __doc__ or "")))
