"""A recipe at work in a folder: the data, the measure and the voice that all stages share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import nn

from deploy import export
from edgemt import artefact, engine
from edgemt.contract import Normalise
from edgemt.data.layouts import Cohort, find
from edgemt.data.stream import Stack, TwoStream, load, statistics
from edgemt.evaluate import EvalSet, evaluate, prepare
from edgemt.progress import counter
from edgemt.recipes import Recipe


@dataclass(frozen=True)
class Run:
    """A recipe at work in a folder: what the stages share, read once and only if a stage needs it."""

    recipe: Recipe
    out: Path

    @cached_property
    def cohort(self) -> Cohort:
        return find(self.recipe.data)

    @cached_property
    def files(self) -> str:
        """A fingerprint of the data: which file plays which part, and its size."""
        parts = [(case.name, case.image, case.label) for case in (*self.cohort.labelled, *self.cohort.unlabelled)]
        sizes = {path: Path(path).stat().st_size for part in parts for path in part[1:] if path and Path(path).exists()}
        return artefact.key_of([part[0] for part in parts], sorted(sizes.values()))

    @cached_property
    def labelled(self) -> Stack:
        return load(self.cohort.labelled, self.recipe.data, progress=counter("labelled images"))

    @cached_property
    def unlabelled(self) -> Stack:
        return load(self.cohort.unlabelled, self.recipe.data, progress=counter("unlabelled images"))

    @cached_property
    def val(self) -> EvalSet:
        data = self.recipe.data
        return prepare(
            self.cohort.val,
            size=data.size,
            channels=data.channels,
            classes=data.classes,
            mask_threshold=data.mask_threshold,
            progress=counter("validation images"),
        )

    @cached_property
    def normalise(self) -> Normalise:
        return statistics(self.labelled, self.unlabelled, per_image=self.recipe.per_image)

    @cached_property
    def device(self) -> torch.device:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def example(self) -> torch.Tensor:
        return torch.zeros(1, self.recipe.data.channels, *self.recipe.data.size)

    def folder(self, stage: str) -> Path:
        return self.out / stage

    def stream(self, schedule: engine.Schedule, *, all_labels: bool = False) -> TwoStream:
        labelled, unlabelled = self.labelled, self.unlabelled
        rows = (schedule.labelled, schedule.unlabelled)
        if all_labels:  # the ceiling: the same number of rows, every one labelled
            labelled, unlabelled, rows = self.every_label, load((), self.recipe.data), (sum(rows), 0)
        return TwoStream(
            labelled,
            unlabelled,
            batch_size=rows,
            augment=self.recipe.augment,
            normalise=self.normalise,
            seed=self.recipe.seed,
        )

    @cached_property
    def every_label(self) -> Stack:
        """Every training image with its mask: only for the control that shows the ceiling."""
        everything = find(replace(self.recipe.data, labelled="", phantom=_all_labelled(self.recipe.data.phantom)))
        return load(everything.labelled, self.recipe.data, progress=counter("all labels"))

    def predict(self, network: nn.Module) -> Callable[[np.ndarray], np.ndarray]:
        """uint8 [N, H, W, K] -> uint8 [N, H, W] through the graph that ships, in torch."""
        whole = export.Shippable(network, normalise=self.normalise, channels=self.recipe.data.channels).to(self.device)

        @torch.inference_mode()
        def masks(frames: np.ndarray) -> np.ndarray:
            was_training = network.training
            network.eval()
            parts = [whole(torch.from_numpy(part).to(self.device)).cpu().numpy() for part in _chunks(frames, 16)]
            network.train(was_training)
            return np.concatenate(parts)

        return masks

    def dice(self, network: nn.Module) -> float:
        return evaluate(self.predict(network), self.val, dice_only=True).dice

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


def start(recipe: Recipe, out: Path) -> Run:
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    return Run(recipe, out)


def _chunks(frames: np.ndarray, size: int) -> Sequence[np.ndarray]:
    return [frames[i : i + size] for i in range(0, len(frames), size)]


def _all_labelled(counts: tuple[int, int, int]) -> tuple[int, int, int]:
    return (counts[0] + counts[1], 0, counts[2])
