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
from deploy.pruning import prune
from edgemt.artefacts import network_folder, reuse, stage_folder
from edgemt.artefacts.fingerprints import key_of_entries
from edgemt.data import soft_labels
from edgemt.io import encoder_weights, process_rank
from edgemt.io.atomic import write_text
from edgemt.io.encoder_weights import EncoderWeights
from edgemt.learning.ensemble import ROOM, Ensemble
from edgemt.learning.feature_losses import give_maps
from edgemt.learning.feature_term import FeatureTerm
from edgemt.learning.roles import Frozen
from edgemt.methods import Discriminator, Method
from edgemt.model_card import ModelCard
from edgemt.pipeline import feature_teacher
from edgemt.pipeline.promptable_teacher import second_teacher
from edgemt.pipeline.run_context import Run, Side, measured_of
from edgemt.recipes import STUDENT_PREFIX, Student, Teacher, encoder_options, student_network
from edgemt.training import checkpoint, distributed, engine
from edgemt.zoo.entry import open_entry
from edgemt.zoo.warm_start import describe_warm_start, load_warm_start, warm_start_spec

FORMAT = 2  # counts up when the same inputs no longer give the same weights
Judge = Callable[[float, float], object]


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
    features, second = feature_teacher.find(at, method, of), None
    if "promptable" in frozen_kinds(method):
        second = second_teacher(at, side, method, staged=partial(staged, overwrite=at.overwrite))
    parents = {
        **({"teacher": stage_folder.identity(parent)} if needs_parent and parent is not None else {}),
        **({"bank": soft_labels.identity(said)} if said is not None else {}),
        **({"first weights": open_entry(first_weights(of)).identity} if first_weights(of) else {}),
        **({"second teacher": second.identity} if second is not None else {}),
        **({"feature teacher": features.identity} if features is not None else {}),
        **({"warm-up": stage_folder.identity(encoder)} if encoder is not None else {}),
    }
    weights = first_encoder_weights(of, at, stage)
    inputs = inputs_of(at, side, of, method, parents=parents, all_labels=all_labels)
    inputs = with_encoder(inputs, of, folder, weights)
    key = stage_folder.key_of(inputs)
    if stands(at, stage, inputs):
        measured_again(side, folder, stage)
        at.say(f"{stage}: stands, {dice_text(stage_folder.read_card(folder).measured[stage_folder.WEIGHTS])}")
        return folder
    _need_foreground(at)
    if weights is not None:
        at.say(f"{stage}: {weights.line()}")
    network, begin = beginning(of, side, method, weights=weights)
    known: dict[str, Callable[[], nn.Module]] = {"student": begin}
    if first_weights(of):
        at.say(f"{stage}: {describe_warm_start(first_weights(of), network)}")
    if needs_parent and parent is not None:
        known["teacher"] = partial(network_folder.load_network, parent)
    if second is not None:
        known["promptable"] = second.ready()
    if features is not None:
        network, known["backbone"] = {**network, "feature_teacher": features.card}, features.build
        at.say(f"{stage}: {features.line}")
    if encoder is not None:
        known["student"] = partial(warmed_up, begin, encoder)
    with staged(folder, overwrite=at.overwrite) as working, enough_for_batch_norm(stage):
        done = engine.train(
            method,
            build=builder(known, side, method=method, seed=at.recipe.seed),
            draw=side.draw(of.schedule, all_labels=all_labels, bank=said, alike=method.alike),
            schedule=of.schedule,
            folder=working,
            seed=at.recipe.seed,
            evaluate=side.dice,
            key=key,
            label=stage,
            events=at.out / "log" / stage,
            measured_on=side.measured_on,
        )
        if process_rank.is_main_process():
            keep(side, working, stage, done, network, key=key, parents=tuple(parents.values()))
    return folder


