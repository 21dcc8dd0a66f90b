"""Patches of volumes: where they are cut, and their place in the volume as an affine map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as nn
from torch import Tensor

from edgemt.contract import IGNORE
from edgemt.data.augment3d import FlipRotate

MAX_FOREGROUND_VOXELS = 4096  # per class; evenly spaced over its voxels
Shape3 = tuple[int, int, int]


def patch_affine(
    corners: Sequence[Sequence[int]], turns: FlipRotate, *, shapes: Sequence[Sequence[int]], patch: Shape3
) -> Tensor:
    """[N, 3, 4]: affine maps from each flipped and rotated patch to its volume, as for `affine_grid` (Z, Y, X)."""
    at, side, whole = (torch.tensor(x, dtype=torch.float32) for x in (corners, patch, shapes))
    signs = 1.0 - 2.0 * nn.pad(turns.reverse.float(), (0, 1))
    swapped = torch.eye(3)[[1, 0, 2]].expand(len(at), 3, 3)
    turn = torch.where(turns.swap[:, None, None], swapped, torch.eye(3)) * signs[:, None]
    shift = (2 * at + side) / whole - 1
    return torch.cat([(turn * (side / whole)[:, :, None]).flip(1, 2), shift.flip(1)[:, :, None]], 2)


def foreground_voxels(label: Tensor) -> Tensor:
    """int16 [m, 3]: at most ANCHORS voxels of each class but the background, so that a small organ counts too."""
    found = []
    for value in label.unique().tolist():
        if value in (0, IGNORE):
            continue
        voxels = (label == value).nonzero().cpu()
        found.append(voxels[:: max(1, -(-len(voxels) // MAX_FOREGROUND_VOXELS))].to(torch.int16))
    return torch.cat(found) if found else torch.empty(0, 3, dtype=torch.int16)


def crop_patch(volume: Tensor, at: Sequence[int], *, patch: Sequence[int]) -> Tensor:
    """[..., X, Y, Z] -> [..., *patch] from corner `at`, padded with 0 (the darkest value, and the background)."""
    x, y, z = (slice(max(a, 0), a + side) for a, side in zip(at, patch, strict=True))
    inside = volume[..., x, y, z]
    space = inside.shape[-3:]
    if space == tuple(patch):
        return inside
    before = [max(-a, 0) for a in at]
    pad = [(b, side - n - b) for b, side, n in zip(before, patch, space, strict=True)]
    return nn.pad(inside, [n for pair in reversed(pad) for n in pair])
