"""models.classifier: torchvision's ResNet with squeeze-and-excitation and fusion, its counts, its equals, its names."""

from __future__ import annotations

import itertools

import pytest
import torch
import torchvision
from torch import Tensor, nn

from models.classifier import (
    BACKBONES,
    FUSED_CHANNELS,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Classifier,
    Fusion,
    from_torchvision,
)
from models.dual import RESNETS, build_network
from models.squeeze import SE, SEBasicBlock, SEBottleneck
from models.yolo import fused, load_matching, parameter_count
from tests.test_engine import hyperparameters
from utils.log import InputError
from utils.loss import JointLoss

CHANNELS = {"resnet18": (128, 256, 512), "resnet34": (128, 256, 512), "resnet50": (512, 1024, 2048)}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def images(frames: int = 2) -> Tensor:
    return torch.rand(frames, 3, 64, 96)


def shaken(network: nn.Module) -> nn.Module:
    """With running statistics and scales as if it had been trained, and gates that are open by half, in evaluation."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
        if isinstance(module, SE):
            nn.init.normal_(module.fc2.weight, 0, 0.1)
    return network.eval()


def view(network: nn.Module, x: Tensor) -> Tensor:
    logits: Tensor = network(x).view
    return logits


def count(se: bool, fusion: bool) -> int:
    """Parameters of the classifier of three views; the tensors themselves are not made."""
    with torch.device("meta"):
        return parameter_count(Classifier("resnet50", 3, se, fusion))


def test_resnet50_has_the_known_number_of_parameters() -> None:
    assert count(se=False, fusion=False) == 23_514_179
    assert count(se=True, fusion=False) == 26_045_171


def test_the_fusion_adds_as_many_parameters_as_its_formula_says() -> None:
    levels = sum(channels * FUSED_CHANNELS + 2 * FUSED_CHANNELS for channels in CHANNELS["resnet50"])
    linear = 3 * FUSED_CHANNELS * 3 + 3 - (2048 * 3 + 3)
    for se in (False, True):
        assert count(se=se, fusion=True) == count(se=se, fusion=False) + levels + linear
    assert parameter_count(Fusion(CHANNELS["resnet50"])) == levels


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
@torch.no_grad()
def test_without_its_additions_it_is_torchvisions_network(backbone: str) -> None:
    reference = torchvision.models.get_model(backbone, num_classes=3)
    shaken(reference)
    ours = Classifier(backbone, 3, se=False, fusion=False).eval()
    state = {**from_torchvision(reference.state_dict()), "linear.weight": reference.fc.weight}
    ours.load_state_dict({**state, "linear.bias": reference.fc.bias})
    x = images()
    normalised = (x - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(3, 1, 1)
    torch.testing.assert_close(view(ours, x), reference(normalised), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_tensor_of_torchvisions_but_its_classes_has_a_place(backbone: str) -> None:
    with torch.device("meta"):
        theirs = torchvision.models.get_model(backbone).state_dict()
        ours = Classifier(backbone).state_dict()
    renamed = from_torchvision(theirs)
    assert len(renamed) == len(theirs) - 2  # fc.weight, fc.bias
    assert all(ours[name].shape == tensor.shape for name, tensor in renamed.items())
    added = {name.split(".")[-3] for name in ours if name.startswith("backbone.") and name not in renamed}
    assert added == {"se"}


@pytest.mark.parametrize("fusion", [False, True])
@torch.no_grad()
def test_fresh_gates_leave_the_output_as_it_is_without_them(fusion: bool) -> None:
    plain, gated = Classifier("resnet18", se=False, fusion=fusion), Classifier("resnet18", fusion=fusion)
    shaken(plain)
    _, left = load_matching(gated, plain.state_dict())
    assert left and all(".se." in line for line in left)
    x = images()
    assert torch.equal(view(gated.eval(), x), view(plain, x))
    paper = Classifier("resnet18", fusion=fusion, gate="paper").eval()
    load_matching(paper, plain.state_dict())
    assert not torch.allclose(view(paper, x), view(plain, x))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_squeeze_and_excitation_is_in_every_block(backbone: str) -> None:
    with torch.device("meta"):
        network = Classifier(backbone)
    blocks = [module for module in network.modules() if isinstance(module, (SEBasicBlock, SEBottleneck))]
    assert len(blocks) == sum(BACKBONES[backbone][2])
    assert len([module for module in network.modules() if isinstance(module, SE)]) == len(blocks)


def test_the_fusion_reads_strides_8_16_and_32() -> None:
    network = Classifier("resnet18").eval()
    assert network.fusion is not None
    seen: list[tuple[int, ...]] = []
    for level in network.fusion.levels:
        level.register_forward_hook(lambda _module, given, _made: seen.append(tuple(given[0].shape[1:])))
    network(images())
    assert seen == [(128, 8, 12), (256, 4, 6), (512, 2, 3)]


@torch.no_grad()
def test_the_fusion_is_each_levels_mean_side_by_side() -> None:
    fusion = Fusion((4, 8), 3).eval()
    features = torch.rand(2, 4, 6, 5), torch.rand(2, 8, 3, 2)
    got = fusion(features)
    assert got.shape == (2, 6)
    for place, (level, x) in enumerate(zip(fusion.levels, features, strict=True)):
        torch.testing.assert_close(got[:, 3 * place : 3 * place + 3], level(x).flatten(2).mean(2))


def test_every_weight_of_the_classifier_is_learned() -> None:
    network = Classifier("resnet18", gate="paper")
    view(network, images()).square().sum().backward()
    assert [name for name, weight in network.named_parameters() if weight.grad is None] == []
    assert network.fusion is not None
    for level in network.fusion.levels:
        assert all(weight.grad is not None and weight.grad.abs().max() > 0 for weight in level.parameters())


@pytest.mark.parametrize(("se", "fusion"), [*itertools.product([False, True], repeat=2)])
@torch.no_grad()
def test_a_fused_copy_answers_the_same_without_batch_normalisation(se: bool, fusion: bool) -> None:
    network = Classifier("resnet18", se=se, fusion=fusion)
    shaken(network)
    x, before = images(), len(network.state_dict())
    quick = fused(network)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in quick.modules())
    torch.testing.assert_close(view(quick, x), view(network, x), rtol=1e-4, atol=1e-5)
    assert len(network.state_dict()) == before  # the network itself stays as it was


@torch.no_grad()
def test_a_fused_resnet50_answers_the_same() -> None:
    network = Classifier("resnet50").double()  # fp32 rounds far off after so many layers of random statistics
    shaken(network)
    x, quick = images(1).double(), fused(network)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in quick.modules())
    torch.testing.assert_close(view(quick, x), view(network, x), rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_dropout_stands_before_the_linear_layer_and_acts_in_training_alone() -> None:
    network = Classifier("resnet18", dropout=1.0)
    x = images()
    assert torch.equal(view(network.train(), x), network.linear.bias.expand(2, 3))
    assert not torch.equal(view(network.eval(), x), network.linear.bias.expand(2, 3))


@torch.no_grad()
def test_a_network_is_rebuilt_from_its_description_and_its_state() -> None:
    network = Classifier("resnet18", 5, se=True, fusion=False, dropout=0.25, gate="paper")
    again = build_network(network.description)
    assert isinstance(again, Classifier) and again.description == network.description
    assert (again.nv, again.nc, again.drop.p, again.fusion) == (5, 0, 0.25, None)
    assert "mean" not in network.state_dict() and "std" not in network.state_dict()
    again.load_state_dict(network.state_dict())
    x = images()
    assert torch.equal(view(again.eval(), x), view(network.eval(), x))


def test_its_output_has_no_boxes() -> None:
    output = Classifier("resnet18", 4).eval()(images())
    assert (output.raw, output.boxes) == ([], None)
    assert output.view.shape == (2, 4)


@pytest.mark.parametrize("keywords", [{"backbone": "resnet101"}, {"gate": "half"}], ids=str)
def test_an_unknown_backbone_or_gate_is_refused_with_the_known_ones(keywords: dict[str, str]) -> None:
    with pytest.raises(InputError, match=r"resnet18, resnet34, resnet50.*identity.*paper.*(resnet101|half)"):
        Classifier(**keywords)  # type: ignore[arg-type]


def test_its_loss_is_the_views_alone_and_the_boxes_columns_are_empty() -> None:
    network = Classifier("resnet18")
    criterion = JointLoss.of(network, hyperparameters(), 64)
    output = network(images())
    losses = criterion(output.raw, output.view, torch.rand(3, 6), torch.tensor([0, -1]))
    assert losses.det is None and losses.parts is None and losses.view is not None
    assert [loss is losses.view for loss in losses.by_task()] == [True]
    columns = losses.columns()
    assert columns[:3].isnan().all() and columns[3] == losses.view.detach() and columns[4] == 1
    assert not columns.requires_grad


def test_the_names_that_scripts_know_are_the_backbones() -> None:
    assert tuple(BACKBONES) == RESNETS
