"""Fewer channels: the student is pruned, fine-tuned with its own method, and judged before it is written.

Where the gate refuses, milder attempts follow (`edgemt.pipeline.fallback`), each a folder of its own under
`slim.tries`, made once and resumed when it was interrupted. Which of them becomes the stage depends on the tolerance;
they do not.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deploy.pruning import prune
from deploy.quantization.accuracy_gate import GateError, gate
from edgemt.artefacts import network_folder, stage_folder
from edgemt.contract import Batch
from edgemt.data import soft_labels
from edgemt.data.slice_dataset import TwoStream
from edgemt.io import process_rank
from edgemt.io.atomic import write_text
from edgemt.learning.losses import dice_ce
from edgemt.pipeline import feature_teacher
from edgemt.pipeline.fallback import UNPRUNED, Attempt, attempts_of, budget, given_up
from edgemt.pipeline.run_context import Run, measured_of
from edgemt.pipeline.train import (
    FORMAT,
    builder,
    dice_text,
    frozen_kinds,
    keep,
    measured_again,
    staged,
    stands,
    wants_bank,
)
from edgemt.recipes import student_method
from edgemt.training import checkpoint, distributed, engine
from edgemt.training.options import Schedule
from edgemt.zoo.warm_start import compose_plans

PLAN = "plan.json"  # stays: `slim.prune.plan` repeats it on another network
START, MARK = "start.safetensors", "start.json"
TRIES, CURVES = "slim.tries", stage_folder.CURVES
_REMEDY = "slim.schedule.steps up or slim.prune.share down"


def slim(at: Run) -> Path:
    """Structured pruning to the target, then fine-tuning with the student's own method; or the mildest that passes.

    Raises GateError where the gate refuses and `strict` is set, and where the student's own Dice was not measured.
    """
    source, folder = at.folder("student"), at.folder("slim")
    named, recipe = _parents(at), at.recipe
    inputs = {"format": FORMAT, "slim": recipe.slim, "seed": recipe.seed, "parents": named}
    inputs |= {
        "student": {"method": student_method(recipe.student)},
        "tolerance": recipe.tolerance,
        "strict": recipe.strict,
    }
    key, parents = stage_folder.key_of(inputs), tuple(named.values())
    fits = stands(at, "slim", inputs)
    if fits and _still_passes(at, folder, source):
        at.say(f"slim: stands, {dice_text(stage_folder.read_card(folder).measured[stage_folder.WEIGHTS])}")
        return folder
    attempts = attempts_of(at.recipe.slim)
    at.say(f"slim: {budget(attempts, strict=at.recipe.strict)}")
    tried: list[dict[str, Any]] = []
    chosen = source
    for attempt in attempts:
        made = _attempted(at, attempt, named)
        tried.append(distributed.run_on_main(partial(_judged, at, attempt, made)))
        if not tried[-1]["refused"]:
            chosen = made
            break
        at.say(f"slim: {attempt.words}: refused, {tried[-1]['refused']}")
    with staged(folder, overwrite=at.overwrite or fits) as working:
        if process_rank.is_main_process():
            _deliver(at, chosen, working, attempts=attempts, tried=tried, key=key, parents=parents)
    return folder


def _still_passes(at: Run, folder: Path, source: Path) -> bool:
    """Whether the finished stage passes its gate on this validation list; measured again where the list changed.

    Where it does not, the attempts are judged anew: they are finished, and nothing is trained again. Raises GateError
    with `strict`.
    """

    record = stage_folder.read_card(folder).measured[stage_folder.WEIGHTS]
    if record.get("list") != at.list_key and any(tried["refused"] for tried in record.get("attempts", ())):
        at.say("slim: attempts were refused on another validation list; they are judged anew")
        return False

    def judge(before: float, dice: float) -> None:
        gate(before, dice, tolerance=at.recipe.tolerance, what="the pruned student", knob=_REMEDY)

    try:
        measured_again(at, folder, "slim", parent=source, judge=judge)
    except GateError as error:
        if at.recipe.strict:
            raise
        at.say(f"slim: refused on the changed validation list, {error.reason}; the attempts are judged anew")
        return False
    return True


def _parents(at: Run) -> dict[str, str]:
    """What every attempt depends on, beside its own options."""
    of, method = at.recipe.slim, student_method(at.recipe.student)
    features = feature_teacher.find(at, method, at.recipe.student)
    return {
        "student": stage_folder.identity(at.folder("student")),
        **({"teacher": stage_folder.identity(at.folder("teacher"))} if "teacher" in frozen_kinds(method) else {}),
        **({"bank": soft_labels.identity(at.folder("bank"))} if wants_bank(method) else {}),
        **({"feature teacher": features.identity} if features is not None else {}),
        **({"plan": stage_folder.key_of(prune.read_plan(Path(of.prune.plan)).to_dict())} if of.prune.plan else {}),
    }


def _judged(at: Run, attempt: Attempt, made: Path) -> dict[str, Any]:
    """An attempt for the card; `refused` is the gate's reason, or empty. Raises GateError as `slim` does."""
    before, dice, card = _dice(at, at.folder("student")), _dice(at, made), stage_folder.read_card(made)
    refused = ""
    try:
        gate(before, dice, tolerance=at.recipe.tolerance, what="the pruned student", knob=_REMEDY)
    except GateError as error:
        if at.recipe.strict or math.isnan(before):
            raise
        refused = error.reason
    return {
        "attempt": attempt.words,
        "dice": None if math.isnan(dice) else dice,
        "macs": card.macs,
        "steps": attempt.schedule.steps,
        "refused": refused,
    }


