"""Cases of two registered channels as PNG files: a disc that shows dark in `t1`, and bright in `t2`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

NAMES = ("t1", "t2")
CLASSES = ("background", "disc")
SIDE = 40


def case(seed: int, *, side: int = SIDE) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [side, side, 2] of both channels, and the mask uint8 [side, side] of 0 and 1."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    middle, radius = rng.uniform(0.35, 0.65, 2) * side, rng.uniform(0.2, 0.3) * side
    disc = (y - middle[0]) ** 2 + (x - middle[1]) ** 2 < radius**2
    noise = rng.normal(0, 8, (side, side, 2))
    planes = np.stack([np.where(disc, 60, 150), np.where(disc, 210, 90)], axis=-1) + noise
    return planes.clip(0, 255).astype(np.uint8), disc.astype(np.uint8)


def write(root: Path, counts: Sequence[int] = (6, 4), *, names: Sequence[str] = NAMES, form: str = "_{name}") -> Path:
    """root/train and root/val with so many cases; `form` puts {name} or {number:04d} of the channel behind the case."""
    for part, first, count in zip(("train", "val"), (0, 100), counts, strict=True):
        images, masks = root / part / "images", root / part / "masks"
        for seed in range(first, first + count):
            planes, mask = case(seed)
            for number, name in enumerate(names):
                file = images / f"case{seed}{form.format(name=name, number=number)}.png"
                if form == "folders":
                    file = images / name / f"case{seed}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(planes[..., number % 2]).save(file)
            masks.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(masks / f"case{seed}.png")
    return root
