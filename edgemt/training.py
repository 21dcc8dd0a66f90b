"""One trained artefact: the stages that differ only in who learns what from whom."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deploy import prune
from edgemt import artefact, bank, checkpoint, engine, feature_teacher, ranks, zoo
from edgemt.feature_losses import give_maps
from edgemt.files import write_text
from edgemt.methods import Discriminator, Method
from edgemt.methods.feature_term import FeatureTerm
from edgemt.recipes import Student, Teacher, student_network
from edgemt.roles import Frozen
from edgemt.second_teacher import second_teacher
from edgemt.workspace import Run, Side


def side_of(at: Run, of: Teacher | Student) -> Side:
    """What a network learns from and is measured on: frames, or whole volumes for a 3-D teacher."""
    return at.volumetric if isinstance(of, Teacher) and at.deep else at


def trained(
    at: Run,
    stage: str,
    of: Teacher | Student,
    method: Method,
    *,
    parent: Path | None = None,
    encoder: Path | None = None,
    all_labels: bool = False,
) -> Path:
    """The folder of a stage's trained network, made if it does not stand. `encoder` is that of a warm-up."""
    folder, side = at.folder(stage), side_of(at, of)
    needs_parent = parent is not None and "teacher" in frozen_kinds(method)
    said = at.folder("bank") if wants_bank(method) else None
    features = feature_teacher.find(at, method, of)
    second = second_teacher(at, side, method, staged=staged) if "promptable" in frozen_kinds(method) else None
    parents = (
        *((artefact.identity(parent),) if needs_parent and parent is not None else ()),
        *((bank.identity(said),) if said is not None else ()),
        *((zoo.open_entry(first_weights(of)).identity,) if first_weights(of) else ()),
        *((second.identity,) if second is not None else ()),
        *((features.identity,) if features is not None else ()),
        *((artefact.identity(encoder),) if encoder is not None else ()),
    )
    key = artefact.key_of(without_weights(of), method, *side.depends, at.recipe.seed, at.files, parents, all_labels)
    if ranks.by_first(lambda: artefact.stands(folder, key=key)):
        at.say(f"{stage}: stands, Dice {artefact.read_card(folder).measured[artefact.WEIGHTS]['dice']:.4f}")
        return folder
    network, begin = beginning(of, side, method)
    known: dict[str, Callable[[], nn.Module]] = {"student": begin}
    if first_weights(of):
        at.say(f"{stage}: {zoo.told(first_weights(of), network)}")
    if needs_parent and parent is not None:
        known["teacher"] = partial(artefact.load_network, parent)
    if second is not None:
        known["promptable"] = second.ready()
    if features is not None:
        network, known["backbone"] = {**network, "feature_teacher": features.card}, features.build
        at.say(f"{stage}: {features.line}")
    if encoder is not None:
        known["student"] = partial(with_encoder, begin, encoder)
    with staged(folder) as working:
        done = engine.train(
            method,
            build=builder(known, side, method=method, seed=at.recipe.seed),
            draw=side.draw(of.schedule, all_labels=all_labels, bank=said),
            schedule=of.schedule,
            folder=working,
            seed=at.recipe.seed,
            evaluate=side.dice,
            key=key,
            label=stage,
            events=at.out / "log" / stage,
        )
        if ranks.first():
            keep(side, working, stage, done, network, key=key, parents=parents)
    return folder


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """`artefact.staged` in the first process; the others know the name, and go on when the folder stands."""
    if ranks.first():
        with artefact.staged(folder) as working:
            yield working
    else:
        yield folder.with_name(folder.name + ".partial")
    ranks.wait()


