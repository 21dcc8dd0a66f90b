"""Before distillation: the student's encoder alone learns the features of a frozen encoder on every training image."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import nn

from edgemt.artefacts import network_folder, stage_folder
from edgemt.io import process_rank
from edgemt.learning.feature_term import FeatureTerm
from edgemt.methods.encoder_warm_up import EncoderWarmUp
from edgemt.pipeline import feature_teacher
from edgemt.pipeline.log import log
from edgemt.pipeline.network_spec import initial_network
from edgemt.pipeline.recipe import student_method
from edgemt.pipeline.run_context import RunContext
from edgemt.pipeline.stage import Stage
from edgemt.pipeline.train import enough_for_batch_norm, initial_weights_parent, stage_inputs
from edgemt.training.options import Schedule

STAGE = "warm_up"


def warm_up(context: RunContext, teacher: Path) -> Path:
    """The folder of the student's encoder after `student.warm_up_steps` steps, trained unless it is complete.

    The guide is `student.feature_teacher`, or else the encoder of the network in `teacher`; the loss is the method's
    own `feature`, or else "fitnet". No label is read. Raises ValueError where encoders have no maps of equal stride.
    """
    of = context.recipe.student
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
    features = feature_teacher.find(context, method, of)
    parents = {
        **({"teacher": stage_folder.identity(teacher)} if features is None else {"feature teacher": features.identity}),
        **initial_weights_parent(of),
    }
    schedule = replace(of.schedule, steps=of.warm_up_steps, validations=0)
    inputs, weights = stage_inputs(context, STAGE, replace(of, schedule=schedule), method, parents=parents)
    stage = Stage(context, STAGE, inputs)
    if stage.is_complete():
        log(f"{STAGE}: stands")
        return stage.folder
    if weights is not None:
        log(f"{STAGE}: {weights.line()}")
    if features is not None:
        log(f"{STAGE}: {features.line}")
    network, build = initial_network(of, context.slices, distillation, weights=weights)
    guide = partial(network_folder.load_network, teacher) if features is None else features.build
    networks = {"student": lambda: _encoder(build()), method.feature.source: guide}
    with stage.working_folder() as working, enough_for_batch_norm("student"):
        done = stage.train(
            method,
            networks=networks,
            draw=context.slices.draw(_by_share(context, schedule)),
            schedule=schedule,
            folder=working,
            validate=False,
        )
        if process_rank.is_main_process():
            stage.save(working, done, network)
            losses = done.history["terms"].get("feature", [float("nan")])
            log(f"{STAGE}: {method.feature.kind} loss {losses[0]:.3f} -> {losses[-1]:.3f}")
    return stage.folder


def _encoder(student: nn.Module) -> nn.Module:
    return student.pyramid  # type: ignore[return-value]


def _by_share(context: RunContext, schedule: Schedule) -> Schedule:
    """As many rows in a batch, labelled ones as often as among all training images: each image counts once."""
    labelled, unlabelled = len(context.slices.labelled), len(context.slices.unlabelled)
    rows = schedule.labelled + schedule.unlabelled
    share = max(1, round(rows * labelled / (labelled + unlabelled)))
    return replace(schedule, labelled=share, unlabelled=rows - share if unlabelled else 0)
