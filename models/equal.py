"""Equal weights: the sum of the losses as they are, the baseline of most papers on balancing."""

from __future__ import annotations

from models.balancer import Balancer, TrainingRates


class Equal(Balancer):
    """Weight 1 for each of ``tasks`` tasks."""

    def __init__(self, tasks: int, rates: TrainingRates | None = None) -> None:
        super().__init__((1.0,) * tasks, rates)
