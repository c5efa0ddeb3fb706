"""Both parts of a dataset: opened as asked, compared, refused before training; see test_train_parts.py, too."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

import train
from tests.phantoms import make_dataset, settle, write_frame, write_yaml
from utils import dataset, frames, leakage
from utils.checkpoint import Checkpoint
from utils.config import ROOT, Hyperparameters, load_hyperparameters
from utils.flags import from_keywords
from utils.log import InputError
from utils.parts import PERMUTED, Parts, checked_dataset, open_parts
from utils.sampling import class_weights


@pytest.fixture
def rules() -> Hyperparameters:
    return load_hyperparameters(ROOT / "hyp" / "joint_training_rules.yaml")


def opened(data: Path, hyp: Hyperparameters, **keywords: object) -> Parts:
    options = from_keywords(train.FLAGS, {"data": str(data), "imgsz": 60, "batch_size": 2, **keywords})
    return open_parts(checked_dataset(options, hyp), options, hyp, 32)


def test_sizes_become_whole_strides_and_warnings_name_what_is_shared(tmp_path: Path, rules: Hyperparameters) -> None:
    parts = opened(make_dataset(tmp_path), rules)
    assert parts.image_size == parts.train.size == parts.val.size == 64
    assert parts.leakage.shared_patients == 0 and parts.leakage.near_identical_frames > 0
    assert len(parts.warnings) == 1 and "nearly identical" in parts.warnings[0]
    assert len(parts.trained_on.hashes) == len(parts.train)


def test_shuffled_labels_are_those_of_both_parts_and_are_told(tmp_path: Path, rules: Hyperparameters) -> None:
    own, shuffled = (opened(make_dataset(tmp_path), rules, permute_labels=permute) for permute in (False, True))
    assert shuffled.warnings == (*own.warnings, PERMUTED)
    for before, after in ((own.train, shuffled.train), (own.val, shuffled.val)):
        assert before.files == after.files and before.views().tolist() != after.views().tolist()


def test_names_in_which_no_patient_is_found_are_told(
    tmp_path: Path, rules: Hyperparameters, caplog: pytest.LogCaptureFixture
) -> None:
    make_dataset(tmp_path)
    write_frame(tmp_path, "train/unknown7.png", (48, 64), view=0)
    opened(write_yaml(tmp_path), rules)
    assert "finds no patient in 1 file names, such as unknown7.png" in caplog.text


@pytest.mark.parametrize("flag", ["rect", "image_weights"])
def test_frames_are_drawn_in_one_way_only(tmp_path: Path, rules: Hyperparameters, flag: str) -> None:
    drawn = replace(rules, sampling="clips")
    with pytest.raises(InputError, match=rf"--{flag.replace('_', '-')} and sampling: clips .*: expected one of them"):
        opened(make_dataset(tmp_path), drawn, **{flag: True})
    assert opened(make_dataset(tmp_path), drawn).frame_weights is not None


def test_classes_that_are_rare_are_drawn_more_from_the_first_epoch_on(tmp_path: Path, rules: Hyperparameters) -> None:
    drawn, alike = (opened(make_dataset(tmp_path), rules, image_weights=asked) for asked in (True, False))
    assert alike.frame_weights is None and drawn.frame_weights is not None
    assert np.array_equal(drawn.frame_weights, class_weights(drawn.train, np.zeros(len(drawn.train.names))))


def test_a_start_that_does_not_say_what_it_saw_is_told_also_of_what_follows_it(
    tmp_path: Path, rules: Hyperparameters
) -> None:
    def follows(content: dict[str, object]) -> Parts:
        options = from_keywords(train.FLAGS, {"data": str(data), "imgsz": 64, "batch_size": 2})
        start = Checkpoint(Path("fork.pt"), content, (), (), 64, False, rules)
        return open_parts(checked_dataset(options, rules), options, rules, 32, [start])

    data = make_dataset(tmp_path)
    parts = follows({})
    words = "fork.pt, from which the training starts, does not say what it was trained on"
    assert parts.untold == ("fork.pt",) and parts.warnings[0] == words
    again = follows({"trained_on": parts.trained_on.content(), "untold": list(parts.untold)})
    assert again.untold == ("fork.pt",) and again.warnings[0] == words


def test_a_part_in_which_no_view_is_known_is_refused(tmp_path: Path, rules: Hyperparameters) -> None:
    write_frame(tmp_path, "train/p01-1.png", (48, 64), [(0, 1, 1, 20, 20)])
    data = write_yaml(tmp_path, val="images/train")
    with pytest.raises(InputError, match=r"data\.yaml: train: no label file has a view row"):
        opened(data, rules)
    with pytest.raises(InputError, match=r"data\.yaml: no view_names"):
        opened(write_yaml(tmp_path, view_names=None), rules)


def test_a_part_without_any_label_is_refused_or_warned_of_and_where_they_were_looked_for_is_said(
    tmp_path: Path, rules: Hyperparameters, caplog: pytest.LogCaptureFixture
) -> None:
    data = make_dataset(tmp_path)
    for label in (tmp_path / "labels" / "val").glob("*.txt"):
        label.unlink()
    opened(data, rules)
    assert re.search(r"data\.yaml: val: expected labelled boxes, got none in 4 frames; .*labels/val/p04", caplog.text)
    for label in (tmp_path / "labels" / "train").glob("*.txt"):
        label.unlink()
    boxes_alone = load_hyperparameters(ROOT / "hyp" / "detection_only.yaml")
    with pytest.raises(InputError, match=r"data\.yaml: train: expected labelled boxes, .*labels/train/p01"):
        opened(data, boxes_alone)


def test_a_wrong_number_of_view_weights_names_the_hyp_file(tmp_path: Path, rules: Hyperparameters) -> None:
    words = r"joint_training_rules\.yaml: view_class_weights: expected 3 numbers, one a view, got 2"
    with pytest.raises(InputError, match=words):
        opened(make_dataset(tmp_path), replace(rules, view_class_weights=(1.0, 2.0)))


@pytest.mark.parametrize("keywords", [{"bootstrap": -1}, {"epochs": 0}, {"rect": True, "image_weights": True}])
def test_options_out_of_range_are_one_line(tmp_path: Path, rules: Hyperparameters, keywords: dict[str, object]) -> None:
    with pytest.raises(InputError, match=f"--{next(iter(keywords))}".replace("_", ".")):
        opened(make_dataset(tmp_path), rules, **keywords)


# --- what opening costs, by counting: seconds would tell more of the machine ------------------------------------------


class Work:
    """Counts of the costly steps of an opening, and of all calls of Python functions in this thread."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.counts: Counter[str] = Counter()
        for module, name in ((frames, "read_image"), (dataset, "read_label"), (leakage, "hash_frame")):
            monkeypatch.setattr(module, name, self._counting(name, getattr(module, name)))
        monkeypatch.setattr(Path, "stat", self._counting("stat", Path.stat))

    def _counting(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **keywords: Any) -> Any:
            self.counts[name] += 1
            return function(*arguments, **keywords)

        return counted

    def of(self, data: Path, hyp: Hyperparameters, mode: str) -> Counter[str]:
        """Open both parts, and count."""
        self.counts = Counter()

        def profile(frame: FrameType, event: str, argument: Any) -> None:
            if event == "call":
                self.counts["calls"] += 1

        sys.setprofile(profile)
        try:
            opened(data, hyp, cache=mode)
        finally:
            sys.setprofile(None)
        return self.counts


@pytest.mark.parametrize("mode", frames.CACHE_MODES)
def test_work_a_frame_does_not_grow_with_the_frames_and_is_not_done_twice(
    tmp_path: Path, rules: Hyperparameters, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setattr(frames, "CACHE_FOLDER", tmp_path / "cache")
    work, val, first, second = Work(monkeypatch), 4, {}, {}
    for count in (20, 100, 180, 260):  # the first takes what a process does once
        data = make_dataset(tmp_path / str(count), train=count, val=val)
        settle(data.parent)
        first[count], second[count] = (work.of(data, rules, mode) for _ in range(2))
        both = count + val
        assert first[count]["read_label"] == first[count]["hash_frame"] == both
        assert first[count]["read_image"] == (2 * both if mode == "none" else both)
        assert second[count]["read_label"] == second[count]["hash_frame"] == 0
        assert second[count]["read_image"] == (both if mode == "ram" else 0)
    for counts in (first, second):
        for name in ("calls", "stat"):
            earlier, later = (counts[b][name] - counts[a][name] for a, b in ((100, 180), (180, 260)))
            assert later <= 1.1 * earlier, name  # 80 frames more cost the same, however many there are
