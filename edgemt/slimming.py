"""Fewer channels: the student is pruned, fine-tuned with its own method, and judged before it is written."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deploy import prune
from deploy.gate import gate
from edgemt import artefact, bank, engine, ranks, zoo
from edgemt.contract import Batch
from edgemt.data.stream import TwoStream
from edgemt.losses import dice_ce
from edgemt.training import builder, frozen_kinds, keep, staged, wants_bank
from edgemt.workspace import Run


def slim(at: Run) -> Path:
    """Structured pruning to the MACs target, then fine-tuning with the student's own method."""
    of, source, folder = at.recipe.slim, at.folder("student"), at.folder("slim")
    method = at.recipe.student.method
    distilled = "teacher" in frozen_kinds(method)
    said = at.folder("bank") if wants_bank(method) else None
    parents = (
        artefact.identity(source),
        *((artefact.identity(at.folder("teacher")),) if distilled else ()),
        *((bank.identity(said),) if said is not None else ()),
    )
    key = artefact.key_of(of, method, at.recipe.tolerance, parents)
    if ranks.by_first(lambda: artefact.stands(folder, key=key)):
        at.say(f"slim: stands, Dice {artefact.read_card(folder).measured[artefact.WEIGHTS]['dice']:.4f}")
        return folder
    network = artefact.load_network(source)
    parent_dice = artefact.read_card(source).measured[artefact.WEIGHTS]["dice"]
    described = {"plan": None, **artefact.read_card(source).network}
    stream = at.stream(of.schedule, bank=said)
    if of.prune.macs > 0:
        plan = ranks.by_first(partial(_cut, at, network, stream))
        described["plan"] = zoo.pruned_further(described["plan"], plan)
    start = {name: value.clone() for name, value in network.state_dict().items()}

    def pruned() -> nn.Module:
        fresh = artefact.build_network(artefact.offline(described))
        if ranks.first():  # the others get its weights when they begin
            fresh.load_state_dict(start)
        return fresh

    known: dict[str, Callable[[], nn.Module]] = {"student": pruned}
    if distilled:
        known["teacher"] = partial(artefact.load_network, at.folder("teacher"))
    with staged(folder) as working:
        done = engine.train(
            method,
            build=builder(known, at, seed=at.recipe.seed),
            draw=stream.batch,
            schedule=of.schedule,
            folder=working,
            seed=at.recipe.seed + 1,
            evaluate=at.dice,
            key=key,
            label="slim",
            events=at.out / "log" / "slim",
        )
        if ranks.first():
            measured = at.measured(done.network)
            gate(
                parent_dice=parent_dice,
                dice=measured["dice"],
                tolerance=at.recipe.tolerance,
                what="the pruned student",
                knob="slim.schedule.steps up or slim.prune.macs down",
            )
            keep(
                at,
                working,
                "slim",
                done,
                described,
                key=key,
                parents=parents,
                measured=measured,
                parent_dice=parent_dice,
            )
    return folder


def _cut(at: Run, network: nn.Module, stream: TwoStream) -> dict[str, Any]:
    """Prunes `network` in place; the plan that does the same to another one."""
    of = at.recipe.slim
    plan = prune.prune(network, example=at.example, options=of.prune, gradients=partial(_gradients, stream, of.batches))
    prune.recalibrate(network, (stream.batch(i, torch.device("cpu")).image for i in range(of.batches)))
    at.say(f"slim: {plan.macs[0] / 1e6:.1f} -> {plan.macs[1] / 1e6:.1f} MMACs; fine-tuning")
    return plan.to_dict()


def _gradients(stream: TwoStream, batches: int, network: nn.Module) -> None:
    """Gradients of the supervised loss on real batches, which rank the channels."""
    for index in range(batches):
        batch: Batch = stream.batch(index, torch.device("cpu"))
        dice_ce(network(batch.labelled).logits, batch.label).backward()
