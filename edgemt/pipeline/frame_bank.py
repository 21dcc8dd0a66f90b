"""The bank of a 2-D teacher: its class probabilities of every training frame, predicted once before the student learns.

A student's step then runs no teacher: with an ensemble as teacher this is most of a step. The teacher predicts the
frame as it is; each batch augments image and probabilities by the same transform.

Shapes: n frames, K image channels, C classes, H W the frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from edgemt.artefacts import network_folder, reuse, stage_folder
from edgemt.contract import Case
from edgemt.data import soft_labels
from edgemt.data.augment2d import normalised
from edgemt.data.slice_dataset import Stack
from edgemt.learning import losses
from edgemt.pipeline.run_context import Run
from edgemt.training.device import resolve_precision
from edgemt.training.progress import file_progress

_CHUNK = 16  # frames of one forward pass


def fill_bank(at: Run, teacher: Path) -> Path:
    """The folder `bank` with the teacher's probabilities of all labelled and unlabelled frames; resumed if interrupted.

    The slices of a volume share a file. Raises ValueError for two images of one name and for a full disk.
    """
    folder, data = at.folder("bank"), at.recipe.data
    inputs = {"teacher": stage_folder.identity(teacher), **at.depends, "training data": at.files}
    key = stage_folder.key_of(inputs)
    reuse.make_way(folder, inputs=inputs, say=at.say, overwrite=at.overwrite, explain=at.explain)
    units = list(_units(at))
    found = {id(unit): (stack, rows) for unit, stack, rows in units}
    network = network_folder.load_network(teacher).to(at.device)
    summary = soft_labels.fill(
        folder,
        [unit for unit, _, _ in units],
        label=lambda unit: _probabilities(at, network, *found[id(unit)]),
        classes=data.classes,
        size=data.size,
        key=key,
        depth=lambda unit: len(found[id(unit)][1]),
        progress=file_progress("images labelled by the teacher"),
        say=at.say,
    )
    at.say(f"bank: {summary.volumes} files, {summary.megabytes:.0f} MB, {summary.megabytes_per_volume:.2f} MB each")
    return folder


def _units(at: Run) -> Iterator[tuple[Case, Stack, list[int]]]:
    """Each single frame, or each volume with the rows of its slices in order."""
    for cases, stack in ((at.cohort.labelled, at.labelled), (at.cohort.unlabelled, at.unlabelled)):
        rows: dict[str, list[int]] = {}
        for row, case in enumerate(cases):
            rows.setdefault(soft_labels.unit_name(case), []).append(row)
        for name, mine in rows.items():
            first = cases[mine[0]]
            in_order = mine if first.slice is None else sorted(mine, key=lambda row: cases[row].slice or 0)
            yield replace(first, name=name, slice=None), stack, in_order


@torch.inference_mode()
def _probabilities(at: Run, network: nn.Module, stack: Stack, rows: list[int]) -> np.ndarray:
    """float32 [n, C, H, W] of rows of a stack, normalised as in training."""
    kind = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(resolve_precision("auto", at.device))
    parts = []
    for first in range(0, len(rows), _CHUNK):
        image = normalised(stack.frames(torch.tensor(rows[first : first + _CHUNK]), at.device), at.normalise)
        with torch.autocast(at.device.type, kind) if kind else nullcontext():
            logits = network(image).logits
        parts.append(losses.probabilities(logits).cpu())
    return torch.cat(parts).numpy()
