"""Accuracy on a list of cases, of whatever turns frames into masks. No torch: devices measure with it too.

Shapes: N frames, H W their size, K channels; a truth keeps its size: [H0, W0], or [S, H0, W0] with S slices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from edgemt.contract import Case
from edgemt.data.decode import Form, ProgressCall, decode_pairs
from edgemt.frames import fit_label
from edgemt.metrics import Scores, compare

Predict = Callable[[np.ndarray], np.ndarray]
"""uint8 [N, H, W, K] -> uint8 [N, H, W]."""


@dataclass(frozen=True)
class EvalSet:
    """Cases decoded once. `rows[i]` are the frames of case i: one for an image, all slices for a volume."""

    names: tuple[str, ...]
    frames: np.ndarray  # uint8 [N, H, W, K]
    rows: tuple[slice, ...]
    truths: tuple[np.ndarray, ...]  # [H0, W0] or [S, H0, W0]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)


def prepare(
    cases: Sequence[Case],
    *,
    size: tuple[int, int],
    channels: int,
    classes: tuple[str, ...],
    mask_threshold: int | None = None,
    progress: ProgressCall | None = None,
) -> EvalSet:
    """Reads the cases, each with a label; the slices of one volume become one case."""
    if not cases:
        raise ValueError("evaluation: the list of cases is empty; check data.val")
    form = Form(size, channels, classes, mask_threshold)
    frames = np.empty((len(cases), *size, channels), np.uint8)
    labels = []
    for i, (frame, label) in enumerate(decode_pairs(cases, form, progress=progress)):
        frames[i] = frame
        labels.append(label)
    names, rows, truths = [], [], []
    for _, run in groupby(range(len(cases)), key=lambda i: cases[i].image):
        indices = list(run)
        first, last = indices[0], indices[-1] + 1
        volume = cases[first].slice is not None
        names.append(cases[first].name.rpartition("/")[0] if volume else cases[first].name)
        rows.append(slice(first, last))
        truths.append(np.stack(labels[first:last]) if volume else labels[first])
    return EvalSet(tuple(names), frames, tuple(rows), tuple(truths), tuple(classes))


def evaluate(
    predict: Predict,
    cases: EvalSet,
    *,
    distances: bool = False,
    dice_only: bool = False,
    batch: int = 16,
    progress: ProgressCall | None = None,
) -> Scores:
    """Scores of `predict` on a prepared set: masks go back to each label's size before they are compared.

    Distances are in pixels of the label, slices one pixel apart: a file's voxel size is not always true.
    """
    classes = len(cases.classes)
    masks: list[np.ndarray] = []
    for start in range(0, len(cases.frames), batch):
        part = cases.frames[start : start + batch]
        found = np.asarray(predict(part))
        if found.shape != part.shape[:3]:
            raise ValueError(f"prediction has shape {found.shape}, frames of shape {part.shape} need {part.shape[:3]}")
        masks.extend(found)
        if progress is not None:
            progress(len(masks), len(cases.frames))
    records = []
    for name, rows, truth in zip(cases.names, cases.rows, cases.truths, strict=True):
        fitted = np.stack([fit_label(mask, size=truth.shape[-2:]) for mask in masks[rows]])
        prediction = fitted if truth.ndim == 3 else fitted[0]
        scored = compare(prediction, truth, classes=classes, dice_only=dice_only, with_distances=distances)
        records.append({"name": name, **dict(zip(cases.classes[1:], scored, strict=True))})
    return Scores(tuple(cases.classes[1:]), records)
