"""The bank: the teacher's class probabilities of every training frame, predicted once before the student learns.

A student's step then runs no teacher: with a 3-D teacher or an ensemble this is most of a step. A 2-D teacher predicts
the frame as it is; each batch augments image and probabilities by the same transform. For a student that learns its
uncertainty the variance between several teachers is written as well; a bank without it gets the variance alone.

Shapes: n frames, K image channels, C classes, H W the frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgemt.artefacts import network_folder, reuse, stage_folder
from edgemt.contract import Case
from edgemt.data import soft_labels
from edgemt.data.augment2d import normalised
from edgemt.data.slice_dataset import SliceDataset
from edgemt.data.soft_labels import TeacherPrediction
from edgemt.learning.ensemble import Ensemble, between_variance
from edgemt.learning.pseudo_labels import probabilities_of
from edgemt.pipeline.log import log
from edgemt.pipeline.recipe import learns_uncertainty
from edgemt.pipeline.run_context import RunContext
from edgemt.pipeline.training_data import as_read
from edgemt.pipeline.volume_data import LABELLING
from edgemt.training.device import resolve_precision
from edgemt.training.progress import file_progress

_CHUNK = 16  # frames of one forward pass


def fill_bank(context: RunContext, teacher: Path) -> Path:
    """The folder `bank` with the probabilities that the network in `teacher` gives; resumed if it was interrupted.

    The slices of a volume share a file. The variance between teachers is written where the student's method uses it.
    Raises ValueError for two images of one name, for a full disk, and for a variance of a single teacher.
    """
    return _fill_from_volumes(context, teacher) if context.is_3d else _fill_from_frames(context, teacher)


def _fill_from_frames(context: RunContext, teacher: Path) -> Path:
    key = _prepare_folder(context, teacher, context.teacher_slices.cache_inputs)
    units = list(_units(context))
    rows_of = {id(unit): (stack, rows) for unit, stack, rows in units}
    return _fill(
        context,
        teacher,
        key,
        [unit for unit, _, _ in units],
        lambda network, unit: _probabilities(context, network, *rows_of[id(unit)]),
        files="files",
        progress="images labelled by the teacher",
        depth=lambda unit: len(rows_of[id(unit)][1]),
    )


def _fill_from_volumes(context: RunContext, teacher: Path) -> Path:
    recipe, volumes = context.recipe, context.volumes
    options = stage_folder.plain(recipe.volume)
    inputs = {
        "data": as_read(recipe.data),
        "volume": {name: options[name] for name in ("scale", "patch", *LABELLING)},
        "per_image": recipe.per_image,
    }
    return _fill(
        context,
        teacher,
        _prepare_folder(context, teacher, inputs),
        (*volumes.cohort.labelled, *volumes.cohort.unlabelled),
        volumes.slice_probabilities,
        files="volumes",
        progress="volumes labelled by the teacher",
    )


def _prepare_folder(context: RunContext, teacher: Path, inputs: dict[str, Any]) -> str:
    """Rename a bank that was filled from other inputs; returns the key of this one."""
    inputs = {"teacher": stage_folder.identity(teacher), **inputs, "training data": context.slices.data_fingerprint}
    folder, overwrite = context.folder("bank"), context.overwrite
    reuse.make_way(folder, inputs=inputs, say=log, overwrite=overwrite, explain=context.explain)
    return stage_folder.key_of(inputs)


def _fill(
    context: RunContext,
    teacher: Path,
    key: str,
    cases: Sequence[Case],
    predict: Callable[[nn.Module, Case], np.ndarray | TeacherPrediction],
    *,
    files: str,
    progress: str,
    **options: Any,
) -> Path:
    folder, data = context.folder("bank"), context.recipe.data
    network = network_folder.load_network(teacher).to(context.slices.device)
    variance = learns_uncertainty(context.recipe.student)
    summary = soft_labels.write_bank(
        folder,
        cases,
        predict=lambda case: predict(network, case),
        classes=data.classes,
        overlapping=data.overlapping,
        size=data.size,
        key=key,
        variance=variance,
        progress=file_progress(progress),
        log=log,
        **options,
    )
    log(f"bank: {summary.volumes} {files}, {summary.megabytes:.0f} MB, {summary.megabytes_per_volume:.2f} MB each")
    return folder


def _units(context: RunContext) -> Iterator[tuple[Case, SliceDataset, list[int]]]:
    """Each single frame, or each volume with the rows of its slices in order."""
    slices = context.slices
    for cases, stack in ((slices.cohort.labelled, slices.labelled), (slices.cohort.unlabelled, slices.unlabelled)):
        rows: dict[str, list[int]] = {}
        for row, case in enumerate(cases):
            rows.setdefault(soft_labels.unit_name(case), []).append(row)
        for name, unit in rows.items():
            first = cases[unit[0]]
            in_order = unit if first.slice is None else sorted(unit, key=lambda row: cases[row].slice or 0)
            yield replace(first, name=name, slice=None), stack, in_order


@torch.inference_mode()
def _probabilities(
    context: RunContext, network: nn.Module, stack: SliceDataset, rows: list[int]
) -> np.ndarray | TeacherPrediction:
    """float32 [n, C, H, W] of rows of a stack, normalised as in training; of an ensemble also the variance."""
    device, normalise = context.slices.device, context.slices.normalise
    kind = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(resolve_precision("auto", device))
    mean, variance = [], []
    for first in range(0, len(rows), _CHUNK):
        image = normalised(stack.frames(torch.tensor(rows[first : first + _CHUNK]), device), normalise)
        with torch.autocast(device.type, kind) if kind else nullcontext():
            if not isinstance(network, Ensemble):
                mean.append(probabilities_of(network, image).cpu())
                continue
            each = network.each(image)
        mean.append(each.mean(0).cpu())
        variance.append(between_variance(each, overlapping=network.overlapping).cpu())
    if not variance:
        return torch.cat(mean).numpy()
    return TeacherPrediction(torch.cat(mean).numpy(), torch.cat(variance).numpy())
