"""Hyperparameter, dataset and network yaml files -> frozen, validated dataclasses.

Every error is one line that names file, key, what was expected and what came. Values are never changed in place;
:func:`dataclasses.replace` makes the copies.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.log import LOGGER, InputError, printable, shown
from utils.yaml_file import parse_yaml

ROOT = Path(__file__).resolve().parents[1]
MAX_YAML_BYTES = 500_000  # read within seconds
LONGEST_NAME = 200  # characters of a class or view
MOST_NAMES = 10_000
MOST_FAULTS = 6  # told of one file


def _ranged(low: float, high: float = math.inf, **keywords: Any) -> Any:
    """A dataclass field whose numbers must lie in [low, high]."""
    return field(metadata={"range": (low, high)}, **keywords)


@dataclass(frozen=True)
class Hyperparameters:
    """A hyp file. Fields without a default are YOLOv5's and required; the others are optional.

    Loss gains (``box obj cls``) are the file's; :meth:`scaled` gives those of a certain network and image size.
    """

    lr0: float = _ranged(0)
    lrf: float = _ranged(0)
    momentum: float = _ranged(0, 1)
    weight_decay: float = _ranged(0)
    warmup_epochs: float = _ranged(0)
    warmup_momentum: float = _ranged(0, 1)
    warmup_bias_lr: float = _ranged(0)
    box: float = _ranged(0)
    cls: float = _ranged(0)
    cls_pw: float = _ranged(0)
    obj: float = _ranged(0)
    obj_pw: float = _ranged(0)
    iou_t: float = _ranged(0, 1)  # in every YOLOv5 hyp file, and without effect there, too
    anchor_t: float = _ranged(1)
    fl_gamma: float = _ranged(0)
    hsv_h: float = _ranged(0, 1)
    hsv_s: float = _ranged(0, 1)
    hsv_v: float = _ranged(0, 1)
    degrees: float = _ranged(0, 180)
    translate: float = _ranged(0, 1)
    scale: float = _ranged(0, 1)
    shear: float = _ranged(0, 90)
    perspective: float = _ranged(0, 0.01)
    flipud: float = _ranged(0, 1)
    fliplr: float = _ranged(0, 1)
    mosaic: float = _ranged(0, 1)
    mixup: float = _ranged(0, 1)
    copy_paste: float = _ranged(0, 1)
    anchors: float = _ranged(0, 20, default=0)  # anchors a level (rounded), found from the data; 0: the network's own
    label_smoothing: float = _ranged(0, 1, default=0.0)
    cos_lr: bool = False
    nominal_batch: int = _ranged(1, default=64)
    clip_grad_norm: float = _ranged(0, default=10.0)  # 0: not clipped
    seed: int = _ranged(0, 2**32 - 1, default=0)
    patience: int = _ranged(0, default=100)  # epochs without a better fitness before training stops; 0: never stops
    classification_enabled: bool = False
    classification_weight: float = _ranged(0, default=0.1)
    view_label_smoothing: float = _ranged(0, 1, default=0.0)
    view_focal_gamma: float = _ranged(0, default=0.0)
    view_class_weights: tuple[float, ...] = ()
    view_dropout: float = _ranged(0, 1, default=0.0)
    classifier_lr0: float = _ranged(0, default=0.0003)  # this and the next: of a classifier that is trained by itself
    classifier_weight_decay: float = _ranged(0, default=0.05)
    sector_mask: bool = False  # this and the next three: filters of utils.preprocess, off by default
    gamma: float = _ranged(0.1, 10, default=1.0)
    clahe: float = _ranged(0, 100, default=0.0)
    sharpen: float = _ranged(0, 10, default=0.0)
    speckle: float = _ranged(0, 1, default=0.0)  # this and the next three: changes of utils.echo_augment
    depth_gain: float = _ranged(0, 1, default=0.0)
    depth_blur: float = _ranged(0, 20, default=0.0)
    doppler_fade: float = _ranged(0, 1, default=0.0)
    sampling: str = "frames"  # a name from SAMPLINGS: of what an epoch draws equally many frames
    clip_views: bool = False  # in training each frame of a clip is labelled with the view that most of them carry
    clip_window: int = _ranged(0, 100, default=0)  # frames before and after, of its clip, that a frame is averaged with
    balance: str = "static"  # a name from models.balancers.BALANCERS
    gradnorm_alpha: float = _ranged(0, 10, default=1.5)
    gradnorm_lr: float = _ranged(1e-6, 1, default=0.025)
    gradnorm_update: str = "gradient"  # or "direct"
    gradnorm_initial_steps: int = _ranged(1, default=10)  # whose mean losses are L(0)
    gradnorm_view_chance: bool = False  # L(0) of the view loss is that of chance, log C, instead

    def scaled(self, levels: int, classes: int, image_size: int) -> Hyperparameters:
        """A copy with YOLOv5's run-time gains: for 3 levels, 80 classes and 640 pixels they are the file's own."""
        return dataclasses.replace(
            self,
            box=self.box * 3 / levels,
            cls=self.cls * classes / 80 * 3 / levels,
            obj=self.obj * (image_size / 640) ** 2 * 3 / levels,
        )

    @property
    def augments(self) -> bool:
        """Whether any key asks for frames to be changed."""
        geometric = (self.degrees, self.translate, self.scale, self.shear, self.perspective, self.flipud, self.fliplr)
        echo = (self.speckle, self.depth_gain, self.depth_blur, self.doppler_fade)
        return any((self.hsv_h, self.hsv_s, self.hsv_v, *geometric, self.mosaic, self.mixup, *echo))


@dataclass(frozen=True)
class DatasetConfig:
    """A dataset yaml.

    Attributes:
        file: the yaml itself.
        root: folder to which relative splits belong.
        splits: for each of train, val, test: folders and .txt lists; a missing test is absent.
        names: box classes, by index.
        view_names: views, by column of the one-hot row; empty if the dataset has none.
        group: pattern whose first group in a file name is the patient, or None.
        clip: likewise for the clip, or None; see :mod:`utils.groups`.
        generate: a generator's name and its parameters, for data that are made at first use, or None.
    """

    file: Path
    root: Path
    splits: Mapping[str, tuple[Path, ...]]
    names: tuple[str, ...]
    view_names: tuple[str, ...] = ()
    group: str | None = None
    clip: str | None = None
    generate: Mapping[str, Any] | None = None


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy that yaml files and checkpoints take: tuples as lists."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def class_names(config: DatasetConfig, single_class: bool) -> tuple[str, ...]:
    """The box classes that a network tells apart; with ``single_class`` all of a dataset's count as one."""
    return ("object",) if single_class and len(config.names) > 1 else config.names


