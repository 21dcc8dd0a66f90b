"""Any timm encoder as a pyramid of feature maps, finest first.

Shapes: N batch, K image channels, H W size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import timm
from torch import Tensor, nn

from edgemt.io import encoder_weights, load_encoder


class TimmPyramid(nn.Module):
    """image [N, K, H, W] -> the encoder's maps at strides of `finest` and more, finest first.

    `pretrained` and `weights_file` say where the encoder's first weights come from (`encoder_weights.find`);
    `first_conv` how the RGB filters of its first convolution are fitted to K channels.

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
        weights_file: str = "",
        first_conv: str = "auto",
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        weights = encoder_weights.find(encoder, file=weights_file, pretrained=pretrained, what="student")
        extra: dict[str, Any] = {**(options or {}), "features_only": True, "in_chans": channels}
        try:
            self.encoder = timm.create_model(encoder, **extra)
        except (RuntimeError, AttributeError, TypeError) as error:
            raise ValueError(f"student {encoder}: timm cannot give its feature maps ({error})") from error
        if weights is not None:
            load_encoder.load_into(self.encoder, weights, channels=channels, first_conv=first_conv)
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
