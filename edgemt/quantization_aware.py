"""Quantization-aware distillation: the slim student learns on with eight bits already in its way.

The student's own method goes on: the teacher stays frozen, unlabelled images are still used, and every layer rounds
what it reads and weighs by (`edgemt.fake_quant`). What is kept are plain float weights, which are then calibrated as
any others are: there is one INT8 format and one way to it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn

from edgemt import artefact, bank, engine, feature_teacher
from edgemt.data.stream import TwoStream
from edgemt.fake_quant import calibrate, fake_quantize, plain
from edgemt.recipes import student_method
from edgemt.training import FORMAT, builder, dice_text, frozen_kinds, keep, measured_again, stands, wants_bank
from edgemt.workspace import Run, measured_of

STAGE = "qad"


def distil_in_eight_bits(at: Run) -> Path:
    """The folder of the slim student after learning under eight bits; made once, resumed when it was cut."""
    of, source, folder = at.recipe.int8, at.folder("slim"), at.folder(STAGE)
    method = student_method(at.recipe.student)
    distilled = "teacher" in frozen_kinds(method)
    said = at.folder("bank") if wants_bank(method) else None
    features = feature_teacher.find(at, method, at.recipe.student)
    named = {
        "slim": artefact.identity(source),
        **({"teacher": artefact.identity(at.folder("teacher"))} if distilled else {}),
        **({"bank": bank.identity(said)} if said is not None else {}),
        **({"feature teacher": features.identity} if features is not None else {}),
    }
    parents = tuple(named.values())
    inputs = {"format": FORMAT, "int8": {"schedule": of.schedule}, "student": {"method": method}}
    inputs |= {"seed": at.recipe.seed, "parents": named}
    key = artefact.key_of(inputs)
    if stands(at, STAGE, inputs):
        measured_again(at, folder, STAGE, parent=source)
        at.say(f"{STAGE}: stands, {dice_text(artefact.read_card(folder).measured[artefact.WEIGHTS])} in float")
        return folder
    card, parent_dice = artefact.read_card(source), measured_of(source, measured_on=at.measured_on)["dice"]
    stream = at.stream(of.schedule, bank=said)
    known: dict[str, Callable[[], nn.Module]] = {"student": partial(_rounding, source, stream)}
    if distilled:
        known["teacher"] = partial(artefact.load_network, at.folder("teacher"))
    if features is not None:
        known["backbone"] = features.build
    with artefact.staged(folder, overwrite=at.overwrite) as working:
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
        plain(done.network)
        keep(at, working, STAGE, done, card.network, key=key, parents=parents, parent_dice=parent_dice)
    return folder


def _rounding(source: Path, stream: TwoStream) -> nn.Module:
    """The slim student with rounding layers, their ranges taken from a few batches of both streams."""
    network = fake_quantize(artefact.load_network(source))
    return calibrate(network, [stream.batch(index, torch.device("cpu")).image for index in range(4)])
