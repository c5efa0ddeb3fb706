"""Weights of any kind behind one face."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models.dual import build_network
from models.yolo import fused
from tests.exported import exported, plain, saved
from tests.test_checkpoint import content, network
from utils import checkpoint
from utils.agreement import sample
from utils.devices import Compute, select_compute
from utils.log import InputError
from utils.runtimes import check_precision, check_sizes, described, image_size, open_weights, start, window_size

CPU = Compute(torch.device("cpu"), None)


@pytest.fixture
def fixed() -> Path:
    """For two frames of 64 x 96 pixels at once."""
    return exported("torchscript", "rect", imgsz=(64, 96), batch_size=2)


def test_a_checkpoint_runs_as_its_averaged_network_fused(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "a.pt", content(network()))
    found = open_weights(tmp_path / "a.pt")
    runner = start(found, select_compute("cpu", amp=False))
    plain = build_network(found.content["description"])
    plain.load_state_dict(found.content["ema"])
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(runner(images).boxes, fused(plain)(images).boxes)
    assert image_size(found, runner, None) == found.image_size and image_size(found, runner, 100) == 128


def test_an_export_has_one_image_size_or_any(fixed: Path) -> None:
    found = open_weights(fixed)
    run = start(found, CPU)
    assert (image_size(found, run, None), image_size(found, run, 96), run.max_stride) == (96, 96, 32)
    with pytest.raises(InputError, match=r"best\.torchscript: --imgsz: expected 96, its fixed size, got 64"):
        image_size(found, run, 64)
    with pytest.raises(InputError, match="--task study: expected any size, got 64 x 96 fixed"):
        check_sizes(found, [64, 96])
    check_sizes(found, [96])
    free = open_weights(exported("torchscript", imgsz=64, dynamic=True))
    assert image_size(free, run, None) == 64 and image_size(free, run, 100) == 128
    check_sizes(free, [64, 96])


def test_the_window_is_the_trainings_unless_asked_and_never_after_suppression(
    fixed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = open_weights(fixed)
    trained = replace(found, hyp=replace(found.hyp, clip_window=3))
    assert [window_size(trained, asked) for asked in (None, 0, 5)] == [3, 0, 5]
    suppressed = open_weights(exported("torchscript", imgsz=64, nms=True))
    assert window_size(suppressed, None) == window_size(suppressed, 0) == 0 and not caplog.text
    with pytest.raises(InputError, match=r"torchscript: --clip-window: expected an export without --nms"):
        window_size(suppressed, 2)
    assert window_size(replace(suppressed, hyp=trained.hyp), None) == 0
    assert "clip_window 3 is left out" in caplog.text


def test_reports_name_the_runtime(fixed: Path) -> None:
    bf16 = Compute(CPU.device, torch.bfloat16)
    run = start(open_weights(fixed), bf16)
    assert described(run, bf16).startswith("TorchScript, torch 2.") and described(run, bf16).endswith(", CPU, fp32")
    pytorch = start(open_weights(saved("joint")), bf16)
    assert described(pytorch, bf16) == str(bf16)
    with bf16.autocast():  # of no concern to a file that has its own precision
        images = sample((2, 64, 96))
        got = run(images)
    torch.testing.assert_close(got.boxes, plain("joint")(images).boxes)


def test_mixed_precision_is_not_for_exports(fixed: Path, caplog: pytest.LogCaptureFixture) -> None:
    check_precision(open_weights(saved("joint")), True)
    check_precision(open_weights(fixed), None)
    assert not caplog.records
    check_precision(open_weights(fixed), True)
    assert "--amp and --half change nothing" in caplog.text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("none.onnx", "no such exported network"), ("none.torchscript", "no such exported network"),
        ("none_openvino_model", "no such exported network"), ("none.xml", "no such file"), ("none.pt", "no such"),
        ("none.engine", "no such"), ("text.engine", "expected a checkpoint .* suffix '.engine'"),
        ("folder", "expected a checkpoint .* got a folder"), ("text.onnx", "cannot be read"),
        ("text.torchscript", "cannot be read"), ("empty_openvino_model", "metadata.yaml: no such file"),
        ("zip.torchscript", "expected an export of this program"), ("bad_openvino_model", "cannot be read"),
    ],
)  # fmt: skip
def test_what_is_no_export_is_one_line(tmp_path: Path, name: str, words: str) -> None:
    for file in ("text.engine", "text.onnx", "text.torchscript"):
        (tmp_path / file).write_text("nothing of the kind")
    for folder in ("folder", "empty_openvino_model", "bad_openvino_model"):
        (tmp_path / folder).mkdir()
    (tmp_path / "bad_openvino_model" / "metadata.yaml").write_text("{")
    with zipfile.ZipFile(tmp_path / "zip.torchscript", "w") as archive:
        archive.writestr("best/data.pkl", b"")
    with pytest.raises(InputError, match=words) as caught:
        open_weights(tmp_path / name)
    assert name in str(caught.value) and "\n" not in str(caught.value)
