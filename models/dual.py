"""Detector and classifier that share nothing, paired behind the joint network's interface; and any network from its
description."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from models.classifier import Classifier
from models.heads import Detect
from models.yolo import Network, Output

Trainable = Network | Classifier
PARTS = ("detector", "classifier")


class Dual(nn.Module):
    """Two networks side by side: boxes from the one, the view from the other.

    Their states are ``detector.<...>`` and ``classifier.<...>``.
    """

    def __init__(self, detector: Network, classifier: Trainable) -> None:
        super().__init__()
        self.detector, self.classifier = detector, classifier
        self.description: dict[str, Any] = {
            "detector": detector.description, "classifier": classifier.description,
        }  # fmt: skip
        self.nc, self.nv = detector.nc, classifier.nv
        self.max_stride = max(detector.max_stride, classifier.max_stride)

    @property
    def detect(self) -> Detect:
        """The box head."""
        return self.detector.detect

    def forward(self, images: Tensor) -> Output:
        """Images (B, 3, H, W) in [0, 1], sides multiples of ``max_stride``; boxes are decoded in evaluation mode."""
        found: Output = self.detector(images)
        return found._replace(view=self.classifier(images).view)


AnyNetwork = Trainable | Dual


def build_network(description: Mapping[str, Any]) -> AnyNetwork:
    """The network that a checkpoint describes: a pair, a ResNet classifier, or one by a yaml's grammar.

    Raises:
        InputError: unknown layers or backbones.
    """
    if set(description) == set(PARTS):
        return Dual(Network(description["detector"]), _trainable(description["classifier"]))
    return _trainable(description)


def _trainable(description: Mapping[str, Any]) -> Trainable:
    return Classifier(**description) if isinstance(description.get("backbone"), str) else Network(description)


def part_of(state: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """The tensors of one part of a :class:`Dual`'s state, under the part's own names; of another network's, all."""
    if not all(name.startswith(tuple(f"{known}." for known in PARTS)) for name in state):
        return dict(state)
    start = f"{part}."
    return {name.removeprefix(start): tensor for name, tensor in state.items() if name.startswith(start)}
