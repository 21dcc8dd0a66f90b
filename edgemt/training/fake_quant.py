"""Fake quantization: in training, weights and layer inputs are rounded to the grid of the INT8 graph.

The grid is that of `deploy.quantization.int8`: symmetric, one scale per output channel for weights and one scale per
tensor for inputs, unsigned where no input is negative. The range of an input is the running mean of the extrema of
single frames, as in calibration. Batch norms use their running statistics also in training, since the graph has them
folded into the weights. (Jacob et al., CVPR 2018; straight-through estimator: Bengio et al., 2013.)

Shapes: N batch, O output channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
MOMENTUM = 0.05  # of the running range: about the last 20 batches count
_READER = "reads_int8"
_MIN_RANGE = 1e-8  # so that the scale of an all-zero tensor is not 0


def fake_quantize_ste(x: Tensor, scale: Tensor, *, low: Tensor | float, high: Tensor | float) -> Tensor:
    """`x` rounded to scale * {low, ..., high}: scale * round(clamp(x / scale, low, high)).

    Straight-through estimator: the gradient is 1 where x / scale lies in [low, high] and 0 elsewhere.
    """
    steps = (x / scale).clamp(low, high)  # type: ignore[arg-type]
    return (steps + (steps.round() - steps).detach()) * scale


class FakeQuantWeight(nn.Module):
    """Parametrization that rounds a weight to 8 bits with one scale per output channel (`axis` of the weight)."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, weight: Tensor) -> Tensor:
        others = [axis for axis in range(weight.ndim) if axis != self.axis]
        scale = weight.detach().abs().amax(others, keepdim=True).clamp_min(_MIN_RANGE) / 127
        return fake_quantize_ste(weight, scale, low=-127.0, high=127.0)


class FakeQuantInput(nn.Module):
    """Rounds the input of a layer to 8 bits with one scale; in training the range follows the batches.

    `reach` keeps its name, since checkpoints contain it.
    """

    reach: Tensor  # [2] observed range: running mean over frames of the smallest and the largest value

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("reach", torch.full((2,), torch.nan))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self._update_range(x.detach().float())
        smallest, largest = self.reach
        signed = smallest < 0  # a tensor, so that a GPU does not synchronise
        low, high = torch.where(signed, -128.0, 0.0), torch.where(signed, 127.0, 255.0)
        scale = torch.maximum(-smallest, largest).clamp_min(_MIN_RANGE) / high
        return fake_quantize_ste(x.float(), scale, low=low, high=high).to(x.dtype)

    def _update_range(self, x: Tensor) -> None:
        current = torch.stack([x.flatten(1).amin(1).mean(), x.flatten(1).amax(1).mean()])
        running = torch.where(self.reach.isnan(), current, self.reach)
        self.reach.copy_(running + MOMENTUM * (current - running))


def fake_quantize(network: nn.Module) -> nn.Module:
    """Add fake quantization to every convolution and linear layer, in place. `calibrate` sets the input ranges.

    The names of the weights change until `remove_fake_quant`.
    """
    for module in [m for m in network.modules() if isinstance(m, LAYERS)]:
        axis = 1 if isinstance(module, nn.ConvTranspose2d) else 0
        parametrize.register_parametrization(module, "weight", FakeQuantWeight(axis))
        module.add_module(_READER, FakeQuantInput())
        module.register_forward_pre_hook(_quantize_input)
    for norm in [m for m in network.modules() if isinstance(m, _BatchNorm)]:
        norm.register_forward_pre_hook(_use_running_statistics)
    return network


@torch.no_grad()
def calibrate(network: nn.Module, batches: list[Tensor]) -> nn.Module:
    """Set the input ranges from normalised images [N, K, H, W]; nothing else of the network changes."""
    readers = [m for m in network.modules() if isinstance(m, FakeQuantInput)]
    was_training = network.training
    network.eval()
    for reader in readers:
        reader.train()
    for batch in batches:
        network(batch)
    for reader in readers:  # a head that is not called has no range; a checkpoint must not contain NaN
        reader.reach.nan_to_num_(nan=1.0)
    return network.train(was_training)


def remove_fake_quant(network: nn.Module) -> nn.Module:
    """Remove fake quantization from the network, in place: its weights are the unrounded ones."""
    for module in [m for m in network.modules() if isinstance(m, LAYERS) and parametrize.is_parametrized(m)]:
        parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)
        delattr(module, _READER)
    for layer in network.modules():
        for key in [
            key for key, hook in layer._forward_pre_hooks.items() if hook in (_quantize_input, _use_running_statistics)
        ]:
            del layer._forward_pre_hooks[key]
    return network


def _quantize_input(layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return (getattr(layer, _READER)(args[0]), *args[1:])


def _use_running_statistics(norm: nn.Module, args: tuple[Any, ...]) -> None:
    norm.training = False
