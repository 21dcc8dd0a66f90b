"""The promptable network that a method is given as its second teacher: a SAM, or a small one that a run trains itself.

Shapes: K channels, H W a frame, X Y Z a volume.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgemt.artefacts import network_folder, reuse, stage_folder
from edgemt.artefacts.network_folder import PROMPTABLE, load_promptable
from edgemt.io import process_rank
from edgemt.io.atomic import write_text
from edgemt.methods import Method
from edgemt.methods.promptable_supervised import Lessons
from edgemt.methods.sam_assisted import SecondTeacher
from edgemt.pipeline.run_context import Run, Side
from edgemt.training import distributed, engine
from edgemt.training.options import Schedule
from edgemt.training.progress import file_progress
from teachers.embeddings import Remembered, Store
from teachers.promptable import Promptable

SMALL, VOLUME_ROWS = "small", 2
Staged = Callable[[Path], AbstractContextManager[Path]]


@dataclass(frozen=True)
class Second:
    """What a stage that needs a promptable player has to know of it."""

    identity: str  # what the stage depends on
    ready: Callable[[], Callable[[], nn.Module]]  # trains or embeds what is missing, and says how the player is built


def second_teacher(at: Run, side: Side, method: Method, *, staged: Staged) -> Second:
    """As the method's `second` says, or the small one. Nothing is trained or embedded yet.

    Raises ValueError for a SAM that is not to be had.
    """
    options: SecondTeacher = getattr(method, "second", SecondTeacher())
    if options.model == SMALL:
        inputs = _small_inputs(at, side, options)
        key = stage_folder.key_of(inputs)
        return Second(key, lambda: partial(load_promptable, _train_small(at, side, options, inputs, staged)))
    from teachers import sam

    found = sam.identity(options.model)
    return Second(found, lambda: _remembered(at, side, options, found))


def _small_inputs(at: Run, side: Side, options: SecondTeacher) -> dict[str, Any]:
    schedule = {"labelled": at.recipe.teacher.schedule.labelled, "precision": at.recipe.teacher.schedule.precision}
    return {
        "stage": PROMPTABLE,
        "lessons": options.lessons,
        "teacher": {"schedule": schedule},
        "network": _network(side),
        **side.depends,
        "seed": at.recipe.seed,
        "training data": at.files,
    }


def _network(side: Side) -> dict[str, Any]:
    """For the card; `load_promptable` reads it."""
    room = {"room": "teachers", "name": PROMPTABLE, "heads": [], "options": {}}
    return {**room, "channels": side.example.shape[1], "classes": len(side.classes)}


def _train_small(at: Run, side: Side, options: SecondTeacher, inputs: dict[str, Any], staged: Staged) -> Path:
    """The small promptable network, from labelled images alone: a stage like others, resumed where it was cut."""
    folder, key = at.folder(PROMPTABLE), stage_folder.key_of(inputs)
    rule: dict[str, Any] = {"say": at.say, "overwrite": at.overwrite, "explain": at.explain}
    if distributed.run_on_main(lambda: reuse.fits(folder, inputs=inputs, **rule)):
        at.say(f"{PROMPTABLE}: stands")
        return folder
    given = at.recipe.teacher.schedule
    rows = VOLUME_ROWS if side.example.ndim == 5 else given.labelled
    schedule = Schedule(
        steps=options.lessons, labelled=rows, unlabelled=0, learning_rate=1e-3, precision=given.precision, validations=0
    )
    network = _network(side)

    def build(kind: str, init: int) -> nn.Module:
        torch.manual_seed(at.recipe.seed * 1000 + init)
        return Promptable(channels=network["channels"])

    with staged(folder) as working:
        done = engine.train(
            Lessons(classes=len(side.classes)),
            build=build,
            draw=side.draw(schedule),
            schedule=schedule,
            folder=working,
            seed=at.recipe.seed,
            key=key,
            label=PROMPTABLE,
            events=at.out / "log" / PROMPTABLE,
        )
        if process_rank.is_main_process():
            write_text(working / "curves.json", stage_folder.to_json(done.history))
            params = sum(p.numel() for p in done.network.parameters())
            card = replace(side.card(), stage=PROMPTABLE, network=network, recipe_hash=key, params=params)
            network_folder.save_network(working, done.network.cpu(), card)
            at.say(f"{PROMPTABLE}: overlap with the labels at the end {_last(done.history):.3f}")
    return folder


def _last(history: dict[str, Any]) -> float:
    found = history["terms"].get("iou", [])[-5:]
    return sum(found) / len(found) if found else float("nan")


def _remembered(at: Run, side: Side, options: SecondTeacher, model: str) -> Callable[[], nn.Module]:
    """A SAM without its encoder, and the embeddings of all training images on disk."""
    from teachers.sam import load_sam

    cases = training_images(side)
    flat = [image for case in cases for image in case]
    store = Store(at.folder("embeddings"), model, options.gigabytes)

    def fill() -> list[str]:
        told = file_progress("images embedded by SAM")
        return [str(f) for f in store.fill(load_sam(options.model), flat, device=at.device, progress=told, say=at.say)]

    files = iter([Path(name) for name in distributed.run_on_main(fill)])
    table = [[next(files) for _ in case] for case in cases]
    return lambda: Remembered(load_sam(options.model).forget_encoder(), table)


def training_images(side: Any) -> list[list[Tensor]]:
    """Of every training case, labelled ones first, its frames as uint8 [K, H, W]: one, or the slices of a volume."""
    found: list[list[Tensor]] = []
    for stack in (side.labelled, side.unlabelled):
        if isinstance(stack.image, tuple):
            found += [list(volume.permute(2, 0, 1)[:, None]) for volume in stack.image]
        elif len(stack):
            rows = (stack.frames(torch.tensor([i]), "cpu") for i in range(len(stack)))
            found += [[(row[0] * 255).round().to(torch.uint8)] for row in rows]
    return found
