"""Accuracy on a list of cases, of whatever turns frames into masks. No torch: devices measure with it too.

Shapes: N frames, H W their size, K channels; a truth keeps its size: [H0, W0], or [S, H0, W0] with S slices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from edgemt.contract import Case
from edgemt.data import phantom3d
from edgemt.data.decode import FrameSpec, ProgressCall, decode_pairs
from edgemt.data.reading import Reading, print_note
from edgemt.inference.evaluate_uncertainty import keeping_maps, maps_record
from edgemt.io.bit_depth import Rule
from edgemt.io.class_regions import in_class
from edgemt.io.images import fit_label
from edgemt.io.mask_rule import MaskValues
from edgemt.io.volumes import volume_spacing
from edgemt.metrics.overlap import Scores, compare
from edgemt.metrics.postprocess import largest_component
from edgemt.model_card import FileMetrics

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
    spacing_mm: tuple[tuple[float, ...] | None, ...]  # in the truth's order of axes, as the header states it
    key: str = ""  # identifies the list by its content, where that is tracked
    overlapping: bool = False  # truths and masks are bits (`edgemt.io.class_regions`)

    def __len__(self) -> int:
        return len(self.names)

    def frame_truths(self) -> list[np.ndarray]:
        """uint8 [H, W]: the truth of each frame, at the frame's size."""
        slices = (part for truth in self.truths for part in (truth if truth.ndim == 3 else truth[None]))
        height, width = self.frames.shape[1:3]
        return [fit_label(part, size=(height, width)) for part in slices]


def prepare(
    cases: Sequence[Case],
    *,
    size: tuple[int, int],
    channels: int,
    classes: tuple[str, ...],
    slices: int = 1,
    mask_threshold: int | None = None,
    depth: Rule = "auto",
    window: tuple[float, float] | None = None,
    compare: bool = True,
    channel_names: tuple[str, ...] = (),
    channel_depth: tuple[Rule, ...] = (),
    values: MaskValues = MaskValues(),
    fill: np.ndarray | None = None,
    reading: Reading | None = None,
    progress: ProgressCall | None = None,
) -> EvalSet:
    """Read the cases, each with a label; the slices of one volume become one case with the name and size of the volume.

    With `slices` a frame holds its neighbours as channels, K = channels * slices. `reading` holds the rules of the
    whole set; without it `mask_threshold`, `depth`, `window` and `compare` (as in `DataOptions`) and the cases decide.
    `values` states what values of masks mean. `fill`, uint8 [K], stands for a channel that a case lacks.
    Prints which class is in none of the masks. Raises ValueError for an empty list and for files that cannot be used.
    """
    if not cases:
        raise ValueError("evaluation: the list of cases is empty; check data.val")
    form = FrameSpec(
        size, channels, classes, mask_threshold, slices, depth, window, compare, channel_names, channel_depth, values
    )
    frames = np.empty((len(cases), *size, form.frame_channels), np.uint8)
    labels = []
    for i, (frame, label) in enumerate(decode_pairs(cases, form, reading=reading, fill=fill, progress=progress)):
        frames[i] = frame
        labels.append(label)
    names, rows, truths, spacings = [], [], [], []
    for _, run in groupby(range(len(cases)), key=lambda i: cases[i].image):
        indices = list(run)
        first, last = indices[0], indices[-1] + 1
        volume = cases[first].slice is not None
        names.append(cases[first].name.rpartition("/")[0] if volume else cases[first].name)
        rows.append(slice(first, last))
        truths.append(np.stack(labels[first:last]) if volume else labels[first])
        spacings.append(_spacing(cases[first], truths[-1].shape) if volume else None)
    overlapping = values.overlapping
    for value, name in list(enumerate(classes))[overlapping:]:
        if not any(in_class(truth, value, overlapping=overlapping).any() for truth in truths):
            print_note(f"{name!r} is in none of the {len(truths)} masks that are measured; it gets no figure")
    parts = (tuple(names), frames, tuple(rows), tuple(truths), tuple(classes), tuple(spacings))
    return EvalSet(*parts, overlapping=overlapping)


def _spacing(case: Case, shape: tuple[int, ...]) -> tuple[float, ...] | None:
    """(slice, row, column) of a volume [S, H0, W0]; a file's own order is row, column, slice. None: it states none."""
    if case.image.startswith(phantom3d.PREFIX):
        spacing: tuple[float, ...] | None = phantom3d.spacing_mm((*shape[1:], shape[0]))
    else:
        spacing = volume_spacing(case.image, axes=case.axes)
    return None if spacing is None else (spacing[2], spacing[0], spacing[1])


