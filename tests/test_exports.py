"""utils.exports: every format gives the checkpoint's outputs, for every kind of network, in every type there is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models.yolo import Network, Output
from tests.exported import KINDS, exported, plain, size
from utils.agreement import deviation, sample
from utils.boxes import non_max_suppression
from utils.config import ROOT
from utils.devices import Compute
from utils.exports import Deployed, Suppression, new_folder
from utils.runtimes import Runner, open_weights, start

CPU = Compute(torch.device("cpu"), None)
NMS = {"conf_thres": 0.3, "iou_thres": 0.4, "max_det": 20}


def session(path: Path) -> Runner:
    return start(open_weights(path), CPU)


def expected(name: str, images: Tensor) -> Any:
    with torch.no_grad():
        return plain(name)(images)


def check_close(got: Output, right: Output) -> None:
    """Within 1e-4 pixels (and the last digits of larger numbers) and 1e-5 of a probability."""
    assert got.boxes is not None and right.boxes is not None
    torch.testing.assert_close(got.boxes[..., :4], right.boxes[..., :4], atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(got.boxes[..., 4:], right.boxes[..., 4:], atol=1e-5, rtol=0)
    if right.view is not None:
        assert got.view is not None
        torch.testing.assert_close(got.view.softmax(1), right.view.softmax(1), atol=1e-5, rtol=0)


def test_the_graph_gives_decoded_boxes_and_probabilities_of_views() -> None:
    images = sample((2, 64, 96))
    boxes, view = Deployed(plain("joint"))(images)
    output = expected("joint", images)
    torch.testing.assert_close((boxes, view), (output.boxes, output.view.softmax(1)), atol=1e-3, rtol=1e-5)
    assert boxes[..., 4].std() > 0.05 and (view[0] - view[1]).abs().max() > 1e-3  # the outputs are worth comparing
    assert len(Deployed(plain("detector"))(images)) == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_anchors_stay_exact_in_a_graph_of_fewer_bits(dtype: torch.dtype) -> None:
    network = plain("joint")
    graph = Deployed(network, dtype)
    assert isinstance(graph.network, Network)
    assert torch.equal(graph.network.detect.anchors, network.detect.anchors)
    assert {parameter.dtype for parameter in graph.parameters()} == {dtype}
    assert all(output.dtype == torch.float32 for output in graph(sample((1, 64, 64))))


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("max_det", [3, 40])
def test_suppression_in_the_graph_is_that_of_the_scripts(agnostic: bool, max_det: int) -> None:
    predictions = torch.rand(3, 200, 9, generator=torch.Generator().manual_seed(0)) * torch.tensor([64] * 4 + [1] * 5)
    predictions[1, :5, 0] = torch.nan
    predictions[2, :, 4] = 0.1  # nothing in this one
    found = Suppression(0.25, 0.45, max_det, agnostic)(predictions)
    assert found.shape == (3, max_det, 6)
    for rows, right in zip(
        found, non_max_suppression(predictions, 0.25, 0.45, None, agnostic, False, max_det), strict=True
    ):
        assert torch.equal(rows[: len(right)], right) and not rows[len(right) :].any()
    assert len(right) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_any_size_and_number_of_frames(kind: str) -> None:
    run = session(exported(kind, imgsz=64, dynamic=True))
    for shape in [(1, 64, 64), (3, 96, 64), (2, 64, 160)]:
        images = sample(shape)
        check_close(run(images), expected("joint", images))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["detector", "dual"])
def test_a_detector_alone_and_a_pair(kind: str, name: str) -> None:
    options = {"simplify": True, "opset": 18} if (kind, name) == ("onnx", "detector") else {}
    run = session(exported(kind, name, imgsz=64, batch_size=2, **options))
    images = sample((2, 64, 64))
    output = run(images)
    check_close(output, expected(name, images))
    assert (output.view is None) == (name == "detector") and output.raw == []


@pytest.mark.parametrize(
    ("kind", "dynamic"),
    [("torchscript", True), ("openvino", True), ("onnx", False), pytest.param("onnx", True, marks=pytest.mark.long)],
)
def test_suppression_inside_a_file_finds_what_the_scripts_find(kind: str, dynamic: bool) -> None:
    run = session(exported(kind, imgsz=64, nms=True, dynamic=dynamic, batch_size=2, **NMS))
    for shape in (
        [(2, 64, 64), (3, 64, 96)] if dynamic else [(2, 64, 64), (3, 64, 64)]
    ):  # three: two and a filled-up one
        images = sample(shape)
        right = non_max_suppression(expected("joint", images).boxes, 0.3, 0.4, max_det=20)
        again = run(images)
        assert again.boxes is not None
        found = non_max_suppression(again.boxes, 0.001, 0.6, multi_label=True)  # val.py's, changes nothing
        assert again.boxes.shape == (shape[0], 20, 9) and sum(map(len, right)) > 0
        for a, b in zip(found, right, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("kind", "switch", "pixels", "probability"),
    [
        ("onnx", "half", 0.5, 0.01), ("openvino", "half", 0.5, 0.01),
        ("torchscript", "bf16", 4, 0.06), ("openvino", "bf16", 4, 0.06),
    ],
)  # fmt: skip
def test_fewer_bits_deviate_by_little(kind: str, switch: str, pixels: float, probability: float) -> None:
    path = exported(kind, imgsz=64, **{switch: True})
    run, images = session(path), sample((1, 64, 64))
    largest = deviation(expected("joint", images), run(images))
    assert 0 < largest.pixels < pixels and largest.probability < probability, largest
    assert str(run).endswith("CPU, " + ("fp16" if switch == "half" else switch))
    whole = exported(kind, imgsz=64, dynamic=True)
    assert size(path) < 0.75 * size(whole)


def test_an_onnx_file_stands_alone_and_says_nothing_of_this_machine() -> None:
    import onnx

    path = exported("onnx", imgsz=64, dynamic=True)
    assert [file.name for file in path.parent.iterdir() if file.suffix != ".pt"] == ["best.onnx"]
    model = onnx.load(str(path), load_external_data=False)
    onnx.checker.check_model(model)
    assert [value.name for value in model.graph.input] == ["images"]
    assert [value.name for value in model.graph.output] == ["output0", "view"]
    card = {entry.key: entry.value for entry in model.metadata_props}
    assert card["stride"] == "32" and card["names"] == "{0: 'AR', 1: 'MR', 2: 'PR', 3: 'TR'}"
    assert str(ROOT).encode() not in path.read_bytes()
    simple = onnx.load(str(exported("onnx", "detector", imgsz=64, batch_size=2, simplify=True, opset=18)))
    assert [entry.version for entry in simple.opset_import if entry.domain == ""] == [18]


def test_the_other_formats_carry_what_yolov5_reads() -> None:
    import yaml

    files = {"config.txt": ""}
    torch.jit.load(str(exported("torchscript", imgsz=64, dynamic=True)), _extra_files=files)
    config = json.loads(files["config.txt"])
    assert (config["stride"], config["shape"]) == (32, [1, 3, 64, 64])
    assert config["names"] == {"0": "AR", "1": "MR", "2": "PR", "3": "TR"}
    folder = exported("openvino", imgsz=64, dynamic=True)
    assert sorted(path.name for path in folder.iterdir()) == ["best.bin", "best.xml", "metadata.yaml"]
    card = yaml.safe_load((folder / "metadata.yaml").read_text(encoding="utf-8"))
    assert card["stride"] == 32 and card["names"] == {0: "AR", 1: "MR", 2: "PR", 3: "TR"}


def test_a_folder_is_there_whole_or_as_it_was(tmp_path: Path) -> None:
    place = tmp_path / "best_openvino_model"
    for content in ("first", "second"):
        with new_folder(place) as draft:
            (draft / "file").write_text(content)
    with pytest.raises(ValueError, match="full"), new_folder(place) as draft:
        (draft / "file").write_text("third")
        raise ValueError("full")
    assert (place / "file").read_text() == "second" and list(tmp_path.iterdir()) == [place]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize("after", [0, 1])
def test_a_folder_keeps_its_name_when_the_exchange_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int, error: type[BaseException]
) -> None:
    place, replace = tmp_path / "best_openvino_model", Path.replace
    place.mkdir()
    (place / "file").write_text("first")
    renamed: list[Path] = []

    def cut_off(path: Path, target: Path) -> Path:
        if len(renamed) == after and not path.name.endswith("-old"):
            raise error("stop")
        renamed.append(path)
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", cut_off)
    with pytest.raises(error, match="stop"), new_folder(place) as draft:
        (draft / "file").write_text("second")
    assert (place / "file").read_text() == "first" and list(tmp_path.iterdir()) == [place]
