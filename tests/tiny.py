"""Networks that train within a second, for tests."""

from __future__ import annotations

import torch

from models.classifier import Classifier
from models.yolo import Network, classifier_description
from utils.config import ROOT, Hyperparameters, load_hyperparameters, load_yaml
from utils.devices import Compute

CPU = Compute(torch.device("cpu"), None)


def hyperparameters() -> Hyperparameters:
    return load_hyperparameters(ROOT / "hyp" / "joint_training_rules.yaml")


def tiny_network(seed: int = 0) -> Network:
    torch.manual_seed(seed)
    description = load_yaml(ROOT / "models" / "yolov5n.yaml")
    return Network({**description, "width_multiple": 0.125, "view_dropout": 0.0})


def classifier(kind: str) -> Classifier | Network:
    """A classifier alone, of three views."""
    torch.manual_seed(0)
    if kind == "resnet18":
        return Classifier("resnet18")
    stock = load_yaml(ROOT / "models" / "hub" / "yolov5n.yaml") | {"width_multiple": 0.125}
    return Network(classifier_description(stock), nv=3)