def find_file(name: str, *folders: str, flag: str) -> Path:
    """A file as typed, or by its bare name below folders of the repository.

    Raises:
        InputError: it is in none of those places.
    """
    path = _expanded(name)
    candidates = [path, ROOT / path, *(ROOT / folder / name for folder in folders)]
    if name:
        for candidate in candidates:
            if candidate.is_file():
                return candidate
    raise InputError(f"{flag} {name!r}: no such file, neither here nor in {', '.join(map(str, folders)) or ROOT}")


def load_yaml(path: Path) -> dict[str, Any]:
    """A yaml file's mapping; nothing in it is executed.

    Raises:
        InputError: unreadable, too large, not yaml, no mapping.
    """
    try:
        if path.stat().st_size > MAX_YAML_BYTES:
            raise InputError(f"{path}: expected a yaml file under {MAX_YAML_BYTES} bytes, got {path.stat().st_size}")
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path}: not a yaml file: {printable(str(error), 300)}") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise InputError(f"{path}: expected a mapping of names to values, got {type(content).__name__}")
    return content


def load_hyperparameters(path: Path) -> Hyperparameters:
    """Read and validate a hyp file; any fault in it is one :class:`InputError`."""
    return hyperparameters_from(load_yaml(path), path)


def hyperparameters_from(values: Mapping[str, Any], source: Path) -> Hyperparameters:
    """Validate a mapping that came from ``source`` (named in errors)."""
    fields = {f.name: f for f in dataclasses.fields(Hyperparameters)}
    faults = [_unknown_key(key, list(fields)) for key in values if key not in fields]
    missing = [n for n, f in fields.items() if f.default is dataclasses.MISSING and n not in values]
    faults += [f"missing keys {', '.join(missing)}: expected a number for each"] if missing else []
    checked: dict[str, Any] = {}
    for key, value in values.items():
        if key in fields:
            try:
                checked[key] = _convert(value, str(fields[key].type), fields[key].metadata.get("range"))
            except ValueError as error:
                faults.append(f"{key}: expected {error}, got {shown(value)}")
    if faults:
        more = f"; and {len(faults) - MOST_FAULTS} more faults" if len(faults) > MOST_FAULTS else ""
        raise InputError(f"{source}: {'; '.join(faults[:MOST_FAULTS])}{more}")
    return Hyperparameters(**checked)


