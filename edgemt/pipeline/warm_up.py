"""Before distillation: the student's encoder alone learns the features of a frozen encoder on every training image."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import nn

from edgemt.artefacts import network_folder, stage_folder
from edgemt.io import process_rank
from edgemt.io.atomic import write_text
from edgemt.learning.feature_term import FeatureTerm
from edgemt.methods.encoder_warm_up import EncoderWarmUp
from edgemt.pipeline import feature_teacher
from edgemt.pipeline.run_context import Run
from edgemt.pipeline.train import (
    beginning,
    builder,
    enough_for_batch_norm,
    first_encoder_weights,
    first_weights,
    inputs_of,
    staged,
    stands,
    with_encoder,
)
from edgemt.recipes import student_method
from edgemt.training import engine
from edgemt.training.options import Schedule
from edgemt.zoo.entry import open_entry

STAGE = "warm_up"


def warm_up(at: Run, teacher: Path) -> Path:
    """The folder of the student's encoder after `student.warm_up_steps` steps, made if it does not stand.

    The guide is `student.feature_teacher`, or else the encoder of the network in `teacher`; the loss is the method's
    own `feature`, or else "fitnet". No label is read. Raises ValueError where encoders have no maps of equal stride.
    """
    of, folder = at.recipe.student, at.folder(STAGE)
    distillation = student_method(of)
    term = getattr(distillation, "feature", FeatureTerm())
    method = EncoderWarmUp(
        replace(
            term,
            kind=term.kind if term.on else "fitnet",
            weight=1.0,
            at="encoder",
            source="backbone" if of.feature_teacher else "teacher",
        )
    )
    features = feature_teacher.find(at, method, of)
    parents = {
        **({"teacher": stage_folder.identity(teacher)} if features is None else {"feature teacher": features.identity}),
        **({"first weights": open_entry(first_weights(of)).identity} if first_weights(of) else {}),
    }
    schedule = replace(of.schedule, steps=of.warm_up_steps, validations=0)
    weights = first_encoder_weights(of, at, STAGE)
    inputs = inputs_of(at, at, replace(of, schedule=schedule), method, parents=parents, all_labels=False)
    inputs = with_encoder(inputs, of, folder, weights)
    key = stage_folder.key_of(inputs)
    if stands(at, STAGE, inputs):
        at.say(f"{STAGE}: stands")
        return folder
    if weights is not None:
        at.say(f"{STAGE}: {weights.line()}")
    if features is not None:
        at.say(f"{STAGE}: {features.line}")
    described, begin = beginning(of, at, distillation, weights=weights)
    guide = partial(network_folder.load_network, teacher) if features is None else features.build
    known = {"student": lambda: _encoder(begin()), method.feature.source: guide}
    with staged(folder, overwrite=at.overwrite) as working, enough_for_batch_norm("student"):
        done = engine.train(
            method,
            build=builder(known, at, method=method, seed=at.recipe.seed),
            draw=at.draw(_by_share(at, schedule)),
            schedule=schedule,
            folder=working,
            seed=at.recipe.seed,
            key=key,
            label=STAGE,
            events=at.out / "log" / STAGE,
        )
        if process_rank.is_main_process():
            write_text(working / stage_folder.CURVES, stage_folder.to_json(done.history))
            card = replace(
                at.card(),
                stage=STAGE,
                network=network_folder.without_pretrained(described),
                parents=tuple(parents.values()),
                recipe_hash=key,
            )
            network_folder.save_network(working, done.network.cpu(), card)
            seen = done.history["terms"].get("feature", [float("nan")])
            at.say(f"{STAGE}: {method.feature.kind} loss {seen[0]:.3f} -> {seen[-1]:.3f}")
    return folder


def _encoder(student: nn.Module) -> nn.Module:
    return student.pyramid  # type: ignore[return-value]


def _by_share(at: Run, schedule: Schedule) -> Schedule:
    """As many rows in a batch, labelled ones as often as among all training images: each image counts once."""
    rows, total = schedule.labelled + schedule.unlabelled, len(at.labelled) + len(at.unlabelled)
    labelled = max(1, round(rows * len(at.labelled) / total))
    return replace(schedule, labelled=labelled, unlabelled=rows - labelled if len(at.unlabelled) else 0)
