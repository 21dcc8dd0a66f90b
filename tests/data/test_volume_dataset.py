"""Whole volumes in memory, and the patches that a 3-D network learns from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
nibabel = pytest.importorskip("nibabel")

from edgemt.contract import Case  # noqa: E402
from edgemt.data.augment3d import apply_flip_rotate, augment_intensity_3d, sample_flip_rotate  # noqa: E402
from edgemt.data.augment_options import VolumeOptions  # noqa: E402
from edgemt.data.cohort import split_dataset  # noqa: E402
from edgemt.data.options import DataOptions  # noqa: E402
from edgemt.data.phantom3d import CLASSES, SHAPE  # noqa: E402
from edgemt.data.volume_dataset import (  # noqa: E402
    TwoStreamPatches,
    VolumeDataset,
    load_volumes,
    mean_std,
    resize_to_original,
    scaled,
    volume_statistics,
)
from edgemt.model_card import Normalisation  # noqa: E402

DATA = DataOptions(layout="phantom_volumes", classes=CLASSES, channels=1, size=(32, 32), phantom=(2, 3, 1))
SMALL = VolumeOptions(patch=(16, 16, 8), stride=(16, 16, 8), report_stride=(8, 8, 8))
STILL = replace(SMALL, flip=False, turn=False, strong=False)


def _stack(*shapes: tuple[int, int, int], labelled: bool = True) -> VolumeDataset:
    """Every voxel's value is its label's times ten, so that the two cannot part unseen."""
    generator = torch.Generator().manual_seed(0)
    label = tuple(torch.randint(1, 20, shape, generator=generator).to(torch.uint8) for shape in shapes)
    names = tuple(f"v{i}" for i in range(len(shapes)))
    return VolumeDataset(
        tuple(x[None] * 10 for x in label), label if labelled else None, names, shapes, (None,) * len(shapes)
    )


def _stream(volume: VolumeOptions, *, shape: tuple[int, int, int] = (20, 24, 12), seed: int = 0) -> TwoStreamPatches:
    unlabelled = _stack(shape, shape, labelled=False)
    return TwoStreamPatches(_stack(shape, shape, shape), unlabelled, volume=volume, normalise=RAW, seed=seed)


RAW = Normalisation(mean=(0.0,), std=(1.0,))


def test_phantom_volumes_are_loaded_whole_and_unlabelled_ones_without_their_label() -> None:
    cohort = split_dataset(DATA, whole_volumes=True)
    labelled, unlabelled = (load_volumes(part, DATA, SMALL) for part in (cohort.labelled, cohort.unlabelled))
    assert [tuple(x.shape) for x in labelled.image] == [(1, *SHAPE)] * 2 and labelled.image[0].dtype == torch.uint8
    assert labelled.label is not None and labelled.label[0].shape == SHAPE and unlabelled.label is None
    assert labelled.nbytes == 4 * np.prod(SHAPE) and len(unlabelled) == 3
    with pytest.raises(ValueError, match="mixed"):
        load_volumes(cohort.labelled + cohort.unlabelled, DATA, SMALL)
    assert len(load_volumes((), DATA, SMALL)) == 0


def test_a_batch_is_a_pure_function_of_seed_and_index() -> None:
    busy = replace(SMALL, foreground=0.5, labelled_intensity=0.5)
    straight, later = _stream(busy), _stream(busy)
    for index in range(5):
        straight.batch(index)
    one, two, other = straight.batch(5), later.batch(5), _stream(busy, seed=1).batch(5)
    assert torch.equal(one.image, two.image) and torch.equal(one.label, two.label)
    assert torch.equal(one.strong, two.strong) and not torch.equal(one.image, other.image)


def test_image_and_label_are_cut_and_turned_alike() -> None:
    for index in range(6):
        batch = _stream(replace(SMALL, strong=False)).batch(index)
        assert batch.image.shape == (4, 1, 16, 16, 8) and batch.label.shape == (2, 16, 16, 8)
        assert torch.equal((batch.labelled[:, 0] * 25.5).round().long(), batch.label)


def test_every_labelled_and_unlabelled_volume_is_seen_once_an_epoch() -> None:
    shape = (8, 8, 8)
    flat = [torch.full((1, *shape), 20 * (i + 1), dtype=torch.uint8) for i in range(6)]
    labelled = VolumeDataset(tuple(flat[:2]), tuple(torch.ones(shape, dtype=torch.uint8) for _ in range(2)))
    volume = replace(STILL, patch=shape, stride=shape, report_stride=shape)
    stream = TwoStreamPatches(labelled, VolumeDataset(tuple(flat[2:]), None), (1, 1), volume, RAW)
    assert stream.epoch == 4
    seen = torch.cat([stream.batch(i).unlabelled.mean(dim=(1, 2, 3, 4)) * 255 / 20 for i in range(4)])
    assert sorted(seen.round().int().tolist()) == [3, 4, 5, 6]


def test_a_volume_smaller_than_the_patch_is_padded_around_it_and_nothing_of_it_is_lost() -> None:
    batch = _stream(STILL, shape=(10, 16, 5)).batch(0)
    inside = torch.zeros(16, 16, 8, dtype=torch.bool)
    inside[3:13, :, 1:6] = True
    seen = (batch.label > 0) == inside
    assert seen.all() and (batch.labelled[:, 0][~(batch.label > 0)] == 0).all()


def test_patches_reach_every_corner_of_a_volume() -> None:
    label = torch.zeros(18, 18, 9, dtype=torch.uint8)
    label[0, 0, 0], label[-1, -1, -1] = 1, 2
    stream = TwoStreamPatches(VolumeDataset((label[None],), (label,)), VolumeDataset((), None), (8, 0), STILL, RAW)
    labels = torch.cat([stream.batch(i).label for i in range(16)])
    assert labels.shape == (128, 16, 16, 8) and set(labels.unique().tolist()) == {0, 1, 2}


def test_foreground_patches_are_centred_on_the_rarest_organ_too() -> None:
    label = torch.zeros(64, 64, 32, dtype=torch.uint8)
    label[4:40, 4:40, 4:20] = 1
    label[60:62, 60:62, 28:30] = 2
    stack = VolumeDataset((label[None],), (label,))
    shares = {}
    for foreground in (0.0, 1.0):
        volume = replace(STILL, foreground=foreground)
        stream = TwoStreamPatches(stack, VolumeDataset((), None), (16, 0), volume, RAW)
        labels = torch.cat([stream.batch(i).label for i in range(4)])
        shares[foreground] = (labels > 0).flatten(1).any(1).float().mean().item()
    assert shares[1.0] == 1.0 and shares[0.0] < 0.9


def test_right_angle_turns_are_all_eight_and_none_moves_the_slice_axis() -> None:
    volume = replace(SMALL, patch=(4, 4, 3), stride=(4, 4, 3), report_stride=(4, 4, 3))
    image = torch.arange(48).view(1, 4, 4, 3).expand(200, 4, 4, 3)
    moved = apply_flip_rotate(
        image, sample_flip_rotate(200, options=volume, generator=torch.Generator().manual_seed(0))
    )
    assert len({tuple(x.flatten().tolist()) for x in moved}) == 8
    assert (moved % 3 == torch.arange(3)).all()


def test_turns_without_flips_are_rotations() -> None:
    volume = replace(SMALL, flip=False)
    image = torch.rand(16, 16, 8)
    moved = apply_flip_rotate(
        image.expand(40, 16, 16, 8), sample_flip_rotate(40, options=volume, generator=torch.Generator())
    )
    rotations = [torch.rot90(image, k, (0, 1)) for k in range(4)]
    counts = [sum(torch.equal(x, rotated) for x in moved) for rotated in rotations]
    assert sum(counts) == 40 and min(counts) > 0


def test_an_oblong_patch_keeps_its_shape_under_half_turns() -> None:
    volume = replace(SMALL, patch=(16, 12, 8), stride=(8, 8, 8))
    batch = _stream(volume).batch(0)
    assert batch.image.shape == (4, 1, 16, 12, 8)


def test_the_strong_view_has_the_same_geometry_and_another_intensity() -> None:
    batch = _stream(replace(SMALL, noise=0.0)).batch(1)
    assert batch.strong is not None and batch.strong.shape == batch.unlabelled.shape
    assert not torch.equal(batch.strong, batch.unlabelled)
    for weak, strong in zip(batch.unlabelled, batch.strong, strict=True):
        order = weak.flatten().argsort()
        assert (strong.flatten()[order].diff() >= -1e-6).all()  # grey values change, their order does not
    assert _stream(STILL).batch(1).strong is None


def test_rows_have_intensities_of_their_own() -> None:
    image = torch.rand(1, 1, 8, 8, 8).expand(4, 1, 8, 8, 8)
    changed = augment_intensity_3d(image, options=SMALL, generator=torch.Generator().manual_seed(0))
    means = changed.mean(dim=(1, 2, 3, 4))
    assert changed.min() >= 0 and changed.max() <= 1 and len(set(means.tolist())) == 4


def test_half_scale_halves_every_axis_and_keeps_the_organs() -> None:
    cohort = split_dataset(DATA, whole_volumes=True)
    full, half = (load_volumes(cohort.labelled, DATA, replace(SMALL, scale=scale)) for scale in (1.0, 0.5))
    assert half.image[0].shape == (1, 32, 32, 16) and half.shapes == full.shapes == (SHAPE, SHAPE)
    assert full.label is not None and half.label is not None
    for one, other in zip(full.label, half.label, strict=True):
        assert one.float().mean().item() == pytest.approx(other.float().mean().item(), rel=0.15)
    assert full.image[0].float().mean().item() == pytest.approx(half.image[0].float().mean().item(), rel=0.02)


def test_shrinking_averages_and_does_not_pick() -> None:
    for axis in range(3):
        stripes = torch.zeros(32, 32, 32, dtype=torch.uint8).movedim(axis, 0)
        stripes[1::4] = stripes[2::4] = 200  # without a filter, only these would be looked at
        small = scaled(stripes.movedim(0, axis), 0.25).movedim(axis, 0)
        assert small.shape == (8, 8, 8) and (small[1:-1].int() - 100).abs().max() <= 25
    assert (scaled(torch.full((9, 7, 5), 31, dtype=torch.uint8), 0.6) == 31).all()


def test_probabilities_go_back_to_the_size_of_the_file() -> None:
    p = torch.rand(3, 4, 5, 6).softmax(0)
    back = resize_to_original(p, (8, 11, 6))
    assert back.shape == (3, 8, 11, 6) and torch.allclose(back.sum(0), torch.ones(8, 11, 6))
    assert resize_to_original(p, (4, 5, 6)) is p


def test_statistics_are_those_of_all_voxels_or_of_one_volume() -> None:
    one, two = _stack((8, 8, 8)), _stack((4, 6, 8))
    values = torch.cat([x.flatten() for x in (*one.image, *two.image)]).double() / 255
    found = volume_statistics(one, two)
    assert found.mean[0] == pytest.approx(values.mean().item(), abs=1e-6)
    assert found.std[0] == pytest.approx(values.std(unbiased=False).item(), abs=1e-6)
    ((own, _),) = mean_std(one.image[0], replace(found, per_image=True))
    assert own == pytest.approx((one.image[0].double() / 255).mean().item(), abs=1e-6)
    assert mean_std(one.image[0], found) == ((found.mean[0], found.std[0]),)


def test_per_image_normalises_a_patch_by_its_own_whole_volume() -> None:
    labels = tuple(
        x[0] // divisor for x, divisor in zip(_stack(*[(20, 24, 12)] * 4).image, (10, 20, 40, 80), strict=True)
    )
    images = tuple(x[None] * 10 for x in labels)
    stream = TwoStreamPatches(
        VolumeDataset(images[:2], labels[:2]),
        VolumeDataset(images[2:], None),
        (2, 2),
        STILL,
        Normalisation(per_image=True),
    )
    of = {int(label.max()): mean_std(image, stream.normalise) for image, label in zip(images, labels, strict=True)}
    for row, label in zip(stream.batch(0).image, stream.batch(0).label, strict=False):
        ((mean, std),) = of[int(label.max())]
        assert torch.allclose(row[0], (label * (10 / 255) - mean) / std, atol=1e-4)
    whole = replace(STILL, patch=(20, 24, 12))
    for row in replace(stream, volume=whole).batch(0).image:
        assert abs(row.mean().item()) < 1e-3 and row.std().item() == pytest.approx(1, abs=1e-2)


def test_a_volume_file_and_its_voxel_size_are_kept(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    image = nibabel.Nifti1Image(rng.normal(size=(12, 10, 6)).astype(np.float32), np.diag([0.5, 0.6, 2.0, 1.0]))
    nibabel.save(image, tmp_path / "v.nii.gz")
    stack = load_volumes((Case("v", "v", str(tmp_path / "v.nii.gz")),), DATA, SMALL)
    assert stack.spacing_mm[0] == pytest.approx((0.5, 0.6, 2.0)) and stack.shapes == ((12, 10, 6),)
    assert stack.image[0].min() == 0 and stack.image[0].max() == 255


def test_a_slice_or_a_coloured_recipe_is_refused() -> None:
    with pytest.raises(ValueError, match="is a slice, a 3-D network needs whole volumes"):
        load_volumes(split_dataset(DATA).labelled, DATA, SMALL)
    with pytest.raises(ValueError, match="data.channels: a volume has 1 channel, not 3"):
        load_volumes(split_dataset(DATA, whole_volumes=True).labelled, replace(DATA, channels=3), SMALL)
    with pytest.raises(ValueError, match=r"polyp\.png: is one 2-D image"):
        load_volumes((Case("polyp", "polyp", "polyp.png"),), DATA, SMALL)
    five = replace(DATA, classes=(*CLASSES, "fat"))
    with pytest.raises(ValueError, match="'fat' never occurs in the masks of the 2 labelled volumes"):
        load_volumes(split_dataset(DATA, whole_volumes=True).labelled, five, SMALL)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"patch": (16, 0, 8)}, r"volume\.patch"),
        ({"stride": (17, 16, 8)}, r"volume\.stride: .* leaves gaps"),
        ({"report_stride": (8, 8, 9)}, r"volume\.report_stride"),
        ({"scale": 0.0}, r"volume\.scale"),
        ({"blend": "mean"}, r"volume\.blend: 'mean'"),
        ({"foreground": 1.5}, r"volume\.foreground"),
        ({"gamma": (2.0, 1.0)}, r"volume\.gamma"),
        ({"noise": -0.1}, r"volume\.noise"),
    ],
)
def test_a_bad_option_names_its_field(changes: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        replace(SMALL, **changes)


def test_a_stream_without_labels_or_with_too_many_is_refused() -> None:
    stack, bare = _stack((16, 16, 8)), _stack((16, 16, 8), labelled=False)
    with pytest.raises(ValueError, match="no labels"):
        TwoStreamPatches(bare, bare, volume=SMALL)
    with pytest.raises(ValueError, match="carries labels"):
        TwoStreamPatches(stack, stack, volume=SMALL)
