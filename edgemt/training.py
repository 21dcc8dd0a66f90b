"""One trained artefact: the stages that differ only in who learns what from whom."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import students
from deploy import prune
from edgemt import artefact, bank, encoder_weights, engine, ranks, zoo
from edgemt.encoder_weights import EncoderWeights
from edgemt.ensemble import ROOM, Ensemble
from edgemt.files import write_text
from edgemt.methods import Discriminator, Method
from edgemt.recipes import STUDENT_PREFIX, Student, Teacher, encoder_options, student_network
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
    all_labels: bool = False,
) -> Path:
    folder, side = at.folder(stage), side_of(at, of)
    needs_parent = parent is not None and "teacher" in frozen_kinds(method)
    said = at.folder("bank") if wants_bank(method) else None
    second = second_teacher(at, side, method, staged=staged) if "promptable" in frozen_kinds(method) else None
    parents = (
        *((artefact.identity(parent),) if needs_parent and parent is not None else ()),
        *((bank.identity(said),) if said is not None else ()),
        *((zoo.open_entry(first_weights(of)).identity,) if first_weights(of) else ()),
        *((second.identity,) if second is not None else ()),
    )
    weights = first_encoder_weights(of, at, stage)

    def key_with(encoder: str) -> str:
        return artefact.key_of(
            without_weights(of), encoder, method, *side.depends, at.recipe.seed, at.files, parents, all_labels
        )

    key = key_with(weights.identity if weights else "")
    finished = [key]
    if weights is None and (before := artefact.encoder_identity(folder)) and of.pretrained == "if-available":
        finished.append(key_with(before))  # its weights were here then: what was trained from them is no worse now
    for candidate in finished:
        if ranks.by_first(lambda key=candidate: artefact.stands(folder, key=key)):  # type: ignore[misc]
            at.say(f"{stage}: stands, Dice {artefact.read_card(folder).measured[artefact.WEIGHTS]['dice']:.4f}")
            return folder
    if weights is not None:
        at.say(f"{stage}: {weights.line()}")
    network = described(of, side, method, weights=weights)
    known: dict[str, Callable[[], nn.Module]] = {"student": partial(artefact.build_network, network)}
    if first_weights(of):
        network = zoo.begun(first_weights(of), network)
        known["student"] = partial(zoo.begin, first_weights(of), network)
        at.say(f"{stage}: {zoo.told(first_weights(of), network)}")
    if needs_parent and parent is not None:
        known["teacher"] = partial(artefact.load_network, parent)
    if second is not None:
        known["promptable"] = second.ready()
    with staged(folder) as working:
        done = engine.train(
            method,
            build=builder(known, side, seed=at.recipe.seed),
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


def assembled(at: Run, stage: str, folders: Sequence[Path], *, flips: int) -> Path:
    """Trained networks as one artefact that predicts their mean (`ensemble.Ensemble`), measured like any other."""
    folder = at.folder(stage)
    parents = tuple(artefact.identity(member) for member in folders)
    key = artefact.key_of("ensemble", flips, parents)
    if ranks.by_first(lambda: artefact.stands(folder, key=key)):
        at.say(f"{stage}: stands, Dice {artefact.read_card(folder).measured[artefact.WEIGHTS]['dice']:.4f}")
        return folder
    cards = [artefact.read_card(member) for member in folders]
    network = {
        "room": ROOM,
        "name": cards[0].network["name"],
        "channels": cards[0].network["channels"],
        "classes": cards[0].network["classes"],
        "heads": [],
        "options": {"flips": flips},
        "members": [artefact.offline(card.network) for card in cards],
    }
    with staged(folder) as working:
        if ranks.first():
            done = engine.Trained(Ensemble([artefact.load_network(member) for member in folders], flips=flips), {})
            done.network.to(at.device)
            curves = json.loads((folders[0] / "curves.json").read_text(encoding="utf-8"))
            keep(at, working, stage, replace(done, history=curves), network, key=key, parents=parents)
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


def described(
    of: Teacher | Student, side: Side, method: Method, *, weights: EncoderWeights | None = None
) -> dict[str, Any]:
    """How to build the network again, for the card; `weights` are those that its encoder begins with."""
    channels, classes = side.example.shape[1], len(side.classes)
    network = _described(of, method, channels=channels, classes=classes)
    if "pretrained" in network["options"] and weights is None:
        network["options"]["pretrained"] = "never"  # no source has them: `first_encoder_weights` has looked
    return network | ({"encoder_weights": weights.record()} if weights is not None else {})


def _described(of: Teacher | Student, method: Method, *, channels: int, classes: int) -> dict[str, Any]:
    if isinstance(of, Student):
        return student_network(of, method, channels=channels, classes=classes)
    options: dict[str, Any] = {}
    if of.network.startswith(STUDENT_PREFIX):
        as_student = Student(
            network=of.network.removeprefix(STUDENT_PREFIX),
            decoder=of.decoder,
            pretrained=of.pretrained,
            encoder_weights=of.encoder_weights,
            first_conv=of.first_conv,
        )
        return student_network(as_student, method, channels=channels, classes=classes)
    if of.network.startswith("smp/"):
        options = encoder_options(of) | ({"encoder": of.encoder} if of.encoder else {})
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


def first_encoder_weights(of: Teacher | Student, at: Run, stage: str) -> EncoderWeights | None:
    """The pretrained weights that the encoder begins with; None for a network without an encoder of others.

    Raises ValueError, naming stage and remedy, where `pretrained` "always" or a named file cannot be had.
    """
    if first_weights(of):
        return None
    encoder, hub = "", None
    if isinstance(of, Student) or of.network.startswith(STUDENT_PREFIX):
        encoder = students.encoder_name(of.network.removeprefix(STUDENT_PREFIX))
    elif of.network.startswith("smp/"):
        from teachers.library import published

        encoder, hub = published(of.encoder or "resnet34")
    elif of.encoder_weights:
        raise ValueError(f"teacher.encoder_weights: {of.network} has no encoder that takes them; use students/ or smp/")
    if not encoder:
        return None
    pretrained, file = of.pretrained, of.encoder_weights
    return encoder_weights.find(encoder, file=file, pretrained=pretrained, hub=hub, what=f"{stage}: encoder")


def without_weights(of: Teacher | Student) -> dict[str, Any]:
    """What a stage's key says of its network: first weights count by their hash, wherever they lie."""
    return {name: value for name, value in artefact.plain(of).items() if name not in ("weights", "encoder_weights")}


def builder(known: dict[str, Callable[[], nn.Module]], side: Side, *, seed: int) -> engine.Build:
    def build(kind: str, init: int) -> nn.Module:
        torch.manual_seed(seed * 1000 + init)
        if kind in known:
            return known[kind]()
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
