"""The operating point of a run: found by train.py on its validation part, kept, and used by val.py and predictions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import val
from tests.test_train import fit
from utils.checkpoint import read, save
from utils.log import InputError
from utils.predict import load
from utils.view_metrics import tempered


def test_the_operating_point_is_found_on_val_and_used_on_test(place: Path) -> None:
    folder = fit(place, "operating", epochs=2)
    last = folder / "weights" / "last.pt"
    found = dict(read(last).content)
    trained = json.loads((folder / "metrics.json").read_text())
    assert found["operating"]["confidence"] == trained["confidence"]
    save(place / "other.pt", {**found, "operating": {"confidence": 0.37, "temperature": 1.7}})
    save(place / "bare.pt", {**found, "operating": None})

    def validated(weights: Path, task: str) -> dict[str, Any]:
        return val.run(
            weights=str(weights), data=str(place / "small.yaml"), task=task, batch_size=16, project=str(place / "val"),
            calibrate=True, bootstrap=0,
        )  # fmt: skip

    for task in ("val", "test"):
        content = validated(place / "other.pt", task)
        assert content["confidence"] == pytest.approx(0.37, abs=1e-3)
        assert content["settings"]["confidence_from"] == "validation in training"
        assert content["view"]["calibrated"]["temperature"] == 1.7
    # a checkpoint without an operating point gets it from val, never from test itself
    own, test = validated(place / "bare.pt", "val"), validated(place / "bare.pt", "test")
    assert own["settings"]["confidence_from"] == "this part, which flatters"
    assert test["settings"]["confidence_from"] == "val of this dataset"
    assert own["confidence"] == test["confidence"] == pytest.approx(found["operating"]["confidence"], abs=1e-9)
    temperature = pytest.approx(found["operating"]["temperature"], rel=1e-3)
    assert own["view"]["calibrated"]["temperature"] == test["view"]["calibrated"]["temperature"] == temperature


def test_a_calibrated_view_is_as_likely_and_less_sure_or_surer(place: Path) -> None:
    folder = fit(place, "calibrated", epochs=2)
    weights = folder / "weights" / "best.pt"
    temperature = read(weights).content["operating"]["temperature"]
    plain, calibrated = load(weights), load(weights, calibrate=True)
    assert (plain.temperature, calibrated.temperature) == (1.0, temperature)
    frame = np.random.default_rng(0).integers(0, 255, (96, 128, 3), np.uint8)
    before, after = plain(frame).view, calibrated(frame).view
    assert before is not None and after is not None
    np.testing.assert_allclose(after, tempered(before[None].astype(float), temperature)[0], rtol=1e-4)
    detector = fit(place, "detector", hyp="detection_only.yaml")
    with pytest.raises(InputError, match="--calibrate: expected a temperature"):
        load(detector / "weights" / "best.pt", calibrate=True)
    with pytest.raises(InputError, match="--calibrate: expected a temperature"):
        val.run(weights=str(detector / "weights" / "best.pt"), data=str(place / "small.yaml"), calibrate=True)
