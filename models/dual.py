"""Detector and classifier that share nothing, paired behind the joint network's interface; any network from its
description."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from torch import Tensor, nn

from models.ensemble import MEMBERS, MOST_MEMBERS, Ensemble
from models.heads import Detect
from models.yolo import Network, Output
from utils.log import InputError

if TYPE_CHECKING:
    from models.classifier import Classifier

Trainable: TypeAlias = "Network | Classifier"
PARTS = ("detector", "classifier")
RESNETS = ("resnet18", "resnet34", "resnet50")  # backbones of a Classifier


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


WithBoxes: TypeAlias = "Network | Dual | Ensemble"
AnyNetwork: TypeAlias = "Trainable | Dual | Ensemble"


def build_network(description: Mapping[str, Any]) -> AnyNetwork:
    """The network that a checkpoint describes: an ensemble, a pair, a ResNet classifier, or one by a yaml's grammar.

    Raises:
        InputError: unknown layers or backbones; an ensemble of what finds no boxes.
    """
    if set(description) == {MEMBERS}:
        return Ensemble(_members(description[MEMBERS]))
    if set(description) == set(PARTS):
        return Dual(Network(description["detector"]), _trainable(description["classifier"]))
    return _trainable(description)


def _members(descriptions: Any) -> list[Network | Dual]:
    """Checked before one is built: a description may hold itself, or name a part a million times."""
    if not isinstance(descriptions, list) or not 1 <= len(descriptions) <= MOST_MEMBERS:
        raise InputError(f"ensemble: expected a list of 1 to {MOST_MEMBERS} networks")
    if any(not isinstance(one, dict) or set(one) == {MEMBERS} for one in descriptions):
        raise InputError("ensemble: expected networks, and no ensembles among them")
    members = [network for network in map(build_network, descriptions) if isinstance(network, Network | Dual)]
    if len(members) < len(descriptions) or not all(member.nc for member in members):
        raise InputError("ensemble: expected networks that find boxes")
    return members


def _trainable(description: Mapping[str, Any]) -> Trainable:
    if not isinstance(description.get("backbone"), str):
        return Network(description)
    from models.classifier import Classifier  # not above: torchvision takes as long to import as torch does

    return Classifier(**description)


def part_of(state: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """The tensors of one part of a :class:`Dual`'s state, under the part's own names; of another network's, all."""
    if not all(name.startswith(tuple(f"{known}." for known in PARTS)) for name in state):
        return dict(state)
    start = f"{part}."
    return {name.removeprefix(start): tensor for name, tensor in state.items() if name.startswith(start)}
