"""CBAM and squeeze-and-excitation: the papers' equations, gates that start as the identity, and both in networks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.attention import C3CBAM, CBAM
from models.common import C3
from models.yolo import Network, fused, load_matching, parameter_count


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def images() -> Tensor:
    return torch.rand(2, 3, 64, 96)


def test_a_fresh_identity_gate_passes_features_unchanged() -> None:
    for scale in (1e-3, 1.0, 1e3):
        x = torch.randn(2, 32, 9, 11) * scale
        assert torch.equal(CBAM(32)(x), x)


def test_a_fresh_paper_gate_lets_about_a_quarter_pass() -> None:
    x = torch.randn(4, 64, 16, 16)
    share = CBAM(64, gate="paper")(x) / x
    assert 0.15 < share.mean() < 0.35 and share.min() > 0 and share.max() < 1


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@torch.no_grad()
def test_a_fresh_joint_network_with_stock_tensors_gives_the_stock_outputs(
    tiny: Network, joint: Network, training: bool
) -> None:
    _, left = load_matching(joint, tiny.state_dict())
    assert left and all(".cbam." in line or "model.25." in line for line in left)
    x = images()
    stock, ours = tiny.train(training)(x), joint.train(training)(x)
    for expected, got in zip(stock.raw, ours.raw, strict=True):
        assert torch.equal(got, expected)


@torch.no_grad()
def test_paper_gates_do_change_what_stock_tensors_give(tiny: Network, joint_description: dict[str, Any]) -> None:
    network = Network({**joint_description, "cbam_gate": "paper"})
    load_matching(network, tiny.state_dict())
    x = images()
    for expected, got in zip(tiny.eval()(x).raw, network.eval()(x).raw, strict=True):
        assert not torch.allclose(got, expected)
    first = [nn.Sequential(*list(n.model)[:3])(x).abs().mean() for n in (network, tiny)]
    assert 0.15 < first[0] / first[1] < 0.35  # of what the first block gave, a quarter is left


@pytest.mark.parametrize("channels", [16, 32, 64, 128, 512])
def test_cbam_has_as_many_parameters_as_its_formula_says(channels: int) -> None:
    count = 2 * channels * (channels // 16) + 98
    assert parameter_count(CBAM(channels)) == count
    assert parameter_count(C3CBAM(8, channels)) == parameter_count(C3(8, channels)) + count


def test_a_few_channels_keep_one_hidden_unit() -> None:
    assert parameter_count(CBAM(8)) == 2 * 8 + 98


def test_cbam_keeps_its_state_names() -> None:
    assert {name: tuple(tensor.shape) for name, tensor in CBAM(32, kernel=5).state_dict().items()} == {
        "channel_attention.f1.weight": (2, 32, 1, 1),
        "channel_attention.f2.weight": (32, 2, 1, 1),
        "spatial_attention.conv.weight": (1, 2, 5, 5),
    }
    added = {name for name in C3CBAM(8, 16).state_dict() if name not in C3(8, 16).state_dict()}
    assert added == {f"cbam.{name}" for name in CBAM(16).state_dict()}


@pytest.mark.parametrize("gate", ["identity", "paper"])
def test_gradients_reach_the_last_convolutions_at_the_start(gate: str) -> None:
    cbam = CBAM(32, gate=gate)
    cbam(torch.randn(2, 32, 8, 8)).square().sum().backward()
    last = (cbam.channel_attention.f2.weight.grad, cbam.spatial_attention.conv.weight.grad)
    assert all(gradient is not None and gradient.abs().min() > 0 for gradient in last)


def test_an_identity_gate_learns_all_its_weights_after_one_step() -> None:
    cbam, optimizer_input = CBAM(32), torch.randn(2, 32, 8, 8)
    optimizer = torch.optim.SGD(cbam.parameters(), lr=1e-4)
    for _ in range(2):
        optimizer.zero_grad()
        cbam(optimizer_input).square().sum().backward()
        optimizer.step()
    assert all(weight.grad is not None and weight.grad.abs().max() > 0 for weight in cbam.parameters())
    assert not torch.equal(cbam(optimizer_input), optimizer_input)


def test_gradients_reach_every_gate_of_a_joint_network(joint: Network) -> None:
    gates = [part for part in joint.modules() if isinstance(part, CBAM)]
    assert len(gates) == 4
    for gate in gates:
        gate.channel_attention.f1.weight.data.abs_()  # so narrow a gate has one hidden unit: let it be alive
    torch.stack([level.square().mean() for level in joint(images()).raw]).sum().backward()
    for gate in gates:
        for weight in (gate.channel_attention.f2.weight, gate.spatial_attention.conv.weight):
            assert weight.grad is not None and weight.grad.abs().max() > 0


@pytest.mark.parametrize(("gate", "scale"), [("paper", 1.0), ("identity", 2.0)])
@pytest.mark.parametrize(
    ("w0", "hidden"),  # averages are (3, 0.5), maxima (6, 2): relu(w0 of the averages) + relu(w0 of the maxima)
    [((0.5, -1.0), 1 + 1), ((1.0, -4.0), 1 + 0), ((-1.0, 4.0), 0 + 2)],
)
@torch.no_grad()
def test_cbam_follows_the_papers_equations(gate: str, scale: float, w0: tuple[float, float], hidden: float) -> None:
    """arXiv 1807.06521: equation 1, F' = M_c(F) * F and F'' = M_s(F') * F'; equations 2 and 3 give the two gates."""
    cbam = CBAM(2, kernel=3, reduction=2, gate=gate)
    cbam.channel_attention.f1.weight.copy_(torch.tensor(w0).view(1, 2, 1, 1))
    cbam.channel_attention.f2.weight.copy_(torch.tensor([2.0, -1.0]).view(2, 1, 1, 1))
    kernel = torch.arange(18.0).view(1, 2, 3, 3) / 10 - 0.8
    cbam.spatial_attention.conv.weight.copy_(kernel)
    f = torch.tensor([[[1.0, 2.0], [3.0, 6.0]], [[-1.0, 0.0], [1.0, 2.0]]])

    # channel: W1 (2, -1) of the sum of both ways' hidden unit
    m_c = scale / (1 + torch.exp(-torch.tensor([2.0, -1.0]) * hidden))
    f1 = f * m_c.view(2, 1, 1)
    # spatial: a 3x3 convolution, padded by zeros, over the channels' average and maximum
    pooled = torch.zeros(2, 4, 4)
    pooled[:, 1:3, 1:3] = torch.stack(((f1[0] + f1[1]) / 2, torch.maximum(f1[0], f1[1])))
    logits = torch.tensor([[(pooled[:, i : i + 3, j : j + 3] * kernel[0]).sum() for j in (0, 1)] for i in (0, 1)])
    f2 = f1 * scale / (1 + torch.exp(-logits))

    torch.testing.assert_close(cbam(f[None])[0], f2, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_block_attends_after_the_stock_block() -> None:
    block = C3CBAM(8, 16, 2, shortcut=False, gate="paper").eval()
    stock = C3(8, 16, 2, shortcut=False).eval()
    stock.load_state_dict({k: v for k, v in block.state_dict().items() if not k.startswith("cbam.")})
    x = torch.randn(1, 8, 6, 6)
    assert torch.equal(block(x), block.cbam(stock(x)))


@torch.no_grad()
def test_a_fused_joint_network_gives_the_plain_outputs(joint_description: dict[str, Any]) -> None:
    network = Network({**joint_description, "cbam_gate": "paper"}).eval()
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d) and part.running_mean is not None:
            nn.init.normal_(part.running_mean, 0, 0.1)
    x = images()
    plain, quick = network(x), fused(network)(x)
    torch.testing.assert_close(quick.boxes, plain.boxes, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(quick.view, plain.view, rtol=1e-4, atol=1e-5)


def test_an_unknown_gate_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="gate: expected one of identity, paper, got 'half'"):
        CBAM(16, gate="half")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_stay_channels_last_and_are_those_of_the_plain_operations(dtype: torch.dtype) -> None:
    block = CBAM(16, gate="paper").to(dtype).to(memory_format=torch.channels_last)
    x = torch.randn(2, 16, 12, 20).to(dtype=dtype, memory_format=torch.channels_last)
    weights = torch.rand(2, 16, 12, 20).to(dtype=dtype, memory_format=torch.channels_last)
    leaf = x.clone().requires_grad_()
    found = block(leaf)
    (found * weights).sum().backward()
    assert leaf.grad is not None and leaf.grad.is_contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        torch.testing.assert_close(found, block(x))  # without gradients the operations are torch's usual ones
    plain = x.double().requires_grad_()
    exact = block.double()
    average, maximum = plain.mean((2, 3), keepdim=True), plain.amax((2, 3), keepdim=True)
    channel = exact.channel_attention
    logits = sum(channel.f2(channel.f1(pooled).relu()) for pooled in (average, maximum))
    y = plain * logits.sigmoid()
    y = y * exact.spatial_attention.conv(torch.cat((y.mean(1, True), y.amax(1, True)), 1)).sigmoid()
    (y * weights.double()).sum().backward()
    if dtype == torch.float32:
        torch.testing.assert_close(leaf.grad.double(), plain.grad, rtol=1e-5, atol=1e-5)
    else:  # of maxima that bf16 takes for equal, one alone has a gradient
        assert plain.grad is not None and (leaf.grad - plain.grad).abs().mean() < 0.003
