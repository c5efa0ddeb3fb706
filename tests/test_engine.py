"""utils.engine: one epoch against the same steps written out."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from models.balancer import Balancer
from models.yolo import Network
from tests.tiny import CPU, classifier, hyperparameters, tiny_network
from utils.dataset import EchoDataset, build_loader
from utils.engine import MultiScale, restore_buffers, train_one_epoch
from utils.epoch import BAD_STEPS, EpochProgress, NotFiniteError
from utils.learner import Learner
from utils.loss import JointLoss, TaskLosses
from utils.optim import RunningMean, build_optimizer
from utils.schedule import Schedule


def schedule(accumulate: int = 1, epochs: int = 2) -> Schedule:
    return Schedule(0.01, 0.1, epochs, False, 0, 0.1, 0.8, 0.9, accumulate)


class Spy(Balancer):
    """Keeps what it is shown: losses and norms of each step."""

    def __init__(self, weights: tuple[float, ...]) -> None:
        super().__init__(weights)
        self.seen: list[tuple[Tensor, Tensor]] = []

    def step(self, losses: Tensor, grad_norms: Tensor) -> None:
        self.seen.append((losses.clone(), grad_norms.clone()))


def learning(network: Network, balancer: Balancer, plan: Schedule | None = None, clip: float = 10.0) -> Learner:
    optimizer = build_optimizer(network, "SGD", 0.01, 0.9, 0.0)
    criterion = JointLoss.of(network, hyperparameters(), 64)
    return Learner(network, RunningMean(network), optimizer, balancer, criterion, plan or schedule(), clip)


def state(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def test_an_epoch_makes_the_steps_that_a_plain_loop_makes(dataset: EchoDataset) -> None:
    network = tiny_network()
    plain = copy.deepcopy(network)
    loader, learner = build_loader(dataset, 8, 0), learning(network, Balancer((1.0, 0.2)), clip=0)
    result = train_one_epoch(learner, loader, CPU, 0)
    by_hand = learning(plain, Balancer((1.0, 0.2)))
    criterion, optimizer = by_hand.criterion, by_hand.optimizer
    total = []
    plain.train()
    for batch in loader:
        output = plain((batch.images.float() / 255).to(memory_format=torch.channels_last))
        losses = criterion(output.raw, output.view, batch.boxes, batch.views)
        assert losses.det is not None and losses.view is not None
        for group in optimizer.param_groups:
            group["momentum"] = 0.9
        optimizer.zero_grad()
        (len(batch.images) * (losses.det + 0.2 * losses.view)).backward()
        optimizer.step()
        assert losses.weighted_view is not None
        total.append(losses.columns()[3:])
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], tensor, rtol=1e-5, atol=1e-6, msg=name)
    view, frames = torch.stack(total).sum(0).tolist()
    assert result.losses.view == pytest.approx(view / frames, rel=1e-5)
    assert learner.running_mean.updates == len(loader)


def test_a_step_without_a_labelled_view_has_no_view_loss_that_a_balancer_could_learn_from(dataset: EchoDataset) -> None:
    unlabelled = copy.copy(dataset)
    unlabelled.labels = [replace(label, view=-1) for label in dataset.labels]
    spy = Spy((1.0, 0.2))
    result = train_one_epoch(learning(tiny_network(), spy), build_loader(unlabelled, 5, 0), CPU, 0)
    assert math.isnan(result.losses.view) and math.isfinite(result.losses.box) and not result.skipped
    assert spy.seen and all(losses[0].isfinite() and losses[1].isnan() for losses, _ in spy.seen)


def test_accumulated_batches_make_one_step_and_the_rest_is_not_carried_over(dataset: EchoDataset) -> None:
    network = tiny_network()
    loader, learner = build_loader(dataset, 4, 0), learning(network, Balancer((1.0, 0.2)), schedule(4))
    assert len(loader) % 4, "the epoch should end within a group of batches for this test"
    train_one_epoch(learner, loader, CPU, 0)
    assert learner.running_mean.updates == math.ceil(len(loader) / 4)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_gradient_that_is_not_finite_changes_no_weight_and_is_counted(
    dataset: EchoDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = tiny_network()
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    original = JointLoss.__call__

    def poisoned(self: JointLoss, *arguments: Tensor) -> TaskLosses:
        losses = original(self, *arguments)  # type: ignore[arg-type]
        assert losses.det is not None
        return losses._replace(det=losses.det * math.inf)

    monkeypatch.setattr(JointLoss, "__call__", poisoned)
    loader = build_loader(dataset, 12, 0)
    rows: list[dict[str, float]] = []
    spy = Spy((1.0, 0.2))
    learner = learning(network, spy)
    result = train_one_epoch(learner, loader, CPU, 0, record=rows.append, interference_every=1)
    assert result.skipped == result.in_a_row == len(loader) < BAD_STEPS
    assert (result.batches, result.counted) == (len(loader), 0) and all(map(math.isnan, result.losses))
    assert not spy.seen and not rows  # what did not happen is neither balanced nor recorded
    assert learner.running_mean.updates == 0
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, before[name]), name
    with pytest.raises(NotFiniteError) as caught:  # a bad row of steps does not end with the epoch
        train_one_epoch(
            learner, loader, CPU, 1, progress=EpochProgress(in_a_row=result.in_a_row, bad_frames=result.bad_frames)
        )
    assert caught.value.steps == BAD_STEPS and caught.value.frames[: len(dataset)] == list(range(len(dataset)))


def test_one_bad_step_counts_neither_in_the_losses_nor_against_those_after_it(
    dataset: EchoDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = learning(tiny_network(), Balancer((1.0, 0.2)))
    loader, calls = build_loader(dataset, 5, 0), 0
    original = JointLoss.__call__

    def poisoned_once(self: JointLoss, *arguments: Tensor) -> TaskLosses:
        nonlocal calls
        calls += 1
        losses = original(self, *arguments)  # type: ignore[arg-type]
        assert losses.weighted_view is not None
        bad = losses.weighted_view._replace(mean=losses.weighted_view.mean * math.nan)
        return losses._replace(weighted_view=bad) if calls == 2 else losses

    monkeypatch.setattr(JointLoss, "__call__", poisoned_once)
    seen: list[tuple[int, int]] = []
    result = train_one_epoch(
        learner, loader, CPU, 0, after_step=lambda progress: seen.append((progress.batches, progress.in_a_row))
    )
    assert (result.skipped, result.in_a_row, result.bad_frames) == (1, 0, [])
    assert result.counted == learner.running_mean.updates == len(loader) - 1
    assert all(map(math.isfinite, result.losses))
    assert seen == [(n + 1, int(n == 1)) for n in range(len(loader))]


def test_the_balancer_sees_unweighted_losses_and_norms_once_a_step(dataset: EchoDataset) -> None:
    network = tiny_network()
    plain = copy.deepcopy(network).train()
    spy = Spy((1.0, 0.2))
    loader = build_loader(dataset, 5, 0)
    still = replace(schedule(2), lr0=0.0)  # so that the plain network below stays the same one
    learner = learning(network, spy, still)
    train_one_epoch(learner, loader, CPU, 0)
    assert len(dataset) % 5, "the last batch should be smaller for this test"
    assert len(spy.seen) == math.ceil(len(loader) / 2)
    weight = plain.get_parameter("model.9.cv2.conv.weight")
    batches = list(loader)
    for number, (losses, norms) in enumerate(spy.seen):
        group = batches[2 * number : 2 * number + 2]
        frames = sum(len(batch.images) for batch in group)
        expected, gradients = torch.zeros(2), [torch.zeros_like(weight), torch.zeros_like(weight)]
        for batch in group:
            output = plain((batch.images.float() / 255).to(memory_format=torch.channels_last))
            tasks = learner.criterion(output.raw, output.view, batch.boxes, batch.views).by_task()
            for i, loss in enumerate(tasks):
                (gradient,) = torch.autograd.grad(loss, weight, retain_graph=True)
                expected[i] += len(batch.images) / frames * loss.detach()
                gradients[i] += len(batch.images) / frames * gradient
        torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(norms, torch.stack([g.norm() for g in gradients]), rtol=1e-3, atol=1e-6)


def test_multi_scale_sizes_are_whole_strides_and_depend_on_seed_and_iteration_alone() -> None:
    images = torch.rand(1, 3, 128, 128)
    sizes = [MultiScale(0, 32)(images, iteration).shape[2] for iteration in range(40)]
    assert sizes == [MultiScale(0, 32)(images, iteration).shape[2] for iteration in range(40)]
    assert set(sizes) == {64, 96, 128, 160, 192}
    assert sizes != [MultiScale(1, 32)(images, iteration).shape[2] for iteration in range(40)]


def test_running_statistics_that_a_bad_batch_made_infinite_are_taken_back() -> None:
    network, healthy = tiny_network(0), tiny_network(1)
    first, *_ = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert first.running_mean is not None
    first.running_mean[0] = math.inf
    kept = network.state_dict()["model.9.cv2.bn.running_mean"].clone()
    restore_buffers(network, healthy)
    assert all(buffer.isfinite().all() for buffer in network.buffers())
    assert torch.equal(network.state_dict()["model.9.cv2.bn.running_mean"], kept)


def test_an_epoch_of_a_classifier_alone_learns_by_the_views_loss(dataset: EchoDataset) -> None:
    network = classifier("yaml")
    assert isinstance(network, Network)
    before = state(network)
    loader, learner = build_loader(dataset, 8, 0), learning(network, Balancer((1.0,)))
    result = train_one_epoch(learner, loader, CPU, 0)
    assert result.skipped == 0 and learner.running_mean.updates == len(loader)
    assert math.isfinite(result.losses.view) and all(math.isnan(loss) for loss in result.losses[:3])
    assert all(not torch.equal(network.state_dict()[name], before[name]) for name in dict(network.named_parameters()))
