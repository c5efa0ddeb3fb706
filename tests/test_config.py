"""utils/config.py and the files in hyp/ and data/: what loads, and the one line for what does not."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from utils.config import (
    ROOT,
    DatasetConfig,
    Hyperparameters,
    find_file,
    hyperparameters_from,
    load_dataset_config,
    load_hyperparameters,
    name_fault,
    shown,
)
from utils.log import LOGGER, InputError

STOCK: dict[str, Any] = json.loads((ROOT / "tests/golden/hyp_no_augmentation_values.json").read_text())
CHANGES_FRAMES = (
    "hsv_h", "hsv_s", "hsv_v", "degrees", "translate", "scale", "shear", "perspective", "flipud", "fliplr", "mosaic",
    "mixup",
)  # fmt: skip
AUGMENTATION = (*CHANGES_FRAMES, "copy_paste")  # the last has no effect here


def stock(**changes: Any) -> Hyperparameters:
    return hyperparameters_from(STOCK | changes, Path("hyp.yaml"))


def dataset(tmp_path: Path, **changes: Any) -> DatasetConfig:
    """A data set yaml with these keys; None leaves a key out."""
    content = {"train": "images/train", "val": "images/val", "names": ["a", "b"]} | changes
    path = tmp_path / "data.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
    return load_dataset_config(path)


def write(tmp_path: Path, content: dict[str, Any]) -> Path:
    path = tmp_path / "data.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


DATASET: dict[str, Any] = {"path": "data", "train": "images/train", "val": "images/val", "names": ["a", "b"]}


# --- hyperparameters -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted((ROOT / "hyp").iterdir()), ids=lambda path: path.name)
def test_every_file_in_hyp_loads_with_the_values_it_shows(path: Path) -> None:
    loaded = dataclasses.asdict(load_hyperparameters(path))
    content = yaml.safe_load(path.read_text())
    assert content == {key: loaded[key] for key in content}
    assert set(STOCK) <= set(content)  # the whole of a stock file is spelt out


def test_a_stock_file_loads_and_what_it_does_not_name_is_off(tmp_path: Path) -> None:
    path = tmp_path / "hyp.scratch.yaml"
    path.write_text("".join(f"{key}: {value}  # stock\n" for key, value in STOCK.items()) + "anchors: 3.412\n")
    hyp = load_hyperparameters(path)
    assert {key: getattr(hyp, key) for key in STOCK} == STOCK
    assert hyp.anchors == 3.412
    assert (hyp.cos_lr, hyp.classification_enabled, hyp.view_class_weights, hyp.balance) == (False, False, (), "static")
    assert (hyp.nominal_batch, hyp.clip_grad_norm, hyp.patience, hyp.seed) == (64, 10.0, 100, 0)
    assert all(type(getattr(hyp, key)) is float for key in STOCK)  # also where the file has a whole number


def test_an_unknown_key_names_the_nearest_known_one() -> None:
    with pytest.raises(InputError, match=r"hyp\.yaml: unknown key 'mossaic' \(nearest known key: 'mosaic'\)$"):
        stock(mossaic=1.0)
    with pytest.raises(InputError, match=r"unknown key 'zzzzzz'$"):
        stock(zzzzzz=1)


def test_all_faults_stand_in_one_error() -> None:
    values = {key: value for key, value in STOCK.items() if key not in ("lr0", "mixup")} | {"momentum": 2, "oops": 1}
    with pytest.raises(InputError) as caught:
        hyperparameters_from(values, Path("my.yaml"))
    message = str(caught.value)
    assert message.startswith("my.yaml: ") and "\n" not in message
    assert "missing keys lr0, mixup: expected a number for each" in message
    assert "momentum: expected a number from 0 to 1, got 2" in message and "unknown key 'oops'" in message


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("lr0", "fast", "a number"),
        ("lr0", True, "a number"),
        ("lr0", None, "a number"),
        ("lr0", [0.1], "a number"),
        ("lr0", math.nan, "a number"),
        ("lr0", math.inf, "a number"),
        ("lr0", "inf", "a number"),
        ("lr0", -0.1, "a number from 0 to inf"),
        ("momentum", 1.01, "a number from 0 to 1"),
        ("anchor_t", 0.9, "a number from 1 to inf"),
        ("perspective", 0.02, "a number from 0 to 0.01"),
        ("degrees", "181", "a number from 0 to 180"),
        ("anchors", 21, "a number from 0 to 20"),
        ("seed", 1.5, "a whole number"),
        ("seed", -1, "a whole number from 0 to "),
        ("seed", 2**32, "a whole number from 0 to "),
        ("patience", True, "a whole number"),
        ("nominal_batch", 0, "a whole number from 1 to inf"),
        ("cos_lr", 1, "true or false"),
        ("cos_lr", "yes", "true or false"),
        ("classification_enabled", 0.0, "true or false"),
        ("balance", 3, "a word"),
        ("view_class_weights", 2.0, "a list of numbers >= 0"),
        ("view_class_weights", [1, -1], "a list of numbers >= 0"),
        ("view_class_weights", [1, "2"], "a list of numbers >= 0"),
    ],
)
def test_a_wrong_value_is_told_with_what_was_expected(key: str, value: Any, expected: str) -> None:
    with pytest.raises(InputError) as caught:
        stock(**{key: value})
    assert f"hyp.yaml: {key}: expected {expected}" in str(caught.value)
    assert str(caught.value).endswith(f", got {value!r}")


def test_numbers_may_come_as_text_as_yaml_reads_them(tmp_path: Path) -> None:
    assert yaml.safe_load("1e-3") == "1e-3"  # why
    path = tmp_path / "hyp.yaml"
    text = {"lr0": "1e-3", "seed": "7", "patience": "1e2"}
    path.write_text(yaml.safe_dump(STOCK | text | {"view_class_weights": [1, 2]}))
    hyp = load_hyperparameters(path)
    assert (hyp.lr0, hyp.seed, hyp.patience, hyp.view_class_weights) == (0.001, 7, 100, (1.0, 2.0))
    assert type(hyp.patience) is int


def test_gains_scale_as_in_yolov5_and_in_a_copy() -> None:
    hyp = stock(box=0.05, cls=0.5, obj=1.0)
    same = hyp.scaled(levels=3, classes=80, image_size=640)
    assert (same.box, same.cls, same.obj) == pytest.approx((0.05, 0.5, 1.0))
    other = hyp.scaled(levels=4, classes=4, image_size=320)
    assert (other.box, other.cls, other.obj) == pytest.approx((0.0375, 0.5 * 0.05 * 0.75, 0.25 * 0.75))
    assert (hyp.box, hyp.cls, hyp.obj) == (0.05, 0.5, 1.0)
    assert dataclasses.replace(other, box=hyp.box, cls=hyp.cls, obj=hyp.obj) == hyp  # nothing else changes


def test_hyperparameters_and_dataset_are_frozen(tmp_path: Path) -> None:
    for config, name in ((stock(), "lr0"), (dataset(tmp_path), "names")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(config, name, 1)


@pytest.mark.parametrize("key", CHANGES_FRAMES)
def test_each_augmentation_key_alone_augments(key: str) -> None:
    assert stock(**{key: 0.005}).augments
    assert not stock(**{key: 0.0}).augments


def test_detection_only_has_no_view_learning_and_no_augmentation() -> None:
    hyp = load_hyperparameters(ROOT / "hyp/detection_only.yaml")
    assert not hyp.classification_enabled and not hyp.augments


def test_joint_training_rules() -> None:
    hyp = load_hyperparameters(ROOT / "hyp/joint_training_rules.yaml")
    assert hyp.classification_enabled and hyp.classification_weight > 0
    assert {key: getattr(hyp, key) for key in AUGMENTATION} == dict.fromkeys(AUGMENTATION, 0.0)
    assert (hyp.patience, hyp.seed, hyp.cos_lr) == (0, 42, True)
    assert min(hyp.label_smoothing, hyp.view_label_smoothing, hyp.clip_grad_norm, hyp.weight_decay) > 0


def test_echo_safe_augmentation_keeps_anatomy_and_doppler_colour() -> None:
    hyp = load_hyperparameters(ROOT / "hyp/echo_safe_augment.yaml")
    off = ("flipud", "fliplr", "hsv_h", "hsv_s", "mosaic", "mixup", "copy_paste", "shear", "perspective")
    assert {key: getattr(hyp, key) for key in off} == dict.fromkeys(off, 0.0)
    assert min(hyp.translate, hyp.scale, hyp.degrees, hyp.hsv_v) > 0
    rules = load_hyperparameters(ROOT / "hyp/joint_training_rules.yaml")
    unaugmented = dataclasses.asdict(hyp) | dict.fromkeys(AUGMENTATION, 0.0)
    assert unaugmented == dataclasses.asdict(rules)  # otherwise the same training


def test_the_recipe_for_new_patients_keeps_anatomy_and_the_hue_of_velocity() -> None:
    hyp = load_hyperparameters(ROOT / "hyp/echo_best.yaml")
    off = ("flipud", "fliplr", "hsv_h", "mixup", "copy_paste", "shear", "perspective")
    assert {key: getattr(hyp, key) for key in off} == dict.fromkeys(off, 0.0)
    assert min(hyp.translate, hyp.scale, hyp.degrees, hyp.hsv_v, hyp.hsv_s, hyp.mosaic, hyp.clip_window) > 0
    rules = load_hyperparameters(ROOT / "hyp/joint_training_rules.yaml")
    unchanged = dataclasses.asdict(hyp) | dict.fromkeys(AUGMENTATION, 0.0) | {"clip_window": 0}
    assert unchanged == dataclasses.asdict(rules)  # otherwise the same training


# --- data sets -------------------------------------------------------------------------------------------------------


def test_the_default_dataset_is_the_phantom() -> None:
    config = load_dataset_config(ROOT / "data/phantom.yaml")
    assert config.names == ("AR", "MR", "PR", "TR") and config.view_names == ("PLAX", "PSAX", "A4C")
    assert config.root == ROOT / "datasets/phantom" and config.generate == {"name": "phantom"}
    assert {split: paths[0].name for split, paths in config.splits.items()} == {s: s for s in ("train", "val", "test")}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a", "b"], ("a", "b")),
        ({0: "a", 1: "b"}, ("a", "b")),
        ({1: "b", 0: "a"}, ("a", "b")),
        ([10, 20], ("10", "20")),
    ],
)
def test_names_are_a_list_or_a_mapping_from_numbers(tmp_path: Path, names: Any, expected: tuple[str, ...]) -> None:
    assert dataset(tmp_path, names=names).names == expected
    assert dataset(tmp_path, view_names=names, nc=2).view_names == expected


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ({0: "a", 2: "c"}, r"expected the numbers 0 to 1, got \[0, 2\]"),
        ({1: "a", 2: "c"}, r"expected the numbers 0 to 1, got \[1, 2\]"),
        ({"a": 0}, "expected a list of names or a mapping from numbers"),
        ([], "expected a list of names"),
        ("ab", "expected a list of names"),
        (["a", ["b"]], "expected a list of names"),
        (["a", "a"], "expected each name once"),
        (["1", 1], "expected each name once"),
    ],
)
def test_names_that_are_neither_are_refused(tmp_path: Path, names: Any, words: str) -> None:
    with pytest.raises(InputError, match=rf"data\.yaml: names: {words}"):
        dataset(tmp_path, names=names)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"val": None}, "missing key 'val'; a dataset yaml needs train, val and names"),
        ({"names": None}, "missing key 'names'"),
        ({"nc": 3}, "nc: expected 2, the number of names, got 3"),
        ({"nc": "two"}, "nc: expected 2"),
        ({"path": 3}, "path: expected a folder, got 3"),
        ({"train": 3}, "train: expected a folder, a .txt list, or a list of those, got 3"),
        ({"val": ["a", 1]}, "val: expected a folder"),
        ({"view_names": ["only"]}, "view_names: expected at least 2 views"),
        ({"view_names": "AB"}, "view_names: expected a list"),
        ({"group": "(p"}, "group: expected a regular expression, got '\\(p': "),
        ({"group": 3}, "group: expected a regular expression, got 3: "),
        ({"group": r"p\d+"}, "group: expected a pattern with a group in parentheses"),
        ({"generate": "phantom"}, "generate: expected a mapping with a name, got 'phantom'"),
        ({"generate": {"patients": 3}}, "generate: expected a mapping with a name"),
    ],
)
def test_a_fault_in_a_dataset_yaml_is_one_line(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=rf"data\.yaml: {words}") as caught:
        dataset(tmp_path, **changes)
    assert "\n" not in str(caught.value)


def test_what_is_optional_may_be_absent(tmp_path: Path) -> None:
    config = dataset(tmp_path)
    assert (config.view_names, config.group, config.generate) == ((), None, None)
    assert set(config.splits) == {"train", "val"} and config.file == tmp_path / "data.yaml"
    assert dataset(tmp_path, nc=2, group=r"^(p\d+)-").group == r"^(p\d+)-"


def test_a_path_is_relative_to_the_repository_or_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the current folder does not matter
    assert dataset(tmp_path).splits["train"] == (ROOT / "images/train",)
    assert dataset(tmp_path, path="sets/mine").splits["train"] == (ROOT / "sets/mine/images/train",)
    away = dataset(tmp_path, path=str(tmp_path / "x"), train=["a", "b/../list.txt", "/elsewhere"], test="t")
    assert away.root == tmp_path / "x"
    assert away.splits["train"] == (tmp_path / "x/a", tmp_path / "x/list.txt", Path("/elsewhere"))
    assert away.splits["test"] == (tmp_path / "x/t",)


@pytest.mark.parametrize("entry", ["../secret", "images/../../secret", "..", "../dataset"])
@pytest.mark.parametrize("several", [False, True])
def test_a_split_that_leads_out_of_the_dataset_is_an_error(tmp_path: Path, entry: str, several: bool) -> None:
    root = tmp_path / "data"
    path = write(tmp_path, {**DATASET, "path": str(root), "val": ["images", entry] if several else entry})
    with pytest.raises(
        InputError, match=r"\.yaml: val: expected a place in .*data, or an absolute path, got '.*', outside$"
    ):
        load_dataset_config(path)


def test_a_split_may_go_up_within_the_dataset_be_absolute_or_lie_beside_a_repository_without_a_path(
    tmp_path: Path,
) -> None:
    root = tmp_path / "data"
    path = write(tmp_path, {**DATASET, "path": str(root), "train": "a/../images", "val": str(tmp_path / "far")})
    assert load_dataset_config(path).splits == {"train": (root / "images",), "val": (tmp_path / "far",)}
    content = {key: value for key, value in DATASET.items() if key != "path"}
    path = write(tmp_path, {**content, "train": "../datasets/a", "val": "../datasets/b"})
    assert load_dataset_config(path).splits["train"] == (ROOT.parent / "datasets" / "a",)


@pytest.mark.parametrize("name", ["x" * 201, "a\nb", "\x1b[2J", "a\u2028b", "\0"])
@pytest.mark.parametrize("key", ["names", "view_names"])
def test_a_name_that_a_table_or_terminal_cannot_show_is_refused(tmp_path: Path, key: str, name: str) -> None:
    assert name_fault(name) is not None
    text = yaml.safe_dump({**DATASET, key: ["good", "MARK"]}).replace("MARK", json.dumps(name))
    path = tmp_path / "odd.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=rf"odd\.yaml: {key}: expected names ") as caught:
        load_dataset_config(path)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500


@pytest.mark.parametrize("name", ["AR", "心", "Vierkammer-Blick", "a b", "=1", "<b>", "../x", "\u200d"])
def test_names_are_data(name: str) -> None:
    assert name_fault(name) is None and name_fault("\ud800") is not None


@pytest.mark.parametrize(
    "value", [10**5000, "x" * 9999, [[[[["x"] * 99] * 99] * 99] * 99] * 99, {"a": "\x1b[2J" * 99}], ids=range(4)
)
def test_a_value_is_shown_in_a_short_printable_text(value: Any) -> None:
    assert len(shown(value)) <= 200 and shown(value).isprintable()


def test_the_download_key_is_told_and_not_carried_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(LOGGER, "propagate", True)
    caplog.set_level(logging.INFO, LOGGER.name)
    for command in (f"bash touch {tmp_path}/ran", f"open({str(tmp_path / 'ran')!r}, 'w')", f"touch {tmp_path}/ran"):
        dataset(tmp_path, download=command)
    assert not (tmp_path / "ran").exists()
    assert [record.getMessage() for record in caplog.records if "download key is not" in record.getMessage()]
    assert len(caplog.records) == 3


# --- where a file is found --------------------------------------------------------------------------------------------


def test_files_are_found_as_typed_below_the_repository_and_by_bare_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    target = ROOT / "hyp/detection_only.yaml"
    for name in (str(target), "hyp/detection_only.yaml", "detection_only.yaml"):
        assert find_file(name, "hyp", flag="--hyp") == target
    assert find_file("phantom.yaml", "hyp", "data", flag="--data") == ROOT / "data/phantom.yaml"
    Path("detection_only.yaml").write_text("{}")
    assert find_file("detection_only.yaml", "hyp", flag="--hyp").resolve() == tmp_path / "detection_only.yaml"


@pytest.mark.parametrize("name", ["gone.yaml", "", "hyp", "~/gone.yaml"])
def test_a_file_that_is_in_none_of_the_places_is_told_with_its_flag(name: str) -> None:
    with pytest.raises(InputError, match=rf"^--hyp '{name}': no such file, neither here nor in hyp, data$"):
        find_file(name, "hyp", "data", flag="--hyp")
