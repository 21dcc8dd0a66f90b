"""Where the class of a pixel is uncertain, as a region that a display hatches, and the hatching. No torch.

A graph's output `uncertainty` is uint8 round(255 sqrt(p)), p the probability that the class of the pixel is wrong.
Every border of a mask has a thin rim of uncertain pixels, which its outline covers. Parts that are narrower than a disc
of 2.5 pixels are left out, so that the hatching shows where more than the rim is uncertain.

Shapes: h w size of the model's mask, H W of the picture.
"""

from __future__ import annotations

import numpy as np

from edgemt.io.disc_dilation import dilate_by_disc
from edgemt.io.images import fit_label

UNCERTAIN_ABOVE = 0.2  # probability; of a Kvasir student 6 % of the frame, where one pixel in three is wrong
_NARROW = 2.5  # pixels of the mask, radius


def check_threshold(above: float) -> None:
    """Raises ValueError unless 0 < above <= 1."""
    if not 0 < above <= 1:
        raise ValueError(
            f"uncertain_above: must be above 0 and at most 1, not {above:g}; 0.2 is usual, 1 hatches nothing"
        )


def uncertain_region(values: np.ndarray, *, above: float = UNCERTAIN_ABOVE) -> np.ndarray:
    """The output `uncertainty`, uint8 [h, w] -> bool [h, w]: p >= `above`, without parts narrower than a small disc."""
    found = values >= np.ceil(255 * np.sqrt(above))
    if not found.any():
        return np.asarray(found)
    return np.asarray(dilate_by_disc(~dilate_by_disc(~found, _NARROW), _NARROW))


def hatching(region: np.ndarray, *, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Flat indices int64 [P] of diagonal lines in a region bool [h, w] on a picture of `size`, and which are white.

    Each white line has a black one beside it, so that it is visible on bright and on dark tissue.
    """
    large = fit_label(region.astype(np.uint8), size=size) > 0
    index = np.flatnonzero(large)
    thick = max(1, size[0] // 360)
    y, x = np.divmod(index, size[1])
    step = (x + y) // thick % 8
    lines = step < 2
    return index[lines], step[lines] == 0


def hatched(picture: np.ndarray, region: np.ndarray) -> np.ndarray:
    """uint8 [H, W], [H, W, 1] or [H, W, 3] -> a new uint8 [H, W, 3] with the region, bool [h, w], hatched."""
    plain = picture[..., None] if picture.ndim == 2 else picture
    out = np.repeat(plain, 3, axis=2) if plain.shape[2] == 1 else plain.copy()
    index, white = hatching(region, size=(out.shape[0], out.shape[1]))
    out.reshape(-1, 3)[index] = np.where(white, 255, 0)[:, None]
    return out
