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
from edgemt.training import builder, frozen_kinds, keep, wants_bank
from edgemt.workspace import Run

STAGE = "qad"


def distil_in_eight_bits(at: Run) -> Path:
    """The folder of the slim student after learning under eight bits; made once, resumed when it was cut."""
    of, source, folder = at.recipe.int8, at.folder("slim"), at.folder(STAGE)
    method = student_method(at.recipe.student)
    distilled = "teacher" in frozen_kinds(method)
    said = at.folder("bank") if wants_bank(method) else None
    features = feature_teacher.find(at, method, at.recipe.student)
    parents = (
        artefact.identity(source),
        *((artefact.identity(at.folder("teacher")),) if distilled else ()),
        *((bank.identity(said),) if said is not None else ()),
        *((features.identity,) if features is not None else ()),
    )
    key = artefact.key_of(STAGE, of.schedule, method, parents)
    if artefact.stands(folder, key=key):
        at.say(f"{STAGE}: stands, Dice {artefact.read_card(folder).measured[artefact.WEIGHTS]['dice']:.4f} in float")
        return folder
    card = artefact.read_card(source)
    stream = at.stream(of.schedule, bank=said)
    known: dict[str, Callable[[], nn.Module]] = {"student": partial(_rounding, source, stream)}
    if distilled:
        known["teacher"] = partial(artefact.load_network, at.folder("teacher"))
    if features is not None:
        known["backbone"] = features.build
    with artefact.staged(folder) as working:
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
        )
        plain(done.network)
        parent_dice = card.measured[artefact.WEIGHTS]["dice"]
        keep(at, working, STAGE, done, card.network, key=key, parents=parents, parent_dice=parent_dice)
    return folder


def _rounding(source: Path, stream: TwoStream) -> nn.Module:
    """The slim student with rounding layers, their ranges taken from a few batches of both streams."""
    network = fake_quantize(artefact.load_network(source))
    return calibrate(network, [stream.batch(index, torch.device("cpu")).image for index in range(4)])
