"""Several channels of a volume, as a 3-D network reads them: order, place, depth, patches, drop-out, statistics."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import volume_channel_samples as samples

torch = pytest.importorskip("torch")
pytest.importorskip("nibabel")

from edgemt.contract import Case  # noqa: E402
from edgemt.data.augment3d import augment_intensity_3d  # noqa: E402
from edgemt.data.augment_options import VolumeOptions  # noqa: E402
from edgemt.data.cohort import split_dataset  # noqa: E402
from edgemt.data.options import DataOptions  # noqa: E402
from edgemt.data.volume_dataset import (  # noqa: E402
    TwoStreamPatches,
    VolumeDataset,
    load_volumes,
    mean_std,
    scaled,
    volume_statistics,
)
from edgemt.io.bit_depth import Depth  # noqa: E402
from edgemt.model_card import Normalisation  # noqa: E402

VOLUME = VolumeOptions(patch=(16, 16, 8), stride=(16, 16, 8), report_stride=(8, 8, 8))
STILL = replace(VOLUME, flip=False, turn=False, strong=False)


def options(root: Path, **changes: Any) -> DataOptions:
    base: dict[str, Any] = {"classes": samples.CLASSES, "layout": "volumes", "channel_names": samples.NAMES}
    return DataOptions(root=root, **{**base, "labelled": "labelled.txt", **changes})


def labelled(chosen: DataOptions, volume: VolumeOptions = VOLUME) -> VolumeDataset:
    return load_volumes(split_dataset(chosen, whole_volumes=True).labelled, chosen, volume)


def planes_of(seed: int) -> torch.Tensor:
    return torch.from_numpy(samples.case(seed)[0]).movedim(-1, 0)


@pytest.mark.parametrize("stacked", [False, True])
def test_channels_are_read_in_the_order_of_their_names_and_on_one_grid(tmp_path: Path, stacked: bool) -> None:
    """The second channel of case 1 is stored with its first axis the other way round."""
    found = labelled(options(samples.write(tmp_path, stacked=stacked)))
    assert found.shapes == (samples.SHAPE,) * 2 and found.missing is None
    assert found.spacing_mm[0] == pytest.approx((1.0, 1.5, 3.0)) and found.label is not None
    for seed in range(2):
        assert torch.equal(found.image[seed], planes_of(seed))
        assert np.array_equal(found.label[seed], samples.case(seed)[1])


def test_swapped_names_or_files_swap_the_input(tmp_path: Path) -> None:
    root = samples.write(tmp_path)
    named = labelled(options(root, channel_names=samples.NAMES[::-1]))
    assert torch.equal(named.image[0], planes_of(0).flip(0))
    one, other = (root / f"images/p0_{name}.nii.gz" for name in samples.NAMES)
    one.rename(root / "aside")
    other.rename(one)
    (root / "aside").rename(other)
    swapped = labelled(options(root))
    assert torch.equal(swapped.image[0], planes_of(0).flip(0)) and torch.equal(swapped.image[1], planes_of(1))


def test_each_channel_has_its_own_depth_and_is_scaled_by_itself(tmp_path: Path) -> None:
    root = samples.write(tmp_path)
    raw = samples.case(0)[0][..., 1].astype(np.float32) * 70 - 900
    samples.save(root / "images/p0_t2.nii.gz", raw)
    chosen = options(root)
    found, half = labelled(chosen), labelled(chosen, replace(VOLUME, scale=0.5))
    assert torch.equal(found.image[0][0], planes_of(0)[0])
    assert np.array_equal(found.image[0][1], Depth("percentiles")(raw))
    assert half.image[0].shape == (2, 12, 12, 4) and half.shapes == found.shapes
    assert all(torch.equal(half.image[0][k], scaled(found.image[0][k], 0.5)) for k in range(2))


def test_a_channel_on_another_grid_or_without_contrast_is_refused(tmp_path: Path) -> None:
    root = samples.write(tmp_path)
    file, plane = root / "images/p0_t2.nii.gz", samples.case(0)[0][..., 1]
    samples.save(file, plane[:-1])
    with pytest.raises(ValueError, match=r"p0_t2.nii.gz: is \(23, 24, 8\), .*p0_t1.nii.gz.* is \(24, 24, 8\)"):
        labelled(options(root))
    samples.save(file, np.full_like(plane, 7))
    with pytest.raises(ValueError, match=r"p0_t2.nii.gz: holds one value everywhere"):
        labelled(options(root))
    samples.save(file, plane)
    alone = Case("p0", "p0", str(file))
    with pytest.raises(ValueError, match="p0_t2.nii.gz: is one file, each case has the channels t1, t2"):
        load_volumes((alone,), options(root), VOLUME)


def coded(count: int = 3, *, with_labels: bool = True) -> VolumeDataset:
    """The channels are 10 and 5 times the label, so that no two of the three can part unseen."""
    generator = torch.Generator().manual_seed(0)
    label = tuple(torch.randint(1, 20, (20, 22, 6), generator=generator).to(torch.uint8) for _ in range(count))
    return VolumeDataset(tuple(torch.stack([x * 10, x * 5]) for x in label), label if with_labels else None)


RAW = Normalisation((0.0, 0.0), (1.0, 1.0))


def test_patches_turns_and_padding_are_those_of_the_label_in_every_channel() -> None:
    stream = TwoStreamPatches(coded(), coded(with_labels=False), volume=VOLUME, normalise=RAW)
    turned = set()
    for index in range(6):
        batch = stream.batch(index)
        assert batch.image.shape == (4, 2, 16, 16, 8) and batch.strong is not None
        assert torch.equal((batch.labelled[:, 0] * 25.5).round().long(), batch.label)
        assert torch.equal((batch.labelled[:, 1] * 51).round().long(), batch.label)
        assert torch.allclose(batch.unlabelled[:, 0], 2 * batch.unlabelled[:, 1])
        turned.add(tuple(batch.place[0, :, :3].sign().flatten().tolist()))
    assert len(turned) > 2


def test_one_channel_is_cut_as_the_first_of_two_and_changed_as_it_always_was() -> None:
    """Geometry has the same draws whatever the number of channels; one channel keeps its formula, draw by draw."""
    two = coded()
    one = replace(two, image=tuple(x[:1] for x in two.image))
    none = VolumeDataset((), None)
    streams = [
        TwoStreamPatches(
            stack, none, (3, 0), replace(VOLUME, foreground=0.5), Normalisation(*[(v,) * k for v in (0, 1)])
        )
        for k, stack in ((1, one), (2, two))
    ]
    for index in range(3):
        first, both = (stream.batch(index) for stream in streams)
        assert torch.equal(first.image, both.image[:, :1]) and torch.equal(first.place, both.place)
    image = torch.rand(3, 1, 8, 7, 5)
    found = augment_intensity_3d(image, options=VOLUME, generator=torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(5)
    draw, seed = torch.rand(3, 4, generator=generator), int(torch.randint(0, 2**31, (1,), generator=generator))
    brightness, contrast, gamma, noise = (
        (low + (high - low) * draw[:, k]).view(3, 1, 1, 1, 1)
        for k, (low, high) in enumerate(((0.7, 1.3), (0.65, 1.5), (0.7, 1.5), (0.0, 0.1)))
    )
    middle = image.mean((1, 2, 3, 4), keepdim=True)
    wanted = (((image - middle) * contrast + middle) * brightness).clamp(0, 1) ** gamma
    wanted += torch.randn(image.shape, generator=torch.Generator().manual_seed(seed)) * noise
    assert torch.allclose(found, wanted.clamp(0, 1), atol=1e-6)


def test_intensity_changes_each_channel_by_itself() -> None:
    image = torch.rand(4, 1, 8, 8, 8).expand(4, 2, 8, 8, 8)
    means = augment_intensity_3d(image, options=VOLUME, generator=torch.Generator().manual_seed(0)).mean((2, 3, 4))
    assert len(set(means.flatten().tolist())) == 8


def test_each_channel_has_statistics_of_its_own_and_a_network_of_one_gets_no_second() -> None:
    stack = coded()
    found = volume_statistics(stack)
    assert found.mean[0] == pytest.approx(2 * found.mean[1], rel=1e-4) and len(found.std) == 2
    own = mean_std(stack.image[1], replace(found, per_image=True))
    assert own[1][0] == pytest.approx((stack.image[1][1].double() / 255).mean().item())
    batch = TwoStreamPatches(stack, VolumeDataset((), None), (3, 0), STILL, found).batch(0)
    assert torch.allclose(batch.image[:, 0], batch.image[:, 1], atol=1e-3)
    with pytest.raises(ValueError, match="normalise: has 1 channels, the volume has 2; train anew"):
        mean_std(stack.image[0], Normalisation((0.5,), (0.2,)))


def test_dropped_channels_are_zero_as_often_as_wanted_and_never_all() -> None:
    quiet = replace(VOLUME, brightness=(1, 1), contrast=(1, 1), gamma=(1, 1), noise=0)
    plain = TwoStreamPatches(coded(), coded(8, with_labels=False), (4, 4), quiet, RAW)
    dropping = replace(plain, drop_channel=0.5)
    dropped = []
    for index in range(16):
        batch, before = dropping.batch(index), plain.batch(index)
        assert batch.strong is not None and before.strong is not None
        assert torch.equal(batch.unlabelled, before.unlabelled) and torch.equal(batch.label, before.label)
        for rows, full in ((batch.labelled, before.labelled), (batch.strong, before.strong)):
            off = rows.abs().amax((2, 3, 4)) == 0
            assert not off.all(1).any() and torch.equal(rows[~off], full[~off])
            dropped.append(off)
    shares = torch.cat(dropped).float().mean(0)
    assert shares.tolist() == pytest.approx([0.25, 0.25], abs=0.1)
    one = VolumeDataset((torch.ones(1, 16, 16, 8, dtype=torch.uint8),), (torch.ones(16, 16, 8, dtype=torch.uint8),))
    with pytest.raises(ValueError, match="augment.drop_channel: the data have one channel"):
        TwoStreamPatches(one, VolumeDataset((), None), (1, 0), STILL, Normalisation(), drop_channel=0.5).batch(0)


def test_a_missing_channel_is_zero_once_normalised_and_counts_in_no_statistics(tmp_path: Path) -> None:
    root = samples.write(tmp_path)
    (root / "images/p0_t2.nii.gz").unlink()
    with pytest.raises(ValueError, match=r"'p0' has no file of channel 't2'"):
        labelled(options(root))
    found = labelled(options(root, missing_channels="mean"))
    assert found.missing is not None and found.missing.tolist() == [[False, True], [False, False]]
    normalise = volume_statistics(found)
    assert normalise.mean[1] == pytest.approx((planes_of(1)[1].double() / 255).mean().item(), abs=1e-5)
    stream = TwoStreamPatches(found, VolumeDataset((), None), (2, 0), replace(STILL, labelled_intensity=1.0), normalise)
    rows = [stream.batch(index) for index in range(2)]
    for batch in rows:
        off = batch.image.abs().amax((2, 3, 4)) == 0
        assert off.tolist() == [[False, bool(case == 0)] for case in batch.index]
    filled = found.filled(normalise.mean)
    assert (filled.image[0][1] == round(255 * normalise.mean[1])).all()
    assert torch.equal(filled.image[0][0], found.image[0][0]) and torch.equal(filled.image[1], found.image[1])
    nobody = VolumeDataset(found.image[:1], None, missing=found.missing[:1])
    with pytest.raises(ValueError, match="no training image has channel 1"):
        volume_statistics(nobody)
