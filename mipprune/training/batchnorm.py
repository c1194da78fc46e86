"""BatchNorm whose statistics are those of the whole batch, over all ranks."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn
from torch.autograd.function import FunctionCtx


class _Sum(torch.autograd.Function):
    """Sum over the ranks, of gradients too."""

    @staticmethod
    def forward(context: FunctionCtx, tensor: torch.Tensor) -> torch.Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context: FunctionCtx, gradient: torch.Tensor) -> torch.Tensor:
        return _sum(gradient)


def _sum(tensor: torch.Tensor) -> torch.Tensor:
    """Sum over the ranks, a tensor of the same shape."""
    total: torch.Tensor = _Sum.apply(tensor)
    return total


class _Synchronised(nn.BatchNorm2d):
    """torch's SyncBatchNorm for CPUs, which torch has for GPUs only.

    Every rank has as many images. The gradient passes through the sums of all ranks.
    """

    def _check_input_dim(self, input: torch.Tensor) -> None:
        """Any number of dimensions."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Normalise, (images, channels, …)."""
        if not self.training:
            return super().forward(input)
        over = [axis for axis in range(input.dim()) if axis != 1]
        shape = [1, -1] + [1] * (input.dim() - 2)
        count = input.numel() // input.shape[1] * dist.get_world_size()
        mean = _sum(input.sum(over)) / count
        centred = input - mean.view(shape)
        variance = _sum(centred.square().sum(over)) / count
        if self.running_mean is not None and self.running_var is not None:
            share = self._share()
            with torch.no_grad():
                self.running_mean.lerp_(mean, share)
                self.running_var.lerp_(variance * (count / (count - 1)), share)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return centred * scale.view(shape) + self.bias.view(shape)

    def _share(self) -> float:
        """What this batch counts for in the running statistics; a mean of all without momentum."""
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                return 1.0 / float(self.num_batches_tracked)
        return self.momentum or 0.0


def synchronise(network: nn.Module, device: torch.device) -> nn.Module:
    """The network with every BatchNorm's statistics taken over all ranks, in place.

    Parameters
    ----------
    network : nn.Module
        Its parameters and buffers stay the same objects.
    device : torch.device
        That it is on: torch's own SyncBatchNorm is for GPUs.
    """
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.modules.batchnorm._BatchNorm):
                own = _Synchronised(child.num_features, child.eps, child.momentum)
                own._parameters, own._buffers = child._parameters, child._buffers
                own.train(child.training)
                setattr(module, name, own)
    return network
