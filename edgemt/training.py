"""One trained artefact: the stages that differ only in who learns what from whom."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deploy import prune
from edgemt import artefact, engine
from edgemt.contract import Card
from edgemt.evaluate import evaluate
from edgemt.files import write_text
from edgemt.methods import Discriminator, Method
from edgemt.metrics import Scores
from edgemt.recipes import Student, Teacher
from edgemt.roles import Frozen
from edgemt.workspace import Run


def trained(
    at: Run,
    stage: str,
    of: Teacher | Student,
    method: Method,
    *,
    parent: Path | None = None,
    all_labels: bool = False,
) -> Path:
    folder = at.folder(stage)
    needs_parent = parent is not None and "teacher" in frozen_kinds(method)
    parents = (artefact.identity(parent),) if needs_parent and parent is not None else ()
    key = artefact.key_of(
        of,
        method,
        at.recipe.data,
        at.recipe.augment,
        at.recipe.per_image,
        at.recipe.seed,
        at.files,
        parents,
        all_labels,
    )
    if artefact.stands(folder, key=key):
        at.say(f"{stage}: stands, Dice {artefact.read_card(folder).measured[artefact.WEIGHTS]['dice']:.4f}")
        return folder
    network = described(of, at, method)
    known: dict[str, Callable[[], nn.Module]] = {"student": partial(artefact.build_network, network)}
    if needs_parent and parent is not None:
        known["teacher"] = partial(artefact.load_network, parent)
    with artefact.staged(folder) as working:
        done = engine.train(
            method,
            build=builder(known, at),
            draw=at.stream(of.schedule, all_labels=all_labels).batch,
            schedule=of.schedule,
            folder=working,
            seed=at.recipe.seed,
            evaluate=at.dice,
            key=key,
            label=stage,
            events=at.out / "log" / stage,
        )
        keep(at, working, stage, done, network, key=key, parents=parents)
    return folder


def keep(
    at: Run,
    working: Path,
    stage: str,
    done: engine.Trained,
    network: dict[str, Any],
    *,
    key: str,
    parents: tuple[str, ...],
    scores: Scores | None = None,
    parent_dice: float | None = None,
) -> None:
    scores = scores or evaluate(at.predict(done.network), at.val, distances=True)
    params, macs = prune.count(done.network.cpu().eval(), at.example)
    data = at.recipe.data
    write_text(working / "curves.json", artefact.to_json(done.history))
    card = Card(
        stage=stage,
        name=at.recipe.name,
        classes=data.classes,
        size=data.size,
        channels=data.channels,
        channel_order="RGB" if data.channels == 3 else "grey",
        normalise=at.normalise,
        network=artefact.offline(network),
        data=data.to_dict(),
        parents=parents,
        recipe_hash=key,
        measured={artefact.WEIGHTS: measurement(scores, parent_dice, "torch")},
        params=params,
        macs=macs,
    )
    artefact.save_network(working, done.network, card)
    at.say(f"{stage}: Dice {scores.dice:.4f} on the validation list")


def measurement(scores: Scores, parent_dice: float | None, runtime: str) -> dict[str, Any]:
    drop = None if parent_dice is None else parent_dice - scores.dice
    return {**scores.to_json(), "drop": drop, "runtime": runtime}


def described(of: Teacher | Student, at: Run, method: Method) -> dict[str, Any]:
    """How to build the network again, for the card."""
    options: dict[str, Any] = {}
    if isinstance(of, Student):
        options = {"pretrained": of.pretrained} | ({"decoder": of.decoder} if of.decoder != "auto" else {})
    elif of.network.startswith("smp/"):
        options = {"pretrained": of.pretrained} | ({"encoder": of.encoder} if of.encoder else {})
    elif of.widths:
        options = {"widths": list(of.widths)}
    return {
        "room": "students" if isinstance(of, Student) else "teachers",
        "name": of.network,
        "channels": at.recipe.data.channels,
        "classes": len(at.recipe.data.classes),
        "heads": list(method.heads),
        "options": options,
    }


def builder(known: dict[str, Callable[[], nn.Module]], at: Run) -> engine.Build:
    def build(kind: str, init: int) -> nn.Module:
        torch.manual_seed(at.recipe.seed * 1000 + init)
        if kind in known:
            return known[kind]()
        if kind == "discriminator":
            return Discriminator(channels=at.recipe.data.channels, classes=len(at.recipe.data.classes), dimensions=2)
        raise ValueError(f"this stage has no network to play {kind!r}; choose a method that does not need one")

    return build


def frozen_kinds(method: Method) -> set[str]:
    return {role.kind for role in method.roles().values() if isinstance(role, Frozen)}
