"""Eight bits while learning: weights and layer inputs are rounded as the INT8 graph will round them, gradients pass.

The grid is the one that `deploy.quantization.int8` writes: symmetric, one scale an output channel for weights, one
scale a tensor for what a layer reads, without a sign where nothing is negative. The range of an input is the running
mean of what single frames reach, as calibration takes it, so that the network learns under the range it will be given.
Batch norms keep their statistics, also in training: the graph has them folded into its weights. (Jacob et al., CVPR
2018; straight-through estimator: Bengio et al., 2013.)

Shapes: N batch, O output channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
MOMENTUM = 0.05  # of the running range: it follows the last 20 batches or so
_READER = "reads_int8"
_TINY = 1e-8  # a range of nothing at all still needs a scale


def fake_quantize_ste(x: Tensor, scale: Tensor, *, low: Tensor | float, high: Tensor | float) -> Tensor:
    """x on the grid scale * {low .. high}; the gradient passes where x lies inside, and is 0 where it is cut off."""
    steps = (x / scale).clamp(low, high)  # type: ignore[arg-type]
    return (steps + (steps.round() - steps).detach()) * scale


class FakeQuantWeight(nn.Module):
    """A weight on its eight-bit grid, one scale an output channel; `axis` says which axis those are."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, weight: Tensor) -> Tensor:
        others = [axis for axis in range(weight.ndim) if axis != self.axis]
        scale = weight.detach().abs().amax(others, keepdim=True).clamp_min(_TINY) / 127
        return fake_quantize_ste(weight, scale, low=-127.0, high=127.0)


class FakeQuantInput(nn.Module):
    """What a layer reads, on an eight-bit grid with one scale; in training the range follows the batches."""

    reach: Tensor  # [2] mean over frames of their least and largest value

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("reach", torch.full((2,), torch.nan))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self._follow(x.detach().float())
        least, largest = self.reach
        signed = least < 0  # stays a tensor: a GPU is not kept waiting for it
        low, high = torch.where(signed, -128.0, 0.0), torch.where(signed, 127.0, 255.0)
        scale = torch.maximum(-least, largest).clamp_min(_TINY) / high
        return fake_quantize_ste(x.float(), scale, low=low, high=high).to(x.dtype)

    def _follow(self, x: Tensor) -> None:
        seen = torch.stack([x.flatten(1).amin(1).mean(), x.flatten(1).amax(1).mean()])
        known = torch.where(self.reach.isnan(), seen, self.reach)
        self.reach.copy_(known + MOMENTUM * (seen - known))


def fake_quantize(network: nn.Module) -> nn.Module:
    """Every convolution and linear layer reads and weighs in eight bits from now on; in place. The ranges are not set.

    The names of the weights change until `remove_fake_quant` takes it off again.
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
    """Sets the ranges from real images [N, K, H, W], normalised; nothing else of the network moves."""
    readers = [m for m in network.modules() if isinstance(m, FakeQuantInput)]
    was_training = network.training
    network.eval()
    for reader in readers:
        reader.train()
    for batch in batches:
        network(batch)
    for reader in readers:  # a head that nothing calls has no range, and must not put NaN into a checkpoint
        reader.reach.nan_to_num_(nan=1.0)
    return network.train(was_training)


def remove_fake_quant(network: nn.Module) -> nn.Module:
    """The network with its own, unrounded weights and no trace of eight bits; in place."""
    for module in [m for m in network.modules() if isinstance(m, LAYERS) and parametrize.is_parametrized(m)]:
        parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)
        delattr(module, _READER)
    for part in network.modules():
        for key in [
            key for key, hook in part._forward_pre_hooks.items() if hook in (_quantize_input, _use_running_statistics)
        ]:
            del part._forward_pre_hooks[key]
    return network


def _quantize_input(layer: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    return (getattr(layer, _READER)(given[0]), *given[1:])


def _use_running_statistics(norm: nn.Module, given: tuple[Any, ...]) -> None:
    norm.training = False