def _unknown_key(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key[:LONGEST_NAME], known, n=1)
    return f"unknown key {shown(key)}" + (f" (nearest known key: {near[0]!r})" if near else "")


def _convert(value: Any, kind: str, limits: tuple[float, float] | None) -> Any:
    """``value`` as the annotated ``kind``; raises ValueError with the expectation in words."""
    if kind == "bool":
        if isinstance(value, bool):
            return value
        raise ValueError("true or false")
    if kind == "str":
        if isinstance(value, str):
            return value
        raise ValueError("a word")
    if kind.startswith("tuple"):
        if isinstance(value, list) and all(is_number(v) and v >= 0 for v in value):
            return tuple(float(v) for v in value)
        raise ValueError("a list of numbers >= 0")
    whole = kind == "int"
    words = "a whole number" if whole else "a number"
    if isinstance(value, str):  # yaml reads 1e-3 as text
        try:
            value = float(value)
        except ValueError:
            raise ValueError(words) from None
    if not is_number(value) or (whole and value != int(value)):
        raise ValueError(words)
    if limits and not limits[0] <= value <= limits[1]:
        raise ValueError(f"{words} from {limits[0]:g} to {limits[1]:g}")
    return int(value) if whole else float(value)


def is_number(value: Any) -> bool:
    """Whether a value out of a yaml or json file is a finite number, and no truth value."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond what a float holds
        return False


def load_dataset_config(path: Path) -> DatasetConfig:
    """Read and validate a dataset yaml; ``path`` in it is relative to the repository's root, as in YOLOv5."""
    values = load_yaml(path)
    for key in ("train", "val", "names"):
        if key not in values:
            raise InputError(f"{path}: missing key {key!r}; a dataset yaml needs train, val and names")
    if "download" in values:
        LOGGER.info("%s: its download key is not carried out; expected the data to be there", path)
    names = _names(values["names"], path, "names")
    if "nc" in values and values["nc"] != len(names):
        raise InputError(f"{path}: nc: expected {len(names)}, the number of names, got {shown(values['nc'])}")
    root_value = values.get("path", "")
    if not isinstance(root_value, str):
        raise InputError(f"{path}: path: expected a folder, got {shown(root_value)}")
    root = _resolved(from_root(root_value), path)
    view_names = _names(values["view_names"], path, "view_names") if values.get("view_names") else ()
    if len(view_names) == 1:
        raise InputError(f"{path}: view_names: expected at least 2 views, got {shown(list(view_names))}")
    return DatasetConfig(
        file=path,
        root=root,
        splits={
            key: _split(values[key], root if root_value else None, path, key)
            for key in ("train", "val", "test")
            if values.get(key)
        },
        names=names,
        view_names=view_names,
        group=_pattern(values.get("group"), path, "group"),
        clip=_pattern(values.get("clip"), path, "clip"),
        generate=_generate(values.get("generate"), path),
    )


