"""models.squeeze: the paper's gate is torchvision's, the identity gate starts from nothing, blocks keep their sum."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import SqueezeExcitation

from models.squeeze import SE, SEBasicBlock, SEBottleneck
from models.yolo import parameter_count


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def block_like(kind: type[nn.Module], stride: int) -> nn.Module:
    """A ResNet block of 16 channels in (and a shortcut with a convolution if it is strided), in evaluation mode."""
    planes = 8 if issubclass(kind, Bottleneck) else 16
    out = planes * 4 if issubclass(kind, Bottleneck) else planes
    shortcut = nn.Sequential(nn.Conv2d(16, out, 1, stride, bias=False), nn.BatchNorm2d(out))
    return kind(16, planes, stride, shortcut if stride > 1 or out != 16 else None).eval()


def test_a_fresh_identity_squeeze_and_excitation_passes_features_unchanged() -> None:
    for scale in (1e-3, 1.0, 1e3):
        x = torch.randn(2, 32, 9, 11) * scale
        assert torch.equal(SE(32)(x), x)


@torch.no_grad()
def test_the_papers_squeeze_and_excitation_is_torchvisions() -> None:
    ours, theirs = SE(64, gate="paper"), SqueezeExcitation(64, 4)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(3, 64, 7, 5)
    assert torch.equal(ours(x), theirs(x))
    hidden = (ours.fc1.weight[:, :, 0, 0] @ x.mean((2, 3)).T + ours.fc1.bias[:, None]).relu()
    gate = (ours.fc2.weight[:, :, 0, 0] @ hidden + ours.fc2.bias[:, None]).sigmoid()
    torch.testing.assert_close(ours(x), x * gate.T[..., None, None])


@pytest.mark.parametrize("channels", [64, 256, 2048])
def test_squeeze_and_excitation_has_as_many_parameters_as_its_formula_says(channels: int) -> None:
    hidden = channels // 16
    assert parameter_count(SE(channels)) == 2 * channels * hidden + hidden + channels


def test_gradients_reach_the_gates_last_convolution_at_the_start() -> None:
    se = SE(32)
    se(torch.randn(2, 32, 8, 8)).square().sum().backward()
    assert se.fc2.weight.grad is not None and se.fc2.weight.grad.abs().max() > 0


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("kind", "plain"), [(SEBottleneck, Bottleneck), (SEBasicBlock, BasicBlock)])
@torch.no_grad()
def test_a_fresh_gate_leaves_a_residual_block_as_torchvisions(
    kind: type[nn.Module], plain: type[nn.Module], stride: int
) -> None:
    block, stock = block_like(kind, stride), block_like(plain, stride)
    added = set(block.state_dict()) - set(stock.state_dict())
    assert added == {f"se.{name}" for name in SE(16).state_dict()} and not set(stock.state_dict()) - set(
        block.state_dict()
    )
    stock.load_state_dict({name: tensor for name, tensor in block.state_dict().items() if name not in added})
    x = torch.randn(2, 16, 6, 6)
    assert torch.equal(block(x), stock(x))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kind", [SEBottleneck, SEBasicBlock])
@torch.no_grad()
def test_a_closed_gate_leaves_a_residual_block_its_shortcut_alone(kind: type[nn.Module], stride: int) -> None:
    block = block_like(kind, stride)
    assert isinstance(block, SEBottleneck | SEBasicBlock)
    assert block.se.fc2.bias is not None
    block.se.fc2.bias.fill_(-float("inf"))
    x = torch.randn(2, 16, 6, 6)
    shortcut = x if block.downsample is None else block.downsample(x)
    assert torch.equal(block(x), shortcut.relu())


def test_an_unknown_gate_of_squeeze_and_excitation_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="gate: expected one of identity, paper, got 'half'"):
        SE(16, gate="half")
