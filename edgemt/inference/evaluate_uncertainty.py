"""How well an uncertainty finds the wrong pixels of a list of frames. No torch.

Measured at the frame's size, on at most 10,000 pixels of each frame, always the same ones: of 100 frames one million
pixels, where the standard error of an AUROC is far below 0.01 and frames, not pixels, limit its accuracy.

Of overlapping classes a pixel is wrong where any class is: its bits (`edgemt.io.class_regions`) differ.

Shapes: N frames, H W their size, K channels, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from edgemt.contract import IGNORE
from edgemt.io.class_regions import from_regions
from edgemt.metrics.uncertainty import error_detection, sample

PredictMasks = Callable[[np.ndarray], np.ndarray]
"""uint8 [N, H, W, K] -> masks uint8 [N, H, W]."""
PredictBoth = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""uint8 [N, H, W, K] -> masks uint8 [N, H, W], and maps uint8 [N, H, W] = round(255 sqrt(p))."""
_BATCH = 16


def to_probability(uncertainty: np.ndarray) -> np.ndarray:
    """uint8 map of a graph -> float64 probability that the class of a pixel is wrong: (value / 255)^2."""
    return (uncertainty / 255.0) ** 2


def uncertainty_record(
    predict: PredictBoth, frames: np.ndarray, truths: Sequence[np.ndarray]
) -> dict[str, float | None]:
    """`maps_record` of what a graph predicts for frames uint8 [N, H, W, K]."""
    both = [predict(frames[first : first + _BATCH]) for first in range(0, len(frames), _BATCH)]
    masks, maps = (np.concatenate(parts) for parts in zip(*both, strict=True))
    return maps_record(masks, maps, truths)


def maps_record(
    masks: Iterable[np.ndarray], maps: Iterable[np.ndarray], truths: Sequence[np.ndarray]
) -> dict[str, float | None]:
    """`error_detection` of the maps that a graph gave beside its masks; each N of uint8 [H, W]."""
    wrong, probability = [], []
    for index, (mask, values, truth) in enumerate(zip(masks, maps, truths, strict=True)):
        pixels = _known(sample(mask.size, frame=index), truth)
        wrong.append((mask != truth).reshape(-1)[pixels])
        probability.append(to_probability(values).reshape(-1)[pixels])
    return error_detection(np.concatenate(wrong), np.concatenate(probability))


def _known(pixels: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The pixels that are not ignored in the truth."""
    return pixels[truth.reshape(-1)[pixels] != IGNORE]


def keeping_maps(predict: PredictMasks, both: PredictBoth | None) -> tuple[PredictMasks, list[np.ndarray]]:
    """A `predict` that also keeps the uncertainty maps of `both`, and the list that it fills with them, uint8 [H, W].

    So one pass over a list gives masks and maps. Without `both` it is `predict`, and the list stays empty.
    """
    maps: list[np.ndarray] = []
    if both is None:
        return predict, maps

    def masks_of(frames: np.ndarray) -> np.ndarray:
        masks, uncertainty = both(frames)
        maps.extend(uncertainty)
        return masks

    return masks_of, maps


def entropy_record(
    predict: Callable[[np.ndarray], np.ndarray],
    frames: np.ndarray,
    truths: Sequence[np.ndarray],
    *,
    overlapping: bool = False,
) -> dict[str, float | None]:
    """`error_detection` of softmax float [N, C, H, W]: ranked by entropy -sum_c p_c log p_c, probability 1 - max p.

    Of sigmoids of `overlapping` classes: entropies of yes and no, summed over classes; the largest 1 - max(p, 1 - p).
    The baseline without any training: Hendrycks and Gimpel, ICLR 2017 (arXiv 1610.02136).
    """
    wrong, probability, entropy = [], [], []
    for first in range(0, len(frames), _BATCH):
        for index, p in enumerate(predict(frames[first : first + _BATCH]), start=first):
            pixels = _known(sample(p[0].size, frame=index), truths[index])
            chosen = p.reshape(len(p), -1)[:, pixels].astype(np.float64)
            decided = from_regions(list(chosen > 0.5)) if overlapping else chosen.argmax(0)
            wrong.append(decided != truths[index].reshape(-1)[pixels])
            least = np.minimum(chosen, 1 - chosen).max(0) if overlapping else 1 - chosen.max(0)
            probability.append(least.clip(0, 1))
            every = np.concatenate([chosen, 1 - chosen]) if overlapping else chosen
            entropy.append(-(every * np.log(every.clip(1e-12, 1))).sum(0))
    return error_detection(np.concatenate(wrong), np.concatenate(probability), np.concatenate(entropy))
