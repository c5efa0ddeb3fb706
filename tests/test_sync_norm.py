"""models.sync_norm: two processes of half a batch against nn.BatchNorm2d of the whole one."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.sync_norm import SyncBatchNorm2d, synchronised
from models.yolo import Network, fused

ROWS = (3, 5)  # frames of each process


def norm() -> nn.BatchNorm2d:
    torch.manual_seed(0)
    module = nn.BatchNorm2d(6, eps=1e-3, momentum=0.03)
    nn.init.uniform_(module.weight, 0.5, 2.0)
    nn.init.normal_(module.bias)
    return module.train()


def batch() -> tuple[Tensor, Tensor]:
    """Features whose means are far from 0, and weights of a loss."""
    torch.manual_seed(1)
    return torch.randn(sum(ROWS), 6, 4, 5) + torch.arange(6).view(1, -1, 1, 1) * 10, torch.randn(sum(ROWS), 6, 4, 5)


def passed(module: nn.Module, x: Tensor, weight: Tensor) -> dict[str, Any]:
    """Output, gradients and running statistics of a training step."""
    x = x.clone().requires_grad_()
    y = module(x)
    (y * weight).sum().backward()
    assert x.grad is not None
    gradients = {name: parameter.grad for name, parameter in module.named_parameters()}
    return {"y": y.detach(), "x": x.grad, **gradients, **dict(module.named_buffers())}


def _process(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    module = nn.Sequential(norm())
    synchronised(module)
    assert isinstance(module[0], SyncBatchNorm2d)
    rows = slice(0, ROWS[0]) if rank == 0 else slice(ROWS[0], None)
    torch.save(passed(module[0], *(tensor[rows] for tensor in batch())), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_outputs_gradients_and_statistics_are_those_of_the_whole_batch(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_process, args=(str(tmp_path),), nprocs=2)
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    whole = passed(norm(), *batch())
    for name in ("y", "x"):
        torch.testing.assert_close(torch.cat([part[name] for part in parts]), whole[name], rtol=1e-4, atol=1e-5)
    for name in ("weight", "bias"):  # each process has its share of these
        torch.testing.assert_close(parts[0][name] + parts[1][name], whole[name], rtol=1e-4, atol=1e-4)
    for part in parts:
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            torch.testing.assert_close(part[name], whole[name], rtol=1e-5, atol=1e-6)


def test_state_names_parameters_and_frozen_ones_stay(joint: Network) -> None:
    joint.model[0].requires_grad_(False)
    before = copy.deepcopy(joint)
    synchronised(joint)
    norms = [module for module in joint.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms and all(type(module) is SyncBatchNorm2d for module in norms)
    assert {module.momentum for module in norms} == {0.03} and {module.eps for module in norms} == {1e-3}
    assert list(joint.state_dict()) == list(before.state_dict())
    for name, parameter in joint.named_parameters():
        assert torch.equal(parameter, before.get_parameter(name))
        assert parameter.requires_grad == before.get_parameter(name).requires_grad, name


@pytest.mark.parametrize("ready", [lambda network: network.eval(), fused], ids=["evaluation", "fused"])
def test_in_evaluation_nothing_is_sent_and_nothing_differs(joint: Network, ready: Any) -> None:
    plain = copy.deepcopy(joint)
    synchronised(joint)
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():  # no process group is open here
        ours, expected = ready(joint)(images), ready(plain)(images)
    torch.testing.assert_close(ours.boxes, expected.boxes)
    torch.testing.assert_close(ours.view, expected.view)
