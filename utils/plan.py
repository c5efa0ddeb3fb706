"""What a training is to do, and how it ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.config import Hyperparameters
from utils.engine import MultiScale
from utils.epoch import EpochProgress
from utils.evaluation import Evaluation, Thresholds
from utils.files import LAST


@dataclass(frozen=True)
class Standing:
    """How far a training has got; a new one has not begun.

    Attributes:
        epochs: that are complete.
        progress: of the epoch after them, where that has begun.
        seconds: of training, earlier parts of a resumed run included.
        best_fitness, best_epoch: of the epochs so far; 0-based.
        frame_weights: how often each frame is drawn; None for all alike.
        ended: all its epochs are made.
    """

    epochs: int = 0
    progress: EpochProgress | None = None
    seconds: float = 0.0
    best_fitness: float = -1.0
    best_epoch: int = 0
    frame_weights: NDArray[np.float64] | None = None
    ended: bool = False


@dataclass(frozen=True)
class Plan:
    """What a training does, apart from the network.

    Attributes:
        folder: of the run.
        names, view_names: of box classes and views; empty for what the network does not learn.
        image_size: pixels of the longer side.
        rect: whether frames are padded to whole strides only.
        patience: epochs without a better fitness after which training stops; 0 never stops.
        save_period: also keep ``epochN.pt`` every so many epochs; under 1 never.
        save_steps: also bring ``last.pt`` up to date every so many steps of the optimizer; 0: after an epoch only.
        save_every_epoch, validate_every_epoch: else the last epoch only.
        image_weights: draw frames by how badly their classes are found.
        interference_every: steps between two that measure the tasks' gradients over the whole trunk; 0: never.
        thresholds: of the validation.
        leakage: columns of the log that say what validation has in common with training.
        remembered: what checkpoints say of the training data beside the network: ``trained_on``, ``permuted_labels``.
        options: of the script, to be stored in checkpoints.
        standing: from which the training goes on; of one that was cut off after its last epoch, nothing is left but to
            validate.
    """

    folder: Path
    names: Sequence[str]
    view_names: Sequence[str]
    image_size: int
    rect: bool
    hyp: Hyperparameters
    patience: int = 0
    save_period: int = -1
    save_steps: int = 0
    save_every_epoch: bool = True
    validate_every_epoch: bool = True
    image_weights: bool = False
    multi_scale: MultiScale | None = None
    interference_every: int = 0
    thresholds: Thresholds = field(default_factory=Thresholds)
    leakage: Mapping[str, float] = field(default_factory=dict)
    remembered: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] | None = None
    standing: Standing = field(default_factory=Standing)

    def fitness(self, evaluation: Evaluation) -> float:
        """By which the best epoch is chosen: YOLOv5's fitness of the boxes; of a classifier alone the macro-F1."""
        if self.names:
            return evaluation.detection.fitness
        return evaluation.view.macro_f1 if evaluation.view else 0.0

    def figures(self, evaluation: Evaluation) -> dict[str, float]:
        """What a checkpoint says of its worth."""
        found = {"map50": evaluation.detection.map50, "map": evaluation.detection.map} if self.names else {}
        view = evaluation.view
        return found | ({"view_accuracy": view.accuracy, "view_macro_f1": view.macro_f1} if view else {})

    @property
    def last(self) -> Path:
        """The latest checkpoint, from which training can go on."""
        return self.folder / LAST

    @property
    def balance(self) -> Path:
        """How the tasks pulled at what they share, a row a step; see :mod:`utils.balance_log`."""
        return self.folder / "balance.csv"

    @property
    def outcomes(self) -> Path:
        """What the last epoch made of every validation frame; see :mod:`utils.outcomes`."""
        return self.folder / "outcomes.npz"

    @property
    def best(self) -> Path:
        """The checkpoint of the best fitness, stripped at the end."""
        return self.folder / "weights" / "best.pt"


@dataclass(frozen=True)
class Outcome:
    """How a training ended.

    Attributes:
        evaluation: of the last epoch; None where a resumed training had none left to make.
        epochs: how many were trained, earlier parts of a resumed run included.
        best_epoch: 1-based, of ``best.pt``; this and the epochs by part, where its parts have each their own.
        seconds: the training took, earlier parts included.
        peak_memory: bytes of RAM that this process held at most.
    """

    evaluation: Evaluation | None
    epochs: int | Mapping[str, int]
    best_epoch: int | Mapping[str, int]
    seconds: float
    peak_memory: int
