"""A checkpoint on a split: the figures of val.py, and which datasets and thresholds are taken."""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import train
import val
from tests.exported import saved
from tests.scripts import phantom_yaml, tiny_cfg
from utils import checkpoint
from utils.checkpoint import Checkpoint
from utils.devices import select_compute
from utils.flags import from_keywords
from utils.log import InputError
from utils.parts import PERMUTED
from utils.validation import check_leakage, checked_dataset, open_split, thresholds, trained_on, validate


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small data and a tiny network, trained for an epoch."""
    folder = tmp_path_factory.mktemp("validation")
    phantom_yaml(folder, patients=14, frames=2)
    train.run(data=str(folder / "small.yaml"), cfg=str(tiny_cfg(folder)), imgsz=64, batch_size=8, epochs=1,
              project=str(folder / "runs"), name="exp", noplots=True, bootstrap=0, workers=0, threads=1)  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def found(place: Path) -> Checkpoint:
    return checkpoint.read(place / "runs" / "exp" / "weights" / "last.pt")


def options(place: Path, data: str = "small.yaml", **changes: Any) -> Namespace:
    settings = {"weights": "", "data": str(place / data), "workers": 0, "bootstrap": 0, **changes}
    return from_keywords(val.FLAGS, settings)


def variant(place: Path, name: str, old: str, new: str) -> str:
    """The dataset's yaml with something else in it."""
    text = (place / "small.yaml").read_text()
    assert old in text
    (place / name).write_text(text.replace(old, new))
    return name


@pytest.mark.parametrize("split", ["val", "test"])
def test_the_figures_are_those_of_val_py(place: Path, found: Checkpoint, split: str) -> None:
    asked = options(place)
    config = checked_dataset(asked, found)
    own = validate(found, config, split, 64, select_compute("cpu", None), asked, draws=20)
    content = val.run(weights=str(found.path), data=str(place / "small.yaml"), task=split, workers=0, bootstrap=20,
                      project=str(place / "val"))  # fmt: skip
    one, other = (json.dumps({**figures, "speed_ms": 0}, sort_keys=True) for figures in (own.content, content))
    assert one == other  # as text, where an undefined figure equals itself
    assert own.content["settings"]["split"] == split and own.warnings == [] and len(own.dataset) == 12
    assert own.assessment.intervals.unit == "patients" and own.assessment.intervals.units == 2


