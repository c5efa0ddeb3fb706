"""The classifier that shares nothing with the detector: torchvision's ResNet with squeeze-and-excitation and fusion.

Views differ in the whole picture and in fine structure, so the head reads C3, C4 and C5 (strides 8, 16, 32): each
through a 1x1 convolution, averaged over its positions, then all side by side (a pyramid of features, arXiv 1612.03144,
pooled).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from models.attention import GATES
from models.common import Conv, global_mean
from models.squeeze import SE, SEBasicBlock, SEBottleneck
from models.yolo import Output
from utils.log import InputError

Block = type[BasicBlock | Bottleneck]
BACKBONES: Mapping[str, tuple[Block, Block, tuple[int, int, int, int]]] = {  # plain block, with SE, blocks a stage
    "resnet18": (BasicBlock, SEBasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, SEBasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, SEBottleneck, (3, 4, 6, 3)),
}
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of RGB in [0, 1]
FUSED_CHANNELS = 256  # of each level


class Fusion(nn.Module):
    """Features of several levels -> one vector: a 1x1 convolution each, the mean over positions, concatenated."""

    def __init__(self, channels: tuple[int, ...], out_channels: int = FUSED_CHANNELS) -> None:
        super().__init__()
        self.levels = nn.ModuleList(Conv(c, out_channels) for c in channels)

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        """(B, C_i, H_i, W_i) of each level -> (B, levels * out_channels)."""
        pooled = [global_mean(level(x)).flatten(1) for level, x in zip(self.levels, features, strict=True)]
        return torch.cat(pooled, 1)


class Classifier(nn.Module):
    """Names the view of a frame; behind the same interface as a network with boxes.

    Args:
        backbone: a name from :data:`BACKBONES`.
        nv: number of views.
        se: squeeze-and-excitation (reduction 16) in every block, before the residual sum.
        fusion: read C3, C4 and C5 rather than C5 alone.
        dropout: before the linear layer.
        gate: of the squeeze-and-excitation, see :mod:`models.attention`.

    Attributes:
        description: these arguments; :func:`models.dual.build_network` makes the network again from them.

    Raises:
        InputError: no such backbone or gate.
    """

    nc = 0  # box classes
    max_stride = 32
    mean: Tensor
    std: Tensor

    def __init__(
        self, backbone: str = "resnet50", nv: int = 3, se: bool = True, fusion: bool = True, dropout: float = 0.0,
        gate: str = "identity",
    ) -> None:  # fmt: skip
        super().__init__()
        if backbone not in BACKBONES or gate not in GATES:
            raise InputError(
                f"classifier: expected one of {', '.join(BACKBONES)} with a gate of {GATES}, got {backbone} and {gate}"
            )
        self.description: dict[str, Any] = {
            "backbone": backbone, "nv": nv, "se": se, "fusion": fusion, "dropout": dropout, "gate": gate,
        }  # fmt: skip
        self.nv = nv
        plain, with_se, blocks = BACKBONES[backbone]
        self.backbone = ResNet(with_se if se else plain, list(blocks))
        for module in self.backbone.modules():
            if isinstance(module, SE):
                module.start(gate)
        channels = tuple(width * plain.expansion for width in (128, 256, 512))
        self.backbone.fc = nn.Identity()
        self.fusion = Fusion(channels) if fusion else None
        self.drop = nn.Dropout(dropout)
        self.linear = nn.Linear(FUSED_CHANNELS * len(channels) if fusion else channels[-1], nv)
        # what ImageNet's weights expect; constants, so no checkpoint holds them, and they are there on any device
        for name, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            self.register_buffer(name, torch.tensor(values, device="cpu").view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Output:
        """Images (B, 3, H, W), RGB in [0, 1] -> view logits (B, nv)."""
        r = self.backbone
        x = r.layer1(r.maxpool(r.relu(r.bn1(r.conv1((images - self.mean) / self.std)))))
        c3 = r.layer2(x)
        c4 = r.layer3(c3)
        c5 = r.layer4(c4)
        pooled = global_mean(c5).flatten(1) if self.fusion is None else self.fusion((c3, c4, c5))
        return Output([], self.linear(self.drop(pooled)), None)

    def fuse(self) -> None:
        """Fold the backbone's batch normalisations into its convolutions; needs evaluation mode."""
        for block in self.backbone.modules():
            for number in (1, 2, 3):
                _fold(block, f"conv{number}", f"bn{number}")
            if isinstance(block, nn.Sequential):  # a downsampling shortcut: convolution, normalisation
                _fold(block, "0", "1")


def _fold(module: nn.Module, convolution: str, normalisation: str) -> None:
    conv, bn = getattr(module, convolution, None), getattr(module, normalisation, None)
    if isinstance(conv, nn.Conv2d) and isinstance(bn, nn.BatchNorm2d):
        setattr(module, convolution, fuse_conv_bn_eval(conv, bn))
        setattr(module, normalisation, nn.Identity())


def from_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """torchvision's names of a ResNet's tensors as those of a :class:`Classifier`; its 1,000 classes are left out."""
    return {f"backbone.{name}": tensor for name, tensor in state.items() if not name.startswith("fc.")}
