"""benchmarks/plain.py: what it replaces is what val.py and detect.py use, and suppresses alike."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from benchmarks import plain
from utils.boxes import non_max_suppression


def test_each_thing_is_replaced_where_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    replaced: list[tuple[str, str]] = []

    def noted(name: str, value: object, *modules: ModuleType) -> None:
        assert all(hasattr(module, name) for module in modules)
        replaced.extend((module.__name__, name) for module in modules)

    monkeypatch.setattr(plain, "replace", noted)
    plain.take_plain_path()
    assert ("utils.detection", "BackgroundWriter") in replaced and ("utils.runtimes", "inference_copy") in replaced


def test_a_name_that_a_module_does_not_use_is_an_error() -> None:
    module = ModuleType("changed")
    with pytest.raises(AttributeError, match="changed does not use prefetch"):
        plain.replace("prefetch", None, module)
    assert not hasattr(module, "prefetch")


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("classes", [None, [1, 2]])
def test_plain_suppression_finds_what_the_fast_one_finds(
    multi_label: bool, agnostic: bool, classes: list[int] | None
) -> None:
    predictions = torch.rand(3, 200, 9, generator=torch.Generator().manual_seed(0))
    predictions[..., :4] *= 60.0
    plainly, fast = (
        way(predictions, 0.3, 0.5, classes=classes, agnostic=agnostic, multi_label=multi_label, max_det=20)
        for way in (plain.plain_suppression, non_max_suppression)
    )
    assert all(len(rows) for rows in fast)
    for expected, found in zip(plainly, fast, strict=True):
        torch.testing.assert_close(found, expected)
