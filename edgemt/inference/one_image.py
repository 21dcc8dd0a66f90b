"""The mask of one image, as `edgemt predict` writes it, for label tools.

Shapes: H W size of the image in pixels, K channels of the model.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from deploy.promptable.runner import Embedding, Prompt, PromptableRunner
from edgemt.inference.predict import eight_bits
from edgemt.io.array_values import check_not_constant
from edgemt.io.atomic import sha256
from edgemt.io.channels import ORDER
from edgemt.io.images import fit_frame, fit_label, read_image
from edgemt.model_card import ModelCard


def mask_of_image(path: Path, card: ModelCard, predict: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """uint8 [H, W] of class indices, upright. `predict`: uint8 [1, h, w, K] -> masks uint8 [1, h, w].

    Raises ValueError, naming the file, for one that cannot be read, and for a model of several slices or channels.
    """
    picture = _picture(path, card)
    frame = fit_frame(picture, size=card.size, channels=card.channels)
    return fit_label(predict(frame[None])[0], size=picture.shape[:2])


class PromptedImage:
    """Masks of the objects that prompts name in an image; the last image is embedded once."""

    def __init__(self, runner: PromptableRunner, card: ModelCard) -> None:
        self._runner, self._card = runner, card
        self._last: tuple[str, tuple[int, int], Embedding] | None = None

    def __call__(self, path: Path, prompt: Prompt) -> np.ndarray:
        """Bool [H, W], upright, True on the object. Raises ValueError as `mask_of_image`, and for an empty prompt."""
        content = sha256(path)
        if self._last is None or self._last[0] != content:
            picture = _picture(path, self._card)
            self._last = (content, (picture.shape[0], picture.shape[1]), self._runner.embed(picture))
        _, size, embedding = self._last
        logits = self._runner.segment(embedding, prompt).logits
        return fit_label((logits > 0).astype(np.uint8), size=size).astype(bool)


def _picture(path: Path, card: ModelCard) -> np.ndarray:
    """uint8 [H, W] or [H, W, 3] of the image's own size."""
    if card.channel_order in ("slices", ORDER) or card.channels not in (1, 3):
        kind = "slices of a volume" if card.channel_order == "slices" else "channels"
        raise ValueError(f"{path}: is one image, the model reads {card.channels} {kind}; take another model")
    return eight_bits(check_not_constant(read_image(path), path), card, path)
