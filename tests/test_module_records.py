"""Records of pickled networks: their tensors, and what is built otherwise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from models.attention import CBAM
from models.yolo import Network
from tests.pickled import pickled, stock
from utils.archive import read_archive
from utils.module_records import differences, modules, short, state_of
from utils.unpickling import Record, RefusedError


def record_of(path: Path, network: nn.Module) -> Record:
    read = read_archive(pickled(path / "a.pt", network, None, half=False))["model"]
    assert isinstance(read, Record)
    return read


def test_names_and_tensors_are_those_of_the_module(tmp_path: Path, tiny_description: dict[str, Any]) -> None:
    network = stock(tiny_description)
    network.register_buffer("forgotten", torch.ones(1), persistent=False)
    record = record_of(tmp_path, network)
    assert {name for name, _ in modules(record)} == {name for name, _ in network.named_modules()}
    assert short(record) == "Network"
    state = state_of(record)
    assert state.keys() == network.state_dict().keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())


def test_a_network_is_built_as_itself(tmp_path: Path, tiny_description: dict[str, Any]) -> None:
    network = stock(tiny_description)
    assert differences(record_of(tmp_path, network), Network(tiny_description)) == []


def set_attribute(find: Callable[[Any], Any], name: str, value: Any) -> Callable[[Any], None]:
    return lambda network: setattr(find(network), name, value)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (set_attribute(lambda n: n.model[0], "act", nn.LeakyReLU(0.1)), "model.0.act: LeakyReLU there, SiLU here"),
        (set_attribute(lambda n: n.model[0], "bn", nn.BatchNorm2d(8)), "model.0.bn (BatchNorm2d): eps 1e-05 there"),
        (set_attribute(lambda n: n.model[0].conv, "dilation", (2, 2)), "model.0.conv (Conv2d): dilation 2 there, 1"),
        (set_attribute(lambda n: n.model[0].conv, "stride", (2, 1)), "model.0.conv (Conv2d): stride [2, 1] there, 2"),
        (set_attribute(lambda n: n.model[9].m, "kernel_size", 7), "model.9.m (MaxPool2d): kernel_size 7 there"),
        (set_attribute(lambda n: n.model[11], "mode", "bilinear"), "model.11 (Upsample): mode bilinear there"),
        (set_attribute(lambda n: n.model[2].m[0], "add", False), "model.2.m.0 (Bottleneck): add False there, True"),
        (set_attribute(lambda n: n.model[24], "stride", torch.tensor([4.0, 8.0, 16.0])), "stride [4.0, 8.0"),
        (set_attribute(lambda n: n.model[0], "act", nn.Identity()), "model.0.act: Identity there, SiLU here"),
        (set_attribute(lambda n: n.model[0].conv, "bias", nn.Parameter(torch.ones(8))), "model.0.conv (Conv2d): bias"),
        (set_attribute(lambda n: n.model[2], "gain", nn.Parameter(torch.ones(1))), "model.2 (C3): gain there, nothing"),
        (lambda n: n.model[2].add_module("gate", nn.Sigmoid()), "model.2.gate: Sigmoid there, nothing here"),
        (lambda n: delattr(n.model[9], "m"), "model.9.m: nothing there, MaxPool2d here"),
    ],
)  # fmt: skip
def test_a_layer_that_computes_otherwise_is_named(
    tmp_path: Path, tiny_description: dict[str, Any], change: Callable[[Any], None], line: str
) -> None:
    network = stock(tiny_description)
    change(network)
    found = differences(record_of(tmp_path, network), Network(tiny_description))
    assert any(line in one for one in found), found


def test_layers_without_effect_in_evaluation_are_no_difference(
    tmp_path: Path, tiny_description: dict[str, Any]
) -> None:
    network: Any = stock(tiny_description)
    network.model[2].add_module("drop", nn.Dropout(0.2))
    assert differences(record_of(tmp_path, network), Network(tiny_description)) == []


def test_a_forks_attention_may_hold_its_pooling_as_layers(tmp_path: Path) -> None:
    """Most forks write the pooling and the sigmoid of CBAM as modules; another activation is another network."""
    ours, attention = nn.Sequential(CBAM(32)), CBAM(32)
    fork = nn.Sequential(attention)
    for name, module in (("avg_pool", nn.AdaptiveAvgPool2d(1)), ("sigmoid", nn.Sigmoid())):
        attention.channel_attention.add_module(name, module)
    assert differences(record_of(tmp_path, fork), ours) == []
    attention.channel_attention.relu = nn.SiLU()  # type: ignore[assignment]
    assert differences(record_of(tmp_path, fork), ours) == ["0.channel_attention.relu: SiLU there, ReLU here"]
    attention.channel_attention.relu = nn.ReLU()
    attention.channel_attention.add_module("act", nn.SiLU())
    assert differences(record_of(tmp_path, fork), ours) == ["0.channel_attention.act: SiLU there, nothing here"]


@pytest.mark.parametrize("children", [1, 300])
def test_a_module_that_contains_itself_has_an_end(children: int) -> None:
    endless = Record("models.yolo.Model")
    endless.state = {"_modules": {str(number): endless for number in range(children)}}
    with pytest.raises(RefusedError, match="without end"):
        state_of(endless)


@pytest.mark.parametrize("key", ["", "a.b", "a" * 201, "a\n", "\x1b[31m", 5, None], ids=repr)
def test_names_that_torch_does_not_allow_are_refused(key: Any) -> None:
    for state in ({"_modules": {key: Record("a.B")}}, {"_buffers": {key: torch.ones(1)}}):
        with pytest.raises(RefusedError, match="no name"):
            state_of(Record("models.yolo.Model", state=state))


def test_a_tensor_of_many_names_is_copied_once() -> None:
    tensor = torch.ones(3).half()
    state = state_of(Record("a.B", state={"_buffers": {str(number): tensor for number in range(9)}}))
    assert len(state) == 9 and len({id(one) for one in state.values()}) == 1


def test_statistics_that_were_shared_between_gpus_are_the_same_in_evaluation(
    tmp_path: Path, tiny_description: dict[str, Any]
) -> None:
    network = nn.SyncBatchNorm.convert_sync_batchnorm(stock(tiny_description))
    assert differences(record_of(tmp_path, network), Network(tiny_description)) == []
