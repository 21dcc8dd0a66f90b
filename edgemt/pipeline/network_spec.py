"""How the networks of a stage are built: the description that goes on a card, first weights, and a factory by kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import students
from edgemt.artefacts import network_folder, stage_folder
from edgemt.io import encoder_weights
from edgemt.io.encoder_weights import EncoderWeights
from edgemt.learning.feature_losses import enable_maps
from edgemt.learning.feature_term import FeatureTerm
from edgemt.methods import Discriminator, Method
from edgemt.pipeline.recipe import STUDENT_PREFIX, StudentOptions, TeacherOptions
from edgemt.pipeline.training_data import TrainingData
from edgemt.training import checkpoint, engine
from edgemt.zoo.warm_start import load_warm_start, warm_start_spec


def network_spec(
    of: TeacherOptions | StudentOptions, data: TrainingData, method: Method, *, weights: EncoderWeights | None = None
) -> dict[str, Any]:
    """The description from which `build_network` builds a network again; `weights` are its encoder's first weights."""
    network = _spec(of, method, channels=data.example.shape[1], classes=len(data.classes) - data.overlapping)
    if data.overlapping:
        network["overlapping"] = True
    if "pretrained" in network["options"] and weights is None:
        network["options"]["pretrained"] = "never"  # `pretrained_encoder` has found none
    return network | ({"encoder_weights": weights.record()} if weights is not None else {})


def _spec(of: TeacherOptions | StudentOptions, method: Method, *, channels: int, classes: int) -> dict[str, Any]:
    if isinstance(of, StudentOptions):
        return student_spec(of, method, channels=channels, classes=classes)
    if of.network.startswith(STUDENT_PREFIX):
        as_student = StudentOptions(
            network=of.network.removeprefix(STUDENT_PREFIX),
            decoder=of.decoder,
            resolution=of.resolution,
            pretrained=of.pretrained,
            encoder_weights=of.encoder_weights,
            first_conv=of.first_conv,
        )
        return student_spec(as_student, method, channels=channels, classes=classes)
    if of.resolution != 1:
        raise ValueError(
            f"teacher.resolution = {of.resolution}: only students/ networks have one; {of.network} needs 1"
        )
    if of.network.startswith("smp/"):
        options = _encoder_options(of) | ({"encoder": of.encoder} if of.encoder else {})
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


def student_spec(of: StudentOptions, method: Method, *, channels: int, classes: int) -> dict[str, Any]:
    """The description of a student, whatever its first weights."""
    return {
        "room": "students",
        "name": of.network,
        "channels": channels,
        "classes": classes,
        "heads": list(method.heads),
        "options": _encoder_options(of)
        | ({"decoder": of.decoder} if of.decoder != "auto" else {})
        | ({"resolution": of.resolution} if of.resolution != 1 else {}),
    }


def _encoder_options(of: TeacherOptions | StudentOptions) -> dict[str, Any]:
    """The source of the encoder's first weights, as a network's builder takes it; defaults are left out."""
    options: dict[str, Any] = {"pretrained": of.pretrained}
    if of.encoder_weights:
        options["weights_file"] = of.encoder_weights
    if of.first_conv != "auto":
        options["first_conv"] = of.first_conv
    return options


def spec_for_fingerprint(of: TeacherOptions | StudentOptions) -> dict[str, Any]:
    """The options of a network that are part of its stage's key.

    Files of weights count by their hash, wherever they are. A feature teacher and a warm-up count where a stage uses
    them, a resolution where it is not the whole.
    """
    feature = ("feature_teacher", "feature_teacher_weights", "feature_teacher_size", "warm_up_steps")
    whole = ("resolution",) if getattr(of, "resolution", 1.0) == 1.0 else ()
    left_out = ("weights", "encoder_weights", *feature, *whole)
    return {name: value for name, value in stage_folder.plain(of).items() if name not in left_out}


def initial_weights(of: TeacherOptions | StudentOptions) -> str:
    """The zoo entry, or the folder that `edgemt pack` wrote, that a student starts from; empty for none."""
    return of.weights if isinstance(of, StudentOptions) else ""


def initial_network(
    of: TeacherOptions | StudentOptions, data: TrainingData, method: Method, *, weights: EncoderWeights | None
) -> tuple[dict[str, Any], Callable[[], nn.Module]]:
    """The network that a stage begins with: its description for the card, and a function that builds it."""
    network = network_spec(of, data, method, weights=weights)
    if not initial_weights(of):
        return network, partial(network_folder.build_network, network)
    network = warm_start_spec(initial_weights(of), network)
    return network, partial(load_warm_start, initial_weights(of), network)


def with_encoder_of(build: Callable[[], nn.Module], folder: Path) -> nn.Module:
    """A new student whose encoder has the weights of a finished warm-up."""
    network = build()
    checkpoint.load_weights(folder / stage_folder.WEIGHTS, network.pyramid)  # type: ignore[arg-type]
    return network


def pretrained_encoder(of: TeacherOptions | StudentOptions, stage: str) -> EncoderWeights | None:
    """The pretrained weights that the encoder begins with; None for a network without a pretrained encoder.

    Raises ValueError, naming stage and remedy, where `pretrained` "always" or a named file cannot be had.
    """
    if initial_weights(of):
        return None
    encoder, hub = "", None
    if isinstance(of, StudentOptions) or of.network.startswith(STUDENT_PREFIX):
        encoder = students.encoder_name(of.network.removeprefix(STUDENT_PREFIX))
    elif of.network.startswith("smp/"):
        from teachers.external import published

        encoder, hub = published(of.encoder or "resnet34")
    elif of.encoder_weights:
        raise ValueError(f"teacher.encoder_weights: {of.network} has no encoder that takes them; use students/ or smp/")
    if not encoder:
        return None
    pretrained, file = of.pretrained, of.encoder_weights
    return encoder_weights.find(encoder, file=file, pretrained=pretrained, hub=hub, what=f"{stage}: encoder")


def network_factory(
    networks: Mapping[str, Callable[[], nn.Module]], data: TrainingData, *, method: Method | None = None, seed: int
) -> engine.BuildNetwork:
    """build(kind, init) -> the network of a player: one of `networks`, a discriminator, or a projection.

    The random generator is seeded by `seed` and `init`, so that each player begins with weights of its own. A
    "projection" fits the networks that were built before it.
    """
    term: FeatureTerm = getattr(method, "feature", None) or FeatureTerm()
    built: dict[str, nn.Module] = {}

    def build(kind: str, init: int) -> nn.Module:
        torch.manual_seed(seed * 1000 + init)
        if kind in networks:
            network = networks[kind]()
            built[kind] = enable_maps(network, term.at) if kind in term.given_by else network
            return network
        if kind == "projection":
            return term.projection(built, data.example)
        if kind == "discriminator":
            space = data.example.ndim - 2
            return Discriminator(channels=data.example.shape[1], classes=len(data.classes), dimensions=space)
        raise ValueError(f"this stage has no network to play {kind!r}; choose a method that does not need one")

    return build
