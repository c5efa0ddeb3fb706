"""Several networks as one: what they say of each cell is averaged, before suppression.

Networks that were trained apart err apart, and their mean errs less (Hansen and Salamon 1990, "Neural network
ensembles"). YOLOv5 pools the boxes of its ensembles and lets suppression choose among them; here the networks vote.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from models.yolo import Network, Output
from utils.boxes import LEAST_SCORE, with_scores
from utils.log import InputError

if TYPE_CHECKING:
    from models.dual import Dual

MEMBERS = "members"
MOST_MEMBERS = 32


class Ensemble(nn.Module):
    """Networks that find boxes, behind the interface of one, in evaluation mode alone.

    Scores, objectness x class probability, are averaged; so are boxes, each weighted by its best score, so that a
    network which sees nothing in a cell does not move the box of one which does. Views are the mean over the networks
    that name any. States are ``members.<index>.<...>``.

    Raises:
        InputError: networks with different numbers of classes, views or cells.
    """

    def __init__(self, members: Sequence[Network | Dual]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.description: dict[str, Any] = {MEMBERS: [member.description for member in members]}
        grids = [(member.detect.strides, member.detect.anchors.shape[1]) for member in members]
        for kind, found in (
            ("number of classes", [member.nc for member in members]),
            ("number of views", [member.nv for member in members if member.nv]),
            ("grid (strides, anchors a cell)", grids),
        ):
            if any(value != found[0] for value in found):
                raise InputError(f"ensemble: expected networks of one {kind}, got {', '.join(map(str, found))}")
        self.nc = members[0].nc
        self.nv = max(member.nv for member in members)
        self.max_stride = max(member.max_stride for member in members)

    def forward(self, images: Tensor) -> Output:
        """Images (B, 3, H, W) in [0, 1], sides multiples of ``max_stride`` -> boxes and views; no raw maps.

        The view's logits are the logarithm of its mean probabilities.
        """
        if self.training:
            raise RuntimeError("an ensemble is put together of trained networks; it is not trained itself")
        boxes: list[Tensor] = []
        views: list[Tensor] = []
        for member in self.members:  # one after the other: raw maps are large, and none is kept
            output: Output = member(images)
            if output.boxes is not None:
                boxes.append(output.boxes)
            if output.view is not None:
                views.append(output.view.float().softmax(1))
        view = torch.stack(views).mean(0).clamp(min=LEAST_SCORE).log() if views else None
        return Output([], view, mean_boxes(boxes))


def mean_boxes(predictions: Sequence[Tensor]) -> Tensor:
    """The mean of several networks' decoded predictions (B, N, 5 + nc) of the same cells, in the same form."""
    first, *others = predictions
    scores = first[..., 5:] * first[..., 4:5]
    weights = scores.amax(-1, keepdim=True).clamp(min=LEAST_SCORE)
    places = first[..., :4] * weights
    for rows in others:
        score = rows[..., 5:] * rows[..., 4:5]
        weight = score.amax(-1, keepdim=True).clamp(min=LEAST_SCORE)
        scores, weights, places = scores + score, weights + weight, places + rows[..., :4] * weight
    return with_scores(places / weights, scores / len(predictions))
