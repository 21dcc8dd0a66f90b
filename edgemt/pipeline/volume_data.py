"""A 3-D teacher at work: it learns from patches, sees volumes through a sliding window, and labels every slice.

Shapes: K channels, X Y Z a volume, S its slices (Z), C classes, H W the student's frame.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgemt.artefacts import stage_folder
from edgemt.contract import Case
from edgemt.data.cohort import DatasetSplit, split_dataset
from edgemt.data.reading import Reading
from edgemt.data.summary import as_decided, on_card, reading_of
from edgemt.data.volume_dataset import (
    TwoStreamPatches,
    VolumeDataset,
    load_volumes,
    resize_to_original,
    volume_statistics,
)
from edgemt.inference.evaluate import means_of, metrics_of, score
from edgemt.inference.sliding_window import count_windows, probabilities
from edgemt.io.channels import ORDER
from edgemt.model_card import FileMetrics, ModelCard, Normalisation
from edgemt.pipeline.recipe import Recipe
from edgemt.pipeline.slice_data import SliceData
from edgemt.pipeline.training_data import as_read
from edgemt.training import engine
from edgemt.training.device import resolve_precision
from edgemt.training.options import Schedule
from edgemt.training.progress import file_progress

LABELLING = ("stride", "blend")  # of VolumeOptions: how a volume is covered with windows
_MEASURING = (*LABELLING, "report_stride", "largest_component")  # and what the final figures are taken of


def class_bits_of(p: Tensor) -> Tensor:
    """Probabilities [C, *space] of overlapping classes -> uint8 [*space]: bit k where p_k is above 0.5."""
    values = 2 ** torch.arange(len(p), device=p.device).view(-1, *[1] * (p.ndim - 1))
    return ((p > 0.5) * values).sum(0).to(torch.uint8)


@dataclass(frozen=True)
class VolumeData:
    """The volumes behind a run's slices, and what a 3-D network does with them."""

    slices: SliceData

    @property
    def recipe(self) -> Recipe:
        return self.slices.recipe

    @cached_property
    def cohort(self) -> DatasetSplit:
        return split_dataset(self.recipe.data, whole_volumes=True)

    @property
    def cache_inputs(self) -> dict[str, Any]:
        """Without frame size and neighbours, which are the student's, and without what only measures and labels."""
        of = self.recipe
        data = {name: value for name, value in as_read(of.data).items() if name not in ("size", "slices")}
        volume = {name: value for name, value in stage_folder.plain(of.volume).items() if name not in _MEASURING}
        inputs = {"data": data, "volume": volume, "per_image": of.per_image}
        return inputs | {"drop_channel": of.augment.drop_channel} if of.augment.drop_channel else inputs

    @property
    def measured_on(self) -> str:
        volume = stage_folder.plain(self.recipe.volume)
        return stage_folder.key_of(self.slices.list_key, {name: volume[name] for name in _MEASURING})

    @property
    def classes(self) -> tuple[str, ...]:
        return self.recipe.data.classes

    @property
    def overlapping(self) -> bool:
        return self.recipe.data.overlapping

    @property
    def example(self) -> Tensor:
        return torch.zeros(1, self.channels, *self.recipe.volume.patch)

    @property
    def channels(self) -> int:
        """K: the named channels of a case, or 1. Neighbouring slices are the student's."""
        return sum(self.recipe.data.planes) if self.recipe.data.channel_names else 1

    @property
    def device(self) -> torch.device:
        return self.slices.device

    @cached_property
    def labelled(self) -> VolumeDataset:
        """The labelled volumes; a channel that a case lacks is the mean of the data set."""
        stack = self.labelled_as_read
        return stack if stack.missing is None else stack.filled(self.normalise.mean)

    @cached_property
    def unlabelled(self) -> VolumeDataset:
        """The unlabelled volumes, as `labelled`."""
        stack = self.unlabelled_as_read
        return stack if stack.missing is None else stack.filled(self.normalise.mean)

    @cached_property
    def labelled_as_read(self) -> VolumeDataset:
        return self._load(self.cohort.labelled, "labelled volumes")

    @cached_property
    def unlabelled_as_read(self) -> VolumeDataset:
        return self._load(self.cohort.unlabelled, "unlabelled volumes")

    @cached_property
    def val(self) -> VolumeDataset:
        return self._load(tuple(replace(case, label=None) for case in self.cohort.val), "validation volumes")

    @cached_property
    def normalise(self) -> Normalisation:
        return volume_statistics(self.labelled_as_read, self.unlabelled_as_read, per_image=self.recipe.per_image)

    def draw(
        self, schedule: Schedule, *, all_labels: bool = False, bank: Path | None = None, alike: bool = False
    ) -> engine.DrawBatch:
        if bank is not None:
            raise ValueError("teacher.method: a teacher cannot learn from the bank that it fills; choose another")
        labelled, unlabelled, rows = self.labelled, self.unlabelled, (schedule.labelled, schedule.unlabelled)
        if all_labels:
            data = self.recipe.data
            every = split_dataset(replace(data, labelled=""), whole_volumes=True).labelled
            reading = reading_of(replace(self.cohort, labelled=every), as_decided(data, self.slices.reading))
            labelled, unlabelled = self._load(every, "all labels", reading), self._load((), "")
            rows = (sum(rows), 0)
        return TwoStreamPatches(
            labelled.to(self.slices.device),
            unlabelled.to(self.slices.device),
            batch_size=rows,
            volume=self.recipe.volume,
            normalise=self.normalise,
            seed=self.recipe.seed,
            rules=self.recipe.data.label_rules,
            alike=alike,
            drop_channel=self.recipe.augment.drop_channel,
        ).batch

    def dice(self, network: nn.Module) -> float:
        """With the quick stride."""
        return score(self.masks(network, stride=self.recipe.volume.stride), self.slices.val, dice_only=True).dice

    def measured(self, network: nn.Module) -> FileMetrics:
        """With the reporting stride, before and after the largest component alone is kept."""
        volume = self.recipe.volume
        masks = self.masks(network, stride=volume.report_stride, progress=True)
        plain, cleaned = (score(masks, self.slices.val, distances=True, largest=largest) for largest in (False, True))
        chosen = cleaned if volume.largest_component else plain
        windows = [count_windows(image.shape[1:], patch=volume.patch, stride=volume.stride) for image in self.val.image]
        return replace(
            metrics_of(chosen),
            largest_component=means_of(cleaned),
            without_clean_up=means_of(plain),
            stride=volume.report_stride,
            windows_per_volume=float(np.mean(windows)),
            list_key=self.slices.list_key,
            measured_on=self.measured_on,
        )

    def card(self) -> ModelCard:
        data = self.recipe.data
        return ModelCard(
            name=self.recipe.name,
            classes=data.classes,
            patch=self.recipe.volume.patch,
            channels=self.channels,
            channel_order=ORDER if data.channel_names else "grey",
            normalise=self.normalise,
            data=on_card(data, self.cohort, self.slices.reading),
            overlapping=data.overlapping,
        )

    def masks(self, network: nn.Module, *, stride: tuple[int, int, int], progress: bool = False) -> list[np.ndarray]:
        """uint8 [S, X, Y] of each validation volume, at its own size."""
        progress_bar = file_progress("volumes measured") if progress else None
        found = []
        for index, shape in enumerate(self.val.shapes):
            p = self._probabilities(network, self.val, index, stride=stride)
            whole = resize_to_original(p, shape)
            label = class_bits_of(whole) if self.overlapping else whole.argmax(0).to(torch.uint8)
            found.append(np.moveaxis(label.cpu().numpy(), -1, 0))
            if progress_bar is not None:
                progress_bar(index + 1, len(self.val))
        return found

    def slice_probabilities(self, network: nn.Module, case: Case) -> np.ndarray:
        """float32 [S, C, H, W]: the class probabilities of each slice at the student's frame size."""
        stack = self._load((replace(case, label=None),), "")
        p = self._probabilities(network, stack, 0, stride=self.recipe.volume.stride)
        depth = stack.shapes[0][2]
        size = (*self.recipe.data.size, depth)
        fitted = resize_to_original(p, size)
        return fitted.permute(3, 0, 1, 2).cpu().numpy()

    def _probabilities(
        self, network: nn.Module, stack: VolumeDataset, index: int, *, stride: tuple[int, int, int]
    ) -> Tensor:
        volume = self.recipe.volume
        kind = resolve_precision("auto", self.slices.device)
        return probabilities(
            network,
            stack.image[index],
            missing=None if stack.missing is None else stack.missing[index],
            patch=volume.patch,
            stride=stride,
            blend=volume.blend,
            normalise=self.normalise,
            device=self.slices.device,
            classes=self.recipe.data.outputs,
            precision={"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(kind),
        )

    def _load(self, cases: tuple[Case, ...], what: str, reading: Reading | None = None) -> VolumeDataset:
        progress = file_progress(what) if what else None
        data, reading = self.recipe.data, reading or self.slices.reading
        return load_volumes(cases, data, self.recipe.volume, reading=reading, progress=progress)
