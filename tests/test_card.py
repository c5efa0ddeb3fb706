"""utils.card: what a checkpoint knows comes back from an export, and a damaged card is one line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.exported import saved
from utils import card, checkpoint
from utils.card import Form
from utils.leakage import Fingerprint
from utils.log import InputError
from utils.operating import OperatingPoint

FORM = Form(32, (1, 64, 96), 1, "fp16", {"conf_thres": 0.25, "iou_thres": 0.45, "max_det": 300, "agnostic": False})
HERE = Path("best.onnx")


def words() -> dict[str, str]:
    return card.written(checkpoint.read(saved("joint")), FORM)


@pytest.mark.parametrize("name", ["joint", "detector", "dual"])
@pytest.mark.parametrize("form", [FORM, replace(FORM, shape=None, batch=None, nms=None, precision="int8")])
def test_what_a_checkpoint_knows_comes_back(name: str, form: Form) -> None:
    found = checkpoint.read(saved(name))
    export = card.read(card.written(found, form), HERE, "onnx")
    assert (export.form, export.kind, export.path) == (form, "onnx", HERE)
    for key in ("names", "view_names", "image_size", "rect", "hyp"):
        assert getattr(export, key) == getattr(found, key), key
    for key in ("epoch", "operating", "figures", "date"):
        assert export.content[key] == found.content[key], key
    one, other = (Fingerprint.from_content(each.content["trained_on"], HERE) for each in (found, export))
    assert one.patients == other.patients and (one.hashes == other.hashes).all()
    assert OperatingPoint.from_content(export.content["operating"], HERE) == OperatingPoint(0.25, 1.5)


def test_yolov5_reads_stride_and_names_as_its_own() -> None:
    assert words()["stride"] == "32" and words()["names"] == "{0: 'AR', 1: 'MR', 2: 'PR', 3: 'TR'}"


def test_figures_that_are_not_finite_and_absent_things_pass() -> None:
    found = checkpoint.read(saved("joint"))
    bare = {key: value for key, value in found.content.items() if key not in ("trained_on", "operating", "date")}
    changed = replace(found, content={**bare, "figures": {"map50": float("nan")}, "permuted_labels": 3})
    content = card.read(card.written(changed, FORM), HERE, "onnx").content
    assert content["figures"] == {"map50": None} and content["permuted_labels"] == 3
    assert "trained_on" not in content and "operating" not in content


@pytest.mark.parametrize("other", [{}, {"stride": "32", "names": "{0: 'a'}"}, None, "text", [1]])
def test_an_export_of_another_program_is_refused(other: Any) -> None:
    with pytest.raises(InputError, match=r"best\.onnx: expected an export of this program"):
        card.read(other, HERE, "onnx")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", 2), ("names", "AR"), ("names", [1]), ("view_names", None), ("image_size", 0), ("image_size", True),
        ("rect", 1), ("hyp", []), ("hyp", {"lr0": "fast"}), ("stride", -32), ("shape", [1, 64]), ("shape", "64"),
        ("batch", 0), ("precision", "fp8"), ("nms", {"conf_thres": 0.1}), ("device", "tpu"),
        ("nms", {"conf_thres": 0.1, "iou_thres": "x", "max_det": 3, "agnostic": False}),
        ("trained_on", {"hashes": {"shape": [3, 72], "data": "AAAA"}}), ("trained_on", 5),
        ("trained_on", {"hashes": {"shape": [2, 72], "data": "%"}}),
        ("trained_on", {"hashes": {"shape": [1e999], "data": "AAAA"}}), ("operating", [1]), ("figures", {"map50": "x"}),
        ("permuted_labels", -1), ("date", 5), ("stride", 10**30),
        ("nms", {"conf_thres": 7, "iou_thres": 0.5, "max_det": 3, "agnostic": False}),
    ],
    ids=str,
)  # fmt: skip
def test_a_damaged_value_is_one_line_that_names_the_file(key: str, value: Any) -> None:
    content = {**json.loads(words()["echo"]), key: value}
    with pytest.raises(InputError) as caught:
        card.read({"echo": json.dumps(content)}, HERE, "onnx")
    assert str(caught.value).startswith("best.onnx: ") and "\n" not in str(caught.value)
    if key not in ("hyp", "format"):
        assert key in str(caught.value)


@pytest.mark.parametrize("key", ["names", "precision", "device", "format"])
def test_a_value_of_a_megabyte_is_not_printed_whole(key: str) -> None:
    content = {**json.loads(words()["echo"]), key: "x" * 1_000_000}
    with pytest.raises(InputError) as caught:
        card.read({"echo": json.dumps(content)}, HERE, "onnx")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("text", ["", "{", "[]", "5", "null", None, 7, "[" * 100_000])
def test_a_card_that_is_no_json_mapping_is_one_line(text: Any) -> None:
    with pytest.raises(InputError, match=r"best\.onnx: expected (its|a) card"):
        card.read({"echo": text}, HERE, "onnx")


def test_hashes_survive_a_training_of_many_frames() -> None:
    found = checkpoint.read(saved("joint"))
    hashes = torch.randint(0, 256, (1000, 72), dtype=torch.uint8)
    changed = replace(found, content={**found.content, "trained_on": {**found.content["trained_on"], "hashes": hashes}})
    back = card.read(card.written(changed, FORM), HERE, "onnx").content["trained_on"]["hashes"]
    assert torch.equal(back, hashes)
