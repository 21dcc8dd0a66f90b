"""Quantization-aware distillation: the slim student learns on with eight bits already in its way.

The student's own method goes on: the teacher stays frozen, unlabelled images are still used, and every layer rounds
what it reads and weighs by (`edgemt.training.fake_quant`). What is kept are plain float weights, which are then
calibrated as any others are: there is one INT8 format and one way to it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn

from edgemt.artefacts import network_folder, stage_folder
from edgemt.data import soft_labels
from edgemt.data.slice_dataset import TwoStream
from edgemt.pipeline import feature_teacher
from edgemt.pipeline.run_context import Run, measured_of
from edgemt.pipeline.train import FORMAT, builder, dice_text, frozen_kinds, keep, measured_again, stands, wants_bank
from edgemt.recipes import student_method
from edgemt.training import engine
from edgemt.training.fake_quant import calibrate, fake_quantize, remove_fake_quant

STAGE = "qad"


def distil_in_eight_bits(at: Run) -> Path:
    """The folder of the slim student after learning under eight bits; made once, resumed when it was cut."""
    of, source, folder = at.recipe.int8, at.folder("slim"), at.folder(STAGE)
    method = student_method(at.recipe.student)
    distilled = "teacher" in frozen_kinds(method)
    said = at.folder("bank") if wants_bank(method) else None
    features = feature_teacher.find(at, method, at.recipe.student)
    named = {
        "slim": stage_folder.identity(source),
        **({"teacher": stage_folder.identity(at.folder("teacher"))} if distilled else {}),
        **({"bank": soft_labels.identity(said)} if said is not None else {}),
        **({"feature teacher": features.identity} if features is not None else {}),
    }
    parents = tuple(named.values())
    inputs = {"format": FORMAT, "int8": {"schedule": of.schedule}, "student": {"method": method}}
    inputs |= {"seed": at.recipe.seed, "parents": named}
    key = stage_folder.key_of(inputs)
    if stands(at, STAGE, inputs):
        measured_again(at, folder, STAGE, parent=source)
        at.say(f"{STAGE}: stands, {dice_text(stage_folder.read_card(folder).measured[stage_folder.WEIGHTS])} in float")
        return folder
    card, parent_dice = stage_folder.read_card(source), measured_of(source, measured_on=at.measured_on)["dice"]
    stream = at.stream(of.schedule, bank=said)
    known: dict[str, Callable[[], nn.Module]] = {"student": partial(_rounding, source, stream)}
    if distilled:
        known["teacher"] = partial(network_folder.load_network, at.folder("teacher"))
    if features is not None:
        known["backbone"] = features.build
    with stage_folder.staged(folder, overwrite=at.overwrite) as working:
        done = engine.train(
            method,
            build=builder(known, at, method=method, seed=at.recipe.seed),
            draw=stream.batch,
            schedule=of.schedule,
            folder=working,
            seed=at.recipe.seed + 2,
            evaluate=at.dice,
            key=key,
            label=STAGE,
            events=at.out / "log" / STAGE,
            measured_on=at.measured_on,
        )
        remove_fake_quant(done.network)
        keep(at, working, STAGE, done, card.network, key=key, parents=parents, parent_dice=parent_dice)
    return folder


def _rounding(source: Path, stream: TwoStream) -> nn.Module:
    """The slim student with rounding layers, their ranges taken from a few batches of both streams."""
    network = fake_quantize(network_folder.load_network(source))
    return calibrate(network, [stream.batch(index, torch.device("cpu")).image for index in range(4)])
