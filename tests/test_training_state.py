"""utils.training_state: a checkpoint that training cannot go on from is one line that names file and key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import train
from tests.hostile_checkpoints import resumable_content, saved
from utils.flags import from_keywords
from utils.log import InputError
from utils.resume import read_or_predecessor, resumed_options


def resumed(path: Path, **changes: Any) -> Any:
    path.write_bytes(saved({**resumable_content(), **changes}))
    return resumed_options(read_or_predecessor(path), from_keywords(train.FLAGS, {}), train.FLAGS)


def test_a_sound_state_passes_with_its_options(tmp_path: Path) -> None:
    assert resumed(tmp_path / "last.pt").epochs == 4


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("network", {"a": torch.zeros(1)}),
        ("network", 3),
        ("optimizer", {"state": {}, "param_groups": [{"params": [0]}]}),
        ("optimizer", {"state": {5: {}}, "param_groups": [{"params": [0], "lr": 0.1}]}),
        ("optimizer", {"state": {0: {"m": torch.zeros(7, 7, 7)}}, "param_groups": [{"params": [0], "lr": 0.1}]}),
        ("balancer", {"weights": torch.tensor([float("nan")])}),
        ("balancer", {"weights": torch.ones(2), "rates": {"steps": 1}}),
        ("random", torch.zeros(3, dtype=torch.uint8)),
        ("random", "x"),
        ("frame_weights", torch.tensor([-1.0, 1.0])),
        ("frame_weights", [1.0]),
        ("progress", {"batches": 1}),
        ("progress", [1]),
        ("updates", None),
        ("best_epoch", "first"),
        ("finished", 1),
    ],
)
def test_a_state_of_another_kind_is_refused(tmp_path: Path, key: str, value: Any) -> None:
    with pytest.raises(InputError, match=rf"last\.pt: {key}: expected") as caught:
        resumed(tmp_path / "last.pt", **{key: value})
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "option",
    [
        {"epochs": "many"}, {"epochs": None}, {"weights": 3}, {"rect": 1}, {"freeze": ["a"]}, {"typed": 3},
        {"project": 3},
    ],
)  # fmt: skip
def test_an_option_of_another_kind_is_refused(tmp_path: Path, option: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=rf"last\.pt: options: {next(iter(option))}: expected"):
        resumed(tmp_path / "last.pt", options={**resumable_content()["options"], **option})


def test_where_the_state_is_damaged_the_save_before_it_is_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / "last_previous.pt").write_bytes(saved(resumable_content()))
    (tmp_path / "last.pt").write_bytes(saved({**resumable_content(), "optimizer": {}}))
    assert read_or_predecessor(tmp_path / "last.pt").path.name == "last_previous.pt"