def evaluate(
    predict: Predict,
    cases: EvalSet,
    *,
    distances: bool = False,
    dice_only: bool = False,
    largest: bool = False,
    batch: int = 16,
    progress: ProgressCall | None = None,
) -> Scores:
    """Scores of `predict` on a prepared set: `score` of `predict_masks`."""
    masks = predict_masks(predict, cases, batch=batch, progress=progress)
    return score(masks, cases, distances=distances, dice_only=dice_only, largest=largest)


def predict_masks(
    predict: Predict, cases: EvalSet, *, batch: int = 16, progress: ProgressCall | None = None
) -> list[np.ndarray]:
    """A mask a case, brought to the size of its truth: uint8 [H0, W0] or [S, H0, W0]."""
    return fit_masks(frame_masks(predict, cases, batch=batch, progress=progress), cases)


def frame_masks(
    predict: Predict, cases: EvalSet, *, batch: int = 16, progress: ProgressCall | None = None
) -> list[np.ndarray]:
    """A mask a frame, at the size of the model: uint8 [H, W]."""
    masks: list[np.ndarray] = []
    for start in range(0, len(cases.frames), batch):
        part = cases.frames[start : start + batch]
        found = np.asarray(predict(part))
        if found.shape != part.shape[:3]:
            raise ValueError(f"prediction has shape {found.shape}, frames of shape {part.shape} need {part.shape[:3]}")
        masks.extend(found)
        if progress is not None:
            progress(len(masks), len(cases.frames))
    return masks


def fit_masks(masks: Sequence[np.ndarray], cases: EvalSet) -> list[np.ndarray]:
    """Masks of frames -> a mask a case at the size of its truth, the slices of a volume put together."""
    fitted = []
    for rows, truth in zip(cases.rows, cases.truths, strict=True):
        stack = np.stack([fit_label(mask, size=truth.shape[-2:]) for mask in masks[rows]])
        fitted.append(stack if truth.ndim == 3 else stack[0])
    return fitted


def score(
    masks: Sequence[np.ndarray],
    cases: EvalSet,
    *,
    distances: bool = False,
    dice_only: bool = False,
    largest: bool = False,
    tolerance: float = 2.0,
) -> Scores:
    """Scores of finished masks, one a case in the order of `cases.names`, each of its truth's shape.

    Distances are in voxels of the label under their plain keys and, for a volume whose file states its voxel size, in
    millimetres under NAME_mm: as the header stands, and that is not always true. `largest` scores what is left when of
    each class only the largest connected piece stays. `tolerance` is that of the surface Dice, voxels or millimetres.
    """
    if len(masks) != len(cases):
        raise ValueError(f"evaluation: {len(masks)} masks for {len(cases)} cases; give one a case")
    classes = len(cases.classes)
    records = []
    for name, mask, truth, spacing in zip(cases.names, masks, cases.truths, cases.spacing_mm, strict=True):
        if mask.shape != truth.shape:
            raise ValueError(f"{name}: prediction has shape {mask.shape}, its label {truth.shape}; resize it first")
        scored = compare(
            largest_component(mask, classes=classes, overlapping=cases.overlapping) if largest else mask,
            truth,
            classes=classes,
            overlapping=cases.overlapping,
            spacing_mm=spacing,
            tolerance=tolerance,
            dice_only=dice_only,
            with_distances=distances,
        )
        records.append({"name": name, **dict(zip(cases.classes[1:], scored, strict=True))})
    return Scores(tuple(cases.classes[1:]), records, tolerance=tolerance)


def evaluation_record(predict: Predict, cases: EvalSet) -> FileMetrics:
    """Every metric of `predict` on a prepared list, as the card holds it; volumes also after clean-up.

    `list_key` identifies the list by its content: two figures may be compared when they have the same.
    """
    both = predict.with_uncertainty if getattr(predict, "has_uncertainty", False) else None  # type: ignore[attr-defined]
    predict, maps = keeping_maps(predict, both)
    frames = frame_masks(predict, cases)
    masks = fit_masks(frames, cases)
    metrics = replace(metrics_of(score(masks, cases, distances=True)), list_key=cases.key)
    if any(truth.ndim == 3 for truth in cases.truths):
        cleaned = score(masks, cases, distances=True, largest=True)
        metrics = replace(metrics, largest_component=means_of(cleaned))
    if both is not None:  # a runner of a graph with that output
        metrics = replace(metrics, uncertainty=maps_record(frames, maps, cases.frame_truths()))
    return metrics


def metrics_of(scores: Scores) -> FileMetrics:
    """Scores as the card holds them."""
    return FileMetrics.from_dict(scores.to_json())


def means_of(scores: Scores) -> dict[str, float | None]:
    """Dice, HD95 and average surface distance, each as the mean over classes; None where no case defines it."""
    means = {metric: scores.mean(metric) for metric in ("dice", "hd95", "asd")}
    return {metric: None if math.isnan(mean) else mean for metric, mean in means.items()}