def assembled(at: Run, stage: str, folders: Sequence[Path], *, flips: int) -> Path:
    """Trained networks as one artefact that predicts their mean (`ensemble.Ensemble`), measured like any other."""
    folder = at.folder(stage)
    parents = tuple(stage_folder.identity(member) for member in folders)
    inputs = {"members": list(parents), "flips": flips}
    if stands(at, stage, inputs):
        measured_again(at, folder, stage)
        at.say(f"{stage}: stands, {dice_text(stage_folder.read_card(folder).measured[stage_folder.WEIGHTS])}")
        return folder
    cards = [stage_folder.read_card(member) for member in folders]
    network = {
        "room": ROOM,
        "name": cards[0].network["name"],
        "channels": cards[0].network["channels"],
        "classes": cards[0].network["classes"],
        "heads": [],
        "options": {"flips": flips},
        "members": [network_folder.without_pretrained(card.network) for card in cards],
    }
    with staged(folder, overwrite=at.overwrite) as working:
        if process_rank.is_main_process():
            done = engine.Trained(
                Ensemble([network_folder.load_network(member) for member in folders], flips=flips), {}
            )
            done.network.to(at.device)
            curves = json.loads((folders[0] / stage_folder.CURVES).read_text(encoding="utf-8"))
            keep(
                at,
                working,
                stage,
                replace(done, history=curves),
                network,
                key=stage_folder.key_of(inputs),
                parents=parents,
            )
    return folder


def with_encoder(
    inputs: dict[str, Any], of: Teacher | Student, folder: Path, weights: EncoderWeights | None
) -> dict[str, Any]:
    """The inputs with the encoder's first weights, by hash.

    A stage that was finished with weights which this machine no longer has stays as it is, where `pretrained`
    "if-available" allows to go without: what was trained from them is no worse now.
    """
    if weights is not None:
        return {**inputs, "encoder weights": weights.identity}
    before = network_folder.encoder_identity(folder) if of.pretrained == "if-available" else ""
    earlier = {**inputs, "encoder weights": before}
    return earlier if before and stage_folder.stands(folder, key=stage_folder.key_of(earlier)) else inputs


def inputs_of(
    at: Run, side: Side, of: Teacher | Student, method: Method, *, parents: dict[str, str], all_labels: bool
) -> dict[str, Any]:
    """Everything that the weights of a stage depend on, by the names of the recipe; its key is their hash."""
    content = at.content_of_all_labels if all_labels else at.content
    network = {name: value for name, value in without_weights(of).items() if name not in ("method", "is")}
    return {
        "format": FORMAT,
        "student" if isinstance(of, Student) else "teacher": {**network, "method": stage_folder.plain(method)},
        **side.depends,
        "seed": at.recipe.seed,
        "training data": key_of_entries(content.labelled, content.unlabelled),
        "parents": parents,
        "all_labels": all_labels,
    }


def stands(at: Run, stage: str, inputs: dict[str, Any]) -> bool:
    """`fits`, called by all processes together."""
    return distributed.run_on_main(lambda: fits(at, stage, inputs))


def fits(at: Run, stage: str, inputs: dict[str, Any]) -> bool:
    """Whether the stage is finished with these inputs; if not, what does not fit was set aside."""
    return reuse.fits(at.folder(stage), inputs=inputs, say=at.say, overwrite=at.overwrite, explain=at.explain)


def measured_again(
    side: Side, folder: Path, stage: str, *, parent: Path | None = None, judge: Judge | None = None
) -> None:
    """Measure a finished network again where its card's figures are of another validation list; nothing is trained.

    `judge` takes the parent's Dice and the new one, and raises GateError where the difference is too large: the card
    then stays as it was.
    """
    distributed.run_on_main(lambda: _measured_again(side, folder, stage, parent, judge))


def _measured_again(side: Side, folder: Path, stage: str, parent: Path | None, judge: Judge | None) -> None:
    card = stage_folder.read_card(folder)
    before = card.measured[stage_folder.WEIGHTS]
    if before.get("measured_on", before.get("list")) == side.measured_on:
        return
    measured = side.measured(network_folder.load_network(folder).to(side.device))
    parent_dice = None if parent is None else measured_of(parent, measured_on=side.measured_on)["dice"]
    if judge is not None and parent_dice is not None:
        judge(parent_dice, measured["dice"])
    _forget_validation_curve(folder, card)
    # of the attempts at pruning, this network is the last one
    attempts = before.get("attempts", ())
    noted = {"attempts": [*attempts[:-1], {**attempts[-1], "dice": measured["dice"]}]} if attempts else {}
    record = {**measured, "drop": drop(parent_dice, measured), "runtime": "torch", **noted}
    stage_folder.rewrite_card(
        folder, replace(stage_folder.read_card(folder), measured={stage_folder.WEIGHTS: record}, data=side.card().data)
    )
    changed = "validation list" if before.get("list") != measured.get("list") else "options"
    side.say(f"{stage}: measured again with the changed {changed}, {dice_text(measured)} (was {_figure(before)})")


