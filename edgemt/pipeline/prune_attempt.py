"""One attempt of the prune stage: a folder under `slim.tries` with the student pruned and fine-tuned."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deploy.pruning import prune
from deploy.quantization.accuracy_gate import as_number
from edgemt.artefacts import network_folder, stage_folder
from edgemt.contract import Batch
from edgemt.data.slice_dataset import TwoStreamBatches
from edgemt.io import process_rank
from edgemt.io.atomic import write_text
from edgemt.learning.label_rules import label_rules
from edgemt.learning.losses import dice_ce
from edgemt.pipeline.accuracy import measured_of
from edgemt.pipeline.fallback import Attempt
from edgemt.pipeline.guidance import student_guidance
from edgemt.pipeline.log import log
from edgemt.pipeline.recipe import student_method
from edgemt.pipeline.run_context import RunContext
from edgemt.pipeline.stage import FORMAT, Stage
from edgemt.training import checkpoint, distributed, engine
from edgemt.training.options import Schedule
from edgemt.zoo.warm_start import compose_plans

PLAN = "plan.json"  # stays: `slim.prune.plan` repeats it on another network
START, MARK = "start.safetensors", "start.json"
TRIES = "slim.tries"


def make_attempt(context: RunContext, attempt: Attempt, parents: dict[str, str]) -> Path:
    """The folder of an attempt, made unless complete: the student pruned and tuned, or an earlier attempt tuned on.

    `parents`: name -> fingerprint of what every attempt depends on.
    """
    home, recipe = context.folder(TRIES), context.recipe
    earlier = home / attempt.after if attempt.after else None
    method, student = student_method(recipe.student), context.folder("student")
    parents = {**parents, **({"earlier attempt": stage_folder.identity(earlier)} if earlier else {})}
    inputs = {
        "format": FORMAT,
        "attempt": attempt,
        "slim": {"batches": recipe.slim.batches},
        "student": {"method": method},
        "seed": recipe.seed,
        "parents": parents,
    }
    stage = Stage(context, f"{TRIES}/{attempt.name}", inputs, label=attempt.name)
    if stage.is_complete():
        stage.measure_again(parent=student)
        log(f"slim: {attempt.words}: stands, Dice {dice_of(context, stage.folder):.4f}")
        return stage.folder
    stream = context.slices.stream(attempt.schedule, bank=student_guidance(context, method).bank)
    with stage.working_folder() as working:
        if earlier is None:
            done, network = _prune_and_tune(stage, attempt, stream, working)
        else:
            done, network = _tune_further(stage, attempt, earlier, stream, working)
        if process_rank.is_main_process():
            _remove_resume_files(working)
            stage.measure_and_save(working, done, network, stage="slim", parent_dice=dice_of(context, student))
    return stage.folder


def dice_of(context: RunContext, folder: Path) -> float:
    """Dice of a finished network on this run's validation list; NaN where it was not measured."""
    return as_number(measured_of(folder, measured_on=context.slices.measured_on).dice)


