"""utils.training_checkpoint: what is written can be gone on from; which files are due; a git commit if there is one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.test_trainer import learner, plan
from tests.tiny import hyperparameters
from utils import checkpoint, training_checkpoint
from utils.checkpoint import Checkpoint
from utils.epoch import EpochProgress
from utils.log import InputError
from utils.operating import OperatingPoint
from utils.plan import Plan, Standing
from utils.training_checkpoint import content_of, restore, write

CPU = torch.device("cpu")
OPTIONS = {"epochs": 3}


def content(folder: Path, standing: Standing, **figures: float) -> dict[str, Any]:
    asked = replace(plan(folder), options=OPTIONS)
    return content_of(learner(), asked, standing, CPU, figures, OperatingPoint(0.25, 1.5) if figures else None)


def test_where_a_training_stands_comes_back_from_its_file(tmp_path: Path) -> None:
    asked = replace(plan(tmp_path), image_weights=True)
    asked.last.parent.mkdir()
    weights = np.array([0.5, 1.5])
    standing = Standing(2, EpochProgress(batches=3), 7.5, 0.25, 1, weights)
    written, first = learner(), torch.rand(3)
    torch.manual_seed(5)
    found = content_of(written, replace(asked, options=OPTIONS), standing, CPU, {}, None)
    drawn = torch.rand(4)
    write(found, asked, best=False)

    other = learner()
    with torch.no_grad():
        next(other.network.parameters()).add_(first.mean())
    resumed = restore(other, asked, checkpoint.read(asked.last))
    assert torch.equal(torch.rand(4), drawn)
    for name, tensor in written.network.state_dict().items():
        assert torch.equal(other.network.state_dict()[name], tensor), name
    now = resumed.standing
    assert (now.epochs, now.seconds, now.best_fitness, now.best_epoch, now.ended) == (2, 7.5, 0.25, 1, False)
    assert now.progress is not None and now.progress.batches == 3
    assert now.frame_weights is not None and now.frame_weights.tolist() == weights.tolist()
    assert replace(resumed, standing=asked.standing) == asked
    # how patients or clips are drawn follows from the data as they are now
    others = Standing(frame_weights=np.ones(3))
    by_clip = replace(asked, image_weights=False, standing=others)
    assert restore(other, by_clip, checkpoint.read(asked.last)).standing.frame_weights is others.frame_weights


def test_a_training_has_ended_unless_more_epochs_are_asked_for(tmp_path: Path) -> None:
    ended = Checkpoint(
        tmp_path / "last.pt", content(tmp_path, Standing(3, ended=True)), (), (), 64, False, hyperparameters()
    )
    for epochs, over in ((3, True), (4, False)):
        longer = learner()
        longer.schedule = replace(longer.schedule, epochs=epochs)
        assert restore(longer, plan(tmp_path), ended).standing.ended is over


def test_figures_and_operating_point_are_those_of_the_last_validation(tmp_path: Path) -> None:
    before, after = content(tmp_path, Standing()), content(tmp_path, Standing(1), map50=0.5)
    assert (before["epoch"], before["figures"], before["operating"]) == (-1, {}, None)
    assert (after["epoch"], after["figures"]) == (0, {"map50": 0.5})
    assert after["operating"] == {"confidence": 0.25, "temperature": 1.5}


@pytest.mark.parametrize(
    ("standing", "best", "files"),
    [
        (Standing(), False, {"last.pt"}),
        (Standing(3), True, {"last.pt", "best.pt", "epoch2.pt"}),
        (Standing(4), False, {"last.pt"}),
        (Standing(3, EpochProgress(batches=1)), False, {"last.pt"}),
    ],
)  # fmt: skip
def test_every_second_epoch_is_kept_once_it_is_complete(
    tmp_path: Path, standing: Standing, best: bool, files: set[str]
) -> None:
    asked: Plan = replace(plan(tmp_path), save_period=2)
    asked.last.parent.mkdir()
    write(content(tmp_path, standing), asked, best)
    assert {path.name for path in asked.last.parent.iterdir()} == files


def test_a_stripped_checkpoint_cannot_restore(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"best\.pt: expected a checkpoint to resume from .* without optimizer"):
        stripped = {"network": {}, "balancer": {}, "random": torch.zeros(1)}
        restore(
            learner(), plan(tmp_path), Checkpoint(tmp_path / "best.pt", stripped, (), (), 64, False, hyperparameters())
        )


def test_a_folder_without_git_has_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_checkpoint, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert training_checkpoint.git_commit() == ""
