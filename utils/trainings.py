"""The trainings that a comparison asks for: methods x seeds x grid, each a run's folder and a command line.

Each is made in a process of its own, so that its time and memory are its own.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from utils import checkpoint
from utils.config import ROOT, Hyperparameters, hyperparameters_from, load_yaml, plain
from utils.files import LAST, write_text
from utils.interrupt import Interrupts
from utils.log import LOGGER, InputError, Interrupted
from utils.report import figure_of, read_metrics
from utils.resume import ended

DUAL = "dual"
PLAIN = re.compile("yolov5[nsmlx]")  # classifiers that are a YOLOv5 backbone
ONLY_FOR = {"gradnorm_": ("gradnorm",), "classifier_": (DUAL,)}  # hyp keys that other methods ignore
OF_MACHINE = ("workers", "threads", "device")  # flags that may change between the parts of a training
PER_TRAINING = ("seed", "balance")  # hyperparameters that come from flags, for each training its own
POLL = 0.2  # seconds between two looks at whether a signal has come


@dataclass(frozen=True)
class Training:
    """One training of a comparison.

    Attributes:
        method: as it was asked for, such as ``gradnorm`` or ``dual:yolov5s``.
        grid: hyperparameters that it has from the grid.
        folder: of its run, named after all of these.
        arguments: flags of its script, by name; an empty value leaves the flag out.
        hyp: content of its hyp file, the grid's values among it.
    """

    method: str
    seed: int
    grid: Mapping[str, Any]
    folder: Path
    arguments: Mapping[str, Any] = field(default_factory=dict)
    hyp: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The method with its grid's values, the name of a row of the table."""
        return " ".join([self.method, *(f"{key}={value}" for key, value in self.grid.items())])

    @property
    def script(self) -> str:
        """That makes it."""
        return "train_dual_backbone.py" if self.method.partition(":")[0] == DUAL else "train.py"

    @property
    def last(self) -> Path:
        """Its latest checkpoint."""
        return self.folder / LAST

    @property
    def finished(self) -> bool:
        """Whether it is at its end, with its figures written."""
        return self.last.is_file() and ended(checkpoint.read(self.last, mapped=True))

    def command(self) -> list[str]:
        """The command line that makes it, or goes on with it where it was cut off."""
        start = [sys.executable, str(ROOT / self.script)]
        if self.last.is_file():
            here = [word for name in OF_MACHINE for word in _words(name, self.arguments.get(name))]
            return [*start, "--resume", str(self.last), *here]
        own = {"seed": self.seed, "project": self.folder.parent, "name": self.folder.name, "exist-ok": True}
        words = list(itertools.chain(*(_words(name, value) for name, value in {**self.arguments, **own}.items())))
        return [*start, *words]

    def make(self) -> float:
        """Train to the end; returns mAP50 of the last epoch, or the view's accuracy where no boxes are learned.

        Raises:
            InputError: the training ended with an error; finished ones stay, and starting again goes on.
            Interrupted: a signal came; the training has saved where it stands.
        """
        self.check_settings()
        if not self.finished:
            LOGGER.info("Training %s, seed %d", self.label, self.seed)
            if code := run_to_end(self.command()):
                raise InputError(
                    f"{self.folder}: its training ended with exit code {code}; the finished ones stay, and the same "
                    "command goes on"
                )
        path = self.folder / "metrics.json"
        place = ("view", "accuracy") if self.method == "single_view" else ("map50",)
        found = figure_of(read_metrics(path), path, *place)
        return 0.0 if math.isnan(found) else found  # no label of that kind in validation

    def check_settings(self) -> None:
        """Refuse a run of other settings under the same name.

        Raises:
            InputError: a flag or a hyperparameter differs from those that the run there was started with.
        """
        stored, hyp = (
            load_yaml(path) if path.is_file() else {} for path in (self.folder / "opt.yaml", self.folder / "hyp.yaml")
        )
        here = {name: value for name, value in self.arguments.items() if name not in (*OF_MACHINE, "hyp")}
        pairs = [(f"--{name}", stored.get(name.replace("-", "_"), value), value) for name, value in here.items()]
        if "amp" in stored:  # --amp, --no-amp, or neither
            wanted_amp = True if "amp" in here else False if "no-amp" in here else None
            pairs.append(("--amp", stored["amp"], wanted_amp))
        if hyp:
            wanted = plain(asdict(hyperparameters_from(self.hyp, self.folder)))
            pairs += [(name, hyp.get(name, value), value) for name, value in wanted.items() if name not in PER_TRAINING]
        for name, there, value in pairs:
            if str(there) != str(value):
                raise InputError(
                    f"{self.folder}: {name}: expected {there}, as the run there was started with, got {value}; "
                    "--name gives another comparison a folder of its own"
                )