def test_a_window_is_the_trainings_unless_asked_for_and_needs_clips(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = checkpoint.read(saved("joint"))
    asked, compute = options(place), select_compute("cpu", None)
    trained = replace(found, hyp=replace(found.hyp, clip_window=2))
    config = checked_dataset(asked, found)

    def figures(of: Checkpoint, window: int | None = None) -> tuple[int, Any]:
        content = validate(of, config, "val", 64, compute, asked, 0, clip_window=window).content
        return content["settings"]["clip_window"], content["view"]["log_loss"]

    plain, averaged = figures(found), figures(trained)
    assert (plain[0], averaged[0]) == (0, 2) and plain[1] != averaged[1]
    assert figures(found, 2) == averaged and figures(trained, 0) == plain
    unnamed = variant(place, "unnamed.yaml", "group:", "# group:")
    config = checked_dataset(options(place, unnamed), found)
    assert figures(found, 2)[1] == pytest.approx(plain[1])
    assert "unnamed.yaml: clip_window: names no clip or group" in caplog.text


def test_a_size_is_rounded_to_whole_strides_and_draws_are_as_many_as_asked_for(place: Path, found: Checkpoint) -> None:
    asked = options(place)
    own = validate(found, checked_dataset(asked, found), "val", 70, select_compute("cpu", None), asked, draws=0)
    assert own.content["settings"]["imgsz"] == 96 and not own.assessment.intervals.values
    with pytest.raises(InputError, match="--bootstrap: expected at least 0"):
        validate(found, own.dataset.config, "val", 64, select_compute("cpu", None), options(place, bootstrap=-1), 0)


def test_a_temperature_that_was_not_fitted_is_one_line(place: Path, found: Checkpoint) -> None:
    point = {**found.content["operating"], "temperature": None}
    unfitted = replace(found, content={**found.content, "operating": point})
    asked = options(place, calibrate=True)
    with pytest.raises(InputError, match="--calibrate: expected a temperature fitted on validation, got none"):
        validate(unfitted, checked_dataset(asked, found), "val", 64, select_compute("cpu", None), asked, draws=0)


def test_other_classes_or_views_are_refused_and_other_names_of_them_only_told(
    place: Path, found: Checkpoint, caplog: pytest.LogCaptureFixture
) -> None:
    fewer = options(place, variant(place, "fewer.yaml", "[AR, MR, PR, TR]", "[AR, MR]"))
    with pytest.raises(InputError, match=r"fewer\.yaml: names: expected \['AR', 'MR', 'PR', 'TR'\], as .* has, got"):
        checked_dataset(fewer, found)
    more = options(place, variant(place, "more.yaml", "[PLAX, PSAX, A4C]", "[PLAX, PSAX, A4C, A5C]"))
    with pytest.raises(InputError, match=r"more\.yaml: view_names: expected \['PLAX', 'PSAX', 'A4C'\]"):
        checked_dataset(more, found)
    assert caplog.messages == []
    checked_dataset(options(place, variant(place, "named.yaml", "[AR, MR, PR, TR]", "[a, m, p, t]")), found)
    assert len(caplog.messages) == 1 and "names are ['a', 'm', 'p', 't'], the checkpoint's" in caplog.messages[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_size": 0}, "--batch-size: expected at least 1"),
        ({"max_det": 0}, "--max-det: expected at least 1"),
        ({"conf_thres": 1.5}, "--conf-thres: expected 0 to 1"),
        ({"iou_thres": -0.1}, "--iou-thres: expected 0 to 1"),
    ],
)
def test_thresholds_outside_their_range_are_one_line(place: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        thresholds(options(place, **changes))


def test_thresholds_are_the_options(place: Path) -> None:
    limits = thresholds(options(place, conf_thres=0.1, iou_thres=0.5, max_det=7, single_cls=True))
    assert (limits.conf, limits.iou, limits.max_det) == (0.1, 0.5, 7) and limits.single_class


def test_a_split_is_compared_with_what_the_network_has_seen(place: Path, found: Checkpoint) -> None:
    asked = options(place)
    config = checked_dataset(asked, found)
    leakage, warnings = check_leakage(found, open_split(found, config, "val", 64, 32, asked), asked)
    assert leakage is not None and leakage["shared_patients"] == 0 and warnings == []
    seen = open_split(found, config, "train", 64, 32, asked)
    leakage, warnings = check_leakage(found, seen, asked)
    assert leakage is not None and leakage["shared_patients"] == 10 and warnings
    with pytest.raises(InputError, match="--strict-groups"):
        check_leakage(found, seen, options(place, strict_groups=True))


def test_a_checkpoint_that_does_not_say_what_it_has_seen_is_warned_of(place: Path, found: Checkpoint) -> None:
    asked = options(place)
    silent = replace(found, content={key: v for key, v in found.content.items() if key != "trained_on"})
    dataset = open_split(found, checked_dataset(asked, found), "val", 64, 32, asked)
    told, from_disk = trained_on(found, dataset, asked), trained_on(silent, dataset, asked)
    assert told[1] == [] and told[0] is not None and from_disk[0] is not None
    assert len(from_disk[1]) == 1 and "compared with this dataset's train part" in from_disk[1][0]


def test_a_control_on_shuffled_labels_says_so(place: Path, found: Checkpoint) -> None:
    asked = options(place)
    dataset = open_split(found, checked_dataset(asked, found), "val", 64, 32, asked)
    control = replace(found, content={**found.content, "permuted_labels": 1})
    assert check_leakage(control, dataset, asked)[1] == [PERMUTED]
