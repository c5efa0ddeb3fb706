"""Runs that exist on one split: which go together, the figures of each, and what is said of all of them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import val
from models.yolo import parameter_count
from tests.exported import saved
from tests.simulated import outcomes
from tests.tiny import hyperparameters
from utils import checkpoint, revalidation
from utils.comparison import OF_BOTH, OF_BOXES, OF_VIEWS, Run
from utils.devices import select_compute
from utils.ensembles import together
from utils.flags import from_keywords
from utils.log import InputError
from utils.outcomes import Outcomes
from utils.revalidation import (
    Evaluator,
    Validated,
    comparable,
    compared,
    dataset_of,
    doubts,
    frames_of,
    losses,
    opened,
    revalidated,
    said,
    spent,
    warnings_of,
)

SPENT = {"settings": {"training_seconds": 90, "peak_memory_bytes": 2_000_000_000}}


def run_of(folder: Path, of: str = "joint", /, **changes: Any) -> Path:
    """A run's folder without its training; ``changes`` are of the checkpoint's content."""
    (folder / "weights").mkdir(parents=True)
    content = torch.load(saved(of), weights_only=True)
    checkpoint.save(folder / "weights" / "last.pt", {**content, **changes})
    (folder / "metrics.json").write_text(json.dumps(SPENT))
    return folder


def hyp_of(of: str = "joint", **changes: Any) -> dict[str, Any]:
    """A checkpoint's hyperparameters, some of them others."""
    return {**torch.load(saved(of), weights_only=True)["hyp"], **changes}


def evaluator_on(place: Path, **changes: Any) -> Evaluator:
    settings = {"data": str(place / "small.yaml"), "bootstrap": 0, "workers": 0}
    settings |= {key: changes.pop(key) for key in ("imgsz", "data") if key in changes}
    evaluator = Evaluator(
        from_keywords(val.FLAGS, settings), split="val", which="last", compute=select_compute("cpu", None, 1),
        draws=20, loss_hyp=comparable(hyperparameters()), gains="rules.yaml",
    )  # fmt: skip
    return replace(evaluator, **changes)


def opened_as(*folders: Path) -> list[revalidation.Opened]:
    """Runs under the names of their folders."""
    return opened(folders, [(folder.name, 0) for folder in folders], "last")


def validated(name: str, warnings: Sequence[str] = (), views: bool = True, **settings: Any) -> Validated:
    """A run that was validated on simulated frames, in ``runs/name``."""
    known = {"data": "/data/small.yaml", "imgsz": 64, "clip_window": 0, "confidence_from": "validation in training"}
    return Validated(Run(name, 0, f"runs/{name}", {}), outcomes(views=views), {**known, **settings}, warnings)


# --- which runs go together ------------------------------------------------------------------------------------------


def test_runs_are_opened_with_their_labels(tmp_path: Path) -> None:
    folders = [run_of(tmp_path / "a"), run_of(tmp_path / "b", "detector")]  # a detector has no views that could differ
    found = opened(folders, [("static", 3), ("plain", 0)], "last")
    assert [(one.folder, one.method, one.seed) for one in found] == [
        (folders[0], "static", 3),
        (folders[1], "plain", 0),
    ]
    assert [(one.folder, one.found.path) for one in found] == [(f, f / "weights" / "last.pt") for f in folders]
    with pytest.raises(InputError, match=r"a: expected a run with weights/best\.pt, got none; train\.py leaves one"):
        opened(folders, [("static", 3), ("plain", 0)], "best")


@pytest.mark.parametrize(("kind", "names"), [("names", ["A", "B", "C", "D"]), ("view_names", ["X", "Y", "Z"])])
def test_runs_that_learn_other_classes_or_views_are_refused(tmp_path: Path, kind: str, names: list[str]) -> None:
    folders = [run_of(tmp_path / "a"), run_of(tmp_path / "b", **{kind: names})]
    with pytest.raises(InputError, match=rf"b/weights/last\.pt: {kind}: expected \[.*a/weights/last\.pt has, got \["):
        opened_as(*folders)


