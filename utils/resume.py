"""Going on with a training that was cut off: which checkpoint, and with which options."""

from __future__ import annotations

import argparse
import contextlib
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from utils import checkpoint
from utils.checkpoint import Checkpoint
from utils.config import ROOT
from utils.files import LAST
from utils.flags import Flag, from_keywords
from utils.log import LOGGER, InputError, Interrupted
from utils.processes import ALONE, Processes
from utils.training_state import check_options, check_state

FIGURES = "metrics.json"  # what a run writes last
TAKES_EFFECT = {"resume", "traceback", "device", "workers", "threads", "save_steps", "epochs"}  # beside --resume


def latest_checkpoint(resume: str | bool, pair: bool = False, longer: bool = False) -> Checkpoint:
    """The checkpoint that ``--resume`` means: the one given, or that of the latest run cut off below runs/.

    Args:
        pair: of two networks, as train_dual_backbone.py trains them.
        longer: more epochs are asked for, so that the latest run counts although it is finished.
    """
    if resume is not True:
        path = Path(str(resume)).expanduser().resolve()
        if path.parent.name != "weights":
            raise InputError(f"--resume {resume}: expected a checkpoint in its run's folder, as in exp/weights/last.pt")
        found = read_or_predecessor(path)
        if "options" not in found.content:
            return found  # a stripped one is refused for that
        if is_part(found):
            whole = path.parents[2] / LAST
            raise InputError(f"{path}: expected a run's last.pt, got that of one of its two networks; take {whole}")
        last = path.parents[1] / LAST
        if pair and path not in (last, checkpoint.predecessor(last)):
            raise InputError(f"{path}: expected last.pt of a run of two networks, each of which goes on from its own")
        if found.is_pair != pair:
            other = "train.py" if pair else "train_dual_backbone.py"
            raise InputError(f"{path}: expected a run of this script, got one that {other} --resume goes on with")
        return found
    paths = sorted((ROOT / "runs").rglob(LAST), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in paths:
        found = read_or_predecessor(path, mapped=True)
        if found.is_pair == pair and not is_part(found) and (longer or not finished(found)):
            return read_or_predecessor(path)
    raise InputError(f"--resume: none of {len(paths)} runs below runs/ was cut off; name a last.pt")


def read_or_predecessor(path: Path, mapped: bool = False) -> Checkpoint:
    """A run's last.pt, or, where it is damaged, what it held before that.

    Args:
        mapped: see :func:`utils.archive.read_archive`; damage within the tensors is not seen then.
    """
    try:
        return _read(path, mapped)
    except InputError as error:
        before = checkpoint.predecessor(path)
        if not before.is_file():
            raise
        LOGGER.warning("%s; going on with %s, the save before it", error, before.name)
        return _read(before, mapped)


def _read(path: Path, mapped: bool) -> Checkpoint:
    found = checkpoint.read(path, mapped)
    if not mapped:  # else only few of its values are asked for
        check_state(found)
    return found


def is_part(found: Checkpoint) -> bool:
    """Whether this is the detector or the classifier of a run of both."""
    return not found.is_pair and "classifier" in (found.content.get("options") or {})


def ended(found: Checkpoint) -> bool:
    """Whether a training is at its end: the last epoch is made, and its figures are written."""
    return bool(found.content.get("finished", True)) and (found.path.parents[1] / FIGURES).exists()


def finished(found: Checkpoint) -> bool:
    """Whether nothing is left to resume: the training is at its end, and all folds are pooled if it is one of them."""
    stored = found.content.get("options") or {}
    return ended(found) and (not stored.get("folds") or (found.path.parents[2] / FIGURES).exists())


def resumed_options(resumed: Checkpoint, typed: argparse.Namespace, flags: Sequence[Flag]) -> argparse.Namespace:
    """The options the run was started with; those typed beside ``--resume`` that count for nothing are named.

    Args:
        flags: of the script; their defaults stand in for flags that are younger than the checkpoint.
    """
    stored = resumed.content.get("options")
    if not stored:
        raise InputError(f"{resumed.path}: expected a checkpoint to resume from (last.pt), got a stripped one")
    check_options(stored, flags, resumed.path)
    more = "epochs" in typed.typed and typed.epochs > stored["epochs"]
    if "epochs" in typed.typed and typed.epochs < stored["epochs"]:
        raise InputError(f"--resume --epochs: expected at least {stored['epochs']}, the run's own, got {typed.epochs}")
    if more and stored.get("folds"):
        raise InputError(f"--resume --epochs: folds keep the epochs they were begun with, {stored['epochs']}")
    if finished(resumed) and not more:
        raise InputError(f"{resumed.path}: its training is finished; nothing to resume, unless --epochs is raised")
    if more:
        LOGGER.warning("--epochs %d: the learning rate follows the longer schedule from here on", typed.epochs)
    ignored = sorted(typed.typed - TAKES_EFFECT)
    if ignored:
        LOGGER.warning("--resume: the run goes on with its own options; ignored: %s", ", ".join(ignored))
    defaults = vars(from_keywords(flags, {}))
    options = argparse.Namespace(**{**defaults, **stored, "typed": frozenset(stored.get("typed", ()))})
    for name in TAKES_EFFECT & typed.typed:
        setattr(options, name, getattr(typed, name))
    return options


@contextlib.contextmanager
def resumable(last: Path, script: str, processes: Processes = ALONE) -> Iterator[None]:
    """Tell the user of a signal that came within how to go on with the run, whose ``last.pt`` this is.

    Args:
        processes: that train together; the main one knows whether it is there, another may be on another machine.
    """
    try:
        yield
    except Interrupted as interrupted:
        hint = f"all that was trained is in {last}; go on with: python {script} --resume {shlex.quote(str(last))}"
        if processes.main and not last.is_file():  # of two networks, one at least had not begun
            hint = "nothing that could be gone on with was saved yet; the same command starts again"
        raise Interrupted(interrupted.signal, hint) from None
