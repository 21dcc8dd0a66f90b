"""A small network with the shape of SAM: an image is embedded once, then asked about with boxes, points and masks.

Image encoder, prompt encoder, two-way attention between prompts and image, and a mask for every question, as in
Kirillov et al., ICCV 2023 (arXiv 2304.02643), in a size that learns from a few labelled images: convolutions instead of
a transformer, a fine map beside the deep one, and prompts drawn as maps too. Coordinates are shares of the frame.

Shapes: N images, K channels, O prompted objects, P points of each, T tokens, H W a frame, F features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from teachers.layers import normalisation, resize

KINDS = 5  # of tokens: two corners of a box, a point beside, a point on the object, none


class PromptedOutput(NamedTuple):
    """Output of a promptable network for each prompted object."""

    logits: Tensor  # [N, O, H, W], above 0 inside
    quality: Tensor  # [N, O] the intersection over union that it expects of its own mask, 0 to 1


def block(inward: int, outward: int, *, stride: int = 1) -> nn.Sequential:
    """Two 3x3 convolutions, each with group norm and GELU; the first one has the stride."""
    layers: list[nn.Module] = []
    for a, b, step in ((inward, outward, stride), (outward, outward, 1)):
        layers += [nn.Conv2d(a, b, 3, stride=step, padding=1), normalisation("group", b, dims=2), nn.GELU()]
    return nn.Sequential(*layers)


class Encoder(nn.Module):
    """image [N, K, H, W] -> a fine map [N, F0, H/2, W/2] and a deep one [N, F, H/8, W/8]."""

    def __init__(self, channels: int, widths: Sequence[int], features: int) -> None:
        super().__init__()
        inward = [channels, *widths[:-1]]
        self.stages = nn.ModuleList(block(a, b, stride=2) for a, b in zip(inward, widths, strict=True))
        self.deep, self.skip = nn.Conv2d(widths[3], features, 1), nn.Conv2d(widths[2], features, 1)
        self.mix = block(features, features)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        maps = [image]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        skip = self.skip(maps[3])
        return maps[1], self.mix(skip + resize(self.deep(maps[4]), skip.shape[2:]))


class TwoWay(nn.Module):
    """Tokens look at each other and at the image, then the image looks at the tokens."""

    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        self.own, self.there, self.back = (
            nn.MultiheadAttention(features, heads, batch_first=True, dropout=0.0) for _ in range(3)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(features) for _ in range(4))
        self.think = nn.Sequential(nn.Linear(features, 2 * features), nn.GELU(), nn.Linear(2 * features, features))

    def forward(self, tokens: Tensor, image: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.norms[0](tokens + self.own(tokens, tokens, tokens, need_weights=False)[0])
        tokens = self.norms[1](tokens + self.there(tokens, image + place, image, need_weights=False)[0])
        tokens = self.norms[2](tokens + self.think(tokens))
        return tokens, self.norms[3](image + self.back(image + place, tokens, tokens, need_weights=False)[0])


class Promptable(nn.Module):
    """`forward(image, boxes, points, signs, masks)` -> PromptedOutput; prompts that are None are not put.

    `embed` is what can be kept of an image, `decode` answers from it: as SAM has it.
    """

    promptable = True

    def __init__(
        self, *, channels: int, widths: Sequence[int] = (24, 48, 96, 128), features: int = 64, layers: int = 2
    ) -> None:
        super().__init__()
        if len(widths) != 4 or features % 8:
            raise ValueError(f"promptable: widths {tuple(widths)}, features {features}: 4 widths and a multiple of 8")
        self.encoder = Encoder(channels, widths, features)
        self.kinds = nn.Embedding(KINDS, features)
        self.output_tokens = nn.Parameter(torch.randn(2, features))  # become mask and quality
        self.drawn = block(5, widths[0], stride=2)
        self.coarse = nn.Conv2d(widths[0], features, 4, stride=4)
        self.layers = nn.ModuleList(TwoWay(features, heads=4) for _ in range(layers))
        self.up = nn.ConvTranspose2d(features, widths[0], 4, stride=4)
        self.fine = block(3 * widths[0], widths[0])
        self.kernel = nn.Sequential(nn.Linear(features, features), nn.GELU(), nn.Linear(features, widths[0]))
        self.quality = nn.Sequential(nn.Linear(features, features), nn.GELU(), nn.Linear(features, 1))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if f"{prefix}asked" in state_dict:  # the name in weights of earlier versions
            state_dict[f"{prefix}output_tokens"] = state_dict.pop(f"{prefix}asked")
        super()._load_from_state_dict(state_dict, prefix, *args)

    def embed(self, image: Tensor) -> tuple[Tensor, ...]:
        """What of images [N, K, H, W] can be kept: [N, F0, H/2, W/2] and [N, F, H/8, W/8]."""
        return self.encoder(image)

    def forward(
        self,
        image: Tensor,
        boxes: Tensor | None = None,
        points: Tensor | None = None,
        signs: Tensor | None = None,
        masks: Tensor | None = None,
    ) -> PromptedOutput:
        return self.decode(self.embed(image), image.shape[2:], boxes, points, signs, masks)

    def decode(
        self,
        embedding: Sequence[Tensor],
        size: Sequence[int],
        boxes: Tensor | None = None,
        points: Tensor | None = None,
        signs: Tensor | None = None,
        masks: Tensor | None = None,
    ) -> PromptedOutput:
        """Masks of `size`, one per object. Raises ValueError without any prompt."""
        given = next((x for x in (boxes, points, masks) if x is not None), None)
        if given is None:
            raise ValueError("promptable: no prompt is given; give boxes, points or masks")
        count, objects = given.shape[:2]
        fine, deep = (x.repeat_interleave(objects, 0) for x in embedding)
        flat = [None if x is None else x.flatten(0, 1) for x in (boxes, points, signs, masks)]
        drawn = self.drawn(_maps(*flat, size=size, like=deep))
        dense = resize(self.coarse(F.pad(drawn, [0, -drawn.shape[3] % 4, 0, -drawn.shape[2] % 4])), deep.shape[2:])
        image = (deep + dense).flatten(2).transpose(1, 2)
        place = fourier_features(pixel_centres(deep), self.output_tokens.shape[1]).to(image.dtype)
        tokens = self._tokens(*flat[:3], rows=len(image)).to(image.dtype)
        for layer in self.layers:
            tokens, image = layer(tokens, image, place)
        wide = self.up(image.transpose(1, 2).unflatten(2, deep.shape[2:]))
        seen = self.fine(torch.cat([resize(wide, fine.shape[2:]), fine, resize(drawn, fine.shape[2:])], 1))
        logits = torch.einsum("nf,nfhw->nhw", self.kernel(tokens[:, 0]), seen).unsqueeze(1)
        logits = resize(logits, size).view(count, objects, *size)
        return PromptedOutput(logits, self.quality(tokens[:, 1]).sigmoid().view(count, objects))

    def _tokens(self, boxes: Tensor | None, points: Tensor | None, signs: Tensor | None, *, rows: int) -> Tensor:
        """[N O, T, F]."""
        width = self.output_tokens.shape[1]
        tokens = [self.output_tokens.expand(rows, -1, -1)]
        if boxes is not None:
            kind = self.kinds.weight[:2]
            tokens.append(fourier_features(boxes.unflatten(1, (2, 2)), width).to(kind.dtype) + kind)
        if points is not None and signs is not None:
            where = fourier_features(points, width) * (signs >= 0).unsqueeze(-1)
            tokens.append(where.to(self.output_tokens.dtype) + self.kinds(torch.where(signs < 0, 4, signs + 2)))
        return torch.cat(tokens, 1)


def fourier_features(at: Tensor, width: int) -> Tensor:
    """[..., 2] in 0 to 1 -> [..., width] sines and cosines of x and of y, from half a turn to many."""
    turns = torch.exp2(torch.arange(width // 4, device=at.device, dtype=at.dtype) * (7 / (width // 4)))
    angle = (at.unsqueeze(-1) * (math.pi * turns)).flatten(-2)
    return torch.cat([angle.sin(), angle.cos()], -1)


def pixel_centres(like: Tensor) -> Tensor:
    """[h w, 2]: x and y of the cells of a map."""
    y, x = ((torch.arange(n, device=like.device, dtype=like.dtype) + 0.5) / n for n in like.shape[2:])
    return torch.stack([x.expand(len(y), -1), y[:, None].expand(-1, len(x))], 2).flatten(0, 1)


def _maps(
    boxes: Tensor | None,
    points: Tensor | None,
    signs: Tensor | None,
    masks: Tensor | None,
    *,
    size: Sequence[int],
    like: Tensor,
) -> Tensor:
    """[N O, 5, H, W]: box, points on it, points beside it, first mask, and whether there is one."""
    drawn = like.new_zeros(len(like), 5, *size)
    at = pixel_centres(drawn).view(*size, 2)
    if boxes is not None:
        low, high = boxes[:, None, None, :2], boxes[:, None, None, 2:]
        drawn[:, 0] = ((at >= low) & (at <= high)).all(-1).to(drawn.dtype)
    if points is not None and signs is not None:
        away = (at - points[:, :, None, None]).square().sum(-1)  # [N O, P, H, W]
        spot = torch.exp(-away / (2 * 0.03**2))
        for sign in (1, 0):
            drawn[:, 2 - sign] = (spot * (signs == sign)[..., None, None]).sum(1)
    if masks is not None:
        drawn[:, 3] = resize(masks.unsqueeze(1), size)[:, 0] / 8
        drawn[:, 4] = 1
    return drawn
