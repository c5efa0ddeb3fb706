"""utils.run_folder: the files that a run begins with; test_train.py and test_main_job.py look at those it ends with."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

import train
from tests.scripts import phantom_yaml
from tests.test_engine import hyperparameters
from utils.flags import from_keywords
from utils.labels import Problem
from utils.parts import Parts, checked_dataset, open_parts
from utils.run_folder import FROM_HYP, OF_A_RUN, stored_options, write_start


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> tuple[argparse.Namespace, Parts]:
    path = phantom_yaml(tmp_path_factory.mktemp("run_folder"))
    options = from_keywords(train.FLAGS, {"data": str(path), "imgsz": 64, "batch_size": 8, "noplots": True})
    config = checked_dataset(options, hyperparameters())
    return options, open_parts(config, options, hyperparameters(), 32)


def start(folder: Path, options: argparse.Namespace, parts: Parts) -> None:
    write_start(folder, options, replace(hyperparameters(), seed=7), parts, ("AR", "MR", "PR", "TR"))


def test_options_are_stored_as_plain_values_without_what_was_typed() -> None:
    options = from_keywords(train.FLAGS, {"epochs": 3, "freeze": [1, 2]})
    stored = stored_options(options)
    assert "typed" not in stored and (stored["epochs"], stored["freeze"]) == (3, [1, 2])
    assert yaml.safe_load(yaml.safe_dump(stored)) == stored


def test_a_run_begins_with_its_settings_and_what_the_hyp_file_decided(
    opened: tuple[argparse.Namespace, Parts], tmp_path: Path
) -> None:
    start(tmp_path, *opened)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hyp.yaml", "opt.yaml"]
    hyp, used = (yaml.safe_load((tmp_path / name).read_text()) for name in ("hyp.yaml", "opt.yaml"))
    assert (used["imgsz"], used["save_dir"], used["seed"]) == (64, str(tmp_path), 7)
    assert all(used[name] == hyp[name] for name in FROM_HYP)


def test_figures_of_an_earlier_run_in_the_folder_do_not_stay(
    opened: tuple[argparse.Namespace, Parts], tmp_path: Path
) -> None:
    (tmp_path / "weights").mkdir()
    for name in (*OF_A_RUN, "weights/epoch0.pt", "notes.txt"):
        (tmp_path / name).write_text("of an earlier run")
    start(tmp_path, *opened)
    assert {"metrics.json", "weights/last.pt", "weights/last_previous.pt"} <= {*OF_A_RUN}
    assert not [name for name in OF_A_RUN if (tmp_path / name).exists()]
    assert (tmp_path / "weights" / "epoch0.pt").is_file() and (tmp_path / "notes.txt").is_file()


def test_faults_in_the_data_are_listed_a_line_each(
    opened: tuple[argparse.Namespace, Parts], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, parts = opened
    problems = [Problem(Path("a.txt"), 1, "odd", "left out"), Problem(Path("b.txt"), 2, "odd", "left out")]
    monkeypatch.setattr(Parts, "problems", property(lambda _: problems))
    start(tmp_path, options, parts)
    assert (tmp_path / "data_problems.txt").read_text() == "".join(f"{problem}\n" for problem in problems)


def test_pictures_of_the_data_are_drawn_unless_forbidden(
    opened: tuple[argparse.Namespace, Parts], tmp_path: Path
) -> None:
    options, parts = opened
    start(tmp_path, argparse.Namespace(**{**vars(options), "noplots": False}), parts)
    pictures = {path.name for path in tmp_path.glob("*.jpg")}
    assert pictures == {"labels.jpg", "train_batch0.jpg", "train_batch1.jpg", "train_batch2.jpg"}
