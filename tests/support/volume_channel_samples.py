"""Two renderings of a synthetic heart as channels of NIfTI volumes: `t1` without the vessel, `t2` with it alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgemt.data import phantom3d

NAMES = ("t1", "t2")
CLASSES = phantom3d.CLASSES
SHAPE = (24, 24, 8)
AFFINE = np.diag([1.0, 1.5, 3.0, 1.0])
_VESSEL = CLASSES.index("vessel")


def case(seed: int, shape: tuple[int, int, int] = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [X, Y, Z, 2] of both channels, and the label uint8 [X, Y, Z]."""
    image, label = phantom3d.volume(seed, shape)
    rng = np.random.default_rng(seed)
    vessel = label == _VESSEL
    tissue = np.where(vessel, 95, image) + rng.normal(0, 4, shape)
    flow = np.where(vessel, 210, 60) + rng.normal(0, 12, shape)
    return np.stack([tissue, flow], axis=-1).clip(0, 255).astype(np.uint8), label


def save(path: Path, array: np.ndarray, *, flipped: bool = False) -> Path:
    """A NIfTI file, `flipped` with its first axis stored the other way at the same place."""
    import nibabel

    affine = AFFINE.copy()
    if flipped:
        array, affine[0, 3], affine[0, 0] = array[::-1], affine[0, 0] * (array.shape[0] - 1), -affine[0, 0]
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def write(
    root: Path, count: int = 4, *, stacked: bool = False, names: tuple[str, ...] = NAMES,
    shape: tuple[int, int, int] = SHAPE, lists: bool = True,
) -> Path:  # fmt: skip
    """root/images and root/labels; one file a channel, or `stacked` along a fourth axis; the last case validates."""
    for seed in range(count):
        image, label = case(seed, shape)
        save(root / f"labels/p{seed}.nii.gz", label)
        if stacked:
            save(root / f"images/p{seed}.nii.gz", image)
            continue
        for k, name in enumerate(names):
            save(root / f"images/p{seed}_{name}.nii.gz", image[..., k], flipped=k == 1 and seed == 1)
    if lists:
        (root / "val.txt").write_text(f"p{count - 1}\n")
        (root / "labelled.txt").write_text("p0\np1\n")
    return root
