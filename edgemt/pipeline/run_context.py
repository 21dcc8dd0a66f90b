"""A recipe at work in a folder: the data, the measure and the voice that all stages share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import nn

import students
from deploy import export
from edgemt.artefacts import stage_folder
from edgemt.artefacts.fingerprints import Content, changes_of, digests_of, entries, key_of_entries, load_content
from edgemt.data.cohort import Cohort, DataOptions, find
from edgemt.data.reading import Reading
from edgemt.data.slice_dataset import Stack, TwoStream, load, statistics
from edgemt.data.soft_labels import read as read_bank
from edgemt.data.summary import on_card, reading_of, summary
from edgemt.inference.evaluate import EvalSet, Predict, evaluate, predict_masks, prepare, score
from edgemt.io import encoder_weights, process_rank
from edgemt.model_card import ModelCard, Normalisation
from edgemt.recipes import Recipe, check, teacher_dims
from edgemt.training import distributed, engine
from edgemt.training.options import Schedule
from edgemt.training.progress import file_progress

if TYPE_CHECKING:
    from edgemt.pipeline.volume_data import Volumetric


class Side(Protocol):
    """What a network learns from and is measured on: frames (`Run` itself) or whole volumes (`Volumetric`)."""

    @property
    def depends(self) -> dict[str, Any]:
        """The parts of the recipe that change what a network learns here, by name."""
        ...

    @property
    def measured_on(self) -> str:
        """Identifies the validation list, and how it is measured here."""
        ...

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def example(self) -> torch.Tensor:
        """One input of the network, [1, K, *space]."""
        ...

    def draw(
        self, schedule: Schedule, *, all_labels: bool = False, bank: Path | None = None, alike: bool = False
    ) -> engine.DrawBatch:
        """Batches by number."""
        ...

    def dice(self, network: nn.Module) -> float:
        """Mean Dice on the validation list, the cheap way: for the curve of a run."""
        ...

    def measured(self, network: nn.Module) -> dict[str, Any]:
        """Every metric on the validation list, for the card."""
        ...

    def card(self) -> ModelCard:
        """A card with all that is the same for every stage."""
        ...

    @property
    def device(self) -> torch.device:
        """Where networks are measured."""
        ...

    def say(self, text: str) -> None: ...


@dataclass(frozen=True)
class Run:
    """A recipe at work in a folder: what the stages share, read once and only if a stage needs it."""

    recipe: Recipe
    out: Path
    overwrite: bool = False  # replace what does not fit the recipe, instead of keeping it under another name

    @cached_property
    def cohort(self) -> Cohort:
        return find(self.recipe.data)

    def share_data(self, other: Run) -> Run:
        """`other`, which differs in seed or training alone, gets what was read and decoded here; returned."""
        read = ("cohort", "content", "reading", "labelled", "unlabelled", "val", "normalise")
        vars(other).update({name: value for name, value in vars(self).items() if name in read})
        return other

    @cached_property
    def content(self) -> Content:
        """The sha256 of every image and mask in use. All processes call it together; the first one hashes."""
        return self._content_of(self.cohort)

    @cached_property
    def content_of_all_labels(self) -> Content:
        """The same for the control that learns from every mask."""
        return self._content_of(self._every_label)

    def _content_of(self, cohort: Cohort) -> Content:
        def make() -> dict[str, Any]:
            root = self.recipe.data.root
            lists = (cohort.labelled, cohort.unlabelled, cohort.val)
            paths = (path for cases in lists for case in cases for path in (case.image, case.label or ""))
            digests = digests_of(paths, root=root)
            return asdict(Content(*(entries(cases, digests=digests, root=root) for cases in lists)))

        return Content.from_dict(distributed.run_on_main(make))

    @cached_property
    def files(self) -> str:
        """A fingerprint of the training data: which image and mask plays which part, by content."""
        return key_of_entries(self.content.labelled, self.content.unlabelled)

    @property
    def list_key(self) -> str:
        """A fingerprint of the validation list: images and masks by content, and how masks are read."""
        read = {k: v for k, v in as_read(self.recipe.data).items() if k not in ("size", "slices", "channels")}
        return stage_folder.key_of(key_of_entries(self.content.val), read)

    @property
    def measured_on(self) -> str:
        return self.list_key

    @cached_property
    def reading(self) -> Reading:
        """How the files are read, decided from all of them; what was found is said."""
        reading = reading_of(self.cohort, self.recipe.data)
        for line in summary(self.cohort, self.recipe.data, reading):
            self.say(line)
        return reading

    @cached_property
    def labelled(self) -> Stack:
        progress = file_progress("labelled images")
        return load(self.cohort.labelled, self.recipe.data, reading=self.reading, progress=progress)

    @cached_property
    def unlabelled(self) -> Stack:
        progress = file_progress("unlabelled images")
        return load(self.cohort.unlabelled, self.recipe.data, reading=self.reading, progress=progress)

    @cached_property
    def val(self) -> EvalSet:
        """The prepared validation list. Raises ValueError when no mask of it holds any foreground."""
        data = self.recipe.data
        prepared = prepare(
            self.cohort.val,
            size=data.size,
            channels=data.channels,
            slices=data.slices,
            classes=data.classes,
            reading=self.reading,
            progress=file_progress("validation images"),
        )
        if not any(truth.any() for truth in prepared.truths):
            raise ValueError(
                f"data.val: none of the {len(prepared)} masks of the validation list holds any class but "
                f"{data.classes[0]!r} (first {self.cohort.val[0].label}), so no Dice can be measured; put images with "
                "foreground on the list"
            )
        return replace(prepared, key=self.list_key)

    @cached_property
    def normalise(self) -> Normalisation:
        expected = self._expected_by_encoder()
        if expected is not None:
            return expected
        return statistics(self.labelled, self.unlabelled, per_image=self.recipe.per_image)

    def _expected_by_encoder(self) -> Normalisation | None:
        """The normalisation that the student's pretrained weights were trained with, where the recipe wants it.

        It follows from the recipe alone, not from which weights this machine has: teacher, student and the graph that
        ships see the same input.
        """
        student, wanted = self.recipe.student, self.recipe.normalise
        if wanted == "data" or (wanted == "auto" and (self.recipe.per_image or student.pretrained == "never")):
            return None
        expected = encoder_weights.expected_input(students.encoder_name(student.network))
        if expected is None:
            if wanted == "encoder":
                raise ValueError(
                    f"normalise: no input normalisation is documented for the weights of {student.network}; use data"
                )
            return None
        mean, std = (values if self.channels == 3 else (sum(values) / len(values),) for values in expected)
        if self.recipe.data.slices > 1 or self.channels == 1:
            return Normalisation(mean[:1], std[:1])
        return Normalisation(mean, std)

    @cached_property
    def device(self) -> torch.device:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @cached_property
    def volumetric(self) -> Volumetric:
        """The side of a 3-D teacher: the same cases as whole volumes."""
        from edgemt.pipeline.volume_data import Volumetric

        return Volumetric(self)

    @property
    def deep(self) -> bool:
        """Whether the teacher is a 3-D network."""
        return teacher_dims(self.recipe.teacher.network) == 3

    @property
    def depends(self) -> dict[str, Any]:
        of = self.recipe
        expected = self._expected_by_encoder()  # of the student: the teacher's input is normalised alike
        return {"data": as_read(of.data), "augment": of.augment, "per_image": of.per_image, "normalise": expected}

    @property
    def classes(self) -> tuple[str, ...]:
        return self.recipe.data.classes

    @property
    def channels(self) -> int:
        """K of a frame: its colours, or its neighbouring slices."""
        return self.recipe.data.frame_channels

    @property
    def example(self) -> torch.Tensor:
        return torch.zeros(1, self.channels, *self.recipe.data.size)

    def folder(self, stage: str) -> Path:
        return self.out / stage

    def draw(
        self, schedule: Schedule, *, all_labels: bool = False, bank: Path | None = None, alike: bool = False
    ) -> engine.DrawBatch:
        return self.stream(schedule, all_labels=all_labels, bank=bank, alike=alike).batch

    def stream(
        self, schedule: Schedule, *, all_labels: bool = False, bank: Path | None = None, alike: bool = False
    ) -> TwoStream:
        labelled, unlabelled = self.labelled, self.unlabelled
        rows = (schedule.labelled, schedule.unlabelled)
        if all_labels:  # the ceiling: the same number of rows, every one labelled
            labelled, unlabelled, rows = self.every_label, load((), self.recipe.data), (sum(rows), 0)
        elif bank is not None:  # what a 3-D teacher said of each slice goes along
            labelled, unlabelled = (
                replace(stack, soft=torch.as_tensor(read_bank(bank, cases)))
                for stack, cases in ((labelled, self.cohort.labelled), (unlabelled, self.cohort.unlabelled))
            )
        return TwoStream(
            labelled,
            unlabelled,
            batch_size=rows,
            augment=self.recipe.augment,
            normalise=self.normalise,
            seed=self.recipe.seed,
            alike=alike,
        )

    @cached_property
    def every_label(self) -> Stack:
        """Every training image with its mask: only for the control that shows the ceiling."""
        data = replace(self.recipe.data, depth=self.reading.depth.rule)
        return load(self._every_label.labelled, data, progress=file_progress("all labels"))

    @cached_property
    def _every_label(self) -> Cohort:
        data = self.recipe.data
        return find(replace(data, labelled="", phantom=_all_labelled(data.phantom)))

    def predict(self, network: nn.Module) -> Callable[[np.ndarray], np.ndarray]:
        """uint8 [N, H, W, K] -> uint8 [N, H, W] through the graph that ships, in torch."""
        whole = export.Shippable(network, normalise=self.normalise, channels=self.channels).to(self.device)

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

    def measured(self, network: nn.Module) -> dict[str, Any]:
        return record_of(self.predict(network), self.val)

    def card(self) -> ModelCard:
        data = self.recipe.data
        order = "slices" if data.slices > 1 else "RGB" if data.channels == 3 else "grey"
        return ModelCard(
            name=self.recipe.name,
            classes=data.classes,
            size=data.size,
            channels=self.channels,
            channel_order=order,
            normalise=self.normalise,
            data=on_card(data, self.cohort, self.reading),
        )

    def explain(self, old: str, new: str) -> str:
        """What differs between the data lists of two keys; empty where one of them is not recorded."""
        one, other = (load_content(self.list_file(key)) for key in (old, new))
        return ", ".join(changes_of(one, other, "labelled", "unlabelled", "val")) if one and other else ""

    def list_file(self, key: str) -> Path:
        """Where the content of the data lists with this key is recorded."""
        return self.out / ".lists" / f"{key}.json"

    def say(self, text: str) -> None:
        """On stderr, once however many processes there are."""
        if process_rank.is_main_process():
            print(text, file=sys.stderr, flush=True)


def record_of(predict: Predict, cases: EvalSet) -> dict[str, Any]:
    """Every metric of `predict` on a prepared list, as the card holds it; volumes also after clean-up.

    `list` identifies the list by its content: two figures may be compared when they have the same.
    """
    masks = predict_masks(predict, cases)
    record = score(masks, cases, distances=True).to_json() | ({"list": cases.key} if cases.key else {})
    if any(truth.ndim == 3 for truth in cases.truths):
        cleaned = score(masks, cases, distances=True, largest=True)
        record["largest_component"] = {"dice": cleaned.dice, "hd95": cleaned.mean("hd95"), "asd": cleaned.mean("asd")}
    return record


def measured_of(folder: Path, *, measured_on: str) -> dict[str, Any]:
    """What the card in `folder` states of its network.

    Raises ValueError when that was measured on another validation list: no drop is computed between two lists.
    """
    measured = stage_folder.read_card(folder).measured[stage_folder.WEIGHTS]
    if measured.get("list", measured_on) != measured_on:
        raise ValueError(
            f"{folder}: was measured on another validation list than this run's; run the recipe from its first stage"
        )
    return measured


_ROLES = (
    *("root", "layout", "labelled", "unlabelled", "val", "val_in_training", "seed", "labelled_seed"),
    *("patient_pattern", "phantom"),
)


def as_read(data: DataOptions) -> dict[str, Any]:
    """The options that change how a file becomes an array. Which file plays which part is in the lists' content."""
    return {name: value for name, value in stage_folder.plain(data).items() if name not in (*_ROLES, "is")}


def start(recipe: Recipe, out: Path, *, overwrite: bool = False) -> Run:
    """Raises ValueError for a recipe whose parts do not fit together."""
    check(recipe)
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    return Run(recipe, out, overwrite)


def _chunks(frames: np.ndarray, size: int) -> Sequence[np.ndarray]:
    return [frames[i : i + size] for i in range(0, len(frames), size)]


def _all_labelled(counts: tuple[int, int, int]) -> tuple[int, int, int]:
    return (counts[0] + counts[1], 0, counts[2])
