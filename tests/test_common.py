"""YOLOv5's blocks: folding the normalisation, residual sums, shapes, and pooling against its plain form."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.common import C3, SPPF, Bottleneck, Concat, Conv
from models.yolo import Network


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def trained(module: nn.Module) -> nn.Module:
    """The module in evaluation mode, its normalisations with statistics and weights as a training leaves them."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            assert part.running_mean is not None and part.running_var is not None
            nn.init.normal_(part.running_mean)
            nn.init.uniform_(part.running_var, 0.5, 2)
            nn.init.normal_(part.weight, 1, 0.3)
            nn.init.normal_(part.bias)
    return module.eval()


def fuse_all(module: nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, Conv):
            part.fuse()


@pytest.mark.parametrize(
    "module",
    [Conv(8, 16), Conv(8, 16, 3), Conv(8, 16, 3, 2), Conv(8, 16, 6, 2, 2), Bottleneck(8, 8), C3(8, 16, 2), SPPF(8, 16)],
    ids=["1x1", "3x3", "stride 2", "stem", "Bottleneck", "C3", "SPPF"],
)
@torch.no_grad()
def test_folding_the_normalisation_into_the_convolution_changes_nothing(module: nn.Module) -> None:
    trained(module)
    x = torch.randn(2, 8, 12, 16)
    plain = module(x)
    fuse_all(module)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in module.modules())
    torch.testing.assert_close(module(x), plain, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_second_fuse_does_nothing() -> None:
    conv = Conv(4, 8, 3)
    trained(conv)
    conv.fuse()
    convolution, weight = conv.conv, conv.conv.weight.clone()
    conv.fuse()
    assert conv.conv is convolution and torch.equal(conv.conv.weight, weight)
    assert conv.conv.bias is not None and isinstance(conv.bn, nn.Identity)


def test_conv_is_convolution_then_normalisation_then_silu() -> None:
    conv = Conv(4, 8, 3)
    x = torch.randn(3, 4, 5, 7)
    y = F.conv2d(x, conv.conv.weight, padding=1)
    mean, variance = y.mean((0, 2, 3), keepdim=True), y.var((0, 2, 3), unbiased=False, keepdim=True)
    y = (y - mean) / (variance + 1e-3).sqrt()
    torch.testing.assert_close(conv(x), y * y.sigmoid(), rtol=1e-4, atol=1e-5)
    assert conv.conv.bias is None


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "size"),
    [(1, 1, None, (12, 16)), (3, 1, None, (12, 16)), (3, 2, None, (6, 8)), (6, 2, 2, (6, 8)), (3, 1, 0, (10, 14))],
)
def test_padding_defaults_to_same(kernel: int, stride: int, padding: int | None, size: tuple[int, int]) -> None:
    assert Conv(3, 4, kernel, stride, padding)(torch.zeros(1, 3, 12, 16)).shape == (1, 4, *size)


@pytest.mark.parametrize(
    ("out", "shortcut", "added"), [(8, True, True), (8, False, False), (16, True, False)], ids=["equal", "off", "wider"]
)
@torch.no_grad()
def test_a_bottleneck_adds_its_input_where_asked_and_possible(out: int, shortcut: bool, added: bool) -> None:
    block = Bottleneck(8, out, shortcut)
    trained(block)
    x = torch.randn(1, 8, 6, 6)
    branch = block.cv2(block.cv1(x))
    assert torch.equal(block(x), x + branch if added else branch)
    assert block.cv1.conv.out_channels == out // 2


@pytest.mark.parametrize(("n", "shortcut"), [(1, True), (3, False)])
@torch.no_grad()
def test_c3_joins_its_two_ways(n: int, shortcut: bool) -> None:
    block = C3(8, 24, n, shortcut)
    trained(block)
    x = torch.randn(2, 8, 5, 7)
    way = block.cv1(x)
    for bottleneck in block.m:
        assert isinstance(bottleneck, Bottleneck)
        branch = bottleneck.cv2(bottleneck.cv1(way))
        way = way + branch if shortcut else branch
    assert len(block.m) == n and way.shape == (2, 12, 5, 7)
    torch.testing.assert_close(block(x), block.cv3(torch.cat((way, block.cv2(x)), 1)))
    assert block(x).shape == (2, 24, 5, 7)


@torch.no_grad()
def test_sppf_equals_parallel_pools_of_5_9_and_13() -> None:
    block = SPPF(8, 12)
    trained(block)
    x = torch.randn(2, 8, 15, 17)
    y: Tensor = block.cv1(x)
    pools = [F.max_pool2d(y, size, stride=1, padding=size // 2) for size in (5, 9, 13)]
    assert torch.equal(block(x), block.cv2(torch.cat((y, *pools), 1)))
    assert block(x).shape == (2, 12, 15, 17)


def test_concat_joins_channels_in_the_order_given() -> None:
    one, other = torch.zeros(1, 2, 3, 3), torch.ones(1, 1, 3, 3)
    assert Concat()([one, other])[0, :, 0, 0].tolist() == [0, 0, 1]
    assert Concat(2)([one, one]).shape == (1, 2, 6, 3)


@pytest.mark.parametrize("name", ["tiny", "joint"])
def test_every_normalisation_of_a_network_has_yolov5s_constants(name: str, request: pytest.FixtureRequest) -> None:
    network: Network = request.getfixturevalue(name)
    norms = [part for part in network.modules() if isinstance(part, nn.BatchNorm2d)]
    assert len(norms) == (57 if name == "tiny" else 58)  # the view head's own
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.03)}
