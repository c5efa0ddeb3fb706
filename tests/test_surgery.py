"""models.surgery: torchjd's published values, at any scale, and what happens without the package."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from torch import Tensor

from models.surgery import METHODS, Surgery

J = torch.tensor([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]], dtype=torch.float64)
PUBLISHED = {
    "imtl_g": (0.5923, 0.4077), "mgda": (0.6, 0.4), "pcgrad": (2.2222, 1.5789), "upgrad": (1.1109, 0.7894),
    "cagrad": (0.7041, 0.5),
}  # fmt: skip


def factors(method: str, gramian: Tensor) -> list[float]:
    pytest.importorskip("torchjd")
    found: list[float] = Surgery(method, (1.0, 1.0)).at_border(lambda: gramian).tolist()
    return found


def test_every_method_has_its_published_values() -> None:
    assert set(PUBLISHED) == set(METHODS)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e8])
def test_the_factors_are_the_published_ones_at_any_scale(method: str, scale: float) -> None:
    assert factors(method, scale * (J @ J.T)) == pytest.approx(PUBLISHED[method], abs=1e-3)


@pytest.mark.parametrize("method", ["pcgrad", "upgrad", "mgda"])
def test_the_combined_gradient_opposes_no_task(method: str) -> None:
    combined = torch.tensor(factors(method, J @ J.T), dtype=torch.float64) @ J
    assert float((J @ combined).min()) >= -1e-3


@pytest.mark.parametrize("method", METHODS)
def test_gradients_that_are_zero_or_not_finite_are_summed(method: str) -> None:
    assert factors(method, torch.zeros(2, 2)) == [1.0, 1.0]
    assert factors(method, torch.full((2, 2), math.nan)) == [1.0, 1.0]
    assert factors(method, torch.tensor([[math.inf, 1.0], [1.0, 1.0]])) == [1.0, 1.0]
    assert factors(method, torch.tensor([[1.0, math.nan], [math.nan, 1.0]])) == [1.0, 1.0]


def test_heads_keep_their_weights() -> None:
    pytest.importorskip("torchjd")
    balancer = Surgery("upgrad", (1.0, 0.1))
    balancer.step(torch.rand(2), torch.rand(2))
    assert balancer.weights.tolist() == pytest.approx([1.0, 0.1])


@pytest.mark.parametrize("method", METHODS)
def test_without_the_package_the_error_says_how_to_install_it(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchjd", None)
    with pytest.raises(ImportError, match=rf'{method} needs the package torchjd: pip install "torchjd\['):
        Surgery(method, (1.0, 1.0))


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(ValueError, match="method: expected one of pcgrad"):
        Surgery("nash", (1.0, 1.0))


@pytest.mark.parametrize("method", METHODS)
def test_a_task_that_asks_nothing_does_not_silence_the_other(method: str) -> None:
    assert factors(method, torch.tensor([[1.0, 0.0], [0.0, 0.0]])) == [1.0, 1.0]
