"""The optimizer's three groups against YOLOv5's, its rates, and the running mean of the weights."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from models.yolo import Network
from utils.config import ROOT, load_yaml
from utils.optim import OPTIMIZERS, RunningMean, build_optimizer, set_rates
from utils.schedule import Rates, ema_decay


def test_the_groups_are_yolov5s(golden: Path) -> None:
    network = Network(load_yaml(ROOT / "models/hub/yolov5s.yaml"), nc=4)
    optimizer = build_optimizer(network, "SGD", lr=0.01, momentum=0.937, decay=0.0005)
    got = [
        {
            "tensors": len(group["params"]),
            "elements": sum(weight.numel() for weight in group["params"]),
            "weight_decay": group["weight_decay"],
        }
        for group in optimizer.param_groups
    ]
    assert got == json.loads((golden / "schedule.json").read_text())["sgd_groups_yolov5s_nc4"]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_parameter_is_in_exactly_one_group(joint: Network, name: str) -> None:
    optimizer = build_optimizer(joint, name, lr=0.01, momentum=0.9, decay=0.1)
    names = {id(weight): key for key, weight in joint.named_parameters()}
    groups = [[names[id(weight)] for weight in group["params"]] for group in optimizer.param_groups]
    assert sorted(key for group in groups for key in group) == sorted(names.values())
    assert all(key.endswith(".bias") for key in groups[0])
    assert all(key.endswith(".bn.weight") for key in groups[2])
    assert "model.2.cbam.channel_attention.f1.weight" in groups[1] and "model.25.linear.weight" in groups[1]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0, 0.1, 0]
    assert type(optimizer).__name__ == name


def test_frozen_parameters_are_left_out(joint: Network) -> None:
    for layer in list(joint.model)[:10]:
        layer.requires_grad_(False)
    optimizer = build_optimizer(joint, "SGD", lr=0.01, momentum=0.9, decay=0.1)
    taken = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
    assert taken == {id(w) for key, w in joint.named_parameters() if int(key.split(".")[1]) >= 10}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_momentum_is_sgds_or_the_first_beta(name: str) -> None:
    optimizer = build_optimizer(nn.Linear(2, 2), name, lr=0.02, momentum=0.937, decay=0.0)
    for group in optimizer.param_groups:
        assert group["lr"] == 0.02
        if name == "SGD":
            assert group["momentum"] == 0.937 and group["nesterov"]
        else:
            assert group["betas"] == (0.937, 0.999)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_set_rates_reaches_every_group(name: str) -> None:
    optimizer = build_optimizer(nn.Linear(2, 2), name, lr=0.02, momentum=0.937, decay=0.0)
    set_rates(optimizer, Rates(bias_lr=0.3, lr=0.2, momentum=0.5, accumulate=1))
    assert [group["lr"] for group in optimizer.param_groups] == [0.3, 0.2, 0.2]
    for group in optimizer.param_groups:
        if name == "SGD":
            assert group["momentum"] == 0.5
        else:  # as in YOLOv5, beta 1 is not warmed up
            assert group["betas"] == (0.937, 0.999)


@torch.no_grad()
def test_the_running_mean_follows_its_formula_on_a_known_sequence(tiny: Network) -> None:
    mean = RunningMean(tiny, updates=500)
    key, statistic = "model.3.conv.weight", "model.3.bn.running_var"
    expected, expected_statistic = 0.25, 1.0
    for part, value in ((key, expected), (statistic, expected_statistic)):
        mean.network.state_dict()[part].fill_(value)
    for update, value in enumerate((1.0, -2.0, 0.5), start=501):
        tiny.state_dict()[key].fill_(value)
        tiny.state_dict()[statistic].fill_(value + 3)
        mean.update(tiny)
        keep = ema_decay(update)
        expected = keep * expected + (1 - keep) * value
        expected_statistic = keep * expected_statistic + (1 - keep) * (value + 3)
    state = mean.network.state_dict()
    torch.testing.assert_close(state[key], torch.full_like(state[key], expected))
    torch.testing.assert_close(state[statistic], torch.full_like(state[statistic], expected_statistic))
    assert mean.updates == 503


def test_the_running_mean_copies_counters_and_forgets_the_first_weights(tiny: Network) -> None:
    mean = RunningMean(tiny)
    counter, key = "model.0.bn.num_batches_tracked", "model.0.conv.weight"
    tiny.state_dict()[counter].fill_(7)
    nn.init.ones_(tiny.get_parameter(key))
    mean.update(tiny)
    state = mean.network.state_dict()
    assert state[counter] == 7 and state[counter].dtype == torch.int64
    assert (state[key] - 1).abs().max() < 1e-3  # after one update 99.95 % is the new weight


def test_the_running_mean_is_a_copy_that_does_not_train(tiny: Network) -> None:
    mean = RunningMean(tiny)
    assert not mean.network.training and tiny.training
    assert not any(weight.requires_grad for weight in mean.network.parameters())
    assert all(weight.requires_grad for weight in tiny.parameters())
    before = mean.network.state_dict()["model.0.conv.weight"].clone()
    nn.init.ones_(tiny.get_parameter("model.0.conv.weight"))
    assert torch.equal(mean.network.state_dict()["model.0.conv.weight"], before)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_fused_steps_are_those_of_the_plain_optimizer(tiny: Network, name: str) -> None:
    plain = copy.deepcopy(tiny)
    ours, theirs = (build_optimizer(network, name, 0.01, 0.937, 0.05) for network in (tiny, plain))
    assert all(group["fused"] for group in ours.param_groups)
    for group in theirs.param_groups:
        group.update(fused=False, foreach=False)
    random = torch.Generator().manual_seed(0)
    for _ in range(4):
        for mine, other in zip(tiny.parameters(), plain.parameters(), strict=True):
            mine.grad = torch.randn(mine.shape, generator=random)
            other.grad = mine.grad.clone()
        ours.step()
        theirs.step()
    for mine, other in zip(tiny.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)
