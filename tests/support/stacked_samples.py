"""Cases of two channels in one NIfTI file with a fourth axis, as Task05 of the Medical Segmentation Decathlon."""

from __future__ import annotations

import json
from pathlib import Path

import channel_samples as samples
import numpy as np

NAMES = ("T2", "ADC")
DEPTH = 3
FLIPPED = np.array([[-1.0, 0, 0, 39], [0, 1, 0, 0], [0, 0, 5, 0], [0, 0, 0, 1]])  # of case 1: its first axis runs on


def arrays(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [X, Y, Z, 2] and the label uint8 [X, Y, Z], as RAS."""
    slices = [samples.case(10 * seed + k) for k in range(DEPTH)]
    return np.stack([planes for planes, _ in slices], axis=2), np.stack([mask for _, mask in slices], axis=2)


def save(path: Path, array: np.ndarray, *, flipped: bool = False, step: float = 1.0) -> Path:
    """A NIfTI file in seconds and of `step` along its fourth axis, as ITK writes every file."""
    import nibabel

    affine = FLIPPED if flipped else np.diag([1.0, 1, 5, 1])
    image = nibabel.Nifti1Image(array[::-1] if flipped else array, affine)
    image.set_sform(affine, 1)
    image.header.set_xyzt_units("mm", "sec")
    if array.ndim == 4:
        image.header.set_zooms((1, 1, 5, step))
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)
    return path


def write(root: Path, count: int = 4, tests: int = 1) -> Path:
    """dataset.json, imagesTr, labelsTr and imagesTs; case 1 is stored with its first axis turned."""
    names = [f"prostate_{seed:02d}.nii.gz" for seed in range(count + tests)]
    for seed, name in enumerate(names):
        image, label = arrays(seed)
        save(root / ("imagesTr" if seed < count else "imagesTs") / name, image, flipped=seed == 1)
        if seed < count:
            save(root / "labelsTr" / name, label, flipped=seed == 1)
    raw = {
        "modality": dict(enumerate(NAMES)),
        "labels": {"0": "background", "1": "disc"},
        "numTraining": count,
        "training": [{"image": f"./imagesTr/{n}", "label": f"./labelsTr/{n}"} for n in names[:count]],
        "test": [f"./imagesTs/{name}" for name in names[count:]],
    }
    (root / "dataset.json").write_text(json.dumps(raw))
    return root
