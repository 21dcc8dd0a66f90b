"""The embedded data: the same everywhere, every patient another."""

from __future__ import annotations

import numpy as np

from edgemt.data import phantom3d
from edgemt.data.phantom2d import CLASSES, frame, video
from edgemt.data.phantom3d import volume


def test_a_seed_is_a_patient() -> None:
    (image, label), (again, label_again), (other, _) = frame(3), frame(3), frame(4)
    assert image.shape == (128, 128, 3) and image.dtype == np.uint8
    assert label.shape == (128, 128) and label.dtype == np.uint8
    assert (image == again).all() and (label == label_again).all()
    assert np.abs(image.astype(int) - other).mean() > 5


def test_every_class_occurs_and_none_is_a_speck_or_the_whole() -> None:
    labels = np.stack([frame(seed, size=(64, 64))[1] for seed in range(40)])
    shares = np.bincount(labels.ravel(), minlength=len(CLASSES)) / labels.size
    assert len(shares) == len(CLASSES) and shares.min() > 0.02 and shares.max() < 0.75
    assert all((labels == index).any(axis=(1, 2)).mean() > 0.8 for index in range(1, len(CLASSES)))


def test_the_scene_is_the_same_at_any_size_and_shape() -> None:
    small, large = frame(5, size=(64, 64))[1], frame(5, size=(192, 192))[1]
    assert (large[1::3, 1::3] == small).mean() > 0.95
    image, label = frame(5, size=(48, 96))
    assert image.shape == (48, 96, 3) and label.shape == (48, 96)


def test_colour_alone_does_not_tell_the_organs() -> None:
    frames = [frame(seed, size=(64, 64)) for seed in range(30)]
    pixels = np.concatenate([image.reshape(-1, 3) for image, _ in frames]).astype(float)
    labels = np.concatenate([label.ravel() for _, label in frames])
    means = np.stack([pixels[labels == index].mean(0) for index in range(len(CLASSES))])
    nearest = ((pixels[:, None] - means) ** 2).sum(-1).argmin(1)
    hits = [2 * ((nearest == i) & (labels == i)).sum() / ((nearest == i).sum() + (labels == i).sum()) for i in (2, 3)]
    assert max(hits) < 0.5


def test_a_video_begins_with_the_frame_and_moves_a_little_at_a_time() -> None:
    size = (64, 64)
    shots = list(video(2, count=26, size=size))
    assert (shots[0][0] == frame(2, size=size)[0]).all() and len(shots) == 26
    again = list(video(2, count=26, size=size))
    assert all((a[0] == b[0]).all() for a, b in zip(shots, again, strict=True))
    changed = [(a[1] != b[1]).mean() for a, b in zip(shots, shots[1:], strict=False)]
    assert max(changed) < 0.05 and (shots[0][1] != shots[-1][1]).mean() > 0.01


def test_a_seed_is_a_heart_the_same_at_any_shape() -> None:
    (image, label), (again, label_again), (other, _) = volume(3), volume(3), volume(4)
    assert image.shape == label.shape == phantom3d.SHAPE and image.dtype == label.dtype == np.uint8
    assert (image == again).all() and (label == label_again).all()
    assert np.abs(image.astype(int) - other).mean() > 5
    large = volume(3, (192, 192, 96))[1]
    assert (large[1::3, 1::3, 1::3] == label).all()
    assert phantom3d.spacing_mm((128, 128, 32)) == (0.625, 0.625, 2.5)


def test_every_heart_has_every_organ_in_one_piece_over_several_slices() -> None:
    from scipy.ndimage import label as components

    for seed in range(12):
        label = volume(seed)[1]
        for index in range(1, len(phantom3d.CLASSES)):
            organ = label == index
            assert organ.any(axis=(0, 1)).sum() >= 5
            sizes = np.bincount(components(organ, np.ones((3, 3, 3)))[0].ravel())[1:]
            assert sizes.max() > 0.85 * sizes.sum()


def test_grey_values_alone_do_not_tell_the_vessel_from_the_chamber() -> None:
    hits = []
    for seed in range(8):
        image, label = volume(seed)
        chamber, vessel = image[label == 1].astype(float), image[label == 3].astype(float)
        middle = (chamber.mean() + vessel.mean()) / 2
        brighter = chamber.mean() > vessel.mean()
        right = np.concatenate([(chamber > middle) == brighter, (vessel < middle) == brighter])
        hits.append(right.mean())
        wall = image[label == 2]
        assert wall.mean() < 0.8 * chamber.mean()
    assert np.mean(hits) < 0.9
