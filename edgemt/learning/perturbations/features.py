"""Perturbations of feature maps, and the adversarial perturbation of VAT.

Shapes: N batch, F features, *space 2 or 3 axes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

FeatureTransform = Callable[[Tensor, torch.Generator | None], Tensor]  # feature map -> perturbed feature map


@dataclass(frozen=True)
class FeatureNoise:
    """f (1 + u), u ~ U(-span, span) for each channel and place, the same for all rows. CCT, Ouali et al., CVPR 2020."""

    span: float = 0.3

    def __call__(self, feature: Tensor, generator: torch.Generator | None) -> Tensor:
        uniform = torch.rand(feature.shape[1:], generator=generator, device=feature.device)
        return feature * (1.0 + self.span * (2.0 * uniform - 1.0)).to(feature.dtype)


@dataclass(frozen=True)
class FeatureDropout:
    """Dropout of whole channels of a feature map, or of single values, with rescaling; active in eval mode too."""

    rate: float = 0.5
    channels: bool = True

    def __call__(self, feature: Tensor, generator: torch.Generator | None) -> Tensor:
        shape = feature.shape[:2] + (1,) * (feature.ndim - 2) if self.channels else feature.shape
        mask = torch.rand(shape, generator=generator, device=feature.device) >= self.rate
        return feature * mask.to(feature.dtype) / (1.0 - self.rate)


@dataclass(frozen=True)
class AttentionDrop:
    """Sets places to 0 where the mean over channels >= U(low, high) times its maximum. CCT, Ouali et al., 2020."""

    low: float = 0.7
    high: float = 0.9

    def __call__(self, feature: Tensor, generator: torch.Generator | None) -> Tensor:
        uniform = torch.rand(len(feature), generator=generator, device=feature.device)
        attention = feature.mean(1, keepdim=True)
        threshold = attention.amax(tuple(range(1, attention.ndim)), keepdim=True)
        fraction = (self.low + (self.high - self.low) * uniform).view(threshold.shape)
        threshold = threshold * fraction.to(feature.dtype)
        return feature * (attention < threshold).to(feature.dtype)


@dataclass(frozen=True)
class RowwiseChannelDropout:
    """Channel dropout of `rate` in rows `start` to `stop`, with rescaling; other rows are unchanged.

    For `disturb` of a network: the channels are drawn from the step's generator, for each map anew.
    """

    rate: float
    start: int
    stop: int
    generator: torch.Generator | None = None

    def __call__(self, x: Tensor) -> Tensor:
        rows = x[self.start : self.stop]
        uniform = torch.rand(rows.shape[:2], generator=self.generator, device=x.device)
        mask = (uniform >= self.rate).to(x.dtype).view(*rows.shape[:2], *[1] * (x.ndim - 2)) / (1.0 - self.rate)
        return torch.cat([x[: self.start], rows * mask, x[self.stop :]])


def vat_perturbation(
    loss: Callable[[Tensor], Tensor],
    image: Tensor,
    generator: torch.Generator | None,
    *,
    epsilon: float = 10.0,
    xi: float = 1e-6,
) -> Tensor:
    """VAT: r_adv = epsilon g / |g|, g the gradient of `loss(image + xi d)` in xi d, d a random unit direction.

    One power iteration; norms are those of each image [N, K, *space]. Miyato et al., TPAMI 2018.
    """

    def unit(x: Tensor) -> Tensor:
        return F.normalize(x.flatten(1), dim=1).view_as(x)

    direction = torch.randn(image.shape, generator=generator, device=image.device, dtype=image.dtype)
    probe = (xi * unit(direction)).requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(loss(image.detach() + probe), probe)
    return (epsilon * unit(gradient)).detach()