def _prune_and_tune(
    stage: Stage, attempt: Attempt, stream: TwoStreamBatches, working: Path
) -> tuple[engine.Trained, dict[str, Any]]:
    """The student pruned and fine-tuned, in `prune.rounds` rounds; and its description for the card."""
    source, rounds = stage.context.folder("student"), attempt.prune.rounds
    network = network_folder.load_network(source)
    whole = {"plan": None, **stage_folder.read_card(source).network}
    described = whole
    for number in range(1, rounds + 1):
        last = number == rounds
        part = working if last else working / f"round{number}"
        part.mkdir(parents=True, exist_ok=True)
        described = _pruned(stage, attempt, network, stream, part, whole=whole, before=described, number=number)
        done = _tune(
            stage,
            attempt,
            replace(attempt.schedule, steps=max(1, attempt.schedule.steps // rounds)),
            _starts(part, described, network),
            stream.batch,
            part,
            seed=stage.context.recipe.seed + number,
            label="slim" if last else f"slim {number}/{rounds}",
        )
        network = done.network.cpu()
    return done, described


def _tune_further(
    stage: Stage, attempt: Attempt, earlier: Path, stream: TwoStreamBatches, working: Path
) -> tuple[engine.Trained, dict[str, Any]]:
    """The network of an earlier attempt, fine-tuned on further batches; and its description for the card."""
    recipe = stage.context.recipe
    if process_rank.is_main_process() and (earlier / PLAN).exists():
        shutil.copyfile(earlier / PLAN, working / PLAN)
    used = recipe.slim.schedule.steps * process_rank.world_size()
    done = _tune(
        stage,
        attempt,
        attempt.schedule,
        partial(network_folder.load_network, earlier),
        lambda index, device: stream.batch(index + used, device),
        working,
        seed=recipe.seed + attempt.prune.rounds + 1,
        label="slim, longer",
    )
    return done, stage_folder.read_card(earlier).network


def _tune(
    stage: Stage,
    attempt: Attempt,
    schedule: Schedule,
    student: Callable[[], nn.Module],
    draw: engine.DrawBatch,
    folder: Path,
    *,
    seed: int,
    label: str,
) -> engine.Trained:
    """Fine-tuning with the student's own method, resumed where it was interrupted."""
    method = student_method(stage.context.recipe.student)
    networks = {"student": student, **student_guidance(stage.context, method).networks()}
    return stage.train(
        method,
        networks=networks,
        draw=draw,
        schedule=schedule,
        folder=folder,
        seed=seed,
        label=label,
        events=f"slim/{attempt.name}",
    )


def _pruned(
    stage: Stage,
    attempt: Attempt,
    network: nn.Module,
    stream: TwoStreamBatches,
    part: Path,
    *,
    whole: dict[str, Any],
    before: dict[str, Any],
    number: int,
) -> dict[str, Any]:
    """Prunes once, or takes up the plan that an interrupted run left in `part`; how to build the network again.

    A measured latency is not the same twice, and a checkpoint fits one plan alone: so the plan and the weights that
    fine-tuning begins with are kept.
    """
    mark = part / MARK
    if not attempt.prune.wanted:
        (part / START).unlink(missing_ok=True)
        return before
    if distributed.run_on_main(lambda: not (mark.exists() and json.loads(mark.read_text())["key"] == stage.key)):
        widths = prune.widths_of(_fresh(whole))
        plan = distributed.run_on_main(partial(_cut, stage.context, attempt, network, stream, number, widths))
        if process_rank.is_main_process():
            checkpoint.save_weights(part / START, network)
            joined = {**compose_plans(before["plan"], plan), "latency": plan["latency"]}
            write_text(part / PLAN, stage_folder.to_json(joined))
            write_text(mark, stage_folder.to_json({"key": stage.key}))
    return {**before, "plan": distributed.run_on_main(lambda: prune.read_plan(part / PLAN).to_dict())}


def _starts(part: Path, described: dict[str, Any], network: nn.Module) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        if process_rank.is_main_process() and (part / START).exists():
            return checkpoint.load_weights(part / START, _fresh(described))
        fresh = _fresh(described)
        if process_rank.is_main_process():  # the others get its weights when they begin
            fresh.load_state_dict(network.state_dict())
        return fresh

    return build


def _fresh(described: dict[str, Any]) -> nn.Module:
    return network_folder.build_network(network_folder.without_pretrained(described))


def _cut(
    context: RunContext,
    attempt: Attempt,
    network: nn.Module,
    stream: TwoStreamBatches,
    number: int,
    whole: dict[str, int],
) -> dict[str, Any]:
    """Prunes `network` in place to this round's part of the share; the plan that does the same to another one."""
    of, batches = attempt.prune, context.recipe.slim.batches
    options = replace(of, share=part_of(of.share, number, of.rounds), rounds=1)
    gradients = partial(supervised_gradients, stream, batches)
    plan = prune.prune(
        network, example=context.slices.example, options=options, gradients=gradients, original_widths=whole
    )
    prune.recalibrate(network, (stream.batch(i, torch.device("cpu")).image for i in range(batches)))
    log(f"slim: {plan.macs[0] / 1e6:.1f} -> {plan.macs[1] / 1e6:.1f} MMACs{_timed(plan)}; fine-tuning")
    return plan.to_dict()


def part_of(share: float, number: int, rounds: int) -> float:
    """What round `number` of `rounds` removes of what is there then, so that all together remove `share`."""
    before, after = (1 - share * done / rounds for done in (number - 1, number))
    return 1 - after / before


def _timed(plan: prune.Plan) -> str:
    if not plan.latency:
        return ""
    was, now = plan.latency["ms"]
    return f", {was:.3f} -> {now:.3f} ms on {plan.latency['runtime']} ({plan.latency['precision']})"


def _remove_resume_files(working: Path) -> None:
    """Remove the files that only an interrupted run needs."""
    for name in (START, MARK):
        (working / name).unlink(missing_ok=True)
    for part in working.glob("round*"):
        shutil.rmtree(part)


def supervised_gradients(stream: TwoStreamBatches, batches: int, network: nn.Module) -> None:
    """Gradients of the supervised loss on real batches, which rank the channels."""
    for index in range(batches):
        batch: Batch = stream.batch(index, torch.device("cpu"))
        with label_rules(batch.rules):
            dice_ce(network(batch.labelled).logits, batch.label).backward()
