"""Any timm encoder as a pyramid of feature maps, finest first.

Shapes: N batch, K image channels, H W size.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import timm
from torch import Tensor, nn

from edgemt.hub import published_weights

log = logging.getLogger("edgemt.students")

PRETRAINED = ("never", "if-available", "always")


def weights_file(encoder: str) -> str:
    """Path of the encoder's published weights. Raises OSError where they cannot be had."""
    config = timm.get_pretrained_cfg(encoder)
    return published_weights(config.hf_hub_id if config else None)


class Pyramid(nn.Module):
    """image [N, K, H, W] -> the encoder's maps at strides of `finest` and more, finest first.

    `channels` and `strides` describe the maps as built. Pruning makes `channels` stale, so `forward` and all
    that comes behind it look at the tensors alone.
    """

    maps = "encoder"  # as `Network.maps`: it gives these and nothing else

    def __init__(
        self,
        encoder: str,
        *,
        channels: int,
        finest: int = 4,
        pretrained: str = "never",
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if pretrained not in PRETRAINED:
            raise ValueError(f"student: pretrained = {pretrained!r}: choose one of {', '.join(PRETRAINED)}")
        extra: dict[str, Any] = {**(options or {}), "features_only": True, "in_chans": channels}
        if pretrained != "never":
            try:
                extra |= {"pretrained": True, "pretrained_cfg_overlay": {"file": weights_file(encoder)}}
            except OSError as error:
                if pretrained == "always":
                    raise ValueError(f"student {encoder}: pretrained = 'always', but its weights: {error}") from error
                log.warning("student %s starts from scratch; pretrained weights: %s", encoder, error)
        try:
            self.encoder = timm.create_model(encoder, **extra)
        except (RuntimeError, AttributeError) as error:
            raise ValueError(f"student {encoder}: timm cannot give its feature maps ({error})") from error
        about: Any = self.encoder.feature_info
        strides = [int(stride) for stride in about.reduction()]
        self.taken: tuple[int, ...] = tuple(i for i, stride in enumerate(strides) if stride >= finest)
        if len(set(strides)) < len(strides) or len(self.taken) < 2:
            raise ValueError(
                f"student {encoder}: its maps have strides {strides}, and the decoder needs two or more "
                f"different ones from {finest} up; take a convolutional or hierarchical encoder"
            )
        self.strides: tuple[int, ...] = tuple(strides[i] for i in self.taken)
        self.channels: tuple[int, ...] = tuple(about.channels()[i] for i in self.taken)
        self.channels_last = str(getattr(self.encoder, "output_fmt", "NCHW")).endswith("NHWC")

    def forward(self, x: Tensor) -> list[Tensor]:
        maps: Sequence[Tensor] = self.encoder(x)
        return [maps[i].permute(0, 3, 1, 2) if self.channels_last else maps[i] for i in self.taken]