def test_the_dataset_is_the_one_that_all_were_trained_with(place: Path, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "abc"]
    for folder, data in zip(folders, ("small.yaml", "small.yaml", "else.yaml"), strict=True):
        folder.mkdir()
        (folder / "opt.yaml").write_text(yaml.safe_dump({"data": str(place / data)}))
    assert dataset_of(folders[:2]) == place / "small.yaml"
    with pytest.raises(InputError, match=r"--data: expected one dataset .* trained with .*small\.yaml, .*else\.yaml"):
        dataset_of(folders)
    with pytest.raises(InputError, match=r"--data '.*else\.yaml': no such file"):
        dataset_of(folders[2:])
    (folders[1] / "opt.yaml").unlink()
    with pytest.raises(InputError, match=r"b: expected opt\.yaml, which names its dataset, got none; --data names one"):
        dataset_of(folders)


def test_frames_must_agree_in_their_order_only_where_they_are_drawn_themselves() -> None:
    result = outcomes(patients=2)
    turned = replace(result, files=result.files[::-1])
    assert frames_of(result) == frames_of(turned)
    assert frames_of(replace(result, patients=None)) == frames_of(replace(turned, patients=None))
    alone, other = (replace(one, patients=None, clips=None) for one in (result, turned))
    assert frames_of(alone) == frames_of(other)[::-1] != frames_of(other)


