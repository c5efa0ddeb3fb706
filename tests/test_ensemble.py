"""models.ensemble: the mean of several networks, against the same written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from models.dual import Dual, build_network
from models.ensemble import Ensemble, mean_boxes
from models.yolo import Network, fused
from tests.exported import plain
from tests.tiny import classifier, tiny_network
from utils.agreement import sample
from utils.boxes import non_max_suppression
from utils.config import ROOT, load_yaml
from utils.log import InputError

IMAGES = sample((2, 64, 96))


def test_scores_are_averaged_and_boxes_weighted_by_their_best_score() -> None:
    first = torch.tensor([[[10.0, 20, 4, 6, 0.8, 0.5, 1.0]]])
    second = torch.tensor([[[14.0, 20, 8, 6, 0.4, 0.5, 0.0]]])
    mean = mean_boxes([first, second])[0, 0]
    assert mean[:4].tolist() == pytest.approx([(10 * 0.8 + 14 * 0.2) / 1.0, 20, (4 * 0.8 + 8 * 0.2) / 1.0, 6])
    assert (mean[4] * mean[5:]).tolist() == pytest.approx([(0.4 + 0.2) / 2, (0.8 + 0) / 2])
    assert mean[4] == mean[5:].max() * mean[4]  # the best class is certain, so that one threshold serves both


def test_a_network_that_sees_nothing_in_a_cell_does_not_move_its_box_and_nothing_anywhere_is_no_number_lost() -> None:
    seen = torch.tensor([[[10.0, 20, 4, 6, 0.8, 1.0]]])
    blind = torch.tensor([[[90.0, 90, 80, 80, 0.0, 1.0]]])
    torch.testing.assert_close(mean_boxes([seen, blind])[0, 0, :4], seen[0, 0, :4])
    nothing = mean_boxes([blind, blind])
    torch.testing.assert_close(nothing[..., :5], blind[..., :5])
    assert nothing.isfinite().all()


def test_of_equal_networks_the_mean_finds_what_each_of_them_finds() -> None:
    member = plain("joint")
    assert isinstance(member, Network)
    both, alone = Ensemble([member, fused(member)]).eval()(IMAGES), member(IMAGES)
    assert both.boxes is not None and alone.boxes is not None and both.view is not None and alone.view is not None
    torch.testing.assert_close(both.boxes[..., :4], alone.boxes[..., :4])
    torch.testing.assert_close(
        both.boxes[..., 4:5] * both.boxes[..., 5:], alone.boxes[..., 4:5] * alone.boxes[..., 5:], atol=1e-6, rtol=1e-5
    )
    torch.testing.assert_close(both.view.softmax(1), alone.view.softmax(1))
    kept = [non_max_suppression(output.boxes, 0.3, 0.45, multi_label=True) for output in (both, alone)]
    assert len(kept[0][0]) > 3
    for one, other in zip(*kept, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_views_are_the_mean_over_the_members_that_name_any() -> None:
    joint, detector, pair = (plain(name) for name in ("joint", "detector", "dual"))
    assert isinstance(joint, Network) and isinstance(detector, Network) and isinstance(pair, Dual)
    ensemble = Ensemble([detector, joint, pair]).eval()
    assert (ensemble.nc, ensemble.nv, ensemble.max_stride) == (4, 3, 32)
    output = ensemble(IMAGES)
    expected = (joint(IMAGES).view.softmax(1) + pair(IMAGES).view.softmax(1)) / 2
    assert output.raw == [] and output.view is not None
    torch.testing.assert_close(output.view.softmax(1), expected)
    assert Ensemble([detector, detector]).eval()(IMAGES).view is None


def test_its_description_and_state_build_it_again() -> None:
    ensemble = Ensemble([tiny_network(0), tiny_network(1)]).eval()
    again = build_network(ensemble.description)
    assert isinstance(again, Ensemble)
    again.load_state_dict(ensemble.state_dict())
    assert torch.equal(again.eval()(IMAGES).boxes, ensemble(IMAGES).boxes)


def other(**changes: Any) -> Network:
    return Network({**load_yaml(ROOT / "models" / "yolov5n.yaml"), "width_multiple": 0.125, **changes})


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (other(nc=2), "number of classes, got 4, 2"),
        (other(nv=5), "number of views, got 3, 5"),
        (other(anchors=[[5, 5]] * 3), r"grid \(strides, anchors a cell\)"),
    ],
)
def test_networks_that_do_not_go_together_are_refused(member: Network, message: str) -> None:
    with pytest.raises(InputError, match=f"ensemble: expected networks of one {message}"):
        Ensemble([tiny_network(), member])


def test_it_is_made_of_networks_that_find_boxes_and_is_not_trained() -> None:
    views = classifier("tiny")
    for members in ([], [views.description], [{"members": [tiny_network().description] * 2}] * 2):
        with pytest.raises(InputError, match="ensemble: expected "):
            build_network({"members": members})
    with pytest.raises(RuntimeError, match="not trained"):
        Ensemble([tiny_network()]).train()(IMAGES)
