"""How far an export is from its checkpoint."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.yolo import Output
from utils.agreement import Deviation, deviation, sample
from utils.devices import Compute

CPU = Compute(torch.device("cpu"), None)


def test_deviations_are_of_the_same_detection_whatever_its_place() -> None:
    rows = torch.tensor([[10.0, 10, 4, 4, 0.9, 1, 0], [30, 30, 8, 8, 0.8, 0, 1], [0, 0, 0, 0, 0, 1, 0]])
    moved = rows[[1, 0, 2]] + torch.tensor([0.5, 0, 0, 0, 0, 0, 0])
    one, other = (Output([], None, boxes[None]) for boxes in (rows, moved))
    assert deviation(one, other, suppressed=True) == Deviation(0.5, 0.0)
    assert deviation(one, Output([], None, torch.zeros(1, 3, 7)), suppressed=True).probability == pytest.approx(0.9)
    assert deviation(one, Output([], None, rows[None] * 2), confidence=0.85) == Deviation(10, 1)


def test_the_largest_difference_counts() -> None:
    rows = torch.rand(2, 5, 7)
    other = rows.clone()
    other[1, 3, 2] += 0.5
    other[0, 1, 5] -= 0.25
    views = torch.tensor([[0.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [0.0, 2.0]])
    found = deviation(Output([], views[0], rows), Output([], views[1], other))
    assert found.pixels == pytest.approx(0.5) and found.probability == pytest.approx(1 / (1 + np.exp(-2)) - 0.5)
    assert deviation(Output([], None, rows), Output([], None, rows.clone())) == Deviation(0.0, 0.0)
    assert Deviation(1, 0.2).joined(Deviation(0.5, 0.3)) == Deviation(1, 0.3)


def test_what_is_not_a_number_is_infinitely_far() -> None:
    rows = torch.rand(1, 5, 7)
    found = deviation(Output([], torch.zeros(1, 3), rows), Output([], torch.full((1, 3), torch.nan), rows * torch.nan))
    assert Deviation(0.0, 0.0).joined(found) == Deviation(np.inf, np.inf)


def test_samples_are_the_same_each_time_and_not_flat() -> None:
    images = sample((2, 64, 96))
    assert images.shape == (2, 3, 64, 96) and torch.equal(images, sample((2, 64, 96)))
    assert images.min() >= 0 and images.max() <= 1 and images.std() > 0.1
