"""The stages that train a network from its beginning: teacher, student, and the controls of the report."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from edgemt.artefacts import network_folder, stage_folder
from edgemt.artefacts.fingerprints import key_of_entries
from edgemt.io import process_rank
from edgemt.io.encoder_weights import EncoderWeights
from edgemt.learning.ensemble import ROOM, Ensemble
from edgemt.methods import Method
from edgemt.pipeline.guidance import find_guidance, frozen_kinds
from edgemt.pipeline.log import log
from edgemt.pipeline.network_spec import (
    initial_network,
    initial_weights,
    pretrained_encoder,
    spec_for_fingerprint,
    with_encoder_of,
)
from edgemt.pipeline.promptable_teacher import find_promptable
from edgemt.pipeline.recipe import StudentOptions, TeacherOptions
from edgemt.pipeline.run_context import RunContext
from edgemt.pipeline.stage import FORMAT, Stage
from edgemt.pipeline.training_data import TrainingData
from edgemt.training import distributed, engine
from edgemt.zoo.entry import open_entry
from edgemt.zoo.warm_start import describe_warm_start


def training_data_for(context: RunContext, of: TeacherOptions | StudentOptions) -> TrainingData:
    """What a network learns from and is measured on: frames, or whole volumes for a 3-D teacher."""
    if isinstance(of, StudentOptions):
        return context.slices
    return context.volumes if context.is_3d else context.teacher_slices


def train_stage(
    context: RunContext,
    name: str,
    of: TeacherOptions | StudentOptions,
    method: Method,
    *,
    parent: Path | None = None,
    encoder: Path | None = None,
    all_labels: bool = False,
) -> Path:
    """The folder of the stage `name`: its network is trained unless the folder is complete.

    `parent` is the folder of the frozen teacher, `encoder` that of a finished warm-up; with `all_labels` every training
    image is labelled. Raises ValueError where weights that the recipe names cannot be had.
    """
    data = training_data_for(context, of)
    guidance = find_guidance(context, method, of, teacher=parent)
    promptable = find_promptable(context, data, method) if "promptable" in frozen_kinds(method) else None
    parents = {
        **guidance.parents(
            {
                **initial_weights_parent(of),
                **({"second teacher": promptable.fingerprint} if promptable is not None else {}),
            }
        ),
        **({"warm-up": stage_folder.identity(encoder)} if encoder is not None else {}),
    }
    inputs, weights = stage_inputs(context, name, of, method, parents=parents, all_labels=all_labels)
    stage = Stage(context, name, inputs, data)
    if stage.is_complete():
        return stage.reuse()
    _need_foreground(context)
    if weights is not None:
        log(f"{name}: {weights.line()}")
    network, build = initial_network(of, data, method, weights=weights)
    if initial_weights(of):
        log(f"{name}: {describe_warm_start(initial_weights(of), network)}")
    networks: dict[str, Callable[[], nn.Module]] = {"student": build, **guidance.networks()}
    if promptable is not None:
        networks["promptable"] = promptable.prepare()
    if guidance.features is not None:
        network = {**network, "feature_teacher": guidance.features.card}
        log(f"{name}: {guidance.features.line}")
    if encoder is not None:
        networks["student"] = partial(with_encoder_of, build, encoder)
    with stage.working_folder() as working, enough_for_batch_norm(name):
        draw = data.draw(of.schedule, all_labels=all_labels, bank=guidance.bank, alike=method.matched_intensity)
        done = stage.train(method, networks=networks, draw=draw, schedule=of.schedule, folder=working)
        stage.measure_and_save(working, done, network)
    return stage.folder


def ensemble_stage(context: RunContext, name: str, members: Sequence[Path], *, flips: int) -> Path:
    """The folder of the stage `name`: the mean of trained networks as one network (`Ensemble`), measured like any."""
    parents = tuple(stage_folder.identity(member) for member in members)
    stage = Stage(context, name, {"members": list(parents), "flips": flips})
    if stage.is_complete():
        return stage.reuse()
    cards = [stage_folder.read_card(member) for member in members]
    network = {
        "room": ROOM,
        "name": cards[0].network["name"],
        "channels": cards[0].network["channels"],
        "classes": cards[0].network["classes"],
        "heads": [],
        "options": {"flips": flips},
        "members": [network_folder.without_pretrained(card.network) for card in cards],
    }
    with stage.working_folder() as working:
        if process_rank.is_main_process():
            ensemble = Ensemble([network_folder.load_network(member) for member in members], flips=flips)
            curves = json.loads((members[0] / stage_folder.CURVES).read_text(encoding="utf-8"))
            done = engine.Trained(ensemble.to(context.slices.device), curves)
            stage.measure_and_save(working, done, network, parents=parents)
    return stage.folder


def initial_weights_parent(of: TeacherOptions | StudentOptions) -> dict[str, str]:
    """The zoo entry that a student starts from, as a parent of its stage; empty without one."""
    return {"first weights": open_entry(initial_weights(of)).identity} if initial_weights(of) else {}


def stage_inputs(
    context: RunContext,
    name: str,
    of: TeacherOptions | StudentOptions,
    method: Method,
    *,
    parents: dict[str, str],
    all_labels: bool = False,
) -> tuple[dict[str, Any], EncoderWeights | None]:
    """The inputs of a stage that trains a network, and the pretrained weights that its encoder begins with."""
    weights = pretrained_encoder(of, name)
    inputs = inputs_of(context, of, method, parents=parents, all_labels=all_labels)
    return _with_encoder(inputs, of, context.folder(name), weights), weights


def inputs_of(
    context: RunContext,
    of: TeacherOptions | StudentOptions,
    method: Method,
    *,
    parents: dict[str, str],
    all_labels: bool,
) -> dict[str, Any]:
    """Everything that the weights of a stage depend on, by the names of the recipe, without pretrained weights."""
    content = context.slices.content_of_all_labels if all_labels else context.slices.content
    network = {name: value for name, value in spec_for_fingerprint(of).items() if name not in ("method", "is")}
    return {
        "format": FORMAT,
        "student" if isinstance(of, StudentOptions) else "teacher": {**network, "method": stage_folder.plain(method)},
        **training_data_for(context, of).cache_inputs,
        "seed": context.recipe.seed,
        "training data": key_of_entries(content.labelled, content.unlabelled),
        "parents": parents,
        "all_labels": all_labels,
    }


def _with_encoder(
    inputs: dict[str, Any], of: TeacherOptions | StudentOptions, folder: Path, weights: EncoderWeights | None
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


def _need_foreground(context: RunContext) -> None:
    """Raises ValueError before anything is trained when the validation list can measure nothing."""
    distributed.run_on_main(lambda: len(context.slices.val))


@contextmanager
def enough_for_batch_norm(stage: str) -> Iterator[None]:
    """Names the options of the recipe in the error that torch raises where batch norm sees one value per channel."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ValueError(
            f"{stage}: batch normalisation sees one value per channel at the network's deepest level; "
            f"set {stage}.schedule.labelled to at least 2, or data.size to at least 32 32"
        ) from None
