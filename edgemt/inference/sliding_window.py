"""A 3-D network over a whole volume: overlapping windows, whose probabilities, not logits, are averaged.

Windows begin every `stride` voxels and the last one on each axis is moved back so that it ends at the rim, as
in the scripts of the left-atrium papers.

Shapes: K channels, C classes, X Y Z voxels of a volume.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, prod
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgemt.data.volume_dataset import mean_std
from edgemt.model_card import Normalisation


def count_windows(shape: Sequence[int], *, patch: Sequence[int], stride: Sequence[int]) -> int:
    """How often the network runs on a volume of that shape."""
    return prod(ceil(max(n - side, 0) / step) + 1 for n, side, step in zip(shape, patch, stride, strict=True))


def probabilities(
    network: nn.Module,
    image: Tensor,
    *,
    patch: Sequence[int],
    stride: Sequence[int],
    normalise: Normalisation,
    device: torch.device | str,
    classes: int,
    missing: Tensor | None = None,
    blend: Literal["constant", "gaussian"] = "constant",
    batch: int = 4,
    precision: torch.dtype | None = None,
) -> Tensor:
    """uint8 [K, X, Y, Z] -> float32 [C, X, Y, Z] on `device`, summing to 1 over C. Evaluation mode, and back after.

    A network of overlapping classes gives the probability of each by itself.

    `precision` is the autocast type of the network's own arithmetic; averaging is float32 always. A volume
    smaller than the patch is padded with 0, as in training, and cropped back. `missing`, bool [K]: channels that the
    case lacks, 0 once normalised. `classes` is what the caller expects: raises ValueError when the network answers with
    another number of channels.
    """
    from monai.inferers.utils import sliding_window_inference

    if any(step > side or step < 1 for side, step in zip(patch, stride, strict=True)):
        raise ValueError(f"stride: {tuple(stride)} leaves gaps between windows of {tuple(patch)}; make it smaller")
    short = [max(side - n, 0) for side, n in zip(patch, image.shape[1:], strict=True)]
    whole = _normalised(image.to(device), mean_std(image, normalise), short=short, missing=missing)

    def answer(windows: Tensor) -> Tensor:
        with torch.autocast(windows.device.type, dtype=precision, enabled=precision is not None):
            found = network(windows)
        logits = getattr(found, "logits", found)
        if logits.shape[1] != classes:
            raise ValueError(f"classes: the network answers with {logits.shape[1]} channels, {classes} are expected")
        return logits.float().sigmoid() if overlapping else torch.softmax(logits.float(), dim=1)

    overlapping = bool(getattr(network, "overlapping", False))
    was_training = network.training
    network.eval()
    try:
        with torch.no_grad():
            found = sliding_window_inference(
                whole[None],
                roi_size=tuple(patch),
                sw_batch_size=batch,
                predictor=answer,
                overlap=_overlap(patch, stride),
                mode=blend,
            )
    finally:
        network.train(was_training)
    assert isinstance(found, Tensor)
    inside = (slice(side // 2, side // 2 + n) for side, n in zip(short, image.shape[1:], strict=True))
    return found[0][(slice(None), *inside)]


def _normalised(
    image: Tensor, scales: Sequence[tuple[float, float]], *, short: Sequence[int], missing: Tensor | None
) -> Tensor:
    """uint8 [K, X, Y, Z] -> float32, each channel by its (mean, std), with `short` voxels of 0 before it around it."""
    whole = image.to(torch.float32).div_(255)
    pad = [n for side in reversed(short) for n in (side // 2, side - side // 2)]
    planes = []
    for k, (plane, (mean, std)) in enumerate(zip(whole, scales, strict=True)):
        plane.sub_(mean).div_(std)
        absent = missing is not None and bool(missing[k])
        plane = torch.zeros_like(plane) if absent else plane
        planes.append(F.pad(plane, pad, value=0.0 if absent else -mean / std))
    return torch.stack(planes)


def _overlap(patch: Sequence[int], stride: Sequence[int]) -> tuple[float, ...]:
    """The overlap argument of MONAI, which truncates patch * (1 - overlap): half a voxel is added to the stride."""
    return tuple(max(0.0, 1 - (step + 0.5) / side) for side, step in zip(patch, stride, strict=True))
