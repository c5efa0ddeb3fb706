"""train.py's flags, in one process: each changes what it names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import train
import val
from utils.checkpoint import read
from utils.config import ROOT
from utils.log import InputError
from utils.loggers import read_results
from utils.metrics import DetectionFigures
from utils.predict import load
from utils.preprocess import Preprocessor


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


def test_the_best_checkpoint_is_of_the_best_epoch(place: Path) -> None:
    folder = fit(place, "best", epochs=3)
    rows = read_results(folder / "results.csv")
    fitness = [0.1 * row["metrics/mAP_0.5"] + 0.9 * row["metrics/mAP_0.5:0.95"] for row in rows]
    assert read(folder / "weights" / "best.pt").content["epoch"] == max(range(3), key=lambda i: (fitness[i], i))
