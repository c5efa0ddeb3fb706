"""export.py as a user runs it, and its files through val.py and detect.py; faults are one line before any work."""

from __future__ import annotations

import csv
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import detect
import export
import val
from tests.exported import KINDS, exported, saved
from tests.scripts import phantom_yaml, succeed
from utils.agreement import Deviation
from utils.log import InputError

NAMES = ("best.torchscript", "best.onnx", "best_openvino_model")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, its three exports, and the words that the script left."""
    folder = tmp_path_factory.mktemp("a user's folder ü")
    (folder / "best.pt").write_bytes(saved("joint").read_bytes())
    phantom_yaml(folder)
    out = succeed("export.py", "--weights", folder / "best.pt", "--include", *KINDS, "--img", "64", "--batch", "4")
    (folder / "out").write_text(out)
    return folder


def test_the_script_says_what_it_wrote_and_how_to_use_it(place: Path) -> None:
    lines = (place / "out").read_text().splitlines()
    assert {path.name for path in place.iterdir()} >= set(NAMES)
    for name, line in zip(NAMES, lines, strict=False):
        assert line.startswith(f"{place / name}  ") and " MB, " in line and "from the checkpoint: boxes" in line
    assert lines[-2] == f"Validate:  python val.py --weights {shlex.quote(str(place / NAMES[0]))} --data DATA.yaml"
    assert lines[-1] == f"Detect:    python detect.py --weights {shlex.quote(str(place / NAMES[0]))} --source FRAMES"
    assert len(lines) == 6


@pytest.fixture(scope="module")
def right(place: Path) -> dict[str, Any]:
    return figures(place, "best.pt")


def figures(place: Path, name: str, **options: Any) -> dict[str, Any]:
    """What val.py says of weights."""
    return val.run(weights=str(place / name), data=str(place / "small.yaml"), workers=0, bootstrap=0, device="cpu",
                   amp=False, project=str(place / "val"), **options)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_val_gives_the_checkpoints_figures(place: Path, right: dict[str, Any], name: str) -> None:
    content = figures(place, name)
    assert content["map50"] == pytest.approx(right["map50"], abs=0.002)
    assert content["view"]["accuracy"] == pytest.approx(right["view"]["accuracy"], abs=0.002)
    assert content["view"]["log_loss"] == pytest.approx(right["view"]["log_loss"], abs=1e-4)
    assert content["settings"]["confidence_from"] == "validation in training"  # the operating point came along
    assert (
        content["settings"]["compute"].endswith(", CPU, fp32") and "torch.float32" not in content["settings"]["compute"]
    )
    assert content["leakage"]["near_identical_frames"] == 0  # the fingerprint, too
    assert "loss" not in content and "loss" in right


@pytest.mark.parametrize("name", NAMES)
def test_detect_finds_the_checkpoints_boxes(place: Path, name: str) -> None:
    found = {}
    for weights in ("best.pt", name):
        folder = detect.run(
            weights=str(place / weights), source=str(place / "phantom" / "images" / "test"), device="cpu", amp=False,
            conf_thres=0.3, max_det=20, nosave=True, save_csv=True, project=str(place / "detect"),
        )  # fmt: skip
        with (folder / "predictions.csv").open(encoding="utf-8") as file:
            found[weights] = list(csv.reader(file))
    assert len(found[name]) == len(found["best.pt"]) > 3
    for one, other in zip(*found.values(), strict=True):
        for a, b in zip(one, other, strict=True):
            assert a == b or float(a) == pytest.approx(float(b), abs=2e-3)


def test_studies_take_any_size_or_one(place: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--task study: expected any size, got 64 x 64 fixed; export with --dynamic"):
        figures(place, "best.torchscript", task="study")
    content = figures(place, "best.torchscript", task="study", imgsz=64)
    assert "loss" not in content
    (file,) = (place / "val").rglob("study_small_best.txt")
    assert file.read_text().split()[4:7] == ["nan"] * 3


def test_what_is_there_is_not_overwritten_unless_asked(place: Path) -> None:
    before = (place / "best.torchscript").read_bytes()
    with pytest.raises(InputError, match=r"best\.torchscript: is there already; --exist-ok overwrites it"):
        export.run(weights=str(place / "best.pt"), include=["torchscript"], nms=True)
    assert (place / "best.torchscript").read_bytes() == before
    (path,) = export.run(weights=str(place / "best.pt"), include=["openvino"], exist_ok=True, imgsz=96)
    assert sorted(file.name for file in path.iterdir()) == ["best.bin", "best.xml", "metadata.yaml"]
    assert not [file for file in place.iterdir() if file.name.startswith(".")]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"include": ["engine"]}, "--include engine: expected torchscript, onnx, openvino; no other format is written"),
        ({"int8": True}, "--include torchscript --int8: TorchScript has no int8"),
        ({"half": True}, "--include torchscript --half: torch's fp16 on a processor"),
        ({"include": ["onnx"], "bf16": True}, "--include onnx --bf16: ONNX Runtime has no bf16"),
        ({"half": True, "bf16": True}, "--half --bf16: expected one of them"),
        ({"include": ["onnx"], "int8": True}, "--int8: expected --data or --calibration"),
        ({"include": ["onnx"], "int8": True, "calibration": "nowhere"}, "--calibration: an existing file or folder"),
        ({"include": ["onnx"], "opset": 12}, "--opset: expected 18 to"),
        ({"opset": 18}, "--opset: does nothing without --include onnx"),
        ({"simplify": True}, "--simplify: does nothing without --include onnx"),
        ({"conf_thres": 0.5}, "--conf-thres: does nothing without --nms"),
        ({"nms": True, "conf_thres": 2.0}, "--conf-thres: expected 0 to 1, got 2"),
        ({"data": "data/phantom.yaml"}, "--data: does nothing without --int8"),
        ({"imgsz": [1, 2, 3]}, "--imgsz: expected height and width, or one number, got 3"),
        ({"batch_size": 0}, "--batch-size: expected at least 1, got 0"),
        ({"include": ["onnx"], "device": "0"}, "--device: does nothing without --include torchscript"),
        ({"keras": True}, "--keras is not supported: no TensorFlow format"),
        ({"optimize": True}, "--optimize is not supported"),
        ({"device": "99"}, "--device 99: expected a GPU below"),
        ({"weights": "nowhere.pt"}, "nowhere.pt: no such checkpoint"),
    ],
    ids=str,
)  # fmt: skip
def test_a_fault_is_found_before_any_work(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    (tmp_path / "best.pt").write_bytes(saved("joint").read_bytes())
    with pytest.raises(InputError) as caught:
        export.run(**{"weights": str(tmp_path / "best.pt"), **options})
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["best.pt"]


@pytest.mark.parametrize(
    ("package", "options"),
    [
        ("onnx", {"include": ["onnx"]}), ("onnxscript", {"include": ["onnx"]}),
        ("onnxruntime", {"include": ["torchscript", "onnx"]}), ("openvino", {"include": ["openvino"]}),
        ("nncf", {"include": ["openvino"], "int8": True, "data": "data/phantom.yaml"}),
        ("onnxslim", {"include": ["onnx"], "simplify": True}),
    ],
)  # fmt: skip
def test_a_missing_package_is_found_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, options: dict[str, Any]
) -> None:
    (tmp_path / "best.pt").write_bytes(saved("joint").read_bytes())
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=f'{package} is not installed; pip install "') as caught:
        export.run(weights=str(tmp_path / "best.pt"), **options)
    assert package in str(caught.value).partition("pip install")[2]
    assert [path.name for path in tmp_path.iterdir()] == ["best.pt"]


def test_an_export_and_a_classifier_alone_are_not_exported(place: Path) -> None:
    with pytest.raises(InputError, match=r"best\.torchscript: expected a checkpoint to export, got an export"):
        export.run(weights=str(exported("torchscript", imgsz=64, dynamic=True)))


def test_sides_that_the_training_does_not_fit_into_are_refused(caplog: pytest.LogCaptureFixture, place: Path) -> None:
    with pytest.raises(InputError, match="--imgsz 64 96: expected one number, since the training padded frames to squ"):
        export.run(weights=str(place / "best.pt"), imgsz=[64, 90], exist_ok=True)
    assert "--imgsz 90: taken as 96" in caplog.text
    rectangles = place / "rectangles.pt"
    rectangles.write_bytes(saved("rect").read_bytes())
    caplog.clear()
    export.run(weights=str(rectangles))
    assert "in a fixed square of 64 they are padded further" in caplog.text
    caplog.clear()
    export.run(weights=str(rectangles), imgsz=[64, 96], exist_ok=True)
    export.run(weights=str(rectangles), dynamic=True, exist_ok=True)
    assert "padded further" not in caplog.text


def test_what_is_not_an_earlier_export_is_never_overwritten(tmp_path: Path) -> None:
    weights = tmp_path / "best.pt"
    weights.write_bytes(saved("joint").read_bytes())
    (tmp_path / "best.torchscript").mkdir()
    folder = tmp_path / "best_openvino_model"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    for kind, words in (("torchscript", "got a folder"), ("openvino", "got also notes.txt, which would be lost")):
        with pytest.raises(InputError, match=f"expected .* earlier export, {words}"):
            export.run(weights=str(weights), include=[kind], exist_ok=True)
    assert (folder / "notes.txt").read_text() == "mine"


def test_a_suppression_inside_is_told_beside_the_figures(place: Path) -> None:
    """Its thresholds are detect.py's, so that its figures are not val.py's of the checkpoint."""
    path = exported("torchscript", imgsz=64, nms=True)
    keywords: dict[str, Any] = {"data": str(place / "small.yaml"), "workers": 0, "bootstrap": 0,
                                "project": str(place / "val")}  # fmt: skip
    content = val.run(weights=str(path), **keywords)
    assert content["settings"]["nms_inside"]["conf_thres"] == 0.25
    said = "the export's own suppression came first (confidence 0.25, IoU 0.45, 300 boxes a frame, one class a box)"
    assert any(said in warning for warning in content["warnings"])


def test_figures_that_are_no_numbers_or_far_off_are_warned_of(
    place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for value in (Deviation(0.1, 0.0), Deviation(0.0, 0.1), Deviation(np.inf, 0.0)):
        caplog.clear()
        monkeypatch.setattr(export, "deviation", lambda *_, value=value: value)
        export.run(weights=str(place / "best.pt"), exist_ok=True, imgsz=64)
        assert "deviates from its checkpoint more than rounding explains" in caplog.text
