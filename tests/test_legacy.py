"""YOLOv5's pickled checkpoints: the same figures, forks' layers, conversion; faults in one line."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import detect
import export
import train
import val
from models.attention import CBAM
from models.yolo import fused
from tests.pickled import NAMES, pickled, stock
from tests.scripts import fail, phantom_yaml, succeed
from tests.test_archive import archived
from tests.test_unpickling import hostile
from utils import checkpoint
from utils.config import ROOT, load_yaml
from utils.legacy import main, read
from utils.log import InputError
from utils.predict import load

FRAME = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)


class C3TR(nn.Module):
    """A layer that only a fork has."""

    def __init__(self) -> None:
        super().__init__()
        self.cv1 = nn.Conv2d(64, 64, 1)


def test_yolov5s_own_checkpoint_gives_yolov5s_own_boxes(golden: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="echo"):
        found = read(golden / "yolov5_tiny.pt").checkpoint()
    assert "349 of 349 tensors matched" in caplog.text
    assert found.names == NAMES and found.view_names == () and found.image_size == 64 and found.rect
    assert found.content["epoch"] == -1 and found.content["date"] == "2026-11-21T00:00:00"
    with np.load(golden / "tiny_forward.npz") as arrays, torch.no_grad():
        for network, name in ((found.build().eval(), "eval_decoded"), (fused(found.build()), "eval_decoded_fused")):
            boxes = network(torch.from_numpy(arrays["x"])).boxes
            assert boxes is not None
            difference = np.abs(boxes.numpy() - arrays[name])
            assert difference[..., :4].max() < 0.01  # pixels; its weights are in fp16
            assert difference[..., 4:].max() < 2e-4


def test_tensors_are_the_pinned_ones_in_half_precision(golden: Path, tiny_state: dict[str, torch.Tensor]) -> None:
    state = read(golden / "yolov5_tiny.pt").state
    assert state.keys() == tiny_state.keys()
    for name, tensor in state.items():
        expected = tiny_state[name]
        assert torch.equal(tensor, expected.half().float() if expected.is_floating_point() else expected), name


def test_averaged_weights_come_first(tmp_path: Path, tiny_description: dict[str, Any]) -> None:
    plain, averaged = stock(tiny_description, 0), stock(tiny_description, 1)
    path = pickled(tmp_path / "a.pt", plain, tiny_description, ema=averaged)
    assert torch.equal(read(path).state["model.0.conv.weight"], averaged.state_dict()["model.0.conv.weight"])


def test_what_the_training_stored_is_kept(tmp_path: Path, tiny_description: dict[str, Any]) -> None:
    hyp = {**load_yaml(ROOT / "hyp/detection_only.yaml"), "box": 0.07, "unknown": 1}
    inner: Any = stock(tiny_description)
    inner.names, inner.yaml = {1: "b", 0: "a", 2: "c", 3: "d"}, tiny_description
    network = nn.ModuleDict({"module": inner})  # DistributedDataParallel's form
    found = read(pickled(tmp_path / "a.pt", network, None, None, opt={"imgsz": 320, "hyp": hyp})).checkpoint()
    assert found.names == ("a", "b", "c", "d") and found.image_size == 320 and found.hyp.box == 0.07
    assert found.content["epoch"] == 7


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (None, tuple("0123")),
        (["w", "x", "y", "z"], tuple("wxyz")),
        ([], tuple("0123")),
        (["a"], tuple("0123")),
        ([1, 2, True, 0.5], ("1", "2", "True", "0.5")),
        ({0: "a", 2: "c", 1: "b", 3: "d"}, tuple("abcd")),
        ({0: "a", 2: "c", 3: "b", 4: "d"}, tuple("0123")),
        (["\x1b[31m", "b", "c", "d"], ("?[31m", "b", "c", "d")),
    ],
)
def test_names_that_are_not_there_are_numbers(
    tmp_path: Path, tiny_description: dict[str, Any], names: Any, expected: tuple[str, ...]
) -> None:
    assert read(pickled(tmp_path / "a.pt", stock(tiny_description), tiny_description, names)).names == expected


def with_rows(description: dict[str, Any], *rows: list[Any]) -> dict[str, Any]:
    """The description with further rows at the backbone's end; the head's references move on."""
    moved = []
    for source, *rest in description["head"]:
        sources = source if isinstance(source, list) else [source]
        shifted = [s + len(rows) if s > 9 else s for s in sources]
        moved.append([shifted if isinstance(source, list) else shifted[0], *rest])
    return {**description, "backbone": [*description["backbone"], *rows], "head": moved}


@pytest.mark.parametrize(("arguments", "reduction", "kernel"), [([1024], 16, 7), ([1024, 8, 3], 8, 3)])
def test_a_forks_cbam_layer_rebuilds_and_runs(
    tmp_path: Path, tiny_description: dict[str, Any], arguments: list[int], reduction: int, kernel: int
) -> None:
    """Its yaml writes channels, then, in its own order, further arguments; the weights' shapes say what they are."""
    plain = with_rows(tiny_description, [-1, 1, "CBAM", ["None", kernel, reduction]])
    network = stock({**plain, "cbam_gate": "paper"})
    attention = network.model[10]
    assert isinstance(attention, CBAM)
    attention.channel_attention.add_module("avg_pool", nn.AdaptiveAvgPool2d(1))
    written = with_rows(tiny_description, [-1, 1, "CBAM", arguments])
    rebuilt = read(pickled(tmp_path / "fork.pt", network, written, half=False)).checkpoint().build()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(rebuilt.eval()(images).boxes, network.eval()(images).boxes)