def test_a_run_on_other_frames_than_the_first_is_refused(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, seen = revalidation.validate, []

    def other_frames(*arguments: Any, **keywords: Any) -> Any:
        found = original(*arguments, **keywords)
        seen.append(found)
        if len(seen) == 2:
            result: Outcomes = found.assessment.outcomes
            object.__setattr__(result, "files", tuple(f"x{name}" for name in result.files))
        return found

    monkeypatch.setattr(revalidation, "validate", other_frames)
    runs = opened_as(run_of(tmp_path / "a"), run_of(tmp_path / "b"), run_of(tmp_path / "c"))
    with pytest.raises(InputError, match=r"b/weights/last\.pt: expected the frames that .*a/weights/last\.pt was"):
        revalidated(runs, evaluator_on(place))
    assert len(seen) == 2  # those after it are not waited for


# --- the figures of a run --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("of", ["joint", "dual"])
def test_figures_are_those_of_val_on_the_same_checkpoint(place: Path, tmp_path: Path, of: str) -> None:
    # losses of all are taken without smoothing
    plain = run_of(tmp_path / "plain", of, hyp=hyp_of(of, label_smoothing=0.0, view_label_smoothing=0.0))
    run = run_of(tmp_path / of, of, hyp=hyp_of(of, label_smoothing=0.1, view_label_smoothing=0.2))
    content = val.run(weights=str(plain / "weights" / "last.pt"), data=str(place / "small.yaml"), bootstrap=0,
                      device="cpu", workers=0, project=str(tmp_path / "val"))  # fmt: skip
    (found,) = revalidated(opened_as(run), evaluator_on(place))
    figures = {key: figure.value for key, figure in found.run.figures.items()}
    loss, view = content["loss"], content["view"]
    detection = loss["box"] + loss["obj"] + loss["cls"]
    network = checkpoint.read(run / "weights" / "last.pt").build()
    assert figures.pop("ms_per_frame") > 0 and figures.pop("gflops") > 0
    assert figures == pytest.approx({
        "mAP_0.5": content["map50"], "mAP_0.5:0.95": content["map"], "precision": content["precision"],
        "recall": content["recall"], "F1": content["f1"], "view_accuracy": view["accuracy"],
        "view_macro_f1": view["macro_f1"], "detection_loss": detection, "view_loss": view["log_loss"],
        "total_loss": detection + view["log_loss"], "confidence": content["confidence"],
        "view_loss_to_chance": view["log_loss"] - math.log(3), "parameters": parameter_count(network),
        "minutes": 1.5, "peak_memory_gb": 2.0,
    }, rel=1e-6, abs=1e-9)  # fmt: skip
    assert (found.run.method, found.run.seed, found.run.folder, found.name) == (of, 0, str(run), of)


@pytest.mark.parametrize(("balance", "absent"), [("single_det", OF_VIEWS), ("single_view", OF_BOXES)])
def test_a_head_that_was_never_trained_has_no_figures(
    place: Path, tmp_path: Path, balance: str, absent: tuple[str, ...]
) -> None:
    runs = opened_as(run_of(tmp_path / "both"), run_of(tmp_path / "one", hyp=hyp_of(balance=balance)))
    both, one = (set(found.run.figures) for found in revalidated(runs, evaluator_on(place)))
    assert both - one == {*absent, *OF_BOTH} and one < both


def test_an_ensemble_has_no_losses_and_a_window_of_its_own_is_warned_of(place: Path, tmp_path: Path) -> None:
    single, pooled = run_of(tmp_path / "single"), run_of(tmp_path / "pooled")
    path = pooled / "weights" / "last.pt"
    read = checkpoint.read(path)
    first = replace(read, hyp=replace(read.hyp, clip_window=2), path=path.with_name("other.pt"))
    content = together([first, read]).content
    checkpoint.save(path, {**content, "hyp": {**content["hyp"], "clip_window": 2}})
    evaluator = evaluator_on(place)
    found = compared(revalidated(opened_as(single, pooled), evaluator), evaluator)
    assert ["detection_loss" in run.figures for run in found.runs] == [True, False]
    assert all("mAP_0.5" in run.figures for run in found.runs)
    assert any("clip windows differ, 0 (single), 2 (pooled)" in warning for warning in found.warnings)
    assert (found.unit, found.draws) == ("patients", 20)


def test_the_same_patients_are_drawn_for_all_runs(place: Path, tmp_path: Path) -> None:
    runs = opened_as(run_of(tmp_path / "a"), run_of(tmp_path / "b"))
    several = evaluator_on(place, split="train")  # validation has one patient, who cannot be drawn
    first, second = (found.run.figures["view_loss"].drawn for found in revalidated(runs, several))
    assert first is not None and second is not None and len(first) == 20
    assert (first == second).all() and len(set(first)) > 1
    (alone,) = revalidated(runs[:1], replace(several, draws=0))
    assert alone.run.figures["view_loss"].drawn is None


def test_each_has_the_size_of_its_training_unless_one_is_asked_for(place: Path, tmp_path: Path) -> None:
    runs = opened_as(run_of(tmp_path / "small"), run_of(tmp_path / "large", image_size=96))
    for asked, expected in ((None, [64, 96]), (128, [128, 128])):
        found = revalidated(runs, evaluator_on(place, imgsz=asked))
        assert [one.settings["imgsz"] for one in found] == expected


def test_losses_are_plain_ones_whatever_a_training_had() -> None:
    own = replace(hyperparameters(), label_smoothing=0.1, fl_gamma=1.5, view_label_smoothing=0.2, view_focal_gamma=2.0,
                  view_class_weights=(1.0, 2.0, 3.0))  # fmt: skip
    plain = comparable(own)
    assert (plain.label_smoothing, plain.fl_gamma, plain.view_label_smoothing, plain.view_focal_gamma) == (0, 0, 0, 0)
    assert plain.view_class_weights == () and (plain.box, plain.obj, plain.cls) == (own.box, own.obj, own.cls)


def test_the_loss_of_views_is_their_log_loss_and_what_is_absent_is_no_number() -> None:
    content = {"loss": {"box": 0.1, "obj": 0.2, "cls": 0.3, "view": 9.0}, "view": {"log_loss": 0.5}}
    assert losses(content, 4) == pytest.approx(
        {"detection_loss": 0.6, "total_loss": 1.1, "view_loss_to_chance": 0.5 - math.log(4)}
    )
    boxes_alone = losses({**content, "view": None}, 0)
    assert boxes_alone["detection_loss"] == pytest.approx(0.6)
    assert math.isnan(boxes_alone["total_loss"]) and math.isnan(boxes_alone["view_loss_to_chance"])
    for loss in ({}, {"loss": {"box": None, "obj": 0.2, "cls": 0.3}}):
        without = losses({"view": {"log_loss": 0.5}, **loss}, 4)
        assert math.isnan(without["detection_loss"]) and math.isnan(without["total_loss"])
        assert without["view_loss_to_chance"] == pytest.approx(0.5 - math.log(4))


def test_what_a_training_took_is_unknown_where_its_folder_does_not_say(tmp_path: Path) -> None:
    assert all(math.isnan(value) for value in spent(tmp_path).values())
    (tmp_path / "metrics.json").write_text(json.dumps(SPENT))
    assert spent(tmp_path) == {"minutes": 1.5, "peak_memory_gb": 2.0}
    (tmp_path / "metrics.json").write_text('{"settings": {"training_seconds": "long"}}')
    with pytest.raises(InputError, match=r"metrics\.json: settings\.training_seconds: expected a number"):
        spent(tmp_path)


# --- what is said of all ---------------------------------------------------------------------------------------------


def test_a_run_that_is_not_at_its_end_and_a_best_epoch_on_its_own_part_are_doubted(tmp_path: Path) -> None:
    whole = checkpoint.read(run_of(tmp_path / "whole") / "weights" / "last.pt")
    cut = checkpoint.read(run_of(tmp_path / "cut", epoch=6, finished=False) / "weights" / "last.pt")
    assert doubts(whole, "last", "val") == doubts(whole, "best", "test") == doubts(cut, "best", "test") == []
    assert doubts(cut, "last", "test") == ["not at its end: the checkpoint is of epoch 7"]
    assert doubts(whole, "best", "val") == ["best.pt was chosen on this part, which flatters"]
    (tmp_path / "whole" / "metrics.json").unlink()
    assert len(doubts(whole, "last", "val")) == 1


def test_doubts_stand_among_the_warnings_of_a_run(place: Path, tmp_path: Path) -> None:
    runs = opened_as(run_of(tmp_path / "whole"), run_of(tmp_path / "cut", finished=False))
    whole, cut = revalidated(runs, evaluator_on(place))
    assert list(cut.warnings) == [*whole.warnings, "not at its end: the checkpoint is of epoch 1"]


def test_a_warning_names_its_runs_unless_it_is_of_all() -> None:
    runs = [validated("a", ["of all", "of two"]), validated("b", ["of all"]), validated("c", ["of two", "of all"])]
    assert warnings_of(runs) == ["of all", "a, c: of two"]
    assert warnings_of(runs[:1]) == ["of all", "of two"] and warnings_of([validated("a"), validated("b")]) == []


def test_runs_that_differ_in_size_or_window_are_told_by_the_first_of_each() -> None:
    runs = [validated("a", ["own"]), validated("b", imgsz=96), validated("c", clip_window=2), validated("d", imgsz=96)]
    assert warnings_of(runs) == [
        "a: own",
        "image sizes differ, 64 (a), 96 (b): losses, GFLOPs and milliseconds do not compare; --img takes one",
        "clip windows differ, 0 (a), 2 (c): frames are averaged with their neighbours in some runs alone",
    ]


def test_what_was_compared_where_is_said(tmp_path: Path) -> None:
    evaluator = evaluator_on(tmp_path, split="test", which="best")
    runs = [validated("a"), validated("b", confidence_from="val of this dataset"), validated("c")]
    assert said(runs, evaluator) == [
        "small.yaml, test: 48 frames of 8 patients, 48 boxes; chance for 3 views is a loss of 1.0986",
        f"best.pt of each run, on {evaluator.compute}",
        "P, R and F1 at the confidence (conf) that is best on: validation in training, val of this dataset",
        "Losses of all with the gains of rules.yaml, without smoothing; the view's is its log loss",
    ]
    unnamed = replace(runs[0], outcomes=replace(runs[0].outcomes, patients=None))
    first, _, confidence, _ = said([unnamed], evaluator_on(tmp_path))
    assert first.startswith("small.yaml, val: 48 frames, 48 boxes")
    assert confidence.endswith("best on: validation in training, which is this part and flatters")


def test_nothing_is_said_of_chance_where_no_view_is_learned(place: Path, tmp_path: Path) -> None:
    runs = opened_as(run_of(tmp_path / "a", "detector"), run_of(tmp_path / "b", "detector"))
    evaluator = evaluator_on(place)
    found = compared(revalidated(runs, evaluator), evaluator)
    assert found.setting[0].endswith(" boxes") and not set(OF_VIEWS) & set(found.runs[0].figures)
    beside_one = said([validated("detector", views=False), validated("joint")], evaluator)
    assert beside_one[0].endswith("; chance for 3 views is a loss of 1.0986")
