"""Fewer channels: the student is pruned, fine-tuned with its own method, and judged before it is written."""

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

from deploy import prune
from deploy.gate import gate
from edgemt import artefact, bank, checkpoint, engine, feature_teacher, ranks, zoo
from edgemt.contract import Batch
from edgemt.data.stream import TwoStream
from edgemt.files import write_text
from edgemt.losses import dice_ce
from edgemt.recipes import student_method
from edgemt.training import FORMAT, builder, dice_text, frozen_kinds, keep, measured_again, staged, stands, wants_bank
from edgemt.workspace import Run, measured_of

PLAN = "plan.json"  # stays: `slim.prune.plan` repeats it on another network
START, MARK = "start.safetensors", "start.json"


def slim(at: Run) -> Path:
    """Structured pruning to the target, then fine-tuning with the student's own method."""
    of, source, folder = at.recipe.slim, at.folder("student"), at.folder("slim")
    method = student_method(at.recipe.student)
    distilled = "teacher" in frozen_kinds(method)
    said = at.folder("bank") if wants_bank(method) else None
    features = feature_teacher.find(at, method, at.recipe.student)
    named = {
        "student": artefact.identity(source),
        **({"teacher": artefact.identity(at.folder("teacher"))} if distilled else {}),
        **({"bank": bank.identity(said)} if said is not None else {}),
        **({"feature teacher": features.identity} if features is not None else {}),
        **({"plan": artefact.key_of(prune.read_plan(Path(of.prune.plan)).to_dict())} if of.prune.plan else {}),
    }
    parents = tuple(named.values())
    inputs = {"format": FORMAT, "slim": of, "student": {"method": method}, "seed": at.recipe.seed, "parents": named}
    key = artefact.key_of(inputs)
    if stands(at, "slim", inputs):
        measured_again(at, folder, "slim", parent=source, judge=partial(_judged, at))
        own, its_parent = (measured_of(path, measured_on=at.measured_on)["dice"] for path in (folder, source))
        _judged(at, its_parent, own)  # the tolerance may be another one: it changes no weight
        at.say(f"slim: stands, {dice_text(artefact.read_card(folder).measured[artefact.WEIGHTS])}")
        return folder
    network = artefact.load_network(source)
    parent_dice = measured_of(source, measured_on=at.measured_on)["dice"]
    whole = {"plan": None, **artefact.read_card(source).network}
    stream = at.stream(of.schedule, bank=said)
    guides: dict[str, Callable[[], nn.Module]] = {} if features is None else {"backbone": features.build}
    if distilled:
        guides["teacher"] = partial(artefact.load_network, at.folder("teacher"))
    with staged(folder, overwrite=at.overwrite) as working:
        described = whole
        for number in range(1, of.prune.rounds + 1):
            last = number == of.prune.rounds
            part = working if last else working / f"round{number}"
            part.mkdir(parents=True, exist_ok=True)
            described = _pruned(at, network, stream, part, whole=whole, before=described, number=number, key=key)
            players = {"student": _starts(part, described, network), **guides}
            done = engine.train(
                method,
                build=builder(players, at, method=method, seed=at.recipe.seed),
                draw=stream.batch,
                schedule=replace(of.schedule, steps=max(1, of.schedule.steps // of.prune.rounds)),
                folder=part,
                seed=at.recipe.seed + number,
                evaluate=at.dice,
                key=key,
                label="slim" if last else f"slim {number}/{of.prune.rounds}",
                events=at.out / "log" / "slim",
                measured_on=at.measured_on,
            )
            network = done.network.cpu()
        if ranks.first():
            measured = at.measured(done.network)
            _judged(at, parent_dice, measured["dice"])
            _tidy(working)
            keep(
                at,
                working,
                "slim",
                done,
                described,
                key=key,
                parents=parents,
                measured=measured,
                parent_dice=parent_dice,
            )
    return folder


def _judged(at: Run, parent_dice: float, dice: float) -> None:
    """Raises GateError when pruning costs more than the tolerance."""
    gate(
        parent_dice=parent_dice,
        dice=dice,
        tolerance=at.recipe.tolerance,
        what="the pruned student",
        knob="slim.schedule.steps up or slim.prune.share down",
    )


def prune_teacher(folder: Path, options: prune.PruneOptions, *, example: torch.Tensor) -> tuple[nn.Module, prune.Plan]:
    """The network of any artefact folder (a teacher too, 3-D as well), pruned, not yet fine-tuned; and the plan.

    Its channels are ranked by magnitude unless `options.plan` says how many are left. example: [1, K, *space].
    """
    network = artefact.load_network(folder)
    plan = prune.prune(network, example=example, options=replace(options, importance="magnitude"))
    return network, plan


def _pruned(
    at: Run,
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
    if not at.recipe.slim.prune.wanted:
        (part / START).unlink(missing_ok=True)
        return before
    if ranks.by_first(lambda: not (mark.exists() and json.loads(mark.read_text())["key"] == key)):
        plan = ranks.by_first(partial(_cut, at, network, stream, number, prune.widths_of(_fresh(whole))))
        if ranks.first():
            checkpoint.save_weights(part / START, network)
            joined = {**zoo.pruned_further(before["plan"], plan), "latency": plan["latency"]}
            write_text(part / PLAN, artefact.to_json(joined))
            write_text(mark, artefact.to_json({"key": key}))
    return {**before, "plan": ranks.by_first(lambda: prune.read_plan(part / PLAN).to_dict())}


def _starts(part: Path, described: dict[str, Any], network: nn.Module) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        if ranks.first() and (part / START).exists():
            return checkpoint.load_weights(part / START, _fresh(described))
        fresh = _fresh(described)
        if ranks.first():  # the others get its weights when they begin
            fresh.load_state_dict(network.state_dict())
        return fresh

    return build


def _fresh(described: dict[str, Any]) -> nn.Module:
    return artefact.build_network(artefact.offline(described))


def _cut(at: Run, network: nn.Module, stream: TwoStream, number: int, whole: dict[str, int]) -> dict[str, Any]:
    """Prunes `network` in place to this round's part of the share; the plan that does the same to another one."""
    of = at.recipe.slim
    options = replace(of.prune, share=part_of(of.prune.share, number, of.prune.rounds), rounds=1)
    given = {"options": options, "gradients": partial(supervised_gradients, stream, of.batches), "whole": whole}
    plan = prune.prune(network, example=at.example, **given)  # type: ignore[arg-type]
    prune.recalibrate(network, (stream.batch(i, torch.device("cpu")).image for i in range(of.batches)))
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