def _forget_validation_curve(folder: Path, card: ModelCard) -> None:
    """The curve of the run belongs to the other list."""
    curves = json.loads((folder / stage_folder.CURVES).read_text(encoding="utf-8"))
    if curves.get("val", {}).get("step") or stage_folder.CURVES not in card.files:
        stage_folder.replace_file(
            folder, stage_folder.CURVES, stage_folder.to_json({**curves, "val": {"step": [], "dice": []}})
        )


def _need_foreground(at: Run) -> None:
    """Raises ValueError before anything is trained when the validation list can measure nothing."""
    distributed.run_on_main(lambda: len(at.val))


def dice_text(measured: dict[str, Any]) -> str:
    return f"Dice {_figure(measured)}"


def _figure(measured: dict[str, Any]) -> str:
    return "not measured" if measured["dice"] is None else f"{measured['dice']:.4f}"


@contextmanager
def enough_for_batch_norm(stage: str) -> Iterator[None]:
    """Names the fields where torch names a shape: one value a channel has no deviation."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ValueError(
            f"{stage}: batch normalisation sees one value a channel at the network's deepest level; "
            f"set {stage}.schedule.labelled to at least 2, or data.size to at least 32 32"
        ) from None


@contextmanager
def staged(folder: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """`artefact.staged` in the first process; the others know the name, and go on when the folder stands."""
    if process_rank.is_main_process():
        with stage_folder.staged(folder, overwrite=overwrite) as working:
            yield working
    else:
        yield folder.with_name(folder.name + ".partial")
    distributed.barrier()


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
    write_text(working / stage_folder.CURVES, stage_folder.to_json(done.history))
    card = replace(
        side.card(),
        stage=stage,
        network=network_folder.without_pretrained(network),
        parents=parents,
        recipe_hash=key,
        measured={stage_folder.WEIGHTS: {**measured, "drop": drop(parent_dice, measured), "runtime": "torch"}},
        params=params,
        macs=macs,
    )
    network_folder.save_network(working, done.network, card)
    side.say(f"{stage}: {dice_text(measured)} on the validation list")


def drop(parent_dice: float | None, measured: dict[str, Any]) -> float | None:
    """Of two figures of one list; None where one of them was not measured."""
    return None if parent_dice is None or measured["dice"] is None else parent_dice - measured["dice"]


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


def beginning(
    of: Teacher | Student, side: Side, method: Method, *, weights: EncoderWeights | None
) -> tuple[dict[str, Any], Callable[[], nn.Module]]:
    """How to build the network that a stage begins with, for the card, and what does so."""
    network = described(of, side, method, weights=weights)
    if not first_weights(of):
        return network, partial(network_folder.build_network, network)
    network = warm_start_spec(first_weights(of), network)
    return network, partial(load_warm_start, first_weights(of), network)


def warmed_up(begin: Callable[[], nn.Module], folder: Path) -> nn.Module:
    """A fresh student with the encoder's weights of a warm-up."""
    network = begin()
    checkpoint.load_weights(folder / stage_folder.WEIGHTS, network.pyramid)  # type: ignore[arg-type]
    return network


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
    """What a stage's key holds of its network: files of weights count by their hash, wherever they lie.

    A feature teacher and a warm-up count where a stage uses them, a resolution where it is not the whole.
    """
    feature = ("feature_teacher", "feature_teacher_weights", "feature_teacher_size", "warm_up_steps")
    whole = ("resolution",) if getattr(of, "resolution", 1.0) == 1.0 else ()
    left_out = ("weights", "encoder_weights", *feature, *whole)
    return {name: value for name, value in stage_folder.plain(of).items() if name not in left_out}


def builder(
    known: dict[str, Callable[[], nn.Module]], side: Side, *, method: Method | None = None, seed: int
) -> engine.BuildNetwork:
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
