"""Columns of an evaluation: from the evaluator, through a file, and pooled."""

from __future__ import annotations

import zipfile
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.yolo import Network
from tests.simulated import outcomes
from utils.dataset import EchoDataset, build_loader
from utils.devices import select_compute
from utils.evaluation import Evaluation, Thresholds, evaluate, inference_copy
from utils.log import InputError
from utils.metrics import detection_figures
from utils.outcomes import MOST_UNPACKED, Outcomes, load, outcomes_of, pooled, save
from utils.view_metrics import view_figures

VIEWS = ("PLAX", "PSAX", "A4C")


@pytest.fixture
def evaluation(joint: Network, dataset: EchoDataset) -> Evaluation:
    compute = select_compute("cpu", False)
    return evaluate(inference_copy(joint, compute), build_loader(dataset, 4, 0), 4, 3, compute, Thresholds(conf=0.0))


def same(first: Outcomes, second: Outcomes) -> bool:
    return all(np.array_equal(getattr(first, f.name), getattr(second, f.name)) for f in fields(Outcomes))


def test_columns_give_the_figures_of_the_evaluation(evaluation: Evaluation, dataset: EchoDataset) -> None:
    got = outcomes_of(evaluation, dataset, VIEWS)
    own = detection_figures(got.correct, got.confidence, got.predicted, got.labelled)
    assert own.confidence == evaluation.detection.confidence == got.operating[0]
    np.testing.assert_array_equal(own.ap, evaluation.detection.ap)
    assert evaluation.view is not None
    views = view_figures(got.views.argmax(1), got.true_views, 3)
    assert views.confusion.tolist() == evaluation.view.confusion.tolist()
    assert len(got) == len(dataset) and got.files[0] == f"images/train/{dataset.files[0].name}"
    assert got.patients == tuple(dataset.groups or ()) and got.clips is not None
    assert all(clip.startswith(owner) for clip, owner in zip(got.clips, got.patients, strict=True))
    of_frame = evaluation.predictions[2].boxes
    assert got.confidence[got.frame == 2].tolist() == of_frame[:, 4].tolist()
    assert got.labelled[got.label_frame == 2].tolist() == dataset.labels[2].boxes[:, 0].tolist()


def test_a_detector_alone_has_no_views_in_its_columns(evaluation: Evaluation, dataset: EchoDataset) -> None:
    frames = [replace(found, view=None) for found in evaluation.predictions]
    got = outcomes_of(replace(evaluation, view=None, predictions=frames), dataset, VIEWS)
    assert got.view_names == () and got.views.shape == (len(dataset), 0)
    # views that were predicted stay, though no frame of the split carries one: folds are pooled with them
    assert outcomes_of(replace(evaluation, view=None), dataset, VIEWS).view_names == VIEWS


@pytest.mark.parametrize("whole", [outcomes(), replace(outcomes(views=False), patients=None, clips=None)])
def test_a_file_gives_the_columns_back(whole: Outcomes, tmp_path: Path) -> None:
    save(tmp_path / "outcomes.npz", whole)
    assert same(load(tmp_path / "outcomes.npz"), whole)
    assert [path.name for path in tmp_path.iterdir()] == ["outcomes.npz"]


@pytest.mark.parametrize("content", [b"", b"text", None], ids=["empty", "text", "cut off"])
def test_a_file_of_something_else_is_one_line(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "outcomes.npz"
    save(path, outcomes())
    path.write_bytes(path.read_bytes()[:-200] if content is None else content)
    with pytest.raises(InputError, match=r"outcomes\.npz: expected the outcomes"):
        load(path)
    np.savez(path, names=np.array(["AR"]))
    with pytest.raises(InputError, match=r"outcomes\.npz: expected the outcomes"):
        load(path)
    with pytest.raises(InputError, match="no such file"):
        load(tmp_path / "absent.npz")


def test_pooled_parts_keep_what_belongs_to_each_frame() -> None:
    first, second = outcomes(0, patients=2), outcomes(1, patients=3, operating=0.25)
    whole = pooled([first, second])
    assert len(whole) == len(first) + len(second)
    rows = whole.frame >= len(first)
    np.testing.assert_array_equal(whole.frame[rows] - len(first), second.frame)
    np.testing.assert_array_equal(whole.confidence[rows], second.confidence)
    np.testing.assert_array_equal(whole.labelled[whole.label_frame >= len(first)], second.labelled)
    assert whole.operating.tolist() == [0.5] * len(first) + [0.25] * len(second)
    assert whole.counts.tolist() == [*first.counts, *second.counts]
    assert same(pooled([first]), first)


def test_parts_of_other_classes_do_not_pool_and_unnamed_patients_stay_unnamed() -> None:
    first = outcomes(0)
    with pytest.raises(InputError, match="same classes"):
        pooled([first, replace(first, names=("A", "B", "C", "D"))])
    assert pooled([first, replace(first, patients=None)]).patients is None


@pytest.mark.parametrize(
    ("name", "column", "words"),
    [
        ("confidence", np.array([{"a": 1}], object), "kind"),
        ("confidence", np.zeros(3), "shape"),
        ("confidence", np.full(576, np.nan), "confidence: expected 0 to 1"),
        ("predicted", np.full(576, 4), "predicted: expected 0 to 3"),
        ("frame", np.full(576, 48), "frame: expected 0 to 47"),
        ("true_views", np.full(48, 3), "true_views: expected -1 to 2"),
        ("patients", np.array(["a"]), "patients: expected 48"),
        ("names", np.array(["\x1b[2J"] * 4), "control characters"),
        ("files", np.zeros(48), "kind"),
    ],
)
def test_columns_that_do_not_go_together_are_one_line(tmp_path: Path, name: str, column: Any, words: str) -> None:
    whole = outcomes()
    columns = {f.name: np.array(getattr(whole, f.name)) for f in fields(Outcomes)}
    np.savez(tmp_path / "outcomes.npz", allow_pickle=True, **{**columns, name: column})
    with pytest.raises(InputError, match=rf"outcomes\.npz: expected the outcomes.*{words}"):
        load(tmp_path / "outcomes.npz")


def test_what_claims_more_than_a_file_can_hold_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "outcomes.npz"
    np.savez_compressed(path, confidence=np.zeros(20_000_000))
    with pytest.raises(InputError, match="claim 160,000"):
        load(path)


def test_a_large_evaluation_is_well_within_the_bounds(tmp_path: Path) -> None:
    whole = outcomes(patients=40, frames=50, detections=100)
    save(tmp_path / "outcomes.npz", whole)
    with zipfile.ZipFile(tmp_path / "outcomes.npz") as archive:
        claimed = sum(entry.file_size for entry in archive.infolist())
    assert claimed < MOST_UNPACKED / 5 * (tmp_path / "outcomes.npz").stat().st_size
    assert same(load(tmp_path / "outcomes.npz"), whole)
