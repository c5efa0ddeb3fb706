"""models.step_gradients: sums over batches, cosines by hand, and the same figures in every process."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
import torch.distributed
import torch.multiprocessing
from torch import Tensor

from models.border import Gradients, find_border
from models.gradnorm import GradNorm
from models.step_gradients import StepFigures, StepGradients, cosine
from tests.test_border import batch, cut_step, losses_of, network_with_view_on
from utils.processes import Processes


def gradients(det: list[float], view: list[float] | None) -> Gradients:
    """Of a W with as many weights, whose features have the same gradients, and a trunk of two layers of half each."""
    rows = {0: torch.tensor(det)} | ({} if view is None else {1: torch.tensor(view)})
    features = torch.zeros(2, 2)
    for i, a in rows.items():
        for j, b in rows.items():
            features[i, j] = a @ b
    half = len(det) // 2
    trunk = {i: {0: [row[:half]], 1: [row[half:]]} for i, row in rows.items()}
    return Gradients(rows, features, trunk)


def figures(*parts: tuple[list[float], list[float] | None], frames: int = 1) -> StepFigures:
    step = StepGradients(2)
    for det, view in parts:
        step.add(torch.tensor([1.0, 2.0]), gradients(det, view), frames, frames)
    return step.figures()


def test_norms_and_cosines_by_hand() -> None:
    found = figures(([3.0, 4.0, 0.0, 0.0], [3.0, -4.0, 0.0, 12.0]))
    assert found.norms.tolist() == pytest.approx([5.0, 13.0])
    assert found.at_weight == pytest.approx(-7 / 65) and found.at_features == pytest.approx(-7 / 65)
    assert found.over_trunk == pytest.approx(-7 / 65)
    assert found.by_layer[0] == pytest.approx(-7 / 25)
    assert math.isnan(found.by_layer[1])  # detection asks nothing of that layer


def test_the_norm_is_of_the_mean_gradient_not_the_mean_of_norms() -> None:
    found = figures(([1.0, 0.0], [1.0, 1.0]), ([-1.0, 0.0], [1.0, 1.0]))
    assert found.norms.tolist() == pytest.approx([0.0, math.sqrt(2)])
    assert math.isnan(found.at_weight)
    assert found.at_features == pytest.approx(0.0)  # other frames: their features are other coordinates


def test_batches_count_by_their_frames() -> None:
    step = StepGradients(2)
    step.add(torch.tensor([1.0, 1.0]), gradients([3.0, 0.0], [3.0, 0.0]), 3, 3.0)
    step.add(torch.tensor([5.0, 2.0]), gradients([7.0, 0.0], [1.0, 0.0]), 1, 1.0)
    found = step.figures()
    assert found.losses.tolist() == pytest.approx([2.0, 1.25])
    assert found.norms.tolist() == pytest.approx([2.5, 1.0])  # the gradients given are scale x that of the loss


def test_a_task_without_a_gradient_leaves_nan() -> None:
    found = figures(([3.0, 4.0], None))
    assert found.norms[0] == 5.0 and found.norms[1].isnan()
    assert math.isnan(found.at_weight) and math.isnan(found.at_features) and math.isnan(found.over_trunk)
    assert found.by_layer == {}
    alone = StepGradients(1)
    alone.add(torch.tensor([0.5]), None, 4, 4.0)
    assert alone.figures().losses.tolist() == [0.5] and alone.figures().norms.isnan().all()


def test_gradients_that_are_not_finite_are_told_and_crash_nothing() -> None:
    found = figures(([math.inf, 1.0], [1.0, 1.0]))
    assert found.norms[0].isinf() and not math.isfinite(found.at_weight)


@pytest.mark.parametrize(
    ("a", "b", "expected"), [([1.0, 0.0], [0.0, 1.0], 0.0), ([2.0, 2.0], [-1.0, -1.0], -1.0), ([1e-20], [1e-20], 1.0)]
)
def test_cosines(a: list[float], b: list[float], expected: float) -> None:
    assert cosine([torch.tensor(a)], [torch.tensor(b)]) == pytest.approx(expected)
    halves = [[t[None] for t in torch.tensor(row)] for row in (a, b)]
    assert cosine(*halves) == pytest.approx(expected)


def test_two_batches_make_the_norms_of_the_mean_loss_by_autograd() -> None:
    network = network_with_view_on(9).eval()  # batch normalisation would tie the frames of a batch together
    name = find_border(network).weight
    assert name is not None
    step = StepGradients(2)
    plain = copy.deepcopy(network)
    expected: list[Tensor | float] = [0.0, 0.0]
    for seed, frames in ((0, 4), (1, 2)):
        images, boxes, views = batch(frames, seed)
        losses = losses_of(plain, plain(images), boxes, views)
        for task in (0, 1):
            (gradient,) = torch.autograd.grad(losses[task], plain.get_parameter(name), retain_graph=True)
            expected[task] = expected[task] + frames / 6 * gradient
        step.add(torch.stack(losses), cut_step(network, images, boxes, views, scale=frames), frames, frames)
    norms = [float(torch.as_tensor(gradient).norm()) for gradient in expected]
    assert step.figures().norms.tolist() == pytest.approx(norms, rel=1e-4)


def _process(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    step = StepGradients(2, Processes(rank, 2).sum)
    step.add(torch.tensor([1.0 + rank, 2.0]) / 2, gradients([1.0 - 2 * rank, 1.0], [1.0, 1.0 + 2 * rank]), 2, 2.0)
    found = step.figures()
    balancer = GradNorm()
    balancer.step(found.losses, found.norms)
    torch.save([found.losses, found.norms, balancer.weights], f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_every_process_comes_to_the_same_losses_norms_and_weights(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_process, args=(str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    for mine, other in zip(first, second, strict=True):
        assert torch.equal(mine, other)
    assert first[0].tolist() == [1.5, 2.0]
    assert first[1].tolist() == pytest.approx([1.0, math.sqrt(5)])  # of the mean gradients (0, 1) and (1, 2)