def _names(value: Any, path: Path, key: str) -> tuple[str, ...]:
    if isinstance(value, dict) and all(isinstance(k, int) for k in value):
        if sorted(value) != list(range(len(value))):
            raise InputError(f"{path}: {key}: expected the numbers 0 to {len(value) - 1}, got {shown(sorted(value))}")
        value = [value[index] for index in range(len(value))]
    if not isinstance(value, list) or not value or not all(isinstance(n, (str, int)) for n in value):
        raise InputError(
            f"{path}: {key}: expected a list of names or a mapping from numbers to names, got {shown(value)}"
        )
    if any(isinstance(name, bool) for name in value):
        raise InputError(
            f"{path}: {key}: expected names, got {shown(value)}: yaml reads yes, no, on and off as that; quote it"
        )
    for name in map(str, value[: MOST_NAMES + 1]):
        if fault := name_fault(name):
            raise InputError(f"{path}: {key}: {fault}")
    if len(value) > MOST_NAMES:
        raise InputError(f"{path}: {key}: expected at most {MOST_NAMES:,} names, got {len(value):,}")
    if len({str(name) for name in value}) != len(value):
        raise InputError(f"{path}: {key}: expected each name once, got {shown(value)}")
    return tuple(str(name) for name in value)


def name_fault(name: str) -> str | None:
    """What is wrong with the name of a class or view; it stands in tables, files and on the terminal."""
    if len(name) > LONGEST_NAME:
        return f"expected names of at most {LONGEST_NAME} characters, got {shown(name)}"
    # controls (a terminal obeys some), halves of pairs (which no file can hold), ends of lines
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in name):
        return f"expected names without control characters, got {shown(name)}"
    return None


def _split(value: Any, root: Path | None, path: Path, key: str) -> tuple[Path, ...]:
    """Where a split lies; without a root its entries are what ``path`` would be: places relative to the repository."""
    entries = value if isinstance(value, list) else [value]
    if not entries or not all(isinstance(entry, str) for entry in entries):
        raise InputError(f"{path}: {key}: expected a folder, a .txt list, or a list of those, got {shown(value)}")
    return tuple(_split_entry(entry, root, path, key) for entry in entries)


def _split_entry(entry: str, root: Path | None, path: Path, key: str) -> Path:
    place = ROOT / entry if root is None else inside(entry, root)
    if place is None:
        raise InputError(f"{path}: {key}: expected a place in {root}, or an absolute path, got {shown(entry)}, outside")
    return _resolved(place, path)


def inside(name: str, *roots: Path) -> Path | None:
    """A path from a data file, which lies below the first of the roots, or is absolute; None where it leaves them all.

    ``..`` is taken literally, so that what is opened is what was checked; links in it may lead anywhere.
    """
    if ".." not in name:
        return roots[0] / name
    place = Path(os.path.normpath(roots[0] / name))
    return place if Path(name).is_absolute() or any(place.is_relative_to(root) for root in roots) else None


def from_root(name: str) -> Path:
    """A path; a relative one, as the defaults of flags are, lies below the repository."""
    return ROOT / _expanded(name)


def from_here(name: str) -> str:
    """The kind of a flag that says where to write: what is typed is relative to the current folder, as in YOLOv5.

    Its default does not come here, and stays relative to the repository; nothing typed stays nothing.
    """
    return str(_expanded(name).absolute()) if name else name


def _expanded(name: str) -> Path:
    """``~`` as the user's folder; a user that is not known stays as typed."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


def _resolved(place: Path, path: Path) -> Path:
    try:
        return place.resolve()
    except (ValueError, OSError, RuntimeError) as error:
        raise InputError(f"{path}: expected a path, got {shown(str(place))}: {printable(str(error))}") from error


def _pattern(value: Any, path: Path, key: str) -> str | None:
    if value is None:
        return None
    try:
        groups = re.compile(value).groups
    except (re.error, TypeError, RecursionError, OverflowError) as error:
        raise InputError(f"{path}: {key}: expected a regular expression, got {shown(value)}: {error}") from error
    if not groups:
        raise InputError(f"{path}: {key}: expected a pattern with a group in parentheses, got {shown(value)}")
    return str(value)


def _generate(value: Any, path: Path) -> Mapping[str, Any] | None:
    if value is not None and not (isinstance(value, dict) and isinstance(value.get("name"), str)):
        raise InputError(f"{path}: generate: expected a mapping with a name, got {shown(value)}")
    return value
