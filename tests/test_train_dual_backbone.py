"""train_dual_backbone.py: two trainings that know nothing of each other, one run, one checkpoint of both."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor

import detect
import train
import train_dual_backbone
import val
from tests.dual_runs import content, equal, figures, fit, joint, keywords, parallel, place, same_part, tiny, turns
from tests.test_dual import memory
from train_dual_backbone import FLAGS, PARTS, open_task, prepared
from utils import splits
from utils.building import build_network
from utils.checkpoint import Checkpoint, read, save
from utils.evaluation import Evaluation
from utils.flags import from_keywords, parse
from utils.interrupt import Interrupts
from utils.log import InputError
from utils.loggers import read_results
from utils.plan import Plan


def options_of(**changes: Any) -> argparse.Namespace:
    return from_keywords(FLAGS, keywords(**changes))


def alone(name: str, folder: Path, **changes: Any) -> Path:
    """Train one part with no other one anywhere; returns the folder that it would lie in."""
    setting = prepared(options_of(**changes), None)
    folder.mkdir()
    task = open_task(setting, name, folder / name, Interrupts())
    with task.stream:
        task.training.begin()
    while not task.training.done:
        task.step()
    task.training.finish()
    return folder


# What they share: nothing.


def test_the_two_have_no_parameter_buffer_or_running_mean_in_common() -> None:
    setting = prepared(options_of(), None)
    (place() / "storage").mkdir()
    tasks = {name: open_task(setting, name, place() / "storage" / name, Interrupts()) for name in PARTS}
    learners = {name: task.training._learner for name, task in tasks.items()}
    seen: set[int] = set()
    for name in PARTS:
        for network in (learners[name].network, learners[name].running_mean.network):
            own = memory(network)
            assert own and not own & seen
            seen |= own
        stepped = {p.data_ptr() for group in learners[name].optimizer.param_groups for p in group["params"]}
        assert stepped == {p.data_ptr() for p in setting.networks[name].parameters()}
    detector, classifier = learners["detector"], learners["classifier"]
    assert isinstance(detector.optimizer, torch.optim.SGD) and isinstance(classifier.optimizer, torch.optim.AdamW)
    assert (detector.schedule.lr0, classifier.schedule.lr0) == (setting.hyp.lr0, setting.hyp.classifier_lr0)
    assert detector.criterion.view is None and classifier.criterion.detection is None


@pytest.mark.parametrize("part", PARTS)
def test_a_part_ends_bit_for_bit_as_if_the_other_were_not_there(tmp_path: Path, part: str) -> None:
    assert same_part(turns(), alone(part, tmp_path / "alone"), part)


def test_a_resnet_ends_bit_for_bit_as_if_the_detector_were_not_there(tmp_path: Path) -> None:
    one: dict[str, Any] = {"classifier": "resnet18", "epochs": 1}
    folder = fit("resnet", **one)
    assert read(folder / "weights" / "best.pt").content["description"]["classifier"]["dropout"] == 0.3
    assert same_part(folder, alone("classifier", tmp_path / "alone", **one), "classifier")


@pytest.mark.parametrize("part", PARTS)
def test_in_two_processes_a_part_ends_bit_for_bit_as_in_turns(part: str) -> None:
    assert same_part(turns(), parallel(), part)
    assert figures(turns()) == figures(parallel())
    first, second = (json.loads((run / "metrics.json").read_text()) for run in (turns(), parallel()))
    for found in (first, second):
        for key in ("settings", "speed_ms"):  # of paths and clocks
            found.pop(key)
    assert first == second
    assert "epoch 2/2" in (parallel() / part / "log.txt").read_text()


def test_dropout_does_draw_random_numbers(tmp_path: Path) -> None:
    quick: dict[str, Any] = {"classifier": tiny(), "epochs": 1}
    first = alone("classifier", tmp_path / "first", **quick)
    other = alone("classifier", tmp_path / "other", **quick, hyp="joint_training_rules.yaml")  # 0.1, not 0.3
    assert not equal(content(first, "classifier")["network"], content(other, "classifier")["network"])


# One run of both.


def test_one_log_has_the_figures_of_both() -> None:
    rows = figures(turns())
    assert [row["epoch"] for row in rows] == [0, 1]
    for place_of, part in (("train/box_loss", "detector"), ("train/view_loss", "classifier")):
        history = json.loads((turns() / part / "training_history.json").read_text())
        assert [row[place_of] for row in rows] == pytest.approx([row[place_of] for row in history])
        assert all(row[place_of] > 0 for row in rows)
    spent = [json.loads((turns() / part / "training_history.json").read_text())[-1]["seconds"] for part in PARTS]
    assert read_results(turns() / "results.csv")[-1]["seconds"] == pytest.approx(sum(spent))


def test_one_best_checkpoint_holds_both_each_of_its_own_best_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    def fitness(plan: Plan, evaluation: Evaluation) -> float:
        given = seen.setdefault(bool(plan.names), [2.0, 1.0] if plan.names else [1.0, 2.0])
        return given.pop(0)

    seen: dict[bool, list[float]] = {}
    monkeypatch.setattr(Plan, "fitness", fitness)
    folder = fit("best", classifier=tiny())
    best, last = (read(folder / "weights" / f"{name}.pt") for name in ("best", "last"))
    assert best.content["epochs"] == {"detector": 1, "classifier": 2}
    assert last.content["epochs"] == {"detector": 2, "classifier": 2}
    for found, epochs in ((best, {"detector": 0, "classifier": 1}), (last, {"detector": 1, "classifier": 1})):
        for part in PARTS:
            assert equal(found.part(part), content(folder, part, f"epoch{epochs[part]}")["ema"])
    settings = json.loads((folder / "metrics.json").read_text())["settings"]
    assert settings["best_epoch"] == {"detector": 1, "classifier": 2}


def test_val_of_the_last_checkpoint_gives_the_last_row_of_the_log_and_the_runs_figures() -> None:
    found = val.run(
        weights=str(turns() / "weights" / "last.pt"), data=str(place() / "small.yaml"), project=str(place() / "val"),
        bootstrap=0,
    )  # fmt: skip
    row, own = read_results(turns() / "results.csv")[-1], json.loads((turns() / "metrics.json").read_text())
    of_view = {"metrics/view_accuracy": "accuracy", "metrics/view_macro_f1": "macro_f1"}
    for column, key in {"metrics/mAP_0.5": "map50", "metrics/mAP_0.5:0.95": "map", "metrics/F1": "f1"}.items():
        assert found[key] == pytest.approx(row[column], abs=1e-6) and found[key] == pytest.approx(own[key], abs=1e-6)
    for column, key in of_view.items():
        assert found["view"][key] == pytest.approx(row[column], abs=1e-6)
        assert found["view"][key] == pytest.approx(own["view"][key], abs=1e-6)
    losses = [row[f"val/{name}_loss"] for name in ("box", "obj", "cls", "view")]
    assert all(math.isfinite(loss) for loss in losses)
    assert [own["loss"][name] for name in ("box", "obj", "cls", "view")] == pytest.approx(losses, rel=1e-5)


def test_val_and_detect_take_the_best_checkpoint_as_a_joint_ones() -> None:
    best = str(turns() / "weights" / "best.pt")
    found = val.run(weights=best, data=str(place() / "small.yaml"), project=str(place() / "val"), bootstrap=0)
    assert found["labels"] > 0 and found["view"]["accuracy"] >= 0
    frame = min((place() / "phantom" / "images" / "val").iterdir())
    detect.run(
        weights=best, source=str(frame), project=str(place() / "detect"), name="one", save_csv=True, nosave=True,
        conf_thres=0.001, exist_ok=True,
    )  # fmt: skip
    assert (place() / "detect" / "one" / "predictions.csv").read_text().count("\n") >= 2


# What they start from.


def counted(log: str, path: Path) -> list[int]:
    """Of the line that says how much of a file fitted: matched, and of how many."""
    (line,) = [line for line in log.splitlines() if str(path) in line and "tensors matched" in line]
    return [int(word) for word in line.split(f"{path}: ")[1].split() if word.isdigit()]


def test_the_detector_starts_from_any_checkpoint_with_boxes(caplog: pytest.LogCaptureFixture) -> None:
    best = turns() / "weights" / "best.pt"
    for path in (joint(), best):
        with caplog.at_level("INFO", logger="echo"):
            detector = prepared(options_of(weights=str(path), noautoanchor=True), None).networks
        state, start = detector["detector"].state_dict(), read(path).part("detector")
        assert all(torch.equal(state[name], start[name]) for name in state if not name.endswith(".anchors"))
        # anchors are not loaded where --cfg is typed, as in YOLOv5
        assert counted(caplog.text, path) == [len(state) - 1, len(state)]


def classifier_file(folder: Path, kind: str) -> tuple[Path, str, dict[str, Tensor]]:
    """A file to start a classifier from, the classifier, and the tensors that it must then have."""
    if kind == "torchvision":
        state = dict(torchvision.models.resnet18().state_dict())
        torch.save(state, folder / "resnet18.pth")
        expected = {f"backbone.{name}": tensor for name, tensor in state.items() if not name.startswith("fc.")}
        return folder / "resnet18.pth", "resnet18", expected
    pair = turns() / "weights" / "best.pt"
    path = pair if kind == "pair" else turns() / "classifier" / "weights" / "best.pt"
    return path, "yolov5n", read(pair).part("classifier")


@pytest.mark.parametrize("kind", ["pair", "part", "torchvision"])
def test_the_classifier_starts_from_checkpoints_and_torchvisions_files(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    path, name, expected = classifier_file(tmp_path, kind)
    options = options_of(classifier=name, classifier_weights=str(path))
    with caplog.at_level("INFO", logger="echo"):
        state = prepared(options, None).networks["classifier"].state_dict()
    assert len(expected) > 100 and all(torch.equal(state[key], tensor) for key, tensor in expected.items())
    assert counted(caplog.text, path) == [len(expected), len(state)]


def test_imagenets_weights_are_not_fetched_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.delattr(torch.hub, "download_url_to_file")
    options = options_of(classifier="resnet18", classifier_weights="imagenet")
    with pytest.raises(InputError, match=r"resnet18-f37072fd\.pth: no such file; --download fetches it"):
        prepared(options, None)


def test_train_starts_from_the_detector_of_a_pair() -> None:
    options = from_keywords(train.FLAGS, {"cfg": str(place() / "tiny-yolov5n.yaml")})
    start = read(turns() / "weights" / "best.pt")
    setting = prepared(options_of(noautoanchor=True), None)
    state = build_network(setting.config, options, setting.hyp, start).state_dict()
    own = {name: tensor for name, tensor in start.part("detector").items() if not name.endswith(".anchors")}
    assert len(own) > 100 and all(torch.equal(state[name], tensor) for name, tensor in own.items())


def seen_by(**changes: Any) -> dict[str, Any]:
    """What checkpoints will say that both were trained on."""
    found = prepared(options_of(**changes), None).parts.trained_on.content()
    return {key: value.tolist() if isinstance(value, Tensor) else value for key, value in found.items()}


def test_both_know_whom_the_classifiers_first_weights_have_seen() -> None:
    swapped = (place() / "small.yaml").read_text().replace("train: images/train", "train: images/test")
    (place() / "swapped.yaml").write_text(swapped)
    seen = prepared(options_of(data=str(place() / "swapped.yaml")), None).parts.trained_on
    start = read(turns() / "classifier" / "weights" / "best.pt")
    save(place() / "seen.pt", {**start.content, "trained_on": seen.content()})
    both = seen_by(classifier_weights=str(place() / "seen.pt"))
    assert both != seen_by()


def test_every_fold_trains_both() -> None:
    splits.run(data=str(place() / "small.yaml"), folds=2, out=str(place() / "folds"))
    given = keywords(name="folds", folds=str(place() / "folds"), classifier=tiny(), epochs=1, bootstrap=20)
    given.pop("data")
    folder = train_dual_backbone.run(**given)
    found = json.loads((folder / "metrics.json").read_text())
    assert found["frames"] == 54 and set(found["folds"]) == {"fold1", "fold2"} and "view" in found
    for number in (1, 2):
        whole: Checkpoint = read(folder / f"fold{number}" / "weights" / "best.pt")
        assert whole.is_pair and whole.content["epochs"] == {"detector": 1, "classifier": 1}


# What is refused.


def test_its_flags_are_trains_and_balancing_is_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert {flag.name for flag in train.FLAGS} <= {flag.name for flag in FLAGS}
    assert parse(FLAGS, "", ["--pa", "3"]).patience == 3 and parse(FLAGS, "", ["--parallel"]).parallel
    for flag in ("--balance=gradnorm", "--balance-from=exp", "--interference-every=5"):
        with pytest.raises(SystemExit) as caught:
            parse(FLAGS, "", [flag])
        told = capsys.readouterr().err
        assert caught.value.code == 2 and told.count("\n") == 1
        assert flag.split("=")[0] in told and "share nothing" in told


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"classifier": "resnet101"}, r"--classifier.*resnet101"),
        ({"hyp": "detection_only.yaml"}, r"detection_only\.yaml: classification_enabled: expected true"),
        ({"classifier_weights": "absent.pth"}, r"absent\.pth: no such file"),
        ({"classifier_weights": "garbage"}, r"garbage\.pth: expected weights"),
        ({"classifier_weights": "foreign"}, r"foreign\.pth: none of its 2 tensors fits"),
        ({"classifier_weights": "imagenet", "download": True}, "expected a ResNet classifier, got yolov5n"),
        ({"weights": "absent.pt"}, r"absent\.pt: no such checkpoint"),
        ({"threads": -1}, "--threads: expected at least 0"),
    ],
    ids=str,
)
def test_faulty_input_is_one_line_before_there_is_a_folder(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    (tmp_path / "garbage.pth").write_bytes(b"garbage" * 100)
    torch.save({"a": torch.zeros(1), "b": torch.zeros(1)}, tmp_path / "foreign.pth")
    given = {**changes}
    if given.get("classifier_weights") in ("garbage", "foreign"):
        given["classifier_weights"] = str(tmp_path / f"{given['classifier_weights']}.pth")
    with pytest.raises(InputError, match=words) as caught:
        fit("faulty", **given)
    assert "\n" not in str(caught.value) and not (place() / "runs" / "faulty").exists()