def run_to_end(command: Sequence[str]) -> int:
    """Run a script in the repository; returns its exit code. A signal is passed on, and its end is waited for.

    The script saves then, which may take any time, and two of them must never write into one folder.

    Raises:
        Interrupted: a signal came, and the script has ended.
    """
    with Interrupts() as interrupts:
        process = subprocess.Popen(command, cwd=ROOT)
        passed_on = False
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    code = process.wait(timeout=POLL)
                    break
                if interrupts.signal and not passed_on:
                    process.terminate()
                    passed_on = True
        finally:
            if process.poll() is None:  # after another Ctrl-C, which does not wait for it
                process.kill()
                process.wait()
    if interrupts.signal:
        raise Interrupted(interrupts.signal, "all that was trained stays; the same command goes on")
    return code


def _words(name: str, value: Any) -> list[str]:
    """A flag as it is typed; nothing for an empty one."""
    if value is True:
        return [f"--{name}"]
    return [] if value is None or value is False or value == "" else [f"--{name}", str(value)]


def parse_grid(words: Sequence[str], source: Path) -> dict[str, list[Any]]:
    """``key=a,b,c`` words as values by hyp key, each checked.

    Args:
        source: the hyp file that they are to be laid over.

    Raises:
        InputError: an unknown key, no values or one missing, or one that the key does not take.
    """
    grid: dict[str, list[Any]] = {}
    for word in words:
        key, found, values = word.partition("=")
        parts = values.split(",")
        if not found or not key or not all(part.strip() for part in parts):
            raise InputError(f"--grid {word}: expected key=value,value,... without a gap, got {word!r}")
        if key not in {f.name for f in fields(Hyperparameters)}:
            known = ", ".join(f.name for f in fields(Hyperparameters) if f.name.startswith(key[:4]))
            raise InputError(f"--grid {word}: unknown hyp key {key!r}" + (f" (near: {known})" if known else ""))
        if key in grid:
            raise InputError(f"--grid {word}: expected each key once, got {key} again")
        if key in PER_TRAINING:
            raise InputError(f"--grid {word}: {key}: expected in --{'seeds' if key == 'seed' else 'methods'}")
        try:
            grid[key] = [yaml.safe_load(part) for part in parts]
        except yaml.YAMLError as error:
            raise InputError(f"--grid {word}: expected values as in a hyp file, got {values!r}") from error
        if len(set(map(str, grid[key]))) < len(parts):
            raise InputError(f"--grid {word}: expected each value once")
        for value in grid[key]:
            hyperparameters_from({**load_yaml(source), key: value}, Path(f"--grid {word}"))
    return grid


def plan_trainings(
    methods: Sequence[str], seeds: Sequence[int], grid: Mapping[str, Sequence[Any]], folder: Path,
    common: Mapping[str, Any], of_dual: Mapping[str, Any], hyp: Mapping[str, Any],
) -> list[Training]:  # fmt: skip
    """All trainings of a comparison, seed by seed, so that what is cut off has compared all methods.

    Args:
        hyp: content of the hyp file that grid points are laid over.
        folder: of the comparison; hyp files of grid points are written there.
        common: flags of both scripts; ``of_dual`` of train_dual_backbone.py alone.
    """
    found = []
    for seed in seeds:
        for method in methods:
            for point in _points(method, grid):
                name = "-".join([method.replace(":", "-"), f"seed{seed}", *(f"{k}={v}" for k, v in point.items())])
                arguments = {**common, **_own_arguments(method, seed, folder, common, of_dual)}
                if point:
                    arguments["hyp"] = folder / "hyp" / f"{'-'.join(f'{k}={v}' for k, v in point.items())}.yaml"
                run = folder / re.sub(r"[^\w=.+-]", "_", name)
                found.append(Training(method, seed, point, run, arguments, {**hyp, **point}))
    return found


def _points(method: str, grid: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """The grid's points, as far as its keys mean something to a method."""
    name = method.partition(":")[0]
    keys = [key for key in grid if all(name in of for start, of in ONLY_FOR.items() if key.startswith(start))]
    return [dict(zip(keys, values, strict=True)) for values in itertools.product(*(grid[key] for key in keys))]


def _own_arguments(
    method: str, seed: int, folder: Path, common: Mapping[str, Any], of_dual: Mapping[str, Any]
) -> dict[str, Any]:
    """The flags that make a method what it is."""
    name, _, classifier = method.partition(":")
    if name != DUAL:
        source = folder / f"gradnorm-seed{seed}" if name == "gradnorm_static" else ""
        return {"balance": name, "balance-from": source}
    own = {**of_dual, **({"classifier": classifier} if classifier else {})}
    stem = str(own.get("classifier", "")).removesuffix(".yaml")
    if PLAIN.fullmatch(stem) and (classifier or "cfg" not in common):
        own["cfg"] = str(
            ROOT / "models" / "hub" / f"{stem}.yaml"
        )  # two plain backbones: the joint one's capacity, twice
    return own


def write_hyps(trainings: Sequence[Training]) -> None:
    """The hyp files of grid points."""
    for training in trainings:
        if training.grid:
            path = Path(training.arguments["hyp"])
            path.parent.mkdir(exist_ok=True)
            write_text(path, yaml.safe_dump(dict(training.hyp), sort_keys=False))