def _dice(at: Run, folder: Path) -> float:
    """Of a finished network, on this run's validation list; NaN where it was not measured."""
    dice = measured_of(folder, measured_on=at.measured_on)["dice"]
    return float("nan") if dice is None else dice


def _deliver(
    at: Run,
    chosen: Path,
    working: Path,
    *,
    attempts: list[Attempt],
    tried: list[dict[str, Any]],
    key: str,
    parents: tuple[str, ...],
) -> None:
    """The stage from the attempt that passed, or from the student as it is."""
    for left in working.iterdir():  # of a run that was cut
        if not left.name.startswith("."):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    whole = chosen == at.folder("student")
    for name in (stage_folder.WEIGHTS, *(() if whole else (PLAN, CURVES))):
        if (chosen / name).exists():
            shutil.copyfile(chosen / name, working / name)
    card = stage_folder.read_card(chosen)
    measured = card.measured[stage_folder.WEIGHTS]
    if whole:
        write_text(working / CURVES, "{}\n")  # nothing was learnt here
        card = replace(card, network={"plan": None, **network_folder.without_pretrained(card.network)})
        measured = {**measured, "drop": 0.0}
    asked, shipped = attempts[0].way, UNPRUNED if whole else attempts[len(tried) - 1].way
    record = given_up(
        stage="slim",
        wanted=asked,
        shipped=shipped,
        tried=tried,
        tolerance=at.recipe.tolerance,
        parent_dice=_dice(at, at.folder("student")),
        remedy=f"{_REMEDY}, or a larger tolerance",
    )
    card = replace(
        card,
        stage="slim",
        parents=parents,
        recipe_hash=key,
        measured={stage_folder.WEIGHTS: {**measured, "attempts": tried}},
        given_up=(record,) if shipped != asked else (),
    )
    stage_folder.write_card(working, card)
    if shipped != asked:
        at.say(f"slim: {shipped} instead, Dice {measured['dice']:.4f}")


def _attempted(at: Run, attempt: Attempt, parents: dict[str, str]) -> Path:
    """The folder of an attempt: pruned and fine-tuned, or an earlier one fine-tuned further."""
    home = at.folder(TRIES)
    folder, earlier = home / attempt.name, home / attempt.after if attempt.after else None
    method, source = student_method(at.recipe.student), at.folder("student")
    named = {**parents, **({"earlier attempt": stage_folder.identity(earlier)} if earlier else {})}
    inputs = {"format": FORMAT, "attempt": attempt, "slim": {"batches": at.recipe.slim.batches}}
    inputs |= {"student": {"method": method}, "seed": at.recipe.seed, "parents": named}
    key = stage_folder.key_of(inputs)
    if stands(at, f"{TRIES}/{attempt.name}", inputs):
        measured_again(at, folder, attempt.name, parent=source)
        at.say(f"slim: {attempt.words}: stands, Dice {_dice(at, folder):.4f}")
        return folder
    stream = at.stream(attempt.schedule, bank=at.folder("bank") if wants_bank(method) else None)
    with staged(folder, overwrite=at.overwrite) as working:
        if earlier is None:
            done, network = _pruned_and_tuned(at, attempt, stream, working, key=key)
        else:
            done, network = _tuned_further(at, attempt, earlier, stream, working, key=key)
        if process_rank.is_main_process():
            _tidy(working)
            lineage = tuple(named.values())
            keep(at, working, "slim", done, network, key=key, parents=lineage, parent_dice=_dice(at, source))
    return folder


