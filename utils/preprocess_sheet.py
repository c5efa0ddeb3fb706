"""Frames before and after the echo filters, side by side, a picture a frame.

python -m utils.preprocess --source my_frames --out before_and_after                (each filter alone, and all)
python -m utils.preprocess --source my_frames --out before_and_after --hyp my_hyp.yaml --gamma 0.7
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from utils.config import Hyperparameters, find_file, from_here, from_root, load_hyperparameters
from utils.draw import mosaic, save
from utils.flags import COMMON, Flag, check_range, from_keywords, parse
from utils.images import IMAGE_SUFFIXES, read_image
from utils.letterbox import Image
from utils.log import LOGGER, InputError, progress, run_script
from utils.outputs import UniqueNames
from utils.preprocess import TYPICAL, Preprocessor

MAX_SIDE = 3840  # pixels of a picture: six frames of 640 beside each other

FLAGS = (
    Flag("source", "", "an image, or a folder of images, searched with all folders in it"),
    Flag("out", "", "folder of the pictures; nothing in it is overwritten", from_here),
    Flag("hyp", "", "hyp file whose filters are shown; filters on the command line beat it"),
    Flag("sector-mask", None, "blacken what lies outside the sector", bool),
    Flag("gamma", None, "exponent on luminance; under 1 brightens", float),
    Flag("clahe", None, "clip limit of the local equalisation of contrast", float),
    Flag("sharpen", None, "weight of the unsharp mask", float),
    Flag("limit", None, "at most so many frames, spread evenly over the folder", int),
    *(flag for flag in COMMON if flag.name == "traceback"),
)


def asked_filters(options: argparse.Namespace) -> Preprocessor:
    """The filters that were typed, on top of those of the hyp file."""
    for field in fields(Hyperparameters):
        if field.name in TYPICAL and "range" in field.metadata:
            check_range(options, field.name, *field.metadata["range"])
    asked = Preprocessor()
    if options.hyp:
        asked = Preprocessor.of(load_hyperparameters(find_file(options.hyp, "hyp", flag="--hyp")))
    typed = {name: getattr(options, name) for name in TYPICAL}
    return replace(asked, **{name: value for name, value in typed.items() if value is not None})


def shown_filters(asked: Preprocessor) -> dict[str, Preprocessor]:
    """What is shown beside the frame as it is, by caption: the filters asked for, else each alone and all of them."""
    if asked != Preprocessor():
        return {"after": asked}
    alone = {
        name.replace("_", " ") if value is True else f"{name} {value:g}": replace(asked, **{name: value})
        for name, value in TYPICAL.items()
    }
    return alone | {"all": replace(asked, **TYPICAL)}


def side_by_side(image: Image, filters: Mapping[str, Preprocessor]) -> Image:
    """A row of a frame (H, W, 3) as it is and as each of the filters leaves it, with captions."""
    pictures = {"before": image} | {caption: each(image) for caption, each in filters.items()}
    return mosaic(list(pictures.values()), list(pictures), len(pictures), MAX_SIDE)


def find_images(source: Path, limit: int | None) -> list[Path]:
    """The image itself, or those of a folder, sorted.

    Raises:
        InputError: no such file or folder, or no image in it.
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise InputError(f"--source {source}: expected an image or a folder of images, nothing is there")
    files = sorted(path for path in source.rglob("*") if path.suffix[1:].lower() in IMAGE_SUFFIXES and path.is_file())
    if not files:
        raise InputError(f"--source {source}: expected images ({' '.join(sorted(IMAGE_SUFFIXES))}), got none")
    if limit is None or limit >= len(files):
        return files
    # neighbours are often of one clip and look alike
    return [files[index] for index in np.linspace(0, len(files) - 1, limit).round().astype(int)]


def check_target(source: Path, out: Path, names: Sequence[str]) -> None:
    """Raise an InputError where a picture would come to lie among the frames, or in the place of a file."""
    among = source.parent == out if source.is_file() else out.is_relative_to(source)
    if among:
        raise InputError(f"--out {out}: expected a folder outside of --source, whose frames stay as they are")
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: expected a folder, got a file")
    present = {path.name for path in out.iterdir()} if out.is_dir() else set()
    taken = [name for name in names if name in present]
    if taken:
        raise InputError(f"--out {out}: expected a folder without {taken[0]}; nothing is overwritten")


def main(options: argparse.Namespace) -> list[Path]:
    """Show the filters as the options say; returns the pictures written."""
    if not options.source or not options.out:
        missing = "source: expected an image or a folder" if not options.source else "out: expected a folder"
        raise InputError(f"--{missing}, got none")
    check_range(options, "limit", 1)
    filters = shown_filters(asked_filters(options))
    typed = Path(options.source).expanduser()
    source = (typed if typed.exists() else from_root(options.source)).resolve()
    out = from_root(options.out).resolve()
    files, unique = find_images(source, options.limit), UniqueNames()
    targets = {path: out / f"{unique(path)}.png" for path in files}
    check_target(source, out, [target.name for target in targets.values()])
    written, problems = [], []
    for path, target in progress(targets.items(), "frames", unit="frame", leave=False, delay=1.0):
        try:
            image = read_image(path)
        except InputError as error:
            problems.append(str(error))
            LOGGER.warning("skipped %s", error)
            continue
        out.mkdir(parents=True, exist_ok=True)
        save(target, side_by_side(image, filters))
        written.append(target)
    if not written:
        raise InputError(f"--source {source}: none of its {len(files)} images can be read; first {problems[0]}")
    print(f"{len(written)} pictures in {out}: {' | '.join(['before', *filters])}")
    return written


def run(**keywords: Any) -> list[Path]:
    """Show them from a notebook: ``run(source="my_frames", out="before_and_after")``; returns the pictures written."""
    return main(from_keywords(FLAGS, keywords))


def start() -> int:
    """Show them as the command line says; returns the exit code."""
    return run_script(main, parse(FLAGS, __doc__ or ""))
