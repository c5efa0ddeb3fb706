"""Cross-validation: pooled and per-fold figures, the confidence of the other folds, a run that is cut and goes on."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import train
from tests.scripts import phantom_yaml, tiny_cfg
from tests.simulated import outcomes
from utils import crossval, splits
from utils.checkpoint import read
from utils.crossval import check_folds, summarise, with_confidence_of_the_others
from utils.files import write_json
from utils.log import InputError
from utils.metrics import detection_figures
from utils.outcomes import Outcomes, load, pooled, save


def three() -> list[Outcomes]:
    """Outcomes of three folds, of other patients each."""
    parts = []
    for number in range(3):
        part = outcomes(number, patients=5)
        named = {
            column: tuple(f"fold{number}-{name}" for name in getattr(part, column) or ())
            for column in ("files", "patients", "clips")
        }
        parts.append(replace(part, **named))  # type: ignore[arg-type]
    return parts


def write_parts(folder: Path, parts: list[Outcomes], warnings: list[str] | None = None) -> list[str]:
    names = [f"fold{number}" for number in range(1, len(parts) + 1)]
    for name, part in zip(names, parts, strict=True):
        (folder / name).mkdir()
        save(folder / name / "outcomes.npz", part)
        write_json(folder / name / "metrics.json", {"warnings": warnings or []})
    return names


def test_a_folds_confidence_is_the_best_of_the_other_folds() -> None:
    parts = three()
    chosen = with_confidence_of_the_others(parts)
    for number, part in enumerate(chosen):
        others = pooled([other for place, other in enumerate(parts) if place != number])
        best = detection_figures(others.correct, others.confidence, others.predicted, others.labelled)
        assert set(part.operating) == {best.confidence}
    # a fold's own outcomes have no say: were they all wrong, its confidence would be the same
    spoilt = [replace(parts[0], correct=np.zeros_like(parts[0].correct)), *parts[1:]]
    assert with_confidence_of_the_others(spoilt)[0].operating[0] == chosen[0].operating[0]
    with pytest.raises(InputError, match="2 or more folds"):
        with_confidence_of_the_others(parts[:1])


def test_the_summary_has_each_fold_their_mean_and_all_frames_pooled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = three()
    content = summarise(tmp_path, write_parts(tmp_path, parts), draws=100)
    assert (content["frames"], content["patients"]["count"]) == (90, 15)
    all_frames = pooled(parts)
    whole = detection_figures(all_frames.correct, all_frames.confidence, all_frames.predicted, all_frames.labelled)
    assert content["map50"] == pytest.approx(whole.map50)
    assert content["interval"]["units"] == 15 and content["interval"]["map50"][0] < content["map50"]
    assert json.loads((tmp_path / "metrics.json").read_text())["folds"].keys() == {"fold1", "fold2", "fold3"}
    with (tmp_path / "folds.csv").open(newline="") as file:
        rows = {row["fold"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["fold1", "fold2", "fold3", "mean", "sd", "pooled", "pooled low", "pooled high"]
    own = [detection_figures(p.correct, p.confidence, p.predicted, p.labelled).map50 for p in parts]
    assert [float(rows[name]["mAP_0.5"]) for name in ("fold1", "fold2", "fold3")] == pytest.approx(own, rel=1e-4)
    assert float(rows["mean"]["mAP_0.5"]) == pytest.approx(np.mean(own), rel=1e-4)
    assert float(rows["sd"]["mAP_0.5"]) == pytest.approx(np.std(own, ddof=1), rel=1e-4)
    assert rows["pooled"]["patients"] == "15" and rows["fold1"]["patients"] == "5"
    assert (tmp_path / "folds.png").is_file() and (tmp_path / "FROC_curve.png").is_file()
    shown = capsys.readouterr().out
    assert "pooled low" in shown and "bootstrap over 15 patients" in shown


def test_folds_whose_pictures_are_not_all_drawn_do_not_count_as_pooled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(crossval, "_plot", cut)
    with pytest.raises(KeyboardInterrupt):
        summarise(tmp_path, write_parts(tmp_path, three()), draws=0)
    assert (tmp_path / "folds.csv").is_file() and not (tmp_path / "metrics.json").exists()


def test_folds_without_views_or_patients_have_no_columns_of_them(tmp_path: Path) -> None:
    parts = [replace(outcomes(seed, views=False), patients=None, clips=None) for seed in range(2)]
    summarise(tmp_path, write_parts(tmp_path, parts), draws=0, plots=False)
    assert not list(tmp_path.glob("*.png"))
    header = (tmp_path / "folds.csv").read_text().splitlines()[0]
    assert "view" not in header and "patients" not in header


def test_a_fold_without_boxes_or_views_is_left_out_of_the_mean(tmp_path: Path) -> None:
    boxless = replace(three()[0], label_frame=np.zeros(0, int), labelled=np.zeros(0, int))
    viewless = replace(three()[1], true_views=np.full(30, -1))
    content = summarise(tmp_path, write_parts(tmp_path, [boxless, viewless, three()[2]]), draws=0, plots=False)
    folds = content["folds"]
    assert np.isnan(folds["fold1"]["mAP_0.5"]) and "view_accuracy" not in folds["fold2"]
    with (tmp_path / "folds.csv").open(newline="") as file:
        rows = {row["fold"]: row for row in csv.DictReader(file)}
    assert rows["fold1"]["mAP_0.5"] == "" and rows["fold2"]["view_accuracy"] == ""
    expected = (folds["fold2"]["mAP_0.5"] + folds["fold3"]["mAP_0.5"]) / 2
    assert float(rows["mean"]["mAP_0.5"]) == pytest.approx(expected, rel=1e-4)
    assert json.loads((tmp_path / "metrics.json").read_text())["folds"]["fold1"]["mAP_0.5"] is None


def test_warnings_of_folds_and_frames_in_two_folds_mark_the_summary(tmp_path: Path) -> None:
    twice = [outcomes(0), outcomes(1)]  # the same file names
    content = summarise(tmp_path, write_parts(tmp_path, twice, ["patients are shared"]), draws=0, plots=False)
    assert content["warnings"] == [
        "fold1: patients are shared", "fold2: patients are shared",
        "48 frames are in the validation part of more than one fold",
    ]  # fmt: skip
    rows = (tmp_path / "folds.csv").read_text().splitlines()
    assert "fold1: patients are shared" in rows[1] and "fold2" not in rows[1].split(",", 1)[1]


def test_folds_of_other_classes_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    one, other = phantom_yaml(tmp_path), tmp_path / "other.yaml"
    other.write_text(one.read_text().replace("[AR, MR, PR, TR]", "[AR, MR]"))
    check_folds([one, one])
    with pytest.raises(InputError, match=r"other\.yaml: names: expected that of"):
        check_folds([one, other])
    listless = tmp_path / "listless.yaml"
    listless.write_text("train: absent.txt\nval: absent.txt\nnames: [AR]\n")
    with pytest.raises(InputError, match=r"listless\.yaml: train: expected a folder or a \.txt list"):
        check_folds([listless, listless])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three folds of small phantom data and a tiny network."""
    folder = tmp_path_factory.mktemp("folds")
    splits.run(data=str(phantom_yaml(folder)), folds=3, out=str(folder / "folds"))
    tiny_cfg(folder)
    return folder


