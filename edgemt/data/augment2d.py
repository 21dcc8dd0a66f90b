"""2-D augmentation: geometry for every row, strong intensity changes for the second view of unlabelled rows.

Geometry is one batched grid_sample, with the same grid for image and label: flips, rotation, scale, shift and elastic
deformation cost one interpolation. Intensity is torchvision.transforms.v2, with random parameters for each image. All
parameters are drawn from `generator` on the CPU, so that they are the same on every device.

Shapes: N batch, L labelled, K channels, H W size. Images are float in [0, 1] until `normalised`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from functools import partial

import torch
import torch.nn.functional as nn
from torch import Generator, Tensor
from torchvision.transforms.v2 import functional as v2

from edgemt.data.augment_options import NO_AUGMENT, AugmentOptions
from edgemt.model_card import Normalisation

YIQ = ((0.299, 0.587, 0.114), (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))


def warp(image: Tensor, label: Tensor, *, options: AugmentOptions, generator: Generator) -> tuple[Tensor, Tensor]:
    """Images [N, K, H, W], and labels uint8 [L, H, W] of the first L rows, warped by the same maps.

    K may include soft labels: they are warped as the image is, and padded with 0.
    """
    count, _, height, width = image.shape
    if options.rot90 and height != width:
        raise ValueError(f"augment.rot90: needs square frames, these are {height} x {width}; set it to false")
    if options == _without_geometry(options):
        return image, label
    theta = _pose(count, aspect=width / height, options=options, generator=generator)
    grid = nn.affine_grid(theta, [count, 1, height, width], align_corners=False)
    if options.elastic > 0:
        knots = torch.randn(count, 2, 5, 5, generator=generator) * (2 * options.elastic)
        bend = nn.interpolate(knots, size=(33, 33), mode="bicubic", align_corners=True)  # smooth, and small
        bend = nn.interpolate(bend, size=(height, width), mode="bilinear", align_corners=True)
        grid = grid + bend.permute(0, 2, 3, 1)
    grid = grid.to(image.device)
    moved = nn.grid_sample(image, grid, mode="bilinear", padding_mode=options.padding, align_corners=False)
    mask = label[:, None].to(image.dtype)
    beyond = "reflection" if options.padding == "reflection" else "zeros"
    mask = nn.grid_sample(mask, grid[: len(label)], mode="nearest", padding_mode=beyond, align_corners=False)
    return moved.clamp_(0, 1), mask[:, 0].to(label.dtype)


def augmentation_affine(count: int, *, size: Sequence[int], options: AugmentOptions, generator: Generator) -> Tensor:
    """[N, 2, 3] output to input coordinates of `warp`, called next with the same generator; elastic bends are left out.

    `generator` stays as it was.
    """
    if options == _without_geometry(options):
        return torch.eye(2, 3).repeat(count, 1, 1)
    twin = Generator().set_state(generator.get_state())
    return _pose(count, aspect=size[1] / size[0], options=options, generator=twin)


def _without_geometry(options: AugmentOptions) -> AugmentOptions:
    """The same options without geometric changes."""
    still = {name: getattr(NO_AUGMENT, name) for name in ("rotation", "scale", "translate", "elastic")}
    values = {f.name: getattr(options, f.name) for f in fields(options)}
    return AugmentOptions(**{**values, **still, "flip_horizontal": False, "flip_vertical": False, "rot90": False})


def _pose(count: int, *, aspect: float, options: AugmentOptions, generator: Generator) -> Tensor:
    """[N, 2, 3] output to input coordinates. `aspect` keeps a rotation a rotation on oblong frames."""
    angle = _between(count, -options.rotation, options.rotation, generator=generator) * (math.pi / 180)
    if options.rot90:
        angle = angle + torch.randint(0, 4, (count,), generator=generator) * (math.pi / 2)
    low, high = options.scale
    zoom = torch.exp(_between(count, math.log(low), math.log(high), generator=generator))
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    across = _signs(count, options.flip_horizontal, generator=generator)
    down = _signs(count, options.flip_vertical, generator=generator)
    shift = (torch.rand(count, 2, generator=generator) * 2 - 1) * (2 * options.translate)
    rows = [cos * across, -sin * down / aspect, shift[:, 0], sin * across * aspect, cos * down, shift[:, 1]]
    return torch.stack(rows, dim=1).view(count, 2, 3)


def augment_intensity_2d(
    image: Tensor,
    *,
    options: AugmentOptions,
    generator: Generator,
    cutout: bool,
    slices: bool = False,
    planes: Sequence[int] = (),
) -> Tensor:
    """[N, K, H, W] in [0, 1] -> the same shape, each image changed by its own random parameters.

    `slices`: channels are neighbouring slices, not colours; all of them get the same change. `planes`: those of each
    channel where an image has several; each channel, its slices together, gets changes of its own, and a cut-out box
    hides all of them.
    """
    if not len(image):
        return image
    if planes:
        draw_all = partial(
            _intensify_channels, planes=planes, slices=slices, options=options, generator=generator, cutout=cutout
        )
        return torch.stack([draw_all(x) for x in image])
    draw = partial(_intensify_one, options=options, generator=generator, cutout=cutout, slices=slices)
    return torch.stack([draw(x) for x in image])


def _intensify_one(x: Tensor, *, options: AugmentOptions, generator: Generator, cutout: bool, slices: bool) -> Tensor:
    # Every number is drawn, used or not: one option does not shift the draws of the next.
    use = (torch.rand(8, generator=generator) / max(options.chance, 1e-9)).tolist()
    at = torch.rand(8, generator=generator).tolist()
    seed = int(torch.randint(0, 2**31, (1,), generator=generator))
    colour = x.shape[0] == 3 and not slices
    shape = x.shape
    x = x if colour else x.reshape(1, -1, shape[-1])  # one grey picture: the contrast of all slices has one middle
    if use[0] < 1 and options.brightness != (1, 1):
        x = v2.adjust_brightness(x, _at(options.brightness, at[0]))
    if use[1] < 1 and options.contrast != (1, 1):
        x = v2.adjust_contrast(x, _at(options.contrast, at[1]))
    if use[2] < 1 and options.gamma != (1, 1):
        x = v2.adjust_gamma(x, _at(options.gamma, at[2]))
    x = x.reshape(shape)
    if colour and (use[3] < 1 or use[4] < 1):
        saturation = _at(options.saturation, at[3]) if use[3] < 1 else 1.0
        x = _recolour(x, saturation=saturation, turns=_at((-options.hue, options.hue), at[4]) if use[4] < 1 else 0.0)
    if use[5] < 0.5 and options.blur[1] > 0:
        sigma = _at(options.blur, at[5])
        side = 2 * max(1, math.ceil(2 * sigma)) + 1
        x = v2.gaussian_blur(x, [side, side], [sigma, sigma]) if side <= min(x.shape[-2:]) else x
    if use[6] < 0.5 and options.noise > 0:
        own = torch.Generator(x.device).manual_seed(seed)
        x = x + torch.randn(x.shape, generator=own, device=x.device) * (options.noise * at[6])
    if cutout and use[7] < 0.5 and options.cutout > 0:
        x = _box(x, options.cutout, generator=torch.Generator().manual_seed(seed))
    return x.clamp(0, 1)


def _intensify_channels(
    x: Tensor, *, planes: Sequence[int], slices: bool, options: AugmentOptions, generator: Generator, cutout: bool
) -> Tensor:
    parts = [
        _intensify_one(part, options=options, generator=generator, cutout=False, slices=slices or len(part) != 3)
        for part in x.split(tuple(planes))
    ]
    x = torch.cat(parts)
    use = float(torch.rand(1, generator=generator)) / max(options.chance, 1e-9)
    seed = int(torch.randint(0, 2**31, (1,), generator=generator))
    if cutout and use < 0.5 and options.cutout > 0:
        x = _box(x, options.cutout, generator=torch.Generator().manual_seed(seed))
    return x


def _recolour(x: Tensor, *, saturation: float, turns: float) -> Tensor:
    """Saturation and hue as one matrix in YIQ, many times quicker than v2.adjust_hue by way of HSV."""
    angle = 2 * math.pi * turns
    cos, sin = saturation * math.cos(angle), saturation * math.sin(angle)
    turn = torch.tensor([[1.0, 0.0, 0.0], [0.0, cos, -sin], [0.0, sin, cos]])
    to_yiq = torch.tensor(YIQ)
    matrix = (torch.linalg.inv(to_yiq) @ turn @ to_yiq).to(x)
    return (matrix @ x.flatten(1)).view_as(x).clamp(0, 1)


def _box(x: Tensor, largest: float, *, generator: Generator) -> Tensor:
    height, width = x.shape[-2:]
    draw = torch.rand(5, generator=generator).tolist()
    tall = max(1, round(height * largest * (0.3 + 0.7 * draw[0])))
    wide = max(1, round(width * largest * (0.3 + 0.7 * draw[1])))
    top, left = int(draw[2] * (height - tall + 1)), int(draw[3] * (width - wide + 1))
    return v2.erase(x, top, left, tall, wide, torch.full((x.shape[0], 1, 1), draw[4], device=x.device))


def scales(image: Tensor, normalise: Normalisation) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation that images [N, K, *space] in [0, 1] are normalised by, each to broadcast over them.

    With `per_image` they are those of each image's channels, otherwise the set's.
    """
    if normalise.per_image:
        axes = tuple(range(2, image.ndim))
        mean = image.mean(dim=axes, keepdim=True)
        return mean, ((image - mean) ** 2).mean(dim=axes, keepdim=True).sqrt().clamp_min(1e-3)
    shape = (1, -1) + (1,) * (image.ndim - 2)
    mean, std = (image.new_tensor(values).view(shape) for values in (normalise.mean, normalise.std))
    return mean.expand(len(image), *mean.shape[1:]), std.expand(len(image), *std.shape[1:])


def normalised(image: Tensor, normalise: Normalisation) -> Tensor:
    """[N, K, *space] in [0, 1] -> (x - mean) / std per channel, both from the image if `per_image`."""
    mean, std = scales(image, normalise)
    return (image - mean) / std


def _between(count: int, low: float, high: float, *, generator: Generator) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=generator)


def _signs(count: int, flip: bool, *, generator: Generator) -> Tensor:
    draw = torch.rand(count, generator=generator) < 0.5
    return 1.0 - 2.0 * (draw & flip).float()


def _at(span: tuple[float, float], share: float) -> float:
    return span[0] + (span[1] - span[0]) * share
