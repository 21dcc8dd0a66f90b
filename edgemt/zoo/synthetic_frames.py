"""Synthetic frames for golden pairs and comparisons, so that no image of a patient leaves with a model.

Shapes: N frames, H W size in pixels, K channels.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from deploy.export import DeployableModel
from edgemt.data import phantom2d, phantom3d
from edgemt.io.channels import ORDER
from edgemt.io.volumes import stack_neighbours
from edgemt.model_card import ModelCard


def frames_for(card: ModelCard, *, count: int = 8) -> np.ndarray:
    """uint8 [N, H, W, K] synthetic frames, the same at each call, of the kind that the network of the card takes.

    What sees colour gets the endoscopic scene; what sees grey, or slices, gets slices of synthetic volumes.
    """
    if card.channel_order == "RGB":
        return np.stack([phantom2d.frame(seed, size=card.size)[0] for seed in range(count)])
    frames, depth = [], max(12, card.channels + 3)
    for seed in range(-(-count // 4)):
        slices = np.moveaxis(phantom3d.volume(seed, shape=(*card.size, depth))[0], -1, 0)[..., None]
        if card.channel_order == ORDER:
            frames += [np.concatenate(slices[at : at + card.channels], axis=-1) for at in range(0, 4)]
            continue
        frames += [stack_neighbours(slices, at, slices=card.channels) for at in range(3, 10, 2)]
    return np.stack(frames[:count])


def masks_of(network: nn.Module, card: ModelCard, frames: np.ndarray) -> np.ndarray:
    """uint8 [N, H, W, K] -> uint8 [N, H, W]: the graph that ships, in torch and float32."""
    whole = DeployableModel(network, normalise=card.normalise, channels=card.channels).eval()
    with torch.inference_mode():
        return np.concatenate([whole(torch.from_numpy(frame[None])).numpy() for frame in frames])
