"""Exported networks in their runtimes: any number and size of frames, damaged files, missing runtimes."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.exported import KINDS, exported, plain
from utils.agreement import sample
from utils.card import Export
from utils.devices import Compute
from utils.letterbox import PADDING
from utils.log import InputError
from utils.runtimes import open_weights, start

CPU = Compute(torch.device("cpu"), None)


@pytest.fixture
def fixed() -> Path:
    """For two frames of 64 x 96 pixels at once."""
    return exported("torchscript", "rect", imgsz=(64, 96), batch_size=2)


def test_more_frames_than_the_batch_are_split_and_fewer_filled_up(fixed: Path) -> None:
    run = start(open_weights(fixed), CPU)
    for number in (1, 2, 5):
        images = sample((number, 64, 96))
        torch.testing.assert_close(run(images).boxes, plain("joint")(images).boxes, rtol=1e-5, atol=1e-4)


def test_a_smaller_frame_is_padded_with_grey_and_that_is_said_once(
    fixed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = start(open_weights(fixed), CPU)
    images = sample((1, 32, 64))
    canvas = torch.full((1, 3, 64, 96), PADDING / 255)
    canvas[:, :, :32, :64] = images
    for _ in range(2):
        torch.testing.assert_close(run(images).boxes, plain("joint")(canvas).boxes)
    assert caplog.text.count("views may differ") == 1
    with pytest.raises(InputError, match=r"at most 64 x 96 pixels, its fixed size, got 96 x 96; export with --dynamic"):
        run(sample((1, 96, 96)))


def test_the_suppression_inside_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="echo"):
        start(open_weights(exported("torchscript", imgsz=64, nms=True, conf_thres=0.4)), CPU)
    assert "holds a suppression of its own, which comes first: conf_thres 0.4" in caplog.text


def test_a_gpu_that_a_file_was_not_made_for_is_not_used(fixed: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = open_weights(fixed)
    assert isinstance(found, Export)
    start(found, Compute(torch.device("cuda:0"), None))  # no GPU is asked for anything
    assert caplog.text.count("runs on the CPU; export with --device 0") == 1
    with pytest.raises(InputError, match="needs a GPU; export with --device cpu"):
        start(replace(found, form=replace(found.form, device="cuda")), CPU)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.9])
def test_a_file_that_is_cut_off_is_one_line(tmp_path: Path, kind: str, kept: float) -> None:
    source = exported(kind, imgsz=64, dynamic=True)
    path = tmp_path / source.name
    if kind == "openvino":
        shutil.copytree(source, path)
        cut = path / "best.xml"
    else:
        cut = Path(shutil.copy(source, path))
    data = cut.read_bytes()
    cut.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(InputError, match=r"best.* cannot be read") as caught:
        start(open_weights(path), CPU)
    assert "\n" not in str(caught.value)


def test_openvino_weights_that_are_cut_off_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "best_openvino_model"
    shutil.copytree(exported("openvino", imgsz=64, dynamic=True), path)
    (path / "best.bin").write_bytes(b"short")
    with pytest.raises(InputError, match="cannot be read"):
        start(open_weights(path), CPU)


def test_openvino_is_found_by_its_folder_or_its_xml() -> None:
    folder = exported("openvino", imgsz=64, dynamic=True)
    one, other = open_weights(folder / "best.xml"), open_weights(folder)
    assert one.path == other.path == folder and one.names == other.names


@pytest.mark.parametrize(("kind", "package"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_a_missing_runtime_is_one_line_with_what_to_install(
    kind: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = exported(kind, imgsz=64, dynamic=True)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=f"{package} is not installed; pip install") as caught:
        start(open_weights(path), CPU)
    assert path.name in str(caught.value)


def test_outputs_of_other_classes_or_views_than_the_card_says_are_refused(fixed: Path) -> None:
    found = open_weights(fixed)
    assert isinstance(found, Export)
    for other in (replace(found, names=found.names[:2]), replace(found, view_names=("a", "b"))):
        with pytest.raises(InputError, match=r"expected outputs of .* as its card says, got shapes"):
            start(other, CPU)(sample((1, 64, 96)))
