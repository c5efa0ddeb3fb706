"""models.dual: two networks behind the joint one's interface, with nothing in common, rebuilt from descriptions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.classifier import Classifier
from models.dual import PARTS, AnyNetwork, Dual, build_network, part_of
from models.yolo import Network, classifier_description, fused
from tests.test_classifier import shaken
from tests.test_engine import hyperparameters
from utils.config import ROOT, load_yaml
from utils.log import InputError
from utils.loss import JointLoss

KINDS = ("resnet18", "yaml")


def dual(kind: str = "yaml", seed: int = 0) -> Dual:
    """A narrow detector of 4 classes and a classifier of 3 views."""
    torch.manual_seed(seed)
    stock = {**load_yaml(ROOT / "models/hub/yolov5n.yaml"), "width_multiple": 0.125}
    classifier = Classifier("resnet18") if kind == "resnet18" else Network(classifier_description(stock), nv=3)
    return Dual(Network(stock, nc=4), classifier)


def images() -> Tensor:
    return torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def memory(network: nn.Module) -> set[int]:
    """Where its tensors lie, each by its storage."""
    tensors = [*network.parameters(), *network.buffers()]
    return {tensor.untyped_storage().data_ptr() for tensor in tensors}


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_boxes_are_the_detectors_and_the_view_is_the_classifiers(kind: str) -> None:
    pair, x = dual(kind).eval(), images()
    got, boxes, view = pair(x), pair.detector(x), pair.classifier(x).view
    assert torch.equal(got.boxes, boxes.boxes) and torch.equal(got.view, view)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(got.raw, boxes.raw, strict=True))
    assert boxes.view is None and pair.train()(x).boxes is None


@pytest.mark.parametrize("kind", KINDS)
def test_the_two_have_no_tensor_in_common(kind: str) -> None:
    pair = dual(kind)
    assert not memory(pair.detector) & memory(pair.classifier)
    found = JointLoss.of(pair, hyperparameters(), 64)
    output = pair(images())
    losses = found(output.raw, output.view, torch.tensor([[0, 1, 0.5, 0.5, 0.3, 0.3]]), torch.tensor([0, 2]))
    assert losses.det is not None and losses.view is not None
    losses.det.backward()
    assert all(weight.grad is None for weight in pair.classifier.parameters())
    pair.zero_grad()
    losses.view.backward()
    assert all(weight.grad is None for weight in pair.detector.parameters())


def test_it_shows_what_scripts_ask_of_a_network() -> None:
    pair = dual()
    assert (pair.nc, pair.nv, pair.max_stride, pair.detect) == (4, 3, 32, pair.detector.detect)
    assert {name.split(".")[0] for name in pair.state_dict()} == set(PARTS)


def description(kind: str) -> tuple[AnyNetwork, type[nn.Module]]:
    pair = dual("resnet18")
    return {
        "pair": (pair, Dual),
        "pair of yamls": (dual("yaml"), Dual),
        "resnet": (pair.classifier, Classifier),
        "yaml": (pair.detector, Network),
    }[kind]


@pytest.mark.parametrize("kind", ["pair", "pair of yamls", "resnet", "yaml"])
@torch.no_grad()
def test_any_network_is_built_again_from_its_description(kind: str) -> None:
    network, expected = description(kind)
    again = build_network(network.description)
    assert type(again) is expected and again.description == network.description
    again.load_state_dict(network.state_dict())
    for ours, theirs in zip(again.eval()(images()), network.eval()(images()), strict=True):
        assert ours is None or isinstance(ours, list) or torch.equal(ours, theirs)


def test_an_unknown_description_is_refused() -> None:
    with pytest.raises(InputError, match="resnet101"):
        build_network({**Classifier("resnet18").description, "backbone": "resnet101"})
    with pytest.raises(InputError, match="network description"):
        build_network({"detector": {}, "classifier": {}})


def test_a_part_has_the_tensors_of_a_pair_under_its_own_names_and_of_others_all() -> None:
    pair = dual()
    for name in PARTS:
        network: nn.Module = getattr(pair, name)
        own = part_of(pair.state_dict(), name)
        assert own.keys() == network.state_dict().keys()
        assert all(torch.equal(tensor, network.state_dict()[key]) for key, tensor in own.items())
        assert part_of(network.state_dict(), name).keys() == network.state_dict().keys()
    mixed: dict[str, Any] = {"detector.a": torch.zeros(1), "model.0": torch.zeros(1)}
    assert part_of(mixed, "detector") == mixed


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_fused_pair_answers_the_same_without_batch_normalisation(kind: str) -> None:
    pair = dual(kind).double()
    shaken(pair)
    quick, x = fused(pair), images().double()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in quick.modules())
    plain, got = pair(x), quick(x)
    torch.testing.assert_close(got.view, plain.view, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(got.boxes, plain.boxes, rtol=1e-3, atol=1e-3)  # decoded in fp32
