"""Batch normalisation over the frames of all processes of a training.

torch's SyncBatchNorm does this on GPUs alone; this one takes any device that the processes' messages can come from.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn


class _SumOverProcesses(torch.autograd.Function):
    """The sum of a tensor over all processes; what each of them makes of it sends its gradient back to all."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        torch.distributed.all_reduce(total)
        return total


class SyncBatchNorm2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` whose mean and variance in training are those of all processes' frames together.

    Parameters and state names are those of ``nn.BatchNorm2d``. The losses of the processes are to be shares of one sum,
    as :mod:`utils.loss` makes them: then the gradients are those of one process that holds all frames.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        wide = x.float()
        local = torch.cat((wide.sum((0, 2, 3)), wide.new_tensor([x.numel() / x.shape[1]])))
        total = _SumOverProcesses.apply(local)
        count = total[-1].detach()
        mean = total[:-1] / count
        centred = wide - mean.view(1, -1, 1, 1)
        # a second message rather than E[x^2] - E[x]^2, which loses its digits where the mean is far from 0
        variance = _SumOverProcesses.apply((centred * centred).sum((0, 2, 3))) / count
        self._remember(mean.detach(), variance.detach() * count / (count - 1).clamp(min=1))
        scale = (variance + self.eps).rsqrt() * self.weight
        return (centred * scale.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)).to(x.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked += 1


def synchronised(network: nn.Module) -> None:
    """Replace each ``nn.BatchNorm2d`` within the network by one over all processes, with its parameters and buffers."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if type(child) is nn.BatchNorm2d:
                ours = SyncBatchNorm2d(child.num_features, child.eps, child.momentum)
                ours.load_state_dict(child.state_dict(), assign=True)
                for own, given in zip(ours.parameters(), child.parameters(), strict=True):
                    own.requires_grad_(given.requires_grad)
                setattr(module, name, ours)
