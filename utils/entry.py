"""What stands between a training script's flags and one training: a resumed run, torchrun's restarts, folds."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from utils.checkpoint import Checkpoint
from utils.config import from_root
from utils.crossval import cross_validate
from utils.flags import Flag
from utils.launch import begun_before, quiet_unless_main
from utils.processes import Processes, joined
from utils.resume import finished, latest_checkpoint, resumed_options

Training = Callable[[argparse.Namespace, Checkpoint | None, Processes], Path]


def enter(options: argparse.Namespace, flags: Sequence[Flag], train: Training, pair: bool = False) -> Path:
    """Train as the options say, or go on; returns the run's folder.

    Args:
        flags: of the script.
        train: one training, or the rest of one, in this process among others.
        pair: of two networks.
    """
    resumed = None
    if options.resume:
        resumed = latest_checkpoint(options.resume, pair, longer="epochs" in options.typed)
        options = resumed_options(resumed, options, flags)
    with joined() as processes:
        if processes.restarts and not resumed:  # one of them was killed, and torchrun has started them all again
            resumed = begun_before(from_root(options.project), processes)
            if resumed and finished(resumed):
                return resumed.path.parents[1]
            options = resumed_options(resumed, options, flags) if resumed else options
        quiet_unless_main(processes)

        def one(own: argparse.Namespace, begun: Checkpoint | None) -> Path:
            return train(own, begun, processes)

        return cross_validate(options, resumed, one, processes) if options.folds else one(options, resumed)
