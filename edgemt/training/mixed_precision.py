"""Training in 32-bit floats, or in bfloat16 or float16 where torch computes an operation in it without harm.

The engine needs three things of mixed precision: a forward pass under `torch.autocast`, a loss scaled so that float16
gradients do not vanish, and optimiser steps with the scale removed. lightning.fabric has them too, but `import
lightning` takes 5 s, more than torch itself; it is imported only where several processes train
(`edgemt.training.distributed`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

_DTYPES = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class MixedPrecision:
    """Precision of the networks and losses of a run on one device.

    precision: `32-true`, `bf16-mixed` or `16-mixed`. Raises ValueError for another.
    """

    def __init__(self, precision: str, device: torch.device) -> None:
        if precision not in _DTYPES:
            raise ValueError(f"schedule.precision: unknown {precision!r}; one of {', '.join(_DTYPES)}")
        self.precision, self.device, self.dtype = precision, device, _DTYPES[precision]
        self.scaler = torch.amp.GradScaler(device.type) if self.dtype == torch.float16 else None

    def wrap(self, network: nn.Module) -> nn.Module:
        """`network` itself for `32-true`; else a module that runs its forward pass in this precision."""
        return network if self.dtype is None else AutocastModule(network, self.device.type, self.dtype)

    def backward(self, loss: Tensor) -> None:
        """Backward pass of `loss` []. With float16 the gradients have the scale of the scaler."""
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def clip(self, optimiser: torch.optim.Optimizer, max_norm: float) -> None:
        """Scale the gradients of an optimiser, in place, so that the norm of all together is at most `max_norm`."""
        if self.scaler is not None:
            self.scaler.unscale_(optimiser)
        weights = [p for group in optimiser.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(weights, max_norm)

    def step(self, optimisers: Iterable[torch.optim.Optimizer]) -> None:
        """Step of each optimiser. With float16 one whose gradients are not finite makes none, and the scale falls."""
        for optimiser in optimisers:
            if self.scaler is None:
                optimiser.step()
            else:
                self.scaler.step(optimiser)
        if self.scaler is not None:
            self.scaler.update()


class AutocastModule(nn.Module):
    """A network under autocast: floats of its arguments are converted to `dtype`, those of its outputs to float32.

    Other attributes are those of the network.
    """

    def __init__(self, module: nn.Module, device: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.module, self.autocast_device, self.dtype = module, device, dtype

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = _map_floats((args, kwargs), lambda x: x.to(self.dtype))
        with torch.autocast(self.autocast_device, dtype=self.dtype):
            output = self.module(*args, **kwargs)
        return _map_floats(output, lambda x: x.to(torch.get_default_dtype()))

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("module"), name)


def _map_floats(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """`value` with `function` applied to each floating-point tensor in its tuples, lists and dicts."""
    if isinstance(value, Tensor):
        return function(value) if value.is_floating_point() else value
    if isinstance(value, dict):
        return {key: _map_floats(item, function) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_map_floats(item, function) for item in value))
    if isinstance(value, (tuple, list)):
        return type(value)(_map_floats(item, function) for item in value)
    return value
