"""Two small folders in the layout of the real ones, for dry runs: DATA/la2018 and DATA/acdc, drawn at random."""

from __future__ import annotations

from pathlib import Path

import numpy as np

SIDE, DEPTH = 48, 20  # voxels
NAMES = {
    "la2018": [f"VOLUME{k}" for k in range(5)],
    "acdc": [f"patient{k // 2:03d}_frame{k % 2 + 1:02d}" for k in range(10)],
}
CLASSES = {"la2018": 2, "acdc": 4}
LABELLED, VALIDATION = {"la2018": 2, "acdc": 4}, {"la2018": 1, "acdc": 2}  # volumes
LISTS = {"la2018": ("splits/labelled_8.txt", "splits/val.txt"), "acdc": ("splits/labelled_3.txt", "val.txt")}


def write_data(folder: Path) -> Path:
    """Write both data sets into `folder`, unless they are there."""
    import nibabel

    for name, volumes in NAMES.items():
        root = folder / name
        if (root / "train.txt").exists():
            continue
        for part in ("images", "labels", "splits"):
            (root / part).mkdir(parents=True, exist_ok=True)
        for seed, volume in enumerate(volumes):
            image, label = draw(seed, classes=CLASSES[name])
            for part, voxels in (("images", image), ("labels", label)):
                nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), root / part / f"{volume}.nii.gz")
        training = volumes[: -VALIDATION[name]] if name == "acdc" else volumes
        labelled, val = LISTS[name]
        _list(root / labelled, volumes[: LABELLED[name]])
        _list(root / val, volumes[-VALIDATION[name] :])
        _list(root / "train.txt", training)
    return folder


def draw(seed: int, *, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """(image, label), uint8 [SIDE, SIDE, DEPTH]: concentric balls, each class brighter than the one around it."""
    rng = np.random.default_rng(seed)
    x, y, z = np.ogrid[:SIDE, :SIDE, :DEPTH]
    centre = rng.uniform(0.45, 0.55, 3) * (SIDE, SIDE, DEPTH)
    distance = np.sqrt((x - centre[0]) ** 2 + (y - centre[1]) ** 2 + ((z - centre[2]) * SIDE / DEPTH) ** 2)
    radii = np.linspace(0.4, 0.15, classes - 1) * SIDE
    label = sum((distance < radius).astype(np.uint8) for radius in radii)
    image = 40 + 180 / (classes - 1) * np.asarray(label) + rng.normal(0, 8, label.shape)  # type: ignore[union-attr]
    return image.clip(0, 255).astype(np.uint8), np.asarray(label, np.uint8)


def _list(path: Path, names: list[str]) -> None:
    path.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
