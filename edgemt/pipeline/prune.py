"""The prune stage: the student gets fewer channels, is fine-tuned with its own method, and passes an accuracy gate.

Where the gate refuses, milder attempts follow (`edgemt.pipeline.fallback`), each a folder of its own under
`slim.tries`, made once and resumed when it was interrupted. Which of them becomes the stage depends on the tolerance;
they do not.
"""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from deploy.pruning import prune
from deploy.quantization.accuracy_gate import GateError, gate
from edgemt.artefacts import network_folder, stage_folder
from edgemt.io import process_rank
from edgemt.io.atomic import write_text
from edgemt.pipeline.accuracy import dice_text, weights_metrics
from edgemt.pipeline.fallback import UNPRUNED, Attempt, attempts_of, budget, given_up
from edgemt.pipeline.guidance import student_guidance
from edgemt.pipeline.log import log
from edgemt.pipeline.prune_attempt import PLAN, dice_of, make_attempt
from edgemt.pipeline.recipe import student_method
from edgemt.pipeline.run_context import RunContext
from edgemt.pipeline.stage import FORMAT, Stage, remove_leftovers
from edgemt.training import distributed

CURVES = stage_folder.CURVES
_REMEDY = "slim.schedule.steps up or slim.prune.share down"


def slim(context: RunContext) -> Path:
    """The folder `slim`: the student pruned and fine-tuned as the recipe states, or by the first attempt that passes.

    Raises GateError where the gate refuses and `strict` is set, and where the student's own Dice was not measured.
    """
    recipe, parents = context.recipe, _parents(context)
    inputs = {
        "format": FORMAT,
        "slim": recipe.slim,
        "seed": recipe.seed,
        "parents": parents,
        "student": {"method": student_method(recipe.student)},
        "tolerance": recipe.tolerance,
        "strict": recipe.strict,
    }
    stage = Stage(context, "slim", inputs)
    complete = stage.is_complete()
    if complete and _still_passes(stage):
        log(f"slim: stands, {dice_text(weights_metrics(stage.folder))}")
        return stage.folder
    attempts = attempts_of(recipe.slim)
    log(f"slim: {budget(attempts, strict=recipe.strict)}")
    tried: list[dict[str, Any]] = []
    chosen = context.folder("student")
    for attempt in attempts:
        folder = make_attempt(context, attempt, parents)
        tried.append(distributed.run_on_main(partial(_judge_attempt, context, attempt, folder)))
        if not tried[-1]["refused"]:
            chosen = folder
            break
        log(f"slim: {attempt.words}: refused, {tried[-1]['refused']}")
    with stage.working_folder(overwrite=context.overwrite or complete) as working:
        if process_rank.is_main_process():
            _write_stage(stage, chosen, working, attempts=attempts, tried=tried)
    return stage.folder


def _still_passes(stage: Stage) -> bool:
    """Whether the complete stage passes its gate on this validation list; measured again where the list changed.

    Where it does not, the attempts go through the gate again; they are complete, and nothing is trained. Raises
    GateError with `strict`.
    """
    context, metrics = stage.context, weights_metrics(stage.folder)
    other_list = metrics.list_key != context.slices.list_key
    if other_list and any(tried["refused"] for tried in metrics.attempts):
        log("slim: attempts were refused on another validation list; they are judged anew")
        return False

    def judge(before: float, dice: float | None) -> None:
        gate(before, dice, tolerance=context.recipe.tolerance, what="the pruned student", hint=_REMEDY)

    try:
        stage.measure_again(parent=context.folder("student"), judge=judge)
    except GateError as error:
        if context.recipe.strict:
            raise
        log(f"slim: refused on the changed validation list, {error.reason}; the attempts are judged anew")
        return False
    return True


def _parents(context: RunContext) -> dict[str, str]:
    """Name -> fingerprint of what every attempt depends on besides its own options."""
    plan = context.recipe.slim.prune.plan
    guidance = student_guidance(context, student_method(context.recipe.student))
    return {
        "student": stage_folder.identity(context.folder("student")),
        **guidance.parents(),
        **({"plan": stage_folder.key_of(prune.read_plan(Path(plan)).to_dict())} if plan else {}),
    }


def _judge_attempt(context: RunContext, attempt: Attempt, folder: Path) -> dict[str, Any]:
    """The record of an attempt for the card; `refused` is the gate's reason, or empty. Raises GateError as `slim`."""
    before, dice = dice_of(context, context.folder("student")), dice_of(context, folder)
    card = stage_folder.read_card(folder)
    refused = ""
    try:
        gate(before, dice, tolerance=context.recipe.tolerance, what="the pruned student", hint=_REMEDY)
    except GateError as error:
        if context.recipe.strict or math.isnan(before):
            raise
        refused = error.reason
    return {
        "attempt": attempt.words,
        "dice": None if math.isnan(dice) else dice,
        "macs": card.macs,
        "steps": attempt.schedule.steps,
        "refused": refused,
    }


def _write_stage(
    stage: Stage, chosen: Path, working: Path, *, attempts: list[Attempt], tried: list[dict[str, Any]]
) -> None:
    """Fill the stage's folder from the attempt that passed, or from the student as it is."""
    remove_leftovers(working)
    context, student = stage.context, stage.context.folder("student")
    unpruned = chosen == student
    for name in (stage_folder.WEIGHTS, *(() if unpruned else (PLAN, CURVES))):
        if (chosen / name).exists():
            shutil.copyfile(chosen / name, working / name)
    card = stage_folder.read_card(chosen)
    measured = card.measured[stage_folder.WEIGHTS]
    if unpruned:
        write_text(working / CURVES, "{}\n")  # nothing was trained here
        card = replace(card, network={"plan": None, **network_folder.without_pretrained(card.network)})
        measured = replace(measured, drop=0.0)
    wanted, shipped = attempts[0].way, UNPRUNED if unpruned else attempts[len(tried) - 1].way
    record = given_up(
        stage="slim",
        wanted=wanted,
        shipped=shipped,
        tried=tried,
        tolerance=context.recipe.tolerance,
        parent_dice=dice_of(context, student),
        remedy=f"{_REMEDY}, or a larger tolerance",
    )
    card = replace(
        card,
        stage="slim",
        parents=stage.parents,
        recipe_hash=stage.key,
        measured={stage_folder.WEIGHTS: replace(measured, attempts=tuple(tried))},
        given_up=(record,) if shipped != wanted else (),
    )
    stage_folder.write_card(working, card)
    if shipped != wanted:
        log(f"slim: {shipped} instead, {dice_text(measured)}")