def _pruned_and_tuned(
    at: Run, attempt: Attempt, stream: TwoStream, working: Path, *, key: str
) -> tuple[engine.Trained, dict[str, Any]]:
    """The student pruned and fine-tuned, in `prune.rounds` rounds; and how to build it again."""
    source, rounds = at.folder("student"), attempt.prune.rounds
    network = network_folder.load_network(source)
    whole = {"plan": None, **stage_folder.read_card(source).network}
    described = whole
    for number in range(1, rounds + 1):
        last = number == rounds
        part = working if last else working / f"round{number}"
        part.mkdir(parents=True, exist_ok=True)
        described = _pruned(at, attempt, network, stream, part, whole=whole, before=described, number=number, key=key)
        done = _tuned(
            at,
            replace(attempt.schedule, steps=max(1, attempt.schedule.steps // rounds)),
            _starts(part, described, network),
            stream.batch,
            part,
            seed=at.recipe.seed + number,
            key=key,
            label="slim" if last else f"slim {number}/{rounds}",
            events=attempt.name,
        )
        network = done.network.cpu()
    return done, described


def _tuned_further(
    at: Run, attempt: Attempt, earlier: Path, stream: TwoStream, working: Path, *, key: str
) -> tuple[engine.Trained, dict[str, Any]]:
    """The network of an earlier attempt, fine-tuned on batches that it has not had; and how to build it again."""
    if process_rank.is_main_process() and (earlier / PLAN).exists():
        shutil.copyfile(earlier / PLAN, working / PLAN)
    had = at.recipe.slim.schedule.steps * process_rank.world_size()
    done = _tuned(
        at,
        attempt.schedule,
        partial(network_folder.load_network, earlier),
        lambda index, device: stream.batch(index + had, device),
        working,
        seed=at.recipe.seed + attempt.prune.rounds + 1,
        key=key,
        label="slim, longer",
        events=attempt.name,
    )
    return done, stage_folder.read_card(earlier).network


def _tuned(
    at: Run,
    schedule: Schedule,
    start: Callable[[], nn.Module],
    draw: engine.DrawBatch,
    folder: Path,
    *,
    seed: int,
    key: str,
    label: str,
    events: str,
) -> engine.Trained:
    """Fine-tuning with the student's own method, resumed where it was interrupted."""
    method = student_method(at.recipe.student)
    features = feature_teacher.find(at, method, at.recipe.student)
    known: dict[str, Callable[[], nn.Module]] = {"student": start}
    if "teacher" in frozen_kinds(method):
        known["teacher"] = partial(network_folder.load_network, at.folder("teacher"))
    if features is not None:
        known["backbone"] = features.build
    return engine.train(
        method,
        build=builder(known, at, method=method, seed=at.recipe.seed),
        draw=draw,
        schedule=schedule,
        folder=folder,
        seed=seed,
        evaluate=at.dice,
        key=key,
        label=label,
        events=at.out / "log" / "slim" / events,
        measured_on=at.measured_on,
    )


def prune_teacher(folder: Path, options: prune.PruneOptions, *, example: torch.Tensor) -> tuple[nn.Module, prune.Plan]:
    """The network of any artefact folder (a teacher too, 3-D as well), pruned, not yet fine-tuned; and the plan.

    Its channels are ranked by magnitude unless `options.plan` says how many are left. example: [1, K, *space].
    """
    network = network_folder.load_network(folder)
    plan = prune.prune(network, example=example, options=replace(options, importance="magnitude"))
    return network, plan


def _pruned(
    at: Run,
    attempt: Attempt,
    network: nn.Module,
    stream: TwoStream,
    part: Path,
    *,
    whole: dict[str, Any],
    before: dict[str, Any],
    number: int,
    key: str,
) -> dict[str, Any]:
    """Prunes once, or takes up the plan that an interrupted run left in `part`; how to build the network again.

    A measured latency is not the same twice, and a checkpoint fits one plan alone: so the plan and the weights that
    fine-tuning begins with are kept.
    """
    mark = part / MARK
    if not attempt.prune.wanted:
        (part / START).unlink(missing_ok=True)
        return before
    if distributed.run_on_main(lambda: not (mark.exists() and json.loads(mark.read_text())["key"] == key)):
        plan = distributed.run_on_main(
            partial(_cut, at, attempt, network, stream, number, prune.widths_of(_fresh(whole)))
        )
        if process_rank.is_main_process():
            checkpoint.save_weights(part / START, network)
            joined = {**compose_plans(before["plan"], plan), "latency": plan["latency"]}
            write_text(part / PLAN, stage_folder.to_json(joined))
            write_text(mark, stage_folder.to_json({"key": key}))
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
    at: Run, attempt: Attempt, network: nn.Module, stream: TwoStream, number: int, whole: dict[str, int]
) -> dict[str, Any]:
    """Prunes `network` in place to this round's part of the share; the plan that does the same to another one."""
    of, batches = attempt.prune, at.recipe.slim.batches
    options = replace(of, share=part_of(of.share, number, of.rounds), rounds=1)
    given = {"options": options, "gradients": partial(supervised_gradients, stream, batches), "whole": whole}
    plan = prune.prune(network, example=at.example, **given)  # type: ignore[arg-type]
    prune.recalibrate(network, (stream.batch(i, torch.device("cpu")).image for i in range(batches)))
    at.say(f"slim: {plan.macs[0] / 1e6:.1f} -> {plan.macs[1] / 1e6:.1f} MMACs{_timed(plan)}; fine-tuning")
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


def _tidy(working: Path) -> None:
    """What only an interrupted run needs."""
    for name in (START, MARK):
        (working / name).unlink(missing_ok=True)
    for part in working.glob("round*"):
        shutil.rmtree(part)


def supervised_gradients(stream: TwoStream, batches: int, network: nn.Module) -> None:
    """Gradients of the supervised loss on real batches, which rank the channels."""
    for index in range(batches):
        batch: Batch = stream.batch(index, torch.device("cpu"))
        dice_ce(network(batch.labelled).logits, batch.label).backward()
