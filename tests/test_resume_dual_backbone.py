"""train_dual_backbone.py --resume: a run that was cut in either part, or both, ends as one that was left alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import train
import train_dual_backbone
from tests.dual_runs import content, equal, figures, fit, joint, parallel, place, same_part, tiny, turns
from train_dual_backbone import PARTS
from utils.checkpoint import read
from utils.log import InputError


def cut_run(run: Path, name: str, parts: tuple[str, ...]) -> Path:
    """A copy of a run as if it had been cut: some of its parts stand after the first epoch."""
    folder = place() / "runs" / name
    shutil.copytree(run, folder)
    (folder / "metrics.json").unlink()
    for part in parts:
        weights = folder / part / "weights"
        (weights / "last.pt").write_bytes((weights / "epoch0.pt").read_bytes())
    return folder


@pytest.mark.parametrize("parts", [("detector",), ("classifier",), PARTS, ()], ids=str)
def test_a_run_that_was_cut_ends_as_an_uninterrupted_one(parts: tuple[str, ...]) -> None:
    folder = cut_run(turns(), f"cut-{'-'.join(parts)}", parts)
    assert train_dual_backbone.run(resume=str(folder / "weights" / "last.pt")) == folder
    assert figures(folder) == figures(turns())
    for part in PARTS:
        assert equal(content(folder, part)["network"], content(turns(), part)["network"])
    for file in ("best", "last"):
        expected, got = (read(run / "weights" / f"{file}.pt").content for run in (turns(), folder))
        assert equal(got["ema"], expected["ema"]) and got["epochs"] == expected["epochs"]
    expected, got = (json.loads((run / "metrics.json").read_text()) for run in (turns(), folder))
    assert [got[key] for key in ("map50", "f1", "view", "loss")] == [
        expected[key] for key in ("map50", "f1", "view", "loss")
    ]
    assert got["settings"]["best_epoch"] == expected["settings"]["best_epoch"]


def test_a_run_in_two_processes_that_was_cut_ends_as_an_uninterrupted_one() -> None:
    folder = cut_run(parallel(), "cut-parallel", ("classifier",))  # the other process is not needed
    assert train_dual_backbone.run(resume=str(folder / "weights" / "last.pt")) == folder
    assert figures(folder) == figures(parallel())
    for part in PARTS:
        assert same_part(folder, parallel(), part)


def test_a_part_whose_checkpoint_is_damaged_goes_on_from_the_save_before_it() -> None:
    folder = cut_run(turns(), "damaged", ("detector",))
    weights = folder / "detector" / "weights"
    (weights / "last_previous.pt").write_bytes((weights / "last.pt").read_bytes())
    (weights / "last.pt").write_bytes((weights / "last.pt").read_bytes()[:-100])
    assert train_dual_backbone.run(resume=str(folder / "weights" / "last.pt")) == folder
    assert figures(folder) == figures(turns())
    assert equal(content(folder, "detector")["network"], content(turns(), "detector")["network"])


def test_layers_that_are_frozen_stay_so_when_a_run_goes_on() -> None:
    folder = fit("frozen", classifier=tiny(), freeze=[3])
    kept = {
        name: tensor
        for name, tensor in content(folder, "detector")["network"].items()
        if int(name.split(".")[1]) < 3 and name.endswith(("weight", "bias"))
    }
    again = cut_run(folder, "frozen-cut", ("detector",))
    train_dual_backbone.run(resume=str(again / "weights" / "last.pt"))
    state = content(again, "detector")["network"]
    assert kept and all(torch.equal(state[name], tensor) for name, tensor in kept.items())
    assert equal(state, content(folder, "detector")["network"])


def test_each_script_names_the_other_for_the_runs_of_the_other() -> None:
    last = joint().with_name("last.pt")
    last.write_bytes(joint().read_bytes())
    goes_on: list[tuple[Callable[..., Path], Path, str]] = [
        (train.run, turns() / "weights" / "last.pt", "train_dual_backbone.py --resume goes on with"),
        (train_dual_backbone.run, last, "train.py --resume goes on with"),
        (train.run, turns() / "detector" / "weights" / "last.pt", "that of one of its two networks"),
        (train_dual_backbone.run, turns() / "classifier" / "weights" / "last.pt", "that of one of its two networks"),
        (train_dual_backbone.run, turns() / "weights" / "last.pt", "its training is finished"),
        (train_dual_backbone.run, turns() / "weights" / "best.pt", "got a stripped one"),
        (train_dual_backbone.run, turns() / "weights" / "epoch0.pt", r"epoch0\.pt: expected last\.pt of a run of two"),
    ]
    for script, path, words in goes_on:
        with pytest.raises(InputError, match=words) as caught:
            script(resume=str(path))
        assert "\n" not in str(caught.value)


def test_a_new_run_in_the_folder_of_an_old_one_does_not_begin_with_its_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = place() / "runs" / "again"
    shutil.copytree(turns(), folder)

    def look(*_: Any) -> int:
        left = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*st.pt"))
        raise InputError(f"found {left}")

    monkeypatch.setattr(train_dual_backbone, "side_by_side", look)
    with pytest.raises(InputError, match=r"found \[\]"):
        fit("again", exist_ok=True, parallel=True)
