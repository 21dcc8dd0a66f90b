"""Teachers from segmentation_models_pytorch and MONAI, behind this project's contract.

Shapes: N batch, K image channels, C classes, H W size.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from edgemt.contract import Output
from edgemt.hub import published_weights
from edgemt.names import unknown

log = logging.getLogger("edgemt.teachers")

SMP = (
    "DeepLabV3",
    "DeepLabV3Plus",
    "FPN",
    "Linknet",
    "MAnet",
    "PSPNet",
    "Segformer",
    "UPerNet",
    "Unet",
    "UnetPlusPlus",
)
PRETRAINED = ("never", "if-available", "always")
# What the constructors need beyond the image's channels and the classes.
MONAI: dict[str, dict[str, Any]] = {
    "AttentionUnet": {"channels": (16, 32, 64, 128, 256)},
    "BasicUNet": {"features": (32, 32, 64, 128, 256, 32)},
    "BasicUNetPlusPlus": {"features": (32, 32, 64, 128, 256, 32)},
    "FlexibleUNet": {"backbone": "efficientnet-b0"},
    "SegResNet": {"init_filters": 16, "blocks_down": (1, 2, 2, 4), "blocks_up": (1, 1, 1)},
    "UNet": {"channels": (32, 64, 128, 256, 512), "num_res_units": 2, "act": "RELU"},
}


def offered(library: str) -> tuple[str, ...]:
    """The networks of "smp" or "monai" that fit: a 2-D image in, logits out."""
    return {"smp": SMP, "monai": tuple(MONAI)}[library]


class Foreign(nn.Module):
    """A network of another library: image [N, K, H, W] -> Output, any size.

    The image is continued over its lower and right edge to a multiple of 32, and the logits are cut back.
    """

    def __init__(self, network: nn.Module, *, multiple: int = 32) -> None:
        super().__init__()
        self.network = network
        self.multiple = multiple

    def forward(self, x: Tensor) -> Output:
        h, w = x.shape[-2:]
        below, beside = -h % self.multiple, -w % self.multiple
        y = self.network(F.pad(x, (0, beside, 0, below), mode="replicate") if below or beside else x)
        logits: Tensor = y[-1] if isinstance(y, list | tuple) else y
        return Output(logits=logits[..., :h, :w] if below or beside else logits)


def from_smp(
    architecture: str,
    *,
    channels: int,
    classes: int,
    heads: Sequence[str] = (),
    encoder: str = "resnet34",
    pretrained: str = "never",
    **options: Any,
) -> nn.Module:
    """An architecture of segmentation_models_pytorch on any of its encoders; `tu-NAME` is timm's NAME."""
    import segmentation_models_pytorch as smp
    from segmentation_models_pytorch.encoders import encoders

    if pretrained not in PRETRAINED:
        raise ValueError(f"teacher smp/{architecture}: {unknown('pretrained', pretrained, PRETRAINED)}")
    if not encoder.startswith("tu-") and encoder not in encoders:
        raise ValueError(f"teacher smp/{architecture}: {unknown('encoder', encoder, encoders)}")
    weights: str | None = None
    if pretrained != "never":
        try:
            weights = weights_file(encoder, encoders)
        except OSError as error:
            if pretrained == "always":
                raise ValueError(
                    f"teacher smp/{architecture}: pretrained = 'always', but {encoder}: {error}"
                ) from error
            log.warning("teacher smp/%s starts from scratch; pretrained %s: %s", architecture, encoder, error)
    common: dict[str, Any] = {"encoder_name": encoder, "encoder_weights": None, "classes": classes, **options}
    build = getattr(smp, architecture)
    if weights is None:
        return Foreign(build(in_channels=channels, **common))
    if encoder.startswith("tu-"):
        common |= {"encoder_weights": True, "pretrained_cfg_overlay": {"file": weights}}
        return Foreign(build(in_channels=channels, **common))
    from safetensors.torch import load_file

    network = build(in_channels=3, **common)
    network.encoder.load_state_dict(load_file(weights))
    network.encoder.set_in_channels(channels, pretrained=True)
    return Foreign(network)


def weights_file(encoder: str, encoders: dict[str, Any]) -> str:
    """Path of the encoder's published weights. Raises OSError where they cannot be had."""
    if encoder.startswith("tu-"):
        import timm

        config = timm.get_pretrained_cfg(encoder.removeprefix("tu-"), allow_unregistered=True)
        return published_weights(config.hf_hub_id if config else None)
    source = encoders[encoder]["pretrained_settings"].get("imagenet", {})
    return published_weights(source.get("repo_id"), revision=source.get("revision"))


def from_monai(
    network: str,
    *,
    channels: int,
    classes: int,
    heads: Sequence[str] = (),
    widths: Sequence[int] = (),
    **options: Any,
) -> nn.Module:
    """A 2-D network of MONAI. `widths` of its stages; further `options` go to its constructor."""
    from monai.networks import nets

    given: dict[str, Any] = {"spatial_dims": 2, **MONAI[network], **options}
    named = next((name for name in ("channels", "features") if name in given), None)
    if widths and named is None:
        raise ValueError(f"teacher monai/{network}: widths cannot be set; see MONAI for its own options")
    if widths and named:
        given[named] = tuple(widths)
    if named == "channels":
        given.setdefault("strides", (2,) * (len(given[named]) - 1))
    return Foreign(getattr(nets, network)(in_channels=channels, out_channels=classes, **given))
