"""train.py's flags, in one process: each changes what it names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import train
import val
from tests.scripts import phantom_yaml, tiny_cfg
from utils.checkpoint import read, save
from utils.config import ROOT
from utils.log import InputError
from utils.loggers import read_results
from utils.metrics import DetectionFigures
from utils.predict import load
from utils.preprocess import Preprocessor
from utils.view_metrics import tempered


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train")
    phantom_yaml(folder)
    tiny_cfg(folder)
    return folder


def fit(place: Path, name: str, **keywords: Any) -> Path:
    """A one-epoch run of the tiny network, with what ``keywords`` say instead."""
    defaults = {
        "data": str(place / "small.yaml"), "cfg": str(place / "tiny-yolov5n.yaml"), "imgsz": 64, "batch_size": 8,
        "epochs": 1, "project": str(place / "runs"), "name": name, "noplots": True, "bootstrap": 0,
    }  # fmt: skip
    return train.run(**{**defaults, **keywords})


def weights(folder: Path) -> dict[str, torch.Tensor]:
    content: dict[str, torch.Tensor] = torch.load(folder / "weights" / "last.pt", weights_only=True)["network"]
    return content


def figures(run: Path) -> list[dict[str, float]]:
    """The rows of its results.csv, but for the time it took."""
    rows = read_results(run / "results.csv")
    return [{name: cell for name, cell in row.items() if name != "seconds"} for row in rows]


def same(first: Path, second: Path) -> bool:
    a, b = weights(first), weights(second)
    return all(torch.equal(tensor, b[name]) for name, tensor in a.items())


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(place: Path) -> None:
    first, second = fit(place, "seed"), fit(place, "seed")
    assert same(first, second)
    assert figures(first) == figures(second)
    assert not same(first, fit(place, "seed", seed=1))


def test_a_typed_flag_beats_the_hyp_file_which_beats_the_default(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = fit(place, "typed", label_smoothing=0.2, seed=7)
    hyp = yaml.safe_load((folder / "hyp.yaml").read_text())
    assert (hyp["label_smoothing"], hyp["seed"], hyp["patience"]) == (0.2, 7, 0)
    assert read(folder / "weights" / "best.pt").hyp.seed == 7


@pytest.mark.parametrize(
    ("resumed_after", "keywords"),
    [(1, {}), (2, {"multi_scale": True}), (1, {"image_weights": True, "hyp": "echo_safe_augment.yaml"})],
    ids=str,
)
def test_a_resumed_run_ends_as_an_uninterrupted_one(place: Path, resumed_after: int, keywords: dict[str, Any]) -> None:
    whole = fit(place, "whole", epochs=3, save_period=1, **keywords)
    cut = fit(place, "cut", epochs=3, save_period=1, **keywords)
    last = cut / "weights" / "last.pt"
    last.write_bytes((cut / "weights" / f"epoch{resumed_after - 1}.pt").read_bytes())
    assert train.run(resume=str(last)) == cut
    assert same(whole, cut)
    assert figures(cut) == figures(whole)


@pytest.mark.parametrize(
    "keywords",
    [
        {"seed": 2**32},
        {"label_smoothing": 1.5},
        {"patience": -1},
        {"rect": True, "image_weights": True},
        {"workers": -1},
    ],
    ids=str,
)
def test_flags_out_of_range_are_refused_before_there_is_a_folder(place: Path, keywords: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(keywords)).replace("_", ".")):
        fit(place, "range", **keywords)
    assert not (place / "runs" / "range").exists()


def test_all_boxes_count_as_one_class_in_training_and_validation(place: Path) -> None:
    folder = fit(place, "single", single_cls=True)
    counted = json.loads((folder / "metrics.json").read_text())["labels"]
    assert counted == json.loads((fit(place, "single") / "metrics.json").read_text())["labels"] > 0
    joint = fit(place, "single")
    for weights in (folder, joint):
        content = val.run(
            weights=str(weights / "weights" / "best.pt"), data=str(place / "small.yaml"), single_cls=True,
            project=str(place / "val"),
        )  # fmt: skip
        assert (content["labels"], list(content["per_class"])) == (counted, ["object"])


def test_a_checkpoint_is_resumed_from_within_its_folder_by_a_bare_name(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fit(place, "bare", epochs=2, save_period=1)
    (folder / "weights" / "last.pt").write_bytes((folder / "weights" / "epoch0.pt").read_bytes())
    monkeypatch.chdir(folder / "weights")
    assert train.run(resume="last.pt") == folder
    assert len(read_results(folder / "results.csv")) == 2
    (place / "elsewhere.pt").write_bytes((folder / "weights" / "epoch0.pt").read_bytes())
    with pytest.raises(InputError, match="in its run's folder"):
        train.run(resume=str(place / "elsewhere.pt"))


def test_a_finished_run_cannot_be_resumed(place: Path) -> None:
    folder = fit(place, "finished")
    with pytest.raises(InputError, match="finished"):
        train.run(resume=str(folder / "weights" / "last.pt"))
    with pytest.raises(InputError, match="stripped"):
        train.run(resume=str(folder / "weights" / "best.pt"))


def test_a_run_cut_off_before_its_figures_were_written_gets_them(place: Path) -> None:
    folder = fit(place, "figures", epochs=2)
    before = json.loads((folder / "metrics.json").read_text())
    trained = weights(folder)
    (folder / "metrics.json").unlink()
    (folder / "outcomes.npz").unlink()
    assert train.run(resume=str(folder / "weights" / "last.pt")) == folder
    after = json.loads((folder / "metrics.json").read_text())
    assert {key: after[key] for key in ("map50", "f1", "view", "loss")} == {
        key: before[key] for key in ("map50", "f1", "view", "loss")
    }
    assert (after["settings"]["epoch"], after["settings"]["best_epoch"]) == (2, before["settings"]["best_epoch"])
    assert len(read_results(folder / "results.csv")) == 2 and (folder / "outcomes.npz").exists()
    now = weights(folder)
    assert all(torch.equal(tensor, now[name]) for name, tensor in trained.items())


def test_weights_that_have_seen_the_validation_patients_are_told(place: Path) -> None:
    swapped = place / "swapped.yaml"
    text = (place / "small.yaml").read_text()
    swapped.write_text(
        text.replace("train: images/train", "train: images/val").replace("\nval: images/val", "\nval: images/test")
    )
    start = fit(place, "seen", data=str(swapped)) / "weights" / "best.pt"
    folder = fit(place, "seen", weights=str(start))
    content = json.loads((folder / "metrics.json").read_text())
    assert content["leakage"]["shared_patient_share"] == 1 and "1 of 1 patients of val" in content["warnings"][0]
    again = val.run(
        weights=str(folder / "weights" / "best.pt"), data=str(place / "small.yaml"), project=str(place / "val"),
        bootstrap=0,
    )  # fmt: skip
    assert again["warnings"] == content["warnings"]
    silent = {key: value for key, value in read(start).content.items() if key != "trained_on"}
    save(place / "silent.pt", silent)
    with pytest.raises(InputError, match=r"--strict-groups: silent\.pt, from which the training starts"):
        fit(place, "silent", weights=str(place / "silent.pt"), strict_groups=True)
    told = json.loads((fit(place, "silent", weights=str(place / "silent.pt")) / "metrics.json").read_text())
    assert "silent.pt, from which the training starts, does not say" in told["warnings"][0]


def test_frozen_layers_keep_their_weights(place: Path) -> None:
    start = fit(place, "frozen")
    after = fit(place, "frozen", weights=str(start / "weights" / "best.pt"), freeze=[3])
    before = torch.load(start / "weights" / "best.pt", weights_only=True)["ema"]
    for name, tensor in weights(after).items():
        if name.endswith(("weight", "bias")) and int(name.split(".")[1]) < 3:
            assert torch.equal(tensor, before[name]), name
        elif name.endswith("conv.weight"):
            assert not torch.equal(tensor, before[name]), name


@pytest.mark.parametrize(
    "keywords",
    [
        {"rect": True}, {"multi_scale": True}, {"image_weights": True, "epochs": 2}, {"optimizer": "AdamW"},
        {"cache": "none"}, {"cache": "disk"}, {"cos_lr": True}, {"amp": False}, {"noval": True, "epochs": 2},
        {"hyp": "echo_safe_augment.yaml", "workers": 2}, {"single_cls": True}, {"hyp": "detection_only.yaml"},
    ],
    ids=str,
)  # fmt: skip
def test_each_flag_trains(place: Path, keywords: dict[str, Any]) -> None:
    folder = fit(place, "flags", **keywords)
    rows = read_results(folder / "results.csv")
    assert len(rows) == keywords.get("epochs", 1)
    assert not (folder / "data_problems.txt").exists()
    assert rows[-1]["train/box_loss"] > 0
    if "noval" in keywords:
        assert rows[0]["metrics/mAP_0.5"] != rows[0]["metrics/mAP_0.5"]  # NaN: not validated
    found = read(folder / "weights" / "best.pt")
    assert found.rect == keywords.get("rect", False)
    assert found.names == (("object",) if "single_cls" in keywords else ("AR", "MR", "PR", "TR"))


def test_nosave_keeps_the_last_epoch_only(place: Path) -> None:
    folder = fit(place, "nosave", epochs=2, nosave=True, save_period=1)
    assert sorted(path.name for path in (folder / "weights").iterdir()) == [
        "best.pt", "epoch1.pt", "last.pt", "last_previous.pt",  # of before the first epoch
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("fitness", "epochs", "best"), [([0, 0, 0, 0], 4, 3), ([0, 2, 1, 1], 4, 1), ([3, 2, 1, 1], 3, 0)]
)
def test_patience_counts_epochs_worse_than_the_best(
    place: Path, monkeypatch: pytest.MonkeyPatch, fitness: list[float], epochs: int, best: int
) -> None:
    values = iter(fitness)
    monkeypatch.setattr(DetectionFigures, "fitness", property(lambda _: next(values)))
    folder = fit(place, "patience", epochs=4, patience=2)
    assert len(read_results(folder / "results.csv")) == epochs
    assert read(folder / "weights" / "best.pt").content["epoch"] == best


def test_patience_does_not_count_epochs_that_are_not_validated(place: Path) -> None:
    folder = fit(place, "unseen", epochs=4, patience=1, noval=True)
    assert len(read_results(folder / "results.csv")) == 4


def test_anchors_that_fit_badly_are_replaced_unless_forbidden(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    description = yaml.safe_load((place / "tiny-yolov5n.yaml").read_text())
    (place / "huge.yaml").write_text(yaml.safe_dump({**description, "anchors": [[400, 300] * 3] * 3}))
    kept = weights(fit(place, "anchors", cfg=str(place / "huge.yaml"), noautoanchor=True))
    found = weights(fit(place, "anchors", cfg=str(place / "huge.yaml")))
    assert kept["model.24.anchors"].max() == 50
    assert found["model.24.anchors"][2].max() < 5


def test_a_hyp_file_may_ask_for_a_number_of_anchors(place: Path) -> None:
    hyp = yaml.safe_load((ROOT / "hyp" / "detection_only.yaml").read_text())
    (place / "anchors.yaml").write_text(yaml.safe_dump({**hyp, "anchors": 4.4}))
    found = weights(fit(place, "anchors", hyp=str(place / "anchors.yaml")))
    assert found["model.24.anchors"].shape == (3, 4, 2)


def test_filters_of_a_hyp_file_travel_in_the_checkpoint(place: Path) -> None:
    hyp = yaml.safe_load((ROOT / "hyp" / "joint_training_rules.yaml").read_text())
    (place / "filters.yaml").write_text(yaml.safe_dump({**hyp, "clahe": 2.0, "sector_mask": True}))
    folder = fit(place, "filters", hyp=str(place / "filters.yaml"))
    loaded = load(folder / "weights" / "best.pt")
    assert loaded.preprocessor == Preprocessor(sector_mask=True, clahe=2.0)
    assert not same(folder, fit(place, "filters"))


@pytest.fixture(scope="module")
def leaky(place: Path) -> Path:
    """A dataset that is validated on what it is trained on."""
    path = place / "leaky.yaml"
    path.write_text((place / "small.yaml").read_text().replace("val: images/val", "val: images/train"))
    return path


def test_patients_and_frames_in_both_parts_mark_every_table_and_json(
    place: Path, leaky: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = fit(place, "leaky", data=str(leaky))
    patients = "7 of 7 patients of val are in the training part, too (100% of its frames): its figures flatter"
    frames = "42 of 42 frames of val (100%) look nearly identical to training frames"
    content = json.loads((folder / "metrics.json").read_text())
    assert content["warnings"][0] == patients and content["warnings"][1].startswith(frames)
    assert content["leakage"]["shared_patients"] == 7 and content["leakage"]["near_identical_share"] == 1
    assert f"! {patients}\n! {frames}" in capsys.readouterr().out
    assert patients in caplog.text
    for rows in (read_results(folder / "results.csv"), json.loads((folder / "training_history.json").read_text())):
        assert (rows[0]["leakage/patients"], rows[0]["leakage/near_identical"]) == (1, 1)
    again = val.run(
        weights=str(folder / "weights" / "best.pt"), data=str(leaky), project=str(place / "val"), bootstrap=0
    )
    assert again["warnings"][0] == patients and again["leakage"] == content["leakage"]


def test_a_split_by_patient_is_not_marked(place: Path) -> None:
    folder = fit(place, "clean")
    content = json.loads((folder / "metrics.json").read_text())
    assert content["warnings"] == [] and content["leakage"]["shared_patients"] == 0
    rows = read_results(folder / "results.csv")
    assert (rows[0]["leakage/patients"], rows[0]["leakage/near_identical"]) == (0, 0)


def test_without_named_patients_frames_are_compared_and_the_rest_is_told(place: Path, leaky: Path) -> None:
    nameless = place / "nameless.yaml"
    nameless.write_text(leaky.read_text().replace("group:", "# group:"))
    content = json.loads((fit(place, "nameless", data=str(nameless), bootstrap=20) / "metrics.json").read_text())
    assert "could not be compared" in content["warnings"][0]
    assert "look nearly identical" in content["warnings"][1]
    assert content["interval"]["unit"] == "frames" and "patients" not in content


def test_strict_groups_makes_shared_patients_an_error(place: Path, leaky: Path) -> None:
    with pytest.raises(InputError, match=r"leaky\.yaml: --strict-groups: 7 of 7 patients of val"):
        fit(place, "strict", data=str(leaky), strict_groups=True)
    assert not (place / "runs" / "strict").exists()
    nameless = place / "nameless.yaml"
    nameless.write_text((place / "small.yaml").read_text().replace("group:", "# group:"))
    with pytest.raises(InputError, match=r"nameless\.yaml: --strict-groups: patients of val could not be compared"):
        fit(place, "strict", data=str(nameless), strict_groups=True)
    folder = fit(place, "strict", strict_groups=True)
    with pytest.raises(InputError, match=r"small\.yaml: --strict-groups: 7 of 7 patients of train"):
        val.run(weights=str(folder / "weights" / "best.pt"), data=str(place / "small.yaml"), task="train",
                project=str(place / "val"), strict_groups=True)  # fmt: skip


def test_a_checkpoint_that_does_not_say_whom_it_has_seen_is_compared_with_train(place: Path) -> None:
    found = dict(read(fit(place, "forgetful") / "weights" / "best.pt").content)
    del found["trained_on"]
    save(place / "forgetful.pt", found)

    def warned(data: str) -> tuple[list[str], Any]:
        content = val.run(
            weights=str(place / "forgetful.pt"), data=str(place / data), project=str(place / "val"), bootstrap=0
        )
        return content["warnings"], content["leakage"]

    warnings, leakage = warned("small.yaml")
    assert len(warnings) == 1 and "compared with this dataset's train part" in warnings[0]
    assert leakage["shared_patients"] == 0 and leakage["patients"] == 1
    text = (place / "small.yaml").read_text()
    (place / "trainless.yaml").write_text(text.replace("train: images/train", "train: images/absent"))
    with pytest.raises(InputError, match="--strict-groups: the checkpoint does not say"):
        val.run(weights=str(place / "forgetful.pt"), data=str(place / "trainless.yaml"), strict_groups=True)
    warnings, leakage = warned("trainless.yaml")
    assert len(warnings) == 1 and "train cannot be read" in warnings[0] and not leakage


def test_a_checkpoint_of_shuffled_labels_is_validated_on_shuffled_labels_and_says_so(place: Path) -> None:
    folder = fit(place, "permuted", permute_labels=True)
    trained = json.loads((folder / "metrics.json").read_text())
    content = val.run(
        weights=str(folder / "weights" / "last.pt"), data=str(place / "small.yaml"), batch_size=16,
        project=str(place / "val"), bootstrap=0,
    )  # fmt: skip
    assert any("shuffled between patients" in warning for warning in content["warnings"])
    assert content["view"]["confusion"] == trained["view"]["confusion"]
    assert content["loss"] == pytest.approx(trained["loss"], abs=1e-6)
    assert read(folder / "weights" / "best.pt").content["permuted_labels"] == 42


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


def test_the_best_checkpoint_is_of_the_best_epoch(place: Path) -> None:
    folder = fit(place, "best", epochs=3)
    rows = read_results(folder / "results.csv")
    fitness = [0.1 * row["metrics/mAP_0.5"] + 0.9 * row["metrics/mAP_0.5:0.95"] for row in rows]
    assert read(folder / "weights" / "best.pt").content["epoch"] == max(range(3), key=lambda i: (fitness[i], i))
