"""utils.loss.ViewLoss: torch's own over the labelled frames, the focal factor, weights, and nothing to learn from."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from utils.config import Hyperparameters
from utils.log import InputError
from utils.loss import ViewLoss

LOGITS = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
VIEWS = torch.tensor([0, 2, -1, 1, 2, -1])
LABELLED = VIEWS >= 0


@pytest.mark.parametrize(("smoothing", "weights"), [(0.0, ()), (0.1, ()), (0.0, (1.0, 2.0, 0.5))])
def test_the_view_loss_is_torchs_over_the_labelled_frames(
    hyp: Hyperparameters, smoothing: float, weights: tuple[float, ...]
) -> None:
    loss = ViewLoss(dataclasses.replace(hyp, view_label_smoothing=smoothing, view_class_weights=weights), 3)
    logits, same = LOGITS.clone().requires_grad_(), LOGITS.clone().requires_grad_()
    expected = F.cross_entropy(
        same, VIEWS, torch.tensor(weights) if weights else None, ignore_index=-1, label_smoothing=smoothing
    )
    got = loss(logits, VIEWS).mean
    torch.testing.assert_close(got, expected)
    got.backward()
    expected.backward()
    torch.testing.assert_close(logits.grad, same.grad)
    assert logits.grad is not None and logits.grad[~LABELLED].count_nonzero() == 0


@pytest.mark.parametrize("weights", [(), (1.0, 2.0, 0.5)])
@pytest.mark.parametrize("gamma", [1.0, 2.5])
def test_the_focal_factor_follows_its_formula(hyp: Hyperparameters, gamma: float, weights: tuple[float, ...]) -> None:
    changed = dataclasses.replace(hyp, view_focal_gamma=gamma, view_class_weights=weights)
    p = LOGITS[LABELLED].softmax(1).gather(1, VIEWS[LABELLED, None])[:, 0]
    w = torch.tensor(weights or (1.0, 1.0, 1.0))[VIEWS[LABELLED]]
    expected = (w * (1 - p) ** gamma * -p.log()).sum() / w.sum()
    torch.testing.assert_close(ViewLoss(changed, 3)(LOGITS, VIEWS).mean, expected)


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_a_batch_without_views_costs_nothing_and_teaches_nothing(hyp: Hyperparameters, gamma: float) -> None:
    changed = dataclasses.replace(hyp, view_focal_gamma=gamma, view_class_weights=(1.0, 2.0, 0.5))
    logits = LOGITS.clone().requires_grad_()
    loss, weight, own_weight = ViewLoss(changed, 3)(logits, torch.full((6,), -1))
    assert loss == 0 and loss.shape == () and weight == own_weight == 0
    loss.backward()
    assert logits.grad is not None and logits.grad.count_nonzero() == 0


def test_view_logits_in_bfloat16_give_the_loss_in_full_precision(hyp: Hyperparameters) -> None:
    loss = ViewLoss(hyp, 3)(LOGITS.bfloat16(), VIEWS).mean
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(ViewLoss(hyp, 3)(LOGITS, VIEWS).mean.item(), rel=0.01)


@pytest.mark.parametrize("weights", [(1.0,), (1.0, 1.0), (1.0,) * 4])
def test_a_wrong_number_of_class_weights_is_refused(hyp: Hyperparameters, weights: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match=f"view_class_weights: expected 3 numbers, one a view, got {len(weights)}"):
        ViewLoss(dataclasses.replace(hyp, view_class_weights=weights), 3)


@pytest.mark.parametrize("gamma", [0.0, 2.0])
@pytest.mark.parametrize("weights", [(1.0, 2.0, 0.5), (1.0, 1.0, 0.0)])
def test_equal_probabilities_have_the_loss_of_chance_whatever_the_weights(
    hyp: Hyperparameters, weights: tuple[float, ...], gamma: float
) -> None:
    changed = dataclasses.replace(hyp, view_label_smoothing=0.1, view_class_weights=weights, view_focal_gamma=gamma)
    loss = ViewLoss(changed, 3)
    assert loss(torch.zeros(6, 3), VIEWS).mean.item() == pytest.approx(loss.at_chance)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_frames_of_a_view_of_weight_zero_do_not_count(hyp: Hyperparameters, smoothing: float) -> None:
    changed = dataclasses.replace(hyp, view_label_smoothing=smoothing, view_class_weights=(1.0, 1.0, 0.0))
    loss, counted = ViewLoss(changed, 3), torch.tensor([True, False, False, True, False, False])
    logits = LOGITS.clone().requires_grad_()
    alone = loss(LOGITS[counted], VIEWS[counted]).mean
    torch.testing.assert_close(loss(logits, VIEWS).mean, alone)
    none = loss(logits, torch.full((6,), 2)).mean
    none.backward()
    assert none == 0 and logits.grad is not None and not logits.grad.any()


def test_the_weight_of_a_batch_is_that_of_its_labelled_frames(hyp: Hyperparameters) -> None:
    changed = dataclasses.replace(hyp, view_class_weights=(1.0, 2.0, 0.5))
    _, weight, own_weight = ViewLoss(changed, 3)(LOGITS, VIEWS)
    assert weight == own_weight == 1.0 + 2.0 + 2 * 0.5