def cross_validate(place: Path, name: str, **keywords: Any) -> Path:
    defaults: dict[str, Any] = {
        "folds": str(place / "folds"), "cfg": str(place / "tiny-yolov5n.yaml"), "imgsz": 64, "batch_size": 8,
        "epochs": 2, "project": str(place / "runs"), "name": name, "noplots": True, "bootstrap": 20,
    }  # fmt: skip
    return train.run(**(defaults | keywords))


def test_train_goes_through_every_fold_and_pools_them(place: Path) -> None:
    folder = cross_validate(place, "all")
    content = json.loads((folder / "metrics.json").read_text())
    assert content["frames"] == 54 and content["patients"]["count"] == 9 and content["warnings"] == []
    parts = [load(folder / f"fold{number}" / "outcomes.npz") for number in (1, 2, 3)]
    assert sorted(file for part in parts for file in part.files) == sorted(
        path.relative_to(place / "phantom").as_posix() for path in (place / "phantom" / "images").rglob("*.*")
    )
    for number in (1, 2, 3):
        assert (folder / f"fold{number}" / "weights" / "best.pt").is_file()
        assert read(folder / f"fold{number}" / "weights" / "last.pt").content["options"]["name"] == f"fold{number}"


def test_a_run_that_is_cut_goes_on_with_the_fold_it_was_cut_in(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = cross_validate(place, "whole", save_period=1, seed=7)  # a flag that beats the hyp file, here, too
    original, calls = train.train, []

    def cut(options: Any, *rest: Any) -> Path:
        calls.append(options.name)
        if options.name == "fold3":
            raise KeyboardInterrupt
        return original(options, *rest)

    monkeypatch.setattr(train, "train", cut)
    with pytest.raises(KeyboardInterrupt):
        cross_validate(place, "cut", save_period=1, seed=7)
    monkeypatch.setattr(train, "train", original)
    folder = place / "runs" / "cut"
    assert calls == ["fold1", "fold2", "fold3"] and not (folder / "metrics.json").exists()
    weights = folder / "fold2" / "weights"
    (weights / "last.pt").write_bytes((weights / "epoch0.pt").read_bytes())  # as if it had been cut in fold 2
    first = (folder / "fold1" / "weights" / "last.pt").stat().st_mtime_ns
    assert train.run(resume=str(weights / "last.pt")) == folder
    assert (folder / "fold1" / "weights" / "last.pt").stat().st_mtime_ns == first
    expected, got = (json.loads((run / "metrics.json").read_text()) for run in (whole, folder))
    assert {**got, "folds": got["folds"]} == expected
    with pytest.raises(InputError, match="finished"):
        train.run(resume=str(weights / "last.pt"))


def test_faulty_options_leave_no_folder_and_an_old_one_is_not_mixed_in(place: Path) -> None:
    with pytest.raises(InputError, match="--batch-size"):
        cross_validate(place, "faulty", batch_size=0)
    with pytest.raises(InputError, match="--cfg"):
        cross_validate(place, "faulty", cfg="nothing.yaml")
    assert not (place / "runs" / "faulty").exists()
    old = place / "runs" / "old"
    (old / "fold3" / "weights").mkdir(parents=True)
    with pytest.raises(InputError, match="old: expected no fold3 in it"):
        cross_validate(place, "old", exist_ok=True)


def test_folds_and_data_exclude_each_other_and_no_folds_are_one_line(place: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--folds --data: expected one of them"):
        cross_validate(place, "both", data=str(place / "small.yaml"))
    with pytest.raises(InputError, match=str(tmp_path)):
        cross_validate(place, "none", folds=str(tmp_path))
    assert not (place / "runs" / "none").exists() and not (place / "runs" / "both").exists()


def test_figures_known_to_the_table_are_those_of_the_columns() -> None:
    assert set(crossval.SHOWN) <= set(crossval.FIGURES)
