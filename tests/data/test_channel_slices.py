"""Neighbouring slices of several channels: t1 of the slices around, then t2 of them, in training and on a device."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import volume_channel_samples as samples

torch = pytest.importorskip("torch")
pytest.importorskip("nibabel")

from edgemt.data.augment2d import augment_intensity_2d  # noqa: E402
from edgemt.data.augment_options import NO_AUGMENT, AugmentOptions  # noqa: E402
from edgemt.data.cohort import split_dataset  # noqa: E402
from edgemt.data.options import DataOptions  # noqa: E402
from edgemt.data.slice_dataset import SliceDataset, TwoStreamBatches, load_slices, slice_statistics  # noqa: E402
from edgemt.inference.evaluate_package import read_cases  # noqa: E402
from edgemt.inference.predict import _frames  # noqa: E402
from edgemt.io.channels import card_fill, check_card  # noqa: E402
from edgemt.model_card import ModelCard, Normalisation  # noqa: E402

SIZE, DEPTH = samples.SHAPE[:2], samples.SHAPE[2]


def options(root: Path, **changes: Any) -> DataOptions:
    base: dict[str, Any] = {
        "classes": samples.CLASSES,
        "layout": "volumes",
        "channel_names": samples.NAMES,
        "slices": 3,
    }
    return DataOptions(root=root, **{**base, "size": SIZE, "labelled": "labelled.txt", **changes})


def wanted(seed: int, k: int) -> np.ndarray:
    """uint8 [6, X, Y]: t1 of the slices k - 1, k, k + 1, then t2; the ends repeated."""
    image = samples.case(seed)[0]
    around = [min(max(k + step, 0), DEPTH - 1) for step in (-1, 0, 1)]
    return np.stack([image[:, :, z, channel] for channel in range(2) for z in around])


def card_of(chosen: DataOptions, normalise: Normalisation) -> ModelCard:
    data = chosen.to_dict() | {"depth": "stored", "channel_depth": ("stored", "stored"), "axes": "RAS"}
    names = {"classes": samples.CLASSES, "channels": 6, "channel_order": "channels"}
    return ModelCard(**names, size=SIZE, normalise=normalise, data=data)


def test_training_evaluation_and_device_see_the_same_frames(tmp_path: Path) -> None:
    chosen = options(samples.write(tmp_path))
    split = split_dataset(chosen)
    stack = load_slices(split.labelled, chosen)
    normalise = slice_statistics(stack)
    frames = (stack.frames(torch.arange(len(stack)), "cpu") * 255).round().to(torch.uint8).numpy()
    assert chosen.frame_channels == 6 and chosen.frame_planes == (3, 3) and stack.slices == 3
    card = card_of(chosen, normalise)
    assert check_card(card) and not check_card(replace(card, channels=2))
    evaluated = read_cases(card, chosen, split.labelled)
    for row, case in enumerate(split.labelled):
        seed, k = int(case.name[1]), case.slice or 0
        assert np.array_equal(frames[row], wanted(seed, k))
        assert np.array_equal(evaluated.frames[row], np.moveaxis(wanted(seed, k), 0, -1))
    volume = np.moveaxis(samples.case(0)[0], -1, 2)
    for k, frame in enumerate(_frames(volume, card)):
        assert np.array_equal(frame, np.moveaxis(wanted(0, k), 0, -1))


def test_slices_share_statistics_and_intensity_of_their_channel(tmp_path: Path) -> None:
    chosen = options(samples.write(tmp_path))
    stack = load_slices(split_dataset(chosen).labelled, chosen)
    found, single = slice_statistics(stack), slice_statistics(replace(stack, neighbour_rows=None))
    assert found.mean == tuple(np.repeat(single.mean, 3)) and found.std == tuple(np.repeat(single.std, 3))
    assert card_fill(card_of(chosen, found)).tolist() == [round(255 * value) for value in single.mean]
    image = torch.linspace(0.2, 0.8, 64).view(1, 1, 8, 8).repeat(16, 6, 1, 1)
    quiet = AugmentOptions(chance=1.0, contrast=(1, 1), gamma=(1, 1), blur=(1e-9, 1e-9), noise=0, cutout=0)
    out = augment_intensity_2d(
        image, options=quiet, generator=torch.Generator().manual_seed(0), cutout=False, slices=True, planes=(3, 3)
    )
    factor = out[:, :, 0, 0] / 0.2
    assert torch.allclose(factor[:, :3], factor[:, :1]) and torch.allclose(factor[:, 3:], factor[:, 3:4])
    assert (factor[:, 0] - factor[:, 3]).abs().min() > 1e-4


def test_all_slices_of_a_channel_are_dropped_or_missing_together(tmp_path: Path) -> None:
    root = samples.write(tmp_path)
    (root / "images/p0_t2.nii.gz").unlink()
    chosen = options(root, missing_channels="mean")
    stack = load_slices(split_dataset(chosen).labelled, chosen)
    normalise = slice_statistics(stack)
    stack = stack.filled(normalise.mean)
    given: dict[str, Any] = {"normalise": normalise, "planes": chosen.frame_planes, "batch_size": (16, 0)}
    nobody = SliceDataset(torch.zeros(0, *SIZE, 2, dtype=torch.uint8), None)
    augment = replace(NO_AUGMENT, drop_channel=0.5)
    kinds = set()
    for index in range(3):
        batch = TwoStreamBatches(stack, nobody, augment=augment, **given).batch(index)
        off = batch.image.abs().amax((2, 3)) == 0
        for row, case in zip(off.view(16, 2, 3), batch.index.tolist(), strict=True):
            assert (row.all(1) == row.any(1)).all() and not row.all()
            kinds.add((case < DEPTH, *row[:, 0].tolist()))
    assert kinds == {(True, False, True), (False, False, False), (False, True, False), (False, False, True)}


def test_slices_of_a_picture_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="data.slices: a volume has no colours and 3 slices none of rgb"):
        options(tmp_path, channel_names=("rgb", "depth"))
