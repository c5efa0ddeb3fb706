"""Networks built from descriptions: YOLOv5's figures to the digit, and the joint network beside it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.attention import CBAM
from models.common import Bottleneck, Conv
from models.heads import Detect, ViewHead
from models.yolo import (
    VIEW_HIDDEN,
    Fusable,
    Network,
    classifier_description,
    fused,
    load_matching,
    parameter_count,
)
from tests.test_description import small
from utils.config import ROOT, load_yaml
from utils.log import InputError

Mapping = dict[str, Any]
STOCK_CBAM = 2 * (64 * 4 + 128 * 8 + 256 * 16 + 512 * 32) + 4 * 98  # hidden units: a sixteenth of the channels
VIEW_HEAD = 512 * 256 + 2 * 256 + 256 * 3 + 3


def description(name: str, **changes: Any) -> Mapping:
    return {**load_yaml(ROOT / "models" / f"{name}.yaml"), **changes}


@pytest.fixture
def forward(golden: Path) -> dict[str, Tensor]:
    with np.load(golden / "tiny_forward.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


@pytest.fixture
def quick_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks with whatever is in memory as weights, for tests that only count or compare shapes."""
    for name in ("kaiming_uniform_", "uniform_", "normal_"):
        monkeypatch.setattr(nn.init, name, lambda tensor, *_, **__: tensor)


# YOLOv5's figures


def test_a_network_of_more_parameters_than_memory_holds_is_refused_before_it_is_built() -> None:
    huge = {**load_yaml(ROOT / "models/hub/yolov5s.yaml"), "width_multiple": 100.0}
    with pytest.raises(InputError, match=r"expected at most 1,073,741,824 parameters, got \d+"):
        Network(huge)