def unknown_layer(folder: Path, tiny_description: dict[str, Any]) -> Path:
    """A fork's checkpoint with a layer that is not known here, in the place of SPPF."""
    network = stock(tiny_description)
    network.model[9] = C3TR()
    backbone = [*tiny_description["backbone"][:-1], [-1, 1, "C3TR", [1024]]]
    return pickled(folder / "fork.pt", network, {**tiny_description, "backbone": backbone})


def test_an_unknown_layer_is_named_and_the_rest_can_be_started_from(
    tmp_path: Path, tiny_description: dict[str, Any]
) -> None:
    found = read(unknown_layer(tmp_path, tiny_description))
    with pytest.raises(InputError, match=r"fork\.pt: layers that are not known here: C3TR \(layer 9\); train.py"):
        found.checkpoint()
    assert "model.9.cv1.bias" in found.state and "model.8.cv1.conv.weight" in found.state


def test_a_layer_that_is_built_otherwise_is_an_error_with_its_name(
    tmp_path: Path, tiny_description: dict[str, Any]
) -> None:
    network: Any = stock(tiny_description)
    network.model[0].act = nn.ReLU()
    path = pickled(tmp_path / "fork.pt", network, tiny_description)
    with pytest.raises(InputError, match=r"fork\.pt: .*model\.0\.act: ReLU there, SiLU here"):
        read(path).checkpoint()


def test_tensors_alone_can_be_started_from_only(tmp_path: Path, tiny_description: dict[str, Any]) -> None:
    state = stock(tiny_description).state_dict()
    for number, content in enumerate(
        ({"model": state}, state, {"state_dict": {f"module.{k}": v for k, v in state.items()}})
    ):
        path = tmp_path / f"{number}.pt"
        torch.save(content, path)
        found = read(path)
        assert found.state.keys() == state.keys() and found.names == ("0", "1", "2", "3")
        with pytest.raises(InputError, match="holds tensors alone"):
            found.checkpoint()


@pytest.mark.parametrize("content", [{}, {"model": None}, [1], {"model": {"a": 1}}, {"model": nn.Identity()}], ids=str)
def test_files_without_a_network_are_one_line(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(InputError, match=r"x\.pt: expected a checkpoint of YOLOv5, got a file without"):
        read(tmp_path / "x.pt")


@pytest.mark.parametrize(
    "yaml",
    [
        None, {}, [], 5, {"backbone": 1, "head": 2, "anchors": 3, "depth_multiple": 1, "width_multiple": 1},
        {"backbone": [1], "head": [[]], "anchors": 3, "depth_multiple": 1, "width_multiple": 1},
        {"backbone": [[-1, 1, "Conv", ["x"]]], "head": [[-1, 1, "Detect", ["nc", "anchors"]]], "anchors": 3,
         "depth_multiple": 1, "width_multiple": 1},
        {"ch": 1},
        {"depth_multiple": 1e9},
        {"depth_multiple": 10**400},
        {"width_multiple": 1e5},
        {"anchors": 20_000_000},
        {"backbone": [[-1, 10**9, "C3", [64]]]},
        {"backbone": [[-1, 1, "\x1b[31mC3\n", [64]]]},
    ],
    ids=str,
)  # fmt: skip
def test_a_description_that_makes_no_sense_is_one_line(
    tmp_path: Path, tiny_description: dict[str, Any], yaml: Any
) -> None:
    if isinstance(yaml, dict) and len(yaml) == 1:
        yaml = {**tiny_description, **yaml}
    path = pickled(tmp_path / "x.pt", stock(tiny_description), yaml)
    with pytest.raises(InputError, match=r"x\.pt|network description") as caught:
        read(path).checkpoint()
    assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value)


