"""models.border: where the tasks part in each network, and the cut step against autograd's plain one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.balancer import Balancer
from models.border import Border, Cut, Gradients, find_border, last_convolution
from models.classifier import Classifier
from models.common import C3, SPPF, Bottleneck, Concat, Conv
from models.controls import Detached
from models.yolo import Network, classifier_description
from tests.test_engine import hyperparameters
from utils.config import ROOT, load_yaml
from utils.loss import JointLoss

WEIGHTS = (0.7, 1.3)
SUM = Balancer(WEIGHTS).at_border


def network_with_view_on(layer: int, seed: int = 0) -> Network:
    """A narrow joint network in training mode, whose view head reads ``layer``."""
    torch.manual_seed(seed)
    description = load_yaml(ROOT / "models" / "yolov5n.yaml") | {"width_multiple": 0.125, "view_dropout": 0.0}
    description["head"][-1][0] = layer
    return Network(description).train()


def batch(frames: int = 4, seed: int = 0, size: int = 64) -> tuple[Tensor, Tensor, Tensor]:
    """Images, boxes and views of a batch."""
    random = torch.Generator().manual_seed(seed)
    boxes = torch.rand(frames, 6, generator=random) * 0.4 + 0.3
    boxes[:, 0], boxes[:, 1] = torch.arange(frames), torch.arange(frames) % 4
    return torch.rand(frames, 3, size, size, generator=random), boxes, torch.arange(frames) % 3


def losses_of(network: Network, output: Any, boxes: Tensor, views: Tensor) -> list[Tensor]:
    return JointLoss.of(network, hyperparameters(), 64)(output.raw, output.view, boxes, views).by_task()


def cut_step(
    network: Network,
    images: Tensor,
    boxes: Tensor,
    views: Tensor,
    weights: Sequence[float] = WEIGHTS,
    at_border: Callable[[Callable[[], Tensor]], Tensor] = SUM,
    scale: float = 4.0,
    by_layer: bool = False,
) -> Gradients | None:
    cut = Cut(network, find_border(network), images)
    return cut.backward(losses_of(network, cut.output, boxes, views), weights, at_border, scale, by_layer)


def plain_gradients(network: Network, task: int, parameters: Sequence[Tensor], seed: int = 0) -> list[Tensor]:
    """Gradients of a task's unweighted loss by autograd, from the loss down, on a copy's forward pass."""
    images, boxes, views = batch(seed=seed)
    loss = losses_of(network, network(images), boxes, views)[task]
    return list(torch.autograd.grad(loss, list(parameters), allow_unused=True, materialize_grads=True))


def test_the_default_network_shares_its_trunk_and_parts_after_layer_9() -> None:
    expected = Border(
        shared=tuple(range(10)), branches=(tuple(range(10, 25)), (25,)), crossing=((4, 6, 9), (9,)),
        weight="model.9.cv2.conv.weight", weight_layer=9,
    )  # fmt: skip
    for size in "nsmlx":
        network = Network(load_yaml(ROOT / "models" / f"yolov5{size}.yaml") | {"width_multiple": 0.125})
        assert find_border(network) == expected
    assert expected.common == (9,)


def test_with_the_view_head_on_17_what_is_shared_reaches_17() -> None:
    network = Network(load_yaml(ROOT / "models" / "hub" / "yolov5s-view-p3.yaml") | {"width_multiple": 0.125})
    border = find_border(network)
    assert border.shared == tuple(range(18))
    assert border.crossing == ((10, 14, 17), (17,))
    assert border.weight == "model.17.cv3.conv.weight"
    assert border.branches == (tuple(range(18, 25)), (25,))


@pytest.mark.parametrize(
    ("layer", "shared", "weight"),
    [(4, 5, "model.4.cv3.conv.weight"), (3, 4, "model.3.conv.weight"), (12, 13, "model.10.conv.weight")],
)
def test_the_border_follows_from_the_graph(layer: int, shared: int, weight: str) -> None:
    border = find_border(network_with_view_on(layer))
    assert border.shared == tuple(range(shared))
    assert border.weight == weight
    assert border.common == border.crossing[1] == (layer,)


def test_a_detector_alone_shares_nothing(tiny: Network) -> None:
    border = find_border(tiny)
    assert (border.shared, border.crossing, border.weight) == ((), ((),), None)
    images, boxes, views = batch()
    cut = Cut(tiny, border, images)
    losses = losses_of(tiny, cut.output, boxes, views)
    assert len(losses) == 1 and cut.backward(losses, (1.0,), Balancer((1.0,)).at_border) is None
    assert all(parameter.grad is not None for parameter in tiny.parameters())


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (Conv(3, 8), "conv"),
        (SPPF(8, 8), "cv2.conv"),
        (C3(8, 8), "cv3.conv"),
        (Bottleneck(8, 8), "cv2.conv"),
        (nn.Sequential(Conv(3, 8), Bottleneck(8, 8)), "1.cv2.conv"),
        (Concat(), None),
        (nn.Upsample(2), None),
    ],
)
def test_the_last_convolution_of_a_layer(layer: nn.Module, name: str | None) -> None:
    assert last_convolution(layer) == name
    if name is not None:
        assert isinstance(layer.get_submodule(name), nn.Conv2d)


@pytest.mark.parametrize("layer", [9, 17, 4, 12])
@pytest.mark.parametrize("weights", [(0.7, 1.3), (1.9, 0.1), (1e-3, 2.0)])
def test_the_cut_step_gives_the_gradients_and_statistics_of_a_plain_one(layer: int, weights: tuple[float, ...]) -> None:
    network = network_with_view_on(layer)
    plain = copy.deepcopy(network)
    images, boxes, views = batch()
    output = plain(images)
    det, view = losses_of(plain, output, boxes, views)
    (4.0 * (weights[0] * det + weights[1] * view)).backward()
    cut = Cut(network, find_border(network), images)
    for mine, other in zip((*cut.output.raw, cut.output.view), (*output.raw, output.view), strict=True):
        assert mine is not None and other is not None and torch.equal(mine, other)
    cut.backward(losses_of(network, cut.output, boxes, views), weights, SUM, 4.0)
    for (name, mine), other in zip(network.named_parameters(), plain.parameters(), strict=True):
        assert mine.grad is not None and other.grad is not None, name
        size = float(other.grad.abs().max())
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-5, atol=1e-5 * max(size, 1e-6), msg=name)
    for (name, buffer), other in zip(network.named_buffers(), plain.buffers(), strict=True):
        assert torch.equal(buffer, other), name


@pytest.mark.parametrize("layer", [9, 17])
@pytest.mark.parametrize(("weights", "scale"), [((1.0, 1.0), 1.0), ((1.9, 0.1), 4.0), ((1e-6, 2.0), 65536.0)])
def test_gradients_at_w_are_autograds_of_the_unweighted_losses(
    layer: int, weights: tuple[float, ...], scale: float
) -> None:
    network = network_with_view_on(layer)
    name = find_border(network).weight
    assert name is not None
    plain = copy.deepcopy(network)
    found = cut_step(network, *batch(), weights=weights, scale=scale)
    assert found is not None and set(found.weight) == {0, 1} and not found.trunk
    for task in (0, 1):
        other = copy.deepcopy(plain)
        (expected_gradient,) = plain_gradients(other, task, [other.get_parameter(name)])
        size = float(expected_gradient.abs().max())
        torch.testing.assert_close(found.weight[task] / scale, expected_gradient, rtol=1e-4, atol=1e-5 * size)


def test_inner_products_at_the_features_are_those_of_autograd() -> None:
    network = network_with_view_on(9)
    plain = copy.deepcopy(network)
    found = cut_step(network, *batch(), weights=(0.5, 3.0), scale=8.0)
    images, boxes, views = batch()
    features: list[Tensor] = []
    plain.model[9].register_forward_hook(lambda _m, _i, output: features.append(output))
    losses = losses_of(plain, plain(images), boxes, views)
    rows = [torch.autograd.grad(loss, features[0], retain_graph=True)[0].flatten() for loss in losses]
    expected = torch.stack(rows) @ torch.stack(rows).T
    assert found is not None
    torch.testing.assert_close(found.features / 64, expected, rtol=1e-4, atol=1e-5 * float(expected.max()))


def test_gradients_of_the_whole_trunk_are_autograds_and_measuring_them_changes_no_gradient() -> None:
    network = network_with_view_on(9)
    unmeasured, plain = copy.deepcopy(network), copy.deepcopy(network)
    found = cut_step(network, *batch(), weights=(0.5, 3.0), by_layer=True)
    cut_step(unmeasured, *batch(), weights=(0.5, 3.0))
    for mine, other in zip(network.parameters(), unmeasured.parameters(), strict=True):
        assert mine.grad is not None and other.grad is not None and torch.equal(mine.grad, other.grad)
    assert found is not None and set(found.trunk[0]) == set(found.trunk[1]) == set(range(10))
    for task in (0, 1):
        other_network = copy.deepcopy(plain)
        parameters: list[Tensor] = [p for layer in other_network.model[:10] for p in layer.parameters()]
        expected = plain_gradients(other_network, task, parameters)
        flat: list[Tensor] = [gradient for of_layer in found.trunk[task].values() for gradient in of_layer]
        for measured, gradient in zip(flat, expected, strict=True):
            floor = 1e-4 * max(float(gradient.abs().max()), 1e-3)  # what should be 0 is so but for rounding
            torch.testing.assert_close(measured / 4, gradient, rtol=1e-3, atol=floor)


def test_a_detached_task_learns_in_its_head_and_leaves_the_trunk_to_the_other() -> None:
    network = network_with_view_on(9)
    plain = copy.deepcopy(network)
    found = cut_step(network, *batch(), at_border=Detached(WEIGHTS).at_border)
    images, boxes, views = batch()
    det, view = losses_of(plain, plain(images), boxes, views)
    head = plain.view_head
    assert head is not None and found is not None and set(found.weight) == {0, 1}
    of_head = torch.autograd.grad(4 * WEIGHTS[1] * view, list(head.parameters()), retain_graph=True)
    (4 * WEIGHTS[0] * det).backward()
    mine = network.view_head
    assert mine is not None
    for parameter, gradient in zip(mine.parameters(), of_head, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    for parameter, other in zip(network.model[:25].parameters(), plain.model[:25].parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("weights", "idle"), [((1.0, 0.0), "25"), ((0.0, 1.0), "10")])
def test_a_task_of_weight_0_is_not_learned_at_all(weights: tuple[float, ...], idle: str) -> None:
    network = network_with_view_on(9)
    found = cut_step(network, *batch(), weights=weights)
    assert found is not None and len(found.weight) == 1
    for name, parameter in network.named_parameters():
        layer = name.split(".")[1]
        shared = int(layer) < 10
        assert (parameter.grad is not None) == (shared or (layer == "25") != (idle == "25")), name


@pytest.mark.parametrize(("frozen", "measured"), [(5, True), (9, True), (10, False)])
def test_frozen_layers_get_no_gradient_and_the_rest_does(frozen: int, measured: bool) -> None:
    network = network_with_view_on(9)
    network.model[:frozen].requires_grad_(False)
    found = cut_step(network, *batch(), by_layer=True)
    assert (found is not None) == measured
    if found is not None:
        assert set(found.trunk[0]) == set(range(frozen, 10))
    for name, parameter in network.named_parameters():
        assert (parameter.grad is None) == (int(name.split(".")[1]) < frozen), name


def test_the_balancer_is_given_the_inner_products_and_its_factors_count() -> None:
    network = network_with_view_on(9)
    plain = copy.deepcopy(network)
    given: list[Tensor] = []

    def at_border(gramian: Callable[[], Tensor]) -> Tensor:
        given.append(gramian())
        return torch.tensor([0.25, 2.0])

    cut_step(network, *batch(), at_border=at_border, scale=4.0)
    images, boxes, views = batch()
    kept: dict[int, Tensor] = {}
    for index in (4, 6, 9):
        plain.model[index].register_forward_hook(lambda _m, _i, output, index=index: kept.update({index: output}))
    losses = losses_of(plain, plain(images), boxes, views)
    rows = []
    for weight, loss in zip(WEIGHTS, losses, strict=True):
        ends = torch.autograd.grad(
            weight * loss, list(kept.values()), retain_graph=True, allow_unused=True, materialize_grads=True
        )
        # the gradient that reaches 4 and 6 by way of 9 is not at the border: only the branch's own is
        rows.append(ends)
    view_at_9 = rows[1][2].flatten()
    torch.testing.assert_close(given[0][1, 1], view_at_9 @ view_at_9, rtol=1e-4, atol=0)
    torch.testing.assert_close(given[0][0, 1], rows[0][2].flatten() @ view_at_9, rtol=1e-3, atol=1e-9)
    parameters = list(plain.model[:10].parameters())
    factored = 4 * (0.25 * WEIGHTS[0] * losses[0] + 2.0 * WEIGHTS[1] * losses[1])
    expected = torch.autograd.grad(factored, parameters)
    for parameter, gradient in zip(network.model[:10].parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-5)


def test_a_batch_without_a_labelled_view_asks_nothing_for_the_view() -> None:
    network = network_with_view_on(9)
    images, boxes, views = batch()
    found = cut_step(network, images, boxes, torch.full_like(views, -1))
    assert found is not None and float(found.weight[1].norm()) == 0.0 < float(found.weight[0].norm())


def test_under_autocast_the_gradients_are_those_of_autograd_and_in_fp32() -> None:
    network = network_with_view_on(9)
    plain = copy.deepcopy(network)
    images, boxes, views = batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cut, output = Cut(network, find_border(network), images), plain(images)
    found = cut.backward(losses_of(network, cut.output, boxes, views), WEIGHTS, SUM, 4.0)
    weight = plain.get_parameter("model.9.cv2.conv.weight")
    assert found is not None
    for task, loss in enumerate(losses_of(plain, output, boxes, views)):
        (expected,) = torch.autograd.grad(loss, weight, retain_graph=True)
        assert found.weight[task].dtype == torch.float32
        assert float((found.weight[task] / 4 - expected).norm() / expected.norm()) < 0.03  # bf16 has three digits


@pytest.mark.parametrize("kind", ["resnet18", "yaml"])
def test_a_classifier_alone_has_one_task_that_shares_nothing_and_the_plain_gradients(kind: str) -> None:
    torch.manual_seed(0)
    stock = load_yaml(ROOT / "models" / "hub" / "yolov5n.yaml") | {"width_multiple": 0.125}
    network: Classifier | Network
    network = Classifier("resnet18") if kind == "resnet18" else Network(classifier_description(stock), nv=3)
    border = find_border(network.train())
    assert (border.shared, border.crossing, border.weight) == ((), ((),), None)
    plain, (images, _, views) = copy.deepcopy(network), batch()
    cut = Cut(network, border, images)
    assert cut.output.view is not None
    loss = torch.nn.functional.cross_entropy(cut.output.view, views)
    assert cut.backward([loss], (0.5,), Balancer((0.5,)).at_border, scale=4.0) is None
    (2 * torch.nn.functional.cross_entropy(plain(images).view, views)).backward()
    for (name, ours), theirs in zip(network.named_parameters(), plain.parameters(), strict=True):
        assert ours.grad is not None and theirs.grad is not None, name
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_a_module_that_is_not_made_of_a_yamls_layers_has_a_single_task() -> None:
    assert find_border(nn.Linear(2, 2)) == Border((), ((),), ((),), None, -1)
