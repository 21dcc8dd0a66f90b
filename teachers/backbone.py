"""Any timm encoder with weights of its own as a frozen teacher of features: a DINO ViT, an encoder of surgical video.

Shapes: N batch, K image channels, F channels of a map, H W size of a frame in pixels.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from edgemt.errors import unknown_name_message
from edgemt.io import encoder_weights, load_encoder
from edgemt.io.atomic import sha256
from edgemt.io.encoder_weights import EncoderWeights
from edgemt.model_card import Normalisation

HEADS = ("head", "head_dist", "fc", "fc_norm", "classifier", "last_linear", "mask_token")  # may be left over in a file


class Backbone(nn.Module):
    """image [N, K, H, W], normalised as the run's are -> encoder maps [N, F, h, w], finest first, one for each stride.

    K 1 becomes three equal channels, of more than three slices the middle three are taken. The frame is given the mean
    and deviation that the weights were trained with (a package's own, or those of timm's config); one that was
    normalised by itself (`per_image`) stays as it is, since it has mean 0 and deviation 1. It is resized so that its
    longer side has `size` pixels (0: its own size), and to a multiple of the coarsest stride; encoders of one fixed
    size get that size. Of the maps of one stride the last is given, behind the final norm for a plain ViT, at
    h = ceil(H / stride); patches of 14 count as stride 16. Drop path and dropout are off in eval mode, which frozen
    players are in.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, name: str, *, weights: EncoderWeights | Path | str, normalise: Normalisation, size: int = 0
    ) -> None:
        """`weights`: of `weights_of`, or a safetensors file. Raises ValueError where they do not fit."""
        super().__init__()
        self.encoder, self.flexible = _build(name)
        found = weights if isinstance(weights, EncoderWeights) else weights_of(name, given=str(weights))
        _load(self.encoder, found)
        config, about = self.encoder.pretrained_cfg, self.encoder.feature_info
        rows = about.info if hasattr(about, "info") else about
        reductions = [int(row["reduction"]) for row in rows]
        self.taken: tuple[int, ...] = tuple(sorted({r: i for i, r in enumerate(reductions)}.values()))
        self.strides: tuple[int, ...] = tuple(2 ** round(math.log2(reductions[i])) for i in self.taken)
        self.plain = len(set(reductions)) == 1 < len(reductions)  # a ViT: its blocks share one norm at the end
        self.multiple, self.size = max(reductions), size
        self.fixed: tuple[int, ...] = () if self.flexible else tuple(config["input_size"][1:])
        scale, shift = _rescaled(normalise, mean=found.mean or config["mean"], std=found.std or config["std"])
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("shift", shift, persistent=False)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = self.encoder.forward_intermediates(
            self._prepared(x), indices=list(self.taken), norm=self.plain, output_fmt="NCHW", intermediates_only=True
        )
        return [
            _resize(m.float(), [-(-side // stride) for side in x.shape[2:]])
            for m, stride in zip(maps, self.strides, strict=True)
        ]

    def _prepared(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        if channels != 3:
            first = max(0, (channels - 3) // 2)
            x = x[:, first : first + 3] if channels > 3 else x.mean(1, keepdim=True).expand(-1, 3, -1, -1)
        x = x * self.scale + self.shift  # type: ignore[operator]
        grow = self.size / max(x.shape[2:]) if self.size else 1.0
        near = [max(1, round(side * grow / self.multiple)) * self.multiple for side in x.shape[2:]]
        return _resize(x, self.fixed or near)


def weights_of(name: str, *, given: str = "") -> EncoderWeights:
    """The encoder's weights: of the file that is given, else of a package, the hub's cache or the hub.

    Raises ValueError, naming field and remedy, where the encoder or the file is not to be had.
    """
    if not timm.is_model(name):
        raise ValueError(f"student.feature_teacher: {unknown_name_message('encoder', name, timm.list_models())}")
    if not given:
        try:
            found = encoder_weights.find(name, pretrained="always", what="encoder")
        except ValueError as error:
            raise ValueError(
                f"student.feature_teacher: {error}; of a feature teacher: --student.feature-teacher-weights FILE"
            ) from error
        assert found is not None  # "always" raises
        return found
    file = Path(given)
    if file.suffix != ".safetensors":
        raise ValueError(
            f"student.feature_teacher_weights: {file} is no .safetensors file; save the state dict of {name} as one "
            "with safetensors.torch.save_file"
        )
    if not file.is_file():
        raise ValueError(f"student.feature_teacher_weights: {file}: no such file")
    return EncoderWeights(name, "file", file.name, sha256(file), "", file)


def _build(name: str) -> tuple[Any, bool]:
    """The encoder without a classifier, and whether it takes frames of any size."""
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.fixed_input_size:
        encoder, flexible = timm.create_model(name, num_classes=0), True
    else:
        try:
            encoder, flexible = timm.create_model(name, num_classes=0, dynamic_img_size=True), True
        except TypeError:  # windows and relative positions of one size
            encoder, flexible = timm.create_model(name, num_classes=0), False
    if not hasattr(encoder, "forward_intermediates") or not getattr(encoder, "feature_info", None):
        raise ValueError(f"student.feature_teacher: timm gives no feature maps of {name}; take another encoder")
    return encoder, flexible


def _load(encoder: nn.Module, weights: EncoderWeights) -> None:
    """Every weight of the encoder; only a classifier may be left over."""
    name, file = weights.encoder, weights.file
    try:
        state = load_encoder.load(weights) if weights.source == "package" else load_file(file)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file}: damaged or cut short ({error}); fetch or save it again") from None
    # timm brings files of other projects (DINO, DINOv2) into its own names
    convert = getattr(sys.modules[type(encoder).__module__], "checkpoint_filter_fn", None)
    does_not_fit = f"{file}: does not fit {name}"
    try:
        state = state if convert is None else convert(state, encoder)
        found = encoder.load_state_dict(state, strict=False)
    except (RuntimeError, KeyError) as error:
        raise ValueError(f"{does_not_fit} ({str(error).splitlines()[-1].strip()}); name its own encoder") from None
    left = [key for key in found.unexpected_keys if key.partition(".")[0] not in HEADS]
    for what, keys in (("lacks", found.missing_keys), ("has no place for", left)):
        if keys:
            raise ValueError(f"{does_not_fit}: it {what} {keys[0]} and {len(keys) - 1} more; name its own encoder")


def _rescaled(normalise: Normalisation, *, mean: tuple[float, ...], std: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Scale and shift [1, 3, 1, 1] from the run's normalisation to the encoder's."""
    if normalise.per_image:
        return torch.ones(1, 3, 1, 1), torch.zeros(1, 3, 1, 1)
    own_mean, own_std = (_three(values) for values in (normalise.mean, normalise.std))
    new_mean, new_std = torch.tensor(mean), torch.tensor(std)
    return (own_std / new_std).view(1, 3, 1, 1), ((own_mean - new_mean) / new_std).view(1, 3, 1, 1)


def _three(values: tuple[float, ...]) -> Tensor:
    first = max(0, (len(values) - 3) // 2)
    chosen = torch.tensor(values[first : first + 3])
    return chosen if len(chosen) == 3 else chosen.mean().expand(3)


def _resize(x: Tensor, size: Any) -> Tensor:
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False, antialias=True)
