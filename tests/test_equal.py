"""models.equal: weight 1 for each task, whatever happens."""

from __future__ import annotations

import torch

from models.equal import Equal


def test_all_weights_are_one_and_stay_so() -> None:
    balancer = Equal(3)
    balancer.step(torch.tensor([9.0, 0.1, 1.0]), torch.tensor([1e3, 1e-3, 1.0]))
    balancer.end_epoch()
    assert balancer.weights.tolist() == [1.0, 1.0, 1.0]
