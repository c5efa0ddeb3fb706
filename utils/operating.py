"""What is chosen on validation and then used elsewhere unchanged: a confidence for boxes, a temperature for views.

Chosen on the part that figures are then taken of, both flatter. A checkpoint carries them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.dataset import EchoDataset
from utils.evaluation import Evaluation
from utils.log import LOGGER, InputError, shown
from utils.view_metrics import fit_temperature


def warn_of_window(fitted: int, used: int) -> None:
    """Say it where the temperature was fitted to views that were averaged over another window (``clip_window``)."""
    if fitted != used:
        LOGGER.warning(
            "--calibrate: the temperature was fitted to views averaged with %d frames on either side, here with %d: "
            "it is not the best one", fitted, used,
        )  # fmt: skip


@dataclass(frozen=True)
class OperatingPoint:
    """Where a detector and a view head work.

    Attributes:
        confidence: from which on a box counts: where the mean F1 of validation is highest.
        temperature: of the view's probabilities, of least log loss on validation; None without a view head.
    """

    confidence: float
    temperature: float | None

    def content(self) -> dict[str, Any]:
        """As checkpoints hold it."""
        return asdict(self)

    @classmethod
    def of(cls, evaluation: Evaluation, dataset: EchoDataset) -> OperatingPoint:
        """The one that an evaluation on ``dataset`` shows to be best."""
        temperature = None
        if evaluation.view is not None:
            probabilities = np.stack(
                [found.view.double().numpy() for found in evaluation.predictions if found.view is not None]
            )
            true = dataset.views()[[found.index for found in evaluation.predictions]]
            temperature = fit_temperature(probabilities, true)
        return cls(evaluation.detection.confidence, temperature)

    @classmethod
    def from_content(cls, content: Mapping[str, Any] | None, source: Path) -> OperatingPoint | None:
        """Of a checkpoint's content; None where it has none, as after an epoch that was not validated."""
        if content is None:
            return None
        try:
            temperature = content["temperature"]
            point = cls(float(content["confidence"]), None if temperature is None else float(temperature))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InputError(
                f"{source}: operating: expected an operating point of confidence and temperature, got {shown(content)}"
            ) from error
        temperature = 1.0 if point.temperature is None else point.temperature
        if not 0 <= point.confidence <= 1 or not 0 < temperature < math.inf:
            raise InputError(
                f"{source}: operating: expected a confidence from 0 to 1 and a temperature above 0, "
                f"got {shown(content)}"
            )
        return point
