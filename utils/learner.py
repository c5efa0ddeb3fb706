"""A network and all that changes with it while it learns."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from models.balancer import Balancer
from models.dual import Trainable
from utils.loss import JointLoss
from utils.optim import RunningMean
from utils.schedule import Schedule


@dataclass
class Learner:
    """What a step of the optimizer needs and changes.

    Attributes:
        running_mean: of the weights, which are what is validated and used.
        clip_grad_norm: gradients are scaled down to this norm; 0 leaves them.
    """

    network: Trainable
    running_mean: RunningMean
    optimizer: torch.optim.Optimizer
    balancer: Balancer
    criterion: JointLoss
    schedule: Schedule
    clip_grad_norm: float = 10.0

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All that the optimizer changes."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
