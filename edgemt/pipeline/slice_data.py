"""The frames of a recipe: read once, drawn as batches, and the validation list that 2-D networks are measured on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from deploy import export
from edgemt.artefacts import stage_folder
from edgemt.artefacts.fingerprints import Content, digests_of, entries, key_of_entries
from edgemt.contract import IGNORE, Case, UncertaintySource
from edgemt.data.cohort import DatasetSplit, split_dataset
from edgemt.data.reading import Reading
from edgemt.data.slice_dataset import SliceDataset, TwoStreamBatches, load_slices, slice_statistics
from edgemt.data.soft_labels import read_bank as read_bank
from edgemt.data.soft_labels import read_variance
from edgemt.data.summary import as_decided, on_card, reading_of, summary
from edgemt.inference.evaluate import EvalSet, evaluate, evaluation_record, prepare
from edgemt.inference.evaluate_uncertainty import entropy_record, uncertainty_record
from edgemt.io.channels import ORDER, fill_values
from edgemt.learning.pseudo_labels import probabilities_of
from edgemt.model_card import FileMetrics, ModelCard, Normalisation
from edgemt.pipeline.corruptions import training_corruptions
from edgemt.pipeline.encoder_normalisation import expected_by_encoder
from edgemt.pipeline.log import log
from edgemt.pipeline.recipe import Recipe, learns_uncertainty
from edgemt.pipeline.training_data import as_read
from edgemt.training import distributed, engine
from edgemt.training.options import Schedule
from edgemt.training.progress import file_progress


@dataclass(frozen=True)
class SliceData:
    """The frames of a recipe; each property is computed once, when a stage first needs it."""

    recipe: Recipe

    @cached_property
    def cohort(self) -> DatasetSplit:
        return split_dataset(self.recipe.data)

    def share_with(self, other: SliceData) -> None:
        """Give `other`, of the same data options, what was read and decoded here."""
        read = {"cohort", "content", "reading", "labelled", "unlabelled", "val", "normalise", "calibration"}
        read |= {"labelled_as_read", "unlabelled_as_read"}
        vars(other).update({name: value for name, value in vars(self).items() if name in read})

    @cached_property
    def content(self) -> Content:
        """The sha256 of every image and mask in use. All processes call it together; the first one hashes."""
        return self._content_of(self.cohort)

    @cached_property
    def content_of_all_labels(self) -> Content:
        """The same for the control that learns from every mask."""
        return self._content_of(self._fully_labelled_cohort)

    def _content_of(self, cohort: DatasetSplit) -> Content:
        def make() -> dict[str, Any]:
            root = self.recipe.data.root
            lists = (cohort.labelled, cohort.unlabelled, cohort.val)
            paths = (path for cases in lists for case in cases for path in (*case.files, *case.label_files))
            digests = digests_of(paths, root=root)
            return asdict(Content(*(entries(cases, digests=digests, root=root) for cases in lists)))

        return Content.from_dict(distributed.run_on_main(make))

    @cached_property
    def data_fingerprint(self) -> str:
        """A fingerprint of the training data: which image and mask plays which part, by content."""
        return key_of_entries(self.content.labelled, self.content.unlabelled)

    @property
    def list_key(self) -> str:
        """A fingerprint of the validation list: images and masks by content, and how masks are read."""
        of_training = ("size", "slices", "channels", "class_weights")
        read = {k: v for k, v in as_read(self.recipe.data).items() if k not in of_training}
        return stage_folder.key_of(key_of_entries(self.content.val), read)

    @property
    def measured_on(self) -> str:
        return self.list_key

    @cached_property
    def reading(self) -> Reading:
        """How the files are read, decided from all of them; logs a summary."""
        reading = reading_of(self.cohort, self.recipe.data)
        for line in summary(self.cohort, self.recipe.data, reading):
            log(line)
        return reading

    @cached_property
    def labelled(self) -> SliceDataset:
        """The labelled images; a channel that a case lacks is the mean of the data set."""
        stack = self.labelled_as_read
        return stack if stack.missing is None else stack.filled(self.normalise.mean)

    @cached_property
    def unlabelled(self) -> SliceDataset:
        """The unlabelled images, as `labelled`."""
        stack = self.unlabelled_as_read
        return stack if stack.missing is None else stack.filled(self.normalise.mean)

    @cached_property
    def labelled_as_read(self) -> SliceDataset:
        """As decoded, with 0 where a case lacks a channel."""
        progress = file_progress("labelled images")
        return load_slices(self.cohort.labelled, self.recipe.data, reading=self.reading, progress=progress)

    @cached_property
    def unlabelled_as_read(self) -> SliceDataset:
        """As decoded, with 0 where a case lacks a channel."""
        progress = file_progress("unlabelled images")
        return load_slices(self.cohort.unlabelled, self.recipe.data, reading=self.reading, progress=progress)

    @cached_property
    def calibration(self) -> EvalSet:
        """The prepared calibration list, for the margins of the contours. Raises ValueError where there is none."""
        return self._prepared(self.cohort.calibration, "calibration images")

    def _prepared(self, cases: Sequence[Case], what: str) -> EvalSet:
        data = self.recipe.data
        return prepare(
            cases,
            size=data.size,
            channels=sum(data.planes),
            slices=data.slices,
            classes=data.classes,
            channel_names=data.channel_names,
            fill=self.fill,
            values=data.mask_values,
            reading=self.reading,
            progress=file_progress(what),
        )

    @property
    def fill(self) -> np.ndarray | None:
        """uint8 [K]: what stands for a channel that a case lacks; None where each case has all of them."""
        if self.recipe.data.missing_channels == "refuse":
            return None
        return fill_values(self.normalise.mean[:: self.recipe.data.slices], sum(self.recipe.data.planes))

    @cached_property
    def val(self) -> EvalSet:
        """The prepared validation list. Raises ValueError when no mask of it holds any foreground."""
        data, prepared = self.recipe.data, self._prepared(self.cohort.val, "validation images")
        if not any(((truth > 0) & (truth != IGNORE)).any() for truth in prepared.truths):
            raise ValueError(
                f"data.val: none of the {len(prepared)} masks of the validation list holds any class but "
                f"{data.classes[0]!r} (first {self.cohort.val[0].label}), so no Dice can be measured; put images with "
                "foreground on the list"
            )
        return replace(prepared, key=self.list_key)

    @cached_property
    def normalise(self) -> Normalisation:
        expected = expected_by_encoder(self.recipe)
        if expected is not None:
            return expected
        lacking = self.recipe.data.missing_channels != "refuse"
        stacks = (self.labelled_as_read, self.unlabelled_as_read) if lacking else (self.labelled, self.unlabelled)
        return slice_statistics(*stacks, per_image=self.recipe.per_image)

    @cached_property
    def device(self) -> torch.device:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def cache_inputs(self) -> dict[str, Any]:
        of = self.recipe
        expected = expected_by_encoder(
            self.recipe
        )  # of the student: the teacher's input is normalised as the student's
        return {"data": as_read(of.data), "augment": of.augment, "per_image": of.per_image, "normalise": expected}

    @property
    def classes(self) -> tuple[str, ...]:
        return self.recipe.data.classes

    @property
    def overlapping(self) -> bool:
        return self.recipe.data.overlapping

    @property
    def channels(self) -> int:
        """K of a frame: its colours or channels, with their neighbouring slices."""
        return self.recipe.data.frame_channels

    @property
    def example(self) -> torch.Tensor:
        return torch.zeros(1, self.channels, *self.recipe.data.size)

    def draw(
        self, schedule: Schedule, *, all_labels: bool = False, bank: Path | None = None, alike: bool = False
    ) -> engine.DrawBatch:
        return self.stream(schedule, all_labels=all_labels, bank=bank, alike=alike).batch

    def stream(
        self,
        schedule: Schedule,
        *,
        all_labels: bool = False,
        bank: Path | None = None,
        alike: bool = False,
        corrupt: bool = True,
    ) -> TwoStreamBatches:
        """The batches; without `corrupt` those that hold no corruptions, whatever `augment.corruptions` names."""
        labelled, unlabelled = self.labelled, self.unlabelled
        rows = (schedule.labelled, schedule.unlabelled)
        if all_labels:  # the ceiling: the same number of rows, every one labelled
            labelled, unlabelled, rows = self.fully_labelled, load_slices((), self.recipe.data), (sum(rows), 0)
        elif bank is not None:  # with the stored probabilities of each slice
            labelled, unlabelled = (
                self._with_predictions(stack, bank, cases)
                for stack, cases in ((labelled, self.cohort.labelled), (unlabelled, self.cohort.unlabelled))
            )
        return TwoStreamBatches(
            labelled,
            unlabelled,
            batch_size=rows,
            augment=self.recipe.augment,
            normalise=self.normalise,
            seed=self.recipe.seed,
            alike=alike,
            corruptions=self.corruptions if corrupt else (),
            rules=self.recipe.data.label_rules,
            planes=self.recipe.data.frame_planes,
        )

    def _with_predictions(self, stack: SliceDataset, bank: Path, cases: Sequence[Case]) -> SliceDataset:
        """The stack with the bank's probabilities of its cases, and with the deviation where the student needs it."""
        stack = replace(stack, soft=torch.as_tensor(read_bank(bank, cases)))
        if not learns_uncertainty(self.recipe.student):
            return stack
        return replace(stack, deviation=torch.as_tensor(read_variance(bank, cases)))

    @cached_property
    def corruptions(self) -> tuple[str, ...]:
        """The kinds of corruption in the batches; logs them."""
        of_volumes = any(case.slice is not None for case in self.cohort.labelled)
        names = training_corruptions(self.recipe, of_volumes=of_volumes)
        if names:
            augment = self.recipe.augment
            views = f"{augment.corrupt_strong:g} of the strong views" if augment.strong else "there are no strong views"
            log(
                f"augment.corruptions: {', '.join(names)}; {views}, {augment.corrupt_labelled:g} of the labelled images"
            )
        return names

    @cached_property
    def fully_labelled(self) -> SliceDataset:
        """Every training image with its mask: only for the control that shows the ceiling."""
        data = as_decided(self.recipe.data, self.reading)
        stack = load_slices(self._fully_labelled_cohort.labelled, data, progress=file_progress("all labels"))
        return stack if stack.missing is None else stack.filled(self.normalise.mean)

    @property
    def all_labelled(self) -> tuple[Case, ...]:
        """The cases of `fully_labelled`."""
        return self._fully_labelled_cohort.labelled

    @cached_property
    def _fully_labelled_cohort(self) -> DatasetSplit:
        data = self.recipe.data
        return split_dataset(replace(data, labelled="", phantom=_all_labelled(data.phantom)))

    def predict(self, network: nn.Module) -> Callable[[np.ndarray], np.ndarray]:
        """uint8 [N, H, W, K] -> uint8 [N, H, W] through the graph that ships, in torch."""
        whole = export.DeployableModel(network, normalise=self.normalise, channels=self.channels).to(self.device)

        @torch.inference_mode()
        def masks(frames: np.ndarray) -> np.ndarray:
            was_training = network.training
            network.eval()
            parts = [
                whole(torch.from_numpy(frames[i : i + 16]).to(self.device)).cpu().numpy()
                for i in range(0, len(frames), 16)
            ]
            network.train(was_training)
            return np.concatenate(parts)

        return masks

    def predict_with_uncertainty(
        self, network: nn.Module, source: UncertaintySource = "head"
    ) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
        """uint8 [N, H, W, K] -> masks and maps uint8 [N, H, W] through the graph that ships, in torch."""
        options: dict[str, Any] = {"normalise": self.normalise, "channels": self.channels, "uncertainty": source}
        whole = export.DeployableModel(network, **options).to(self.device)

        @torch.inference_mode()
        def both(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            network.eval()
            mask, uncertainty = whole(torch.from_numpy(frames).to(self.device))
            return mask.cpu().numpy(), uncertainty.cpu().numpy()

        return both

    def class_probabilities(self, network: nn.Module) -> Callable[[np.ndarray], np.ndarray]:
        """uint8 [N, H, W, K] -> softmax float32 [N, C, H, W] of a float network."""
        whole = export.DeployableModel(network, normalise=self.normalise, channels=self.channels).to(self.device)

        @torch.inference_mode()
        def probs(frames: np.ndarray) -> np.ndarray:
            network.eval()
            image = whole.normalised(torch.from_numpy(frames).to(self.device))
            return probabilities_of(network, image).cpu().numpy()

        return probs

    def dice(self, network: nn.Module) -> float:
        return evaluate(self.predict(network), self.val, dice_only=True).dice

    def measured(self, network: nn.Module) -> FileMetrics:
        metrics = evaluation_record(self.predict(network), self.val)
        if not export.has_uncertainty(network):
            return metrics
        probs = self.class_probabilities(network)
        return replace(
            metrics,
            uncertainty=self.measured_uncertainty(network, "head"),
            softmax_entropy=entropy_record(
                probs, self.val.frames, self.val.frame_truths(), overlapping=self.overlapping
            ),
        )

    def measured_uncertainty(self, network: nn.Module, source: UncertaintySource) -> dict[str, float | None]:
        """How well an uncertainty of the float network finds wrong pixels of the validation list."""
        predict = self.predict_with_uncertainty(network, source)
        return uncertainty_record(predict, self.val.frames, self.val.frame_truths())

    def card(self) -> ModelCard:
        data = self.recipe.data
        order = "slices" if data.slices > 1 else "RGB" if data.colour else "grey"
        return ModelCard(
            name=self.recipe.name,
            classes=data.classes,
            size=data.size,
            channels=self.channels,
            channel_order=ORDER if data.channel_names else order,
            normalise=self.normalise,
            data=on_card(data, self.cohort, self.reading),
            overlapping=data.overlapping,
        )


def evenly_spaced(rows: np.ndarray, count: int) -> np.ndarray:
    """At most `count` rows, evenly spaced, the first and the last among them. [N, ...] -> [n, ...]."""
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)]


def _all_labelled(counts: tuple[int, int, int]) -> tuple[int, int, int]:
    return (counts[0] + counts[1], 0, counts[2])