def test_classes_of_a_segmentation_network_are_not_its_masks(tmp_path: Path, tiny_description: dict[str, Any]) -> None:
    """Its head has 32 more outputs an anchor; what fits starts a training."""
    network: Any = stock({**tiny_description, "nc": 4 + 32})
    network.model[24].nm = 32
    assert read(pickled(tmp_path / "seg.pt", network, tiny_description)).names == NAMES


def test_names_and_yaml_may_stand_beside_a_bare_averaged_network(
    tmp_path: Path, tiny_description: dict[str, Any]
) -> None:
    plain: Any = stock(tiny_description)
    plain.yaml, plain.names = tiny_description, list(NAMES)
    path = pickled(tmp_path / "a.pt", plain, None, None, ema=stock(tiny_description, 1))
    assert read(path).checkpoint().names == NAMES


def test_conversion_gives_a_checkpoint_of_ours_and_overwrites_nothing(tmp_path: Path, golden: Path) -> None:
    old, new = golden / "yolov5_tiny.pt", tmp_path / "new.pt"
    assert "4 classes (AR, MR, PR, TR), 64 pixels" in succeed("utils.legacy", old, new)
    content = torch.load(new, weights_only=True)
    assert content["format"] == checkpoint.FORMAT and content["names"] == list(NAMES)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        first, second = (found.build().eval()(images).boxes for found in (checkpoint.read(new), read(old).checkpoint()))
    assert torch.equal(first, second)
    before = new.read_bytes()
    assert "exists already" in fail("utils.legacy", old, new)
    assert new.read_bytes() == before
    with pytest.raises(InputError, match=r"expected OLD\.pt NEW\.pt, got 1"):
        main(argparse.Namespace(files=[str(old)]))
    with pytest.raises(InputError, match="is a checkpoint of this program already"):
        main(argparse.Namespace(files=[str(new), str(tmp_path / "again.pt")]))
    with pytest.raises(InputError, match="no such folder"):
        main(argparse.Namespace(files=[str(old), str(tmp_path / "nowhere" / "new.pt")]))


def test_val_and_detect_take_it_as_it_is(tmp_path: Path, golden: Path) -> None:
    """A converted file gives the same figures as the pickled one."""
    succeed("utils.legacy", golden / "yolov5_tiny.pt", tmp_path / "new.pt")
    common = {"data": str(phantom_yaml(tmp_path)), "project": str(tmp_path / "runs"), "bootstrap": 0, "workers": 0}
    contents = [
        val.run(weights=str(path), name=path.stem, conf_thres=0.0001, **common)
        for path in (golden / "yolov5_tiny.pt", tmp_path / "new.pt")
    ]
    assert all(contents[0][key] == contents[1][key] for key in ("map50", "map", "recall"))
    assert contents[0]["loss"]["box"] == contents[1]["loss"]["box"] > 0
    assert contents[0]["settings"]["rect"] and contents[0]["settings"]["imgsz"] == 64
    old, new = (load(path, "cpu", conf_thres=0.0001) for path in (golden / "yolov5_tiny.pt", tmp_path / "new.pt"))
    assert len(old(FRAME).boxes) and np.array_equal(old(FRAME).boxes, new(FRAME).boxes)


def test_a_hostile_checkpoint_is_refused_by_every_script(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    path = archived(tmp_path / "evil.pt", hostile(canary)["os.system"])
    expected = f"{path}: not read: it asks for os.system"
    for call in (
        lambda: val.run(weights=str(path)),
        lambda: detect.run(weights=str(path), source=str(ROOT / "docs/images/phantom.jpg")),
        lambda: train.run(weights=str(path), data=str(phantom_yaml(tmp_path)), project=str(tmp_path / "runs")),
        lambda: export.run(weights=str(path)),
        lambda: load(path),
    ):
        with pytest.raises(InputError, match=re.escape(expected)):
            call()
    assert not canary.exists() and not (tmp_path / "runs").exists()


def test_attributes_without_sense_are_one_line(tmp_path: Path, tiny_description: dict[str, Any]) -> None:
    network: Any = stock(tiny_description)
    endless: list[Any] = []
    endless.append(endless)
    network.model[24].stride = endless
    with pytest.raises(InputError, match=r"x\.pt: not read: its settings have no end"):
        read(pickled(tmp_path / "x.pt", network, tiny_description)).checkpoint()
