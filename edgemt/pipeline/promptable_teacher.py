"""The promptable network that a method gets as its second teacher: a SAM, or a small one that the run trains itself.

Shapes: K channels, H W a frame, X Y Z a volume.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgemt.artefacts.network_folder import PROMPTABLE, load_promptable
from edgemt.io import process_rank
from edgemt.learning.sam_guidance import PromptableTeacherOptions
from edgemt.methods import Method
from edgemt.methods.promptable_supervised import PromptableSupervised
from edgemt.pipeline.log import log
from edgemt.pipeline.run_context import RunContext
from edgemt.pipeline.stage import Stage
from edgemt.pipeline.training_data import TrainingData
from edgemt.training import distributed
from edgemt.training.options import Schedule
from edgemt.training.progress import file_progress
from teachers.embeddings import CachedEncoderSam, EmbeddingStore
from teachers.promptable import Promptable

SMALL, VOLUME_ROWS = "small", 2


@dataclass(frozen=True)
class PromptableTeacher:
    """A promptable network that a stage needs: its fingerprint, and how to get it ready."""

    fingerprint: str  # of the network, for the inputs of the stage
    prepare: Callable[[], Callable[[], nn.Module]]  # train or embed what is missing; returns the network's builder


def find_promptable(context: RunContext, data: TrainingData, method: Method) -> PromptableTeacher:
    """The network that the method's option `second` names. Nothing is trained or embedded yet.

    Raises ValueError for a SAM whose weights cannot be had.
    """
    options: PromptableTeacherOptions = getattr(method, "second", PromptableTeacherOptions())
    if options.model == SMALL:
        stage = Stage(context, PROMPTABLE, _small_inputs(context, data, options), data)
        return PromptableTeacher(stage.key, lambda: partial(load_promptable, _train_small(stage, options)))
    from teachers import sam

    fingerprint = sam.identity(options.model)
    return PromptableTeacher(fingerprint, lambda: _cached_sam(context, data, options, fingerprint))


def _small_inputs(context: RunContext, data: TrainingData, options: PromptableTeacherOptions) -> dict[str, Any]:
    of = context.recipe.teacher.schedule
    return {
        "stage": PROMPTABLE,
        "lessons": options.pretrain_steps,
        "teacher": {"schedule": {"labelled": of.labelled, "precision": of.precision}},
        "network": _spec(data),
        **data.cache_inputs,
        "seed": context.recipe.seed,
        "training data": context.slices.data_fingerprint,
    }


def _spec(data: TrainingData) -> dict[str, Any]:
    """The network's description for the card; `load_promptable` reads it."""
    room = {"room": "teachers", "name": PROMPTABLE, "heads": [], "options": {}}
    return {**room, "channels": data.example.shape[1], "classes": len(data.classes)}


def _train_small(stage: Stage, options: PromptableTeacherOptions) -> Path:
    """The folder of the small promptable network, trained from labelled images alone."""
    if stage.is_complete():
        log(f"{PROMPTABLE}: stands")
        return stage.folder
    data, of = stage.training_data, stage.context.recipe.teacher.schedule
    rows = VOLUME_ROWS if data.example.ndim == 5 else of.labelled
    schedule = Schedule(
        steps=options.pretrain_steps,
        labelled=rows,
        unlabelled=0,
        learning_rate=1e-3,
        precision=of.precision,
        validations=0,
    )
    network = _spec(data)
    with stage.working_folder() as working:
        done = stage.train(
            PromptableSupervised(classes=len(data.classes)),
            networks={"promptable": partial(Promptable, channels=network["channels"])},
            draw=data.draw(schedule),
            schedule=schedule,
            folder=working,
            validate=False,
        )
        if process_rank.is_main_process():
            stage.save(working, done, network, params=sum(p.numel() for p in done.network.parameters()))
            log(f"{PROMPTABLE}: overlap with the labels at the end {_last(done.history):.3f}")
    return stage.folder


def _last(history: dict[str, Any]) -> float:
    """Mean of the last five recorded overlaps."""
    last = history["terms"].get("iou", [])[-5:]
    return sum(last) / len(last) if last else float("nan")


def _cached_sam(
    context: RunContext, data: TrainingData, options: PromptableTeacherOptions, model: str
) -> Callable[[], nn.Module]:
    """A SAM without its encoder, and the embeddings of all training images on disk."""
    from teachers.sam import load_sam

    cases = training_images(data)
    flat = [image for case in cases for image in case]
    store = EmbeddingStore(context.folder("embeddings"), model, options.gigabytes)

    def fill() -> list[str]:
        progress, device = file_progress("images embedded by SAM"), context.slices.device
        return [str(f) for f in store.fill(load_sam(options.model), flat, device=device, progress=progress, log=log)]

    files = iter([Path(name) for name in distributed.run_on_main(fill)])
    table = [[next(files) for _ in case] for case in cases]
    return lambda: CachedEncoderSam(load_sam(options.model).drop_encoder(), table)


def training_images(data: Any) -> list[list[Tensor]]:
    """Of every training case, labelled ones first, its frames as uint8 [K, H, W]: one, or the slices of a volume."""
    images: list[list[Tensor]] = []
    for stack in (data.labelled, data.unlabelled):
        if isinstance(stack.image, tuple):
            images += [list(volume.permute(3, 0, 1, 2)) for volume in stack.image]
        elif len(stack):
            rows = (stack.frames(torch.tensor([i]), "cpu") for i in range(len(stack)))
            images += [[(row[0] * 255).round().to(torch.uint8)] for row in rows]
    return images