def test_training_outputs_are_yolov5s(tiny: Network, forward: dict[str, Tensor]) -> None:
    output = tiny.train()(forward["x"])
    assert output.boxes is None and output.view is None
    assert len(output.raw) == 3
    for index, level in enumerate(output.raw):
        expected = forward[f"train_raw{index}"]
        # relative to the largest: what the statistics of the batch round (7e-6 of it between sets of processor
        # instructions) is as much for outputs near 0 as for all others
        torch.testing.assert_close(level, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


@torch.no_grad()
def test_evaluation_outputs_are_yolov5s(tiny: Network, forward: dict[str, Tensor]) -> None:
    output = tiny.eval()(forward["x"])
    assert len(output.raw) == 3
    for index, level in enumerate(output.raw):
        torch.testing.assert_close(level, forward[f"eval_raw{index}"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(output.boxes, forward["eval_decoded"], rtol=1e-5, atol=1e-6)


def test_fused_outputs_are_yolov5s(tiny: Network, forward: dict[str, Tensor]) -> None:
    quick = fused(tiny)
    torch.testing.assert_close(quick(forward["x"]).boxes, forward["eval_decoded_fused"], rtol=1e-5, atol=1e-6)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in quick.modules())
    assert not any(weight.requires_grad for weight in quick.parameters()) and not quick.training
    assert tiny.training and all(weight.requires_grad for weight in tiny.parameters())  # it is a copy
    assert sum(isinstance(part, nn.BatchNorm2d) for part in tiny.modules()) == 57


def test_all_tensors_have_yolov5s_names_and_shapes(tiny_description: Mapping, tiny_state: dict[str, Tensor]) -> None:
    state = Network(tiny_description).state_dict()
    assert {n: (t.shape, t.dtype) for n, t in state.items()} == {n: (t.shape, t.dtype) for n, t in tiny_state.items()}
    assert len(state) == 349


@pytest.mark.parametrize("nc", [4, 80])
@pytest.mark.parametrize("size", "nsmlx")
def test_stock_networks_have_yolov5s_number_of_parameters(
    golden: Path, quick_weights: None, size: str, nc: int
) -> None:
    counts = json.loads((golden / "schedule.json").read_text())["parameters"]
    assert parameter_count(Network(description(f"hub/yolov5{size}"), nc=nc)) == counts[f"yolov5{size} nc={nc}"]


# the joint network


def test_the_joint_network_adds_attention_and_a_view_head_to_yolov5s(quick_weights: None) -> None:
    joint = Network(description("yolov5s"))
    assert 7_030_417 + STOCK_CBAM + VIEW_HEAD == 7_206_684
    assert parameter_count(joint) == 7_206_684
    assert parameter_count(Network(description("yolov5s"), with_view=False)) == 7_030_417 + STOCK_CBAM


@pytest.mark.parametrize("size", "nsmlx")
def test_the_joint_network_keeps_every_stock_tensor_in_its_place(quick_weights: None, size: str) -> None:
    joint, stock = Network(description(f"yolov5{size}")), Network(description(f"hub/yolov5{size}"), nc=4)
    ours, theirs = ({n: t.shape for n, t in network.state_dict().items()} for network in (joint, stock))
    assert theirs.items() <= ours.items()
    assert all(".cbam." in name or name.startswith("model.25.") for name in ours.keys() - theirs.keys())
    assert isinstance(joint.model[24], Detect) and joint.sources[24] == (17, 20, 23)
    assert isinstance(joint.model[25], ViewHead) and joint.sources[25] == (9,)
    assert [i for i, layer in enumerate(joint.model) if any(isinstance(p, CBAM) for p in layer.modules())] == [
        2, 4, 6, 8,
    ]  # fmt: skip


@pytest.mark.parametrize("source", [4, 9, 17])
@torch.no_grad()
def test_a_view_head_reads_the_layer_it_names(joint_description: Mapping, source: int) -> None:
    joint_description["head"][-1][0] = source
    network = Network(joint_description).eval()
    kept: list[Tensor] = []
    network.model[source].register_forward_hook(lambda _, __, output: kept.append(output))
    view = network(torch.rand(2, 3, 64, 96)).view
    assert network.view_head is not None and network.sources[25] == (source,)
    assert view.shape == (2, 3) and torch.equal(view, network.view_head(kept[0]))


def test_the_p3_variant_reads_layer_17(quick_weights: None) -> None:
    variant, ours = description("hub/yolov5s-view-p3"), description("yolov5s")
    assert Network(variant).sources[25] == (17,)
    variant["head"][-1][0] = 9
    assert variant == ours  # nothing else differs


@torch.no_grad()
def test_without_its_view_head_a_network_detects_as_before(joint: Network, joint_description: Mapping) -> None:
    alone = Network(joint_description, with_view=False)
    _, left = load_matching(alone, joint.state_dict())
    x = torch.rand(1, 3, 64, 64)
    output = alone.eval()(x)
    assert not left and len(alone.model) == 25
    assert alone.view_head is None and alone.nv == 0 and output.view is None
    assert torch.equal(output.boxes, joint.eval()(x).boxes)


def test_class_counts_of_the_data_replace_those_of_the_file(joint_description: Mapping) -> None:
    network = Network(joint_description, nc=7, nv=5, view_dropout=0.3)
    assert (network.nc, network.nv, network.detect.nc, network.max_stride) == (7, 5, 7, 32)
    assert network.view_head is not None and network.view_head.drop.p == 0.3
    assert (network.description["nc"], network.description["nv"], network.description["view_dropout"]) == (7, 5, 0.3)


@pytest.mark.parametrize("with_view", [True, False])
@torch.no_grad()
def test_a_network_is_rebuilt_from_its_own_description(joint_description: Mapping, with_view: bool) -> None:
    network = Network(joint_description, nc=2, nv=4, with_view=with_view, view_dropout=0.2)
    again = Network(json.loads(json.dumps(network.description)))
    again.load_state_dict(network.state_dict())
    assert again.description == network.description and again.sources == network.sources
    assert str(again) == str(network)
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(again.eval()(x).boxes, network.eval()(x).boxes)


def test_the_description_given_is_not_changed_nor_shared(joint_description: Mapping) -> None:
    before = copy.deepcopy(joint_description)
    network = Network(joint_description, nc=7, with_view=False)
    network.description["head"][0][3].append("changed")
    network.description["anchors"][0][0] = 999
    assert joint_description == before


def test_a_seed_decides_the_weights(tiny_description: Mapping) -> None:
    states = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        states.append(Network(tiny_description).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["model.0.conv.weight"], states[2]["model.0.conv.weight"])


def test_a_paper_gate_is_a_key_of_the_description(joint_description: Mapping) -> None:
    scales = {
        gate: {p.scale for p in Network({**joint_description, "cbam_gate": gate}).modules() if isinstance(p, CBAM)}
        for gate in ("identity", "paper")
    }
    assert scales == {"identity": {2.0}, "paper": {1.0}}


# rows


@pytest.mark.parametrize(("name", "kind"), [("Conv", Conv), ("Bottleneck", Bottleneck)])
def test_repeated_plain_modules_become_a_sequential(name: str, kind: type[nn.Module]) -> None:
    network = Network(small([-1, 6, name, [24]], depth_multiple=0.5))
    layer = network.model[2]
    assert isinstance(layer, nn.Sequential) and len(layer) == 3 and all(isinstance(part, kind) for part in layer)
    names = {f"model.2.{i}.{part}" for i in range(3) for part in layer[i].state_dict()}
    assert {n for n in network.state_dict() if n.startswith("model.2.")} == names
    assert layer(torch.zeros(1, 16, 4, 4)).shape == (1, 24, 4, 4)


@pytest.mark.parametrize(
    ("number", "multiple", "depth"),
    [(1, 0.33, 1), (3, 0.33, 1), (6, 0.33, 2), (9, 0.33, 3), (9, 1.33, 12), (2, 0.1, 1)],
)
def test_depth_is_scaled_and_at_least_one(number: int, multiple: float, depth: int) -> None:
    layer = Network(small([-1, number, "C3", [16]], depth_multiple=multiple)).model[2]
    assert len(layer.m) == depth  # type: ignore[arg-type]


@pytest.mark.parametrize(("channels", "multiple", "width"), [(64, 0.5, 32), (64, 0.3, 24), (8, 0.1, 8), (72, 1.0, 72)])
def test_width_is_scaled_and_rounded_up_to_eights(channels: int, multiple: float, width: int) -> None:
    layer = Network(small([-1, 1, "Conv", [channels]], width_multiple=multiple)).model[2]
    assert isinstance(layer, Conv) and layer.conv.out_channels == width


@torch.no_grad()
def test_strides_follow_from_the_rows() -> None:
    levels = ["nc", [[1, 1], [2, 2], [3, 3]]]
    rows = [
        [-1, 2, "Conv", [16, 3, 2]],
        [-1, 1, "nn.Upsample", ["None", 2, "nearest"]],
        [[1, 2, 3], 1, "Detect", levels],
    ]
    network = Network({**small(), "head": rows})
    assert network.detect.strides == (4, 16, 8) and network.max_stride == 16
    raw = network(torch.zeros(1, 3, 32, 48)).raw
    assert [tuple(level.shape[2:4]) for level in raw] == [(8, 12), (2, 3), (4, 6)]


@pytest.mark.parametrize(("arguments", "kernel"), [([], 7), ([16], 7), ([16, 3], 3), ([16, 5], 5)])
def test_cbam_may_stand_as_a_layer_of_its_own(arguments: list[int], kernel: int) -> None:
    network = Network(small([-1, 1, "CBAM", arguments], [-1, 1, "C3", [32]], cbam_gate="paper"))
    layer = network.model[2]
    assert isinstance(layer, CBAM) and layer.scale == 1.0
    assert layer.spatial_attention.conv.kernel_size == (kernel, kernel)
    assert layer.channel_attention.f2.out_channels == 16
    assert "model.2.channel_attention.f1.weight" in network.state_dict()
    assert network(torch.zeros(1, 3, 16, 16)).raw[0].shape == (1, 2, 4, 4, 7)


def test_anchors_may_be_a_number_of_them_a_level(tiny_description: Mapping) -> None:
    network = Network({**tiny_description, "anchors": 4})
    anchors = network.detect.anchors_in_pixels()
    assert anchors.shape == (3, 4, 2) and len(anchors.unique()) > 4
    assert (anchors > 0).all() and (anchors[1] > anchors[0]).all() and (anchors[2] > anchors[1]).all()
    assert network(torch.zeros(1, 3, 64, 64)).raw[0].shape == (1, 4, 8, 8, 9)


# weights of another network


def test_load_matching_takes_what_fits_and_says_why_the_rest_does_not(
    tiny_description: Mapping, tiny_state: dict[str, Tensor]
) -> None:
    network = Network(tiny_description, nc=2)
    torch.nn.init.zeros_(network.get_parameter("model.0.conv.weight"))
    fresh = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    del tiny_state["model.9.cv2.conv.weight"]
    tiny_state["model.99.extra"] = torch.zeros(1)
    matched, left = load_matching(network, tiny_state)
    assert left == [
        "model.9.cv2.conv.weight: not there",
        *(
            f"model.24.m.{i}.{part}: shape {(27, *rest)} there, {(21, *rest)} here"
            for i, channels in enumerate((32, 64, 128))
            for part, rest in (("weight", (channels, 1, 1)), ("bias", ()))
        ),
    ]
    assert len(matched) == 349 - 7
    state = network.state_dict()
    assert all(torch.equal(state[name], tiny_state[name]) for name in matched)
    assert all(torch.equal(state[line.split(":")[0]], fresh[line.split(":")[0]]) for line in left)


def test_load_matching_reads_half_precision_weights(tiny_description: Mapping, tiny_state: dict[str, Tensor]) -> None:
    network = Network(tiny_description)
    _, left = load_matching(network, {k: v.half() if v.is_floating_point() else v for k, v in tiny_state.items()})
    assert not left
    for name, tensor in network.state_dict().items():
        assert tensor.dtype == tiny_state[name].dtype
        torch.testing.assert_close(tensor, tiny_state[name], rtol=1e-3, atol=1e-4)


def test_a_view_head_that_is_not_last_cannot_be_left_out() -> None:
    description = small([1, 1, "ViewHead", ["nv", 16]], [1, 1, "Conv", [16]])
    rows = [*description["head"][:2], [3, 1, "Detect", ["nc", "anchors"]]]
    assert Network({**description, "head": rows}).nv == 3
    with pytest.raises(InputError, match="expected the ViewHead as the last layer"):
        Network({**description, "head": rows}, with_view=False)


def view_alone(mapping: Mapping, **keywords: Any) -> Network:
    """The classifier made of a network yaml's backbone."""
    return Network(classifier_description(mapping), **keywords)


@torch.no_grad()
def test_a_view_head_may_stand_alone_behind_a_backbone(tiny_description: Mapping) -> None:
    network = view_alone(tiny_description, nv=5, view_dropout=0.2)
    assert (network.nc, network.nv, network.max_stride, len(network.model)) == (0, 5, 32, 11)
    assert network.view_head is not None and network.view_head.drop.p == 0.2
    output = network.eval()(torch.rand(2, 3, 64, 96))
    assert (output.raw, output.boxes) == ([], None)
    assert output.view is not None and output.view.shape == (2, 5)
    with pytest.raises(ValueError, match="expected a network with a Detect layer, got a classifier alone"):
        network.detect  # noqa: B018


def test_a_classifier_alone_is_the_backbone_and_a_head_of_the_joint_networks_width(quick_weights: None) -> None:
    stock = load_yaml(ROOT / "models/hub/yolov5s.yaml")
    network, whole = view_alone(stock, nv=3), Network(stock)
    backbone = sum(parameter_count(layer) for layer in whole.model[: len(stock["backbone"])])
    hidden = VIEW_HIDDEN // 2  # the width multiple of s
    assert parameter_count(network) == backbone + VIEW_HEAD
    assert 512 * hidden + 2 * hidden + hidden * 3 + 3 == VIEW_HEAD
    trunk = {name for name in whole.state_dict() if int(name.split(".")[1]) < len(stock["backbone"])}
    assert trunk == {name for name in network.state_dict() if not name.startswith("model.10.")}


@torch.no_grad()
def test_a_classifier_alone_is_fused_and_rebuilt_as_any_network(tiny_description: Mapping) -> None:
    network = view_alone(tiny_description, nv=3).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            nn.init.normal_(module.running_mean, 0, 0.1)
    again, x = Network(network.description).eval(), torch.rand(2, 3, 64, 64)
    again.load_state_dict(network.state_dict())
    quick = fused(network)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in quick.modules())
    expected = network(x).view
    assert torch.equal(again(x).view, expected)
    torch.testing.assert_close(quick(x).view, expected, rtol=1e-4, atol=1e-5)


def test_the_backbones_own_yaml_is_not_changed(tiny_description: Mapping) -> None:
    before = copy.deepcopy(tiny_description)
    view_alone(tiny_description, nv=2)
    assert tiny_description == before


@pytest.mark.parametrize(
    "head",
    [
        [[-1, 1, "Conv", [8, 1, 1]]],
        [[1, 1, "ViewHead", ["nv", 8]], [1, 1, "ViewHead", ["nv", 8]]],
    ],
    ids=["none", "two"],
)
def test_a_network_without_a_head_or_with_two_of_a_kind_is_refused(head: list[Any]) -> None:
    with pytest.raises(InputError, match="expected one Detect layer and at most one ViewHead, or a ViewHead alone"):
        Network({**small(), "head": head})


@torch.no_grad()
def test_any_module_with_a_fuse_of_its_own_is_fused_and_the_original_is_left() -> None:
    network = nn.Sequential(Conv(3, 4, 3), nn.ReLU(), Conv(4, 2)).eval()
    x = torch.rand(1, 3, 8, 8)
    quick = fused(network)
    assert isinstance(network[0], Fusable) and not isinstance(network[1], Fusable)
    assert isinstance(network[0].bn, nn.BatchNorm2d) and isinstance(quick[0].bn, nn.Identity)
    assert all(not weight.requires_grad for weight in quick.parameters()) and not quick.training
    torch.testing.assert_close(quick(x), network(x), rtol=1e-5, atol=1e-6)