def keep(
    side: Side,
    working: Path,
    stage: str,
    done: engine.Trained,
    network: dict[str, Any],
    *,
    key: str,
    parents: tuple[str, ...],
    measured: dict[str, Any] | None = None,
    parent_dice: float | None = None,
) -> None:
    measured = measured or side.measured(done.network)
    params, macs = prune.count(done.network.cpu().eval(), side.example)
    write_text(working / "curves.json", artefact.to_json(done.history))
    card = replace(
        side.card(),
        stage=stage,
        network=artefact.offline(network),
        parents=parents,
        recipe_hash=key,
        measured={artefact.WEIGHTS: {**measured, "drop": drop(parent_dice, measured), "runtime": "torch"}},
        params=params,
        macs=macs,
    )
    artefact.save_network(working, done.network, card)
    side.say(f"{stage}: Dice {measured['dice']:.4f} on the validation list")


def drop(parent_dice: float | None, measured: dict[str, Any]) -> float | None:
    return None if parent_dice is None else parent_dice - measured["dice"]


def described(of: Teacher | Student, side: Side, method: Method) -> dict[str, Any]:
    """How to build the network again, for the card."""
    channels, classes = side.example.shape[1], len(side.classes)
    if isinstance(of, Student):
        return student_network(of, method, channels=channels, classes=classes)
    options: dict[str, Any] = {}
    if of.network.startswith("smp/"):
        options = {"pretrained": of.pretrained} | ({"encoder": of.encoder} if of.encoder else {})
    else:
        given = {"widths": list(of.widths), "filters": of.filters, "norm": of.norm, "attention": of.attention}
        options = {name: value for name, value in given.items() if value}
    return {
        "room": "teachers",
        "name": of.network,
        "channels": channels,
        "classes": classes,
        "heads": list(method.heads),
        "options": options,
    }


def first_weights(of: Teacher | Student) -> str:
    """The entry of the zoo, or folder packed alike, that a student starts from; empty for none."""
    return of.weights if isinstance(of, Student) else ""


def beginning(of: Teacher | Student, side: Side, method: Method) -> tuple[dict[str, Any], Callable[[], nn.Module]]:
    """How to build the network that a stage begins with, for the card, and what does so."""
    network = described(of, side, method)
    if not first_weights(of):
        return network, partial(artefact.build_network, network)
    network = zoo.begun(first_weights(of), network)
    return network, partial(zoo.begin, first_weights(of), network)


def with_encoder(begin: Callable[[], nn.Module], folder: Path) -> nn.Module:
    """A fresh student with the encoder's weights of a warm-up."""
    network = begin()
    checkpoint.load_weights(folder / artefact.WEIGHTS, network.pyramid)  # type: ignore[arg-type]
    return network


def without_weights(of: Teacher | Student) -> dict[str, Any]:
    """What a stage's key holds of its network: files of weights count by their hash, wherever they lie.

    A feature teacher and a warm-up count where a stage uses them.
    """
    left_out = ("weights", "feature_teacher", "feature_teacher_weights", "feature_teacher_size", "warm_up_steps")
    return {name: value for name, value in artefact.plain(of).items() if name not in left_out}


def builder(
    known: dict[str, Callable[[], nn.Module]], side: Side, *, method: Method | None = None, seed: int
) -> engine.Build:
    """The players of a stage by kind. A "projection" fits the networks that were built before it."""
    term: FeatureTerm = getattr(method, "feature", None) or FeatureTerm()
    built: dict[str, nn.Module] = {}

    def build(kind: str, init: int) -> nn.Module:
        torch.manual_seed(seed * 1000 + init)
        if kind in known:
            network = known[kind]()
            built[kind] = give_maps(network, term.at) if kind in term.given_by else network
            return network
        if kind == "projection":
            return term.projection(built, side.example)
        if kind == "discriminator":
            space = side.example.ndim - 2
            return Discriminator(channels=side.example.shape[1], classes=len(side.classes), dimensions=space)
        raise ValueError(f"this stage has no network to play {kind!r}; choose a method that does not need one")

    return build


def frozen_kinds(method: Method) -> set[str]:
    return {role.kind for role in method.roles().values() if isinstance(role, Frozen)}


def wants_bank(method: Method) -> bool:
    """Whether the teacher's word comes from what it left on disk, not from a network in the loop."""
    return getattr(method, "guide", "network") == "bank"
