"""The mask of one image, as `edgemt predict` writes it, for label tools.

Shapes: H W size of the image in pixels, K channels of the model.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from edgemt.inference.predict import eight_bits
from edgemt.io.array_values import check_not_constant
from edgemt.io.channels import ORDER
from edgemt.io.images import fit_frame, fit_label, read_image
from edgemt.model_card import ModelCard


def mask_of_image(path: Path, card: ModelCard, predict: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """uint8 [H, W] of class indices, upright. `predict`: uint8 [1, h, w, K] -> masks uint8 [1, h, w].

    Raises ValueError, naming the file, for one that cannot be read, and for a model of several slices or channels.
    """
    if card.channel_order in ("slices", ORDER) or card.channels not in (1, 3):
        kind = "slices of a volume" if card.channel_order == "slices" else "channels"
        raise ValueError(f"{path}: is one image, the model reads {card.channels} {kind}; take another model")
    picture = eight_bits(check_not_constant(read_image(path), path), card, path)
    frame = fit_frame(picture, size=card.size, channels=card.channels)
    return fit_label(predict(frame[None])[0], size=picture.shape[:2])
