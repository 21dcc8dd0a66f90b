"""Case index and affine of the rows of a batch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from edgemt.data.augment2d import AugmentOptions
from edgemt.data.augment_options import VolumeOptions
from edgemt.data.slice_dataset import SliceDataset, TwoStreamBatches
from edgemt.data.volume_dataset import TwoStreamPatches, VolumeDataset
from edgemt.model_card import Normalisation


def test_slice_batches_have_case_index_and_affine():
    """An image whose value is a coordinate shows, after any warp, the coordinate that `place` predicts."""
    side = 32
    line = ((torch.arange(side) + 0.5) / side * 255).round().to(torch.uint8)
    options = AugmentOptions(elastic=0.0, strong=False, labelled_intensity=0.0)
    for axis, image in enumerate((line.expand(side, side), line[:, None].expand(side, side))):
        stack = image[None, :, :, None].repeat(5, 1, 1, 1)
        label = torch.zeros(5, side, side, dtype=torch.uint8)
        raw = Normalisation((0.0,), (1.0,))
        stream = TwoStreamBatches(
            SliceDataset(stack[:2], label[:2]), SliceDataset(stack[2:], None), (2, 3), options, raw
        )
        b = stream.batch(3)
        assert sorted(b.index[:2].tolist()) == [0, 1] and sorted(b.index[2:].tolist()) == [2, 3, 4]
        grid = F.affine_grid(b.place, list(b.image.shape), align_corners=False)
        inside = (grid.abs() < 0.9).all(-1)
        position = (grid[..., axis] + 1) / 2
        assert inside.float().mean() > 0.5 and not torch.equal(b.place[0], b.place[1])
        assert float((b.image[:, 0] - position)[inside].abs().max()) < 0.01


@pytest.mark.parametrize("shape", [(20, 26, 14), (10, 30, 6)])
def test_patch_batches_have_case_index_and_affine(shape: tuple[int, int, int]):
    steps = {"patch": (16, 16, 8), "stride": (8, 8, 4), "report_stride": (8, 8, 4)}
    options = VolumeOptions(**steps, strong=False, labelled_intensity=0.0)
    for axis in range(3):
        line = ((torch.arange(shape[axis]) + 0.5) / shape[axis] * 255).round().to(torch.uint8)
        volume = line.view([-1 if k == axis else 1 for k in range(3)]).expand(shape).contiguous()
        labelled = VolumeDataset((volume[None],) * 2, (torch.ones(shape, dtype=torch.uint8),) * 2)
        stream = TwoStreamPatches(
            labelled, VolumeDataset((volume[None],) * 6, None), (2, 6), options, Normalisation((0.0,), (1.0,))
        )
        b = stream.batch(1)
        assert sorted(b.index[2:].tolist()) == list(range(2, 8))
        grid = F.affine_grid(b.place, list(b.image.shape), align_corners=False)
        inside = (grid.abs() < 1).all(-1)
        position = (grid[..., 2 - axis] + 1) / 2  # `affine_grid` names the last axis first
        assert float((b.image[:, 0] - position)[inside].abs().max()) < 0.003
        assert (b.image[:, 0][~inside] == 0).all()
