"""Volumes in files of 3D Slicer, SimpleITK and DICOM, with labels, small."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgemt.convert.nrrd_file import write_nrrd

SHAPE = (11, 9, 6)


def affine() -> np.ndarray:
    """RAS, turned about the third axis, three different spacings."""
    turn = np.deg2rad(17)
    out = np.eye(4)
    out[:3, :3] = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]]) * (
        0.7,
        0.8,
        2.5,
    )
    out[:3, 3] = (-12.5, 30.25, 7)
    return out


def image(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1000, 2000, SHAPE).astype(np.int16)


def label(seed: int = 0) -> np.ndarray:
    """uint8 [X, Y, Z] of 0, 1 and 2."""
    rough = np.random.default_rng(seed + 50).integers(0, 3, (4, 3, 3)).astype(np.uint8)
    return np.kron(rough, np.ones((3, 3, 2), np.uint8))[: SHAPE[0], : SHAPE[1], : SHAPE[2]]


def segments(names: list[str], *, layers: list[int] | None = None, values: list[int] | None = None) -> dict[str, str]:
    """Key-value pairs of a .seg.nrrd."""
    pairs = {}
    for k, name in enumerate(names):
        pairs |= {f"Segment{k}_ID": f"Segment_{k + 1}", f"Segment{k}_Name": name}
        pairs |= {f"Segment{k}_Layer": str(layers[k] if layers else 0)}
        pairs |= {f"Segment{k}_LabelValue": str(values[k] if values else k + 1)}
    return pairs


def slicer(folder: Path, seeds: range = range(2)) -> Path:
    """case0.nrrd with case0.seg.nrrd, and further cases."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        write_nrrd(folder / f"case{seed}.nrrd", image(seed), affine(), {})
        write_nrrd(folder / f"case{seed}.seg.nrrd", label(seed), affine(), segments(["liver", "vessel"]))
    return folder
