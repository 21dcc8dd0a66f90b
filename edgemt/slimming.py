"""From the student to what a device runs: fewer channels, then eight bits, each judged before it is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from deploy import export, prune, quantize
from deploy.gate import gate, gate_classes
from deploy.inputs import measure, unlike
from deploy.runtime import runner
from edgemt import artefact, bank, engine, ranks, zoo
from edgemt.contract import Batch
from edgemt.data.stream import Stack, TwoStream
from edgemt.losses import dice_ce
from edgemt.training import builder, drop, frozen_kinds, keep, staged, wants_bank
from edgemt.workspace import Run, record_of


def slim(at: Run) -> Path:
    """Structured pruning to the MACs target, then fine-tuning with the student's own method."""
    of, source, folder = at.recipe.slim, at.folder("student"), at.folder("slim")
    method = at.recipe.student.method
    distilled = "teacher" in frozen_kinds(method)
    said = at.folder("bank") if wants_bank(method) else None
    parents = (
        artefact.identity(source),
        *((artefact.identity(at.folder("teacher")),) if distilled else ()),
        *((bank.identity(said),) if said is not None else ()),
    )
    key = artefact.key_of(of, method, at.recipe.tolerance, parents)
    if ranks.by_first(lambda: artefact.stands(folder, key=key)):
        at.say(f"slim: stands, Dice {artefact.read_card(folder).measured[artefact.WEIGHTS]['dice']:.4f}")
        return folder
    network = artefact.load_network(source)
    parent_dice = artefact.read_card(source).measured[artefact.WEIGHTS]["dice"]
    described = {"plan": None, **artefact.read_card(source).network}
    stream = at.stream(of.schedule, bank=said)
    if of.prune.macs > 0:
        plan = ranks.by_first(partial(_cut, at, network, stream))
        described["plan"] = zoo.pruned_further(described["plan"], plan)
    start = {name: value.clone() for name, value in network.state_dict().items()}

    def pruned() -> nn.Module:
        fresh = artefact.build_network(artefact.offline(described))
        if ranks.first():  # the others get its weights when they begin
            fresh.load_state_dict(start)
        return fresh

    known: dict[str, Callable[[], nn.Module]] = {"student": pruned}
    if distilled:
        known["teacher"] = partial(artefact.load_network, at.folder("teacher"))
    with staged(folder) as working:
        done = engine.train(
            method,
            build=builder(known, at, seed=at.recipe.seed),
            draw=stream.batch,
            schedule=of.schedule,
            folder=working,
            seed=at.recipe.seed + 1,
            evaluate=at.dice,
            key=key,
            label="slim",
            events=at.out / "log" / "slim",
        )
        if ranks.first():
            measured = at.measured(done.network)
            gate(
                parent_dice=parent_dice,
                dice=measured["dice"],
                tolerance=at.recipe.tolerance,
                what="the pruned student",
                knob="slim.schedule.steps up or slim.prune.macs down",
            )
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


def _cut(at: Run, network: nn.Module, stream: TwoStream) -> dict[str, Any]:
    """Prunes `network` in place; the plan that does the same to another one."""
    of = at.recipe.slim
    plan = prune.prune(network, example=at.example, options=of.prune, gradients=partial(_gradients, stream, of.batches))
    prune.recalibrate(network, (stream.batch(i, torch.device("cpu")).image for i in range(of.batches)))
    at.say(f"slim: {plan.macs[0] / 1e6:.1f} -> {plan.macs[1] / 1e6:.1f} MMACs; fine-tuning")
    return plan.to_dict()


def int8(at: Run) -> Path:
    """One Q/DQ ONNX for every runtime, calibrated on unlabelled images, judged class by class as each runs it."""
    source, folder = at.folder("slim"), at.folder("int8")
    parents = (artefact.identity(source),)
    key = artefact.key_of(at.recipe.int8, at.recipe.tolerance, parents)
    if artefact.stands(folder, key=key):
        at.say(f"int8: stands, Dice {artefact.read_card(folder).measured['model.int8.onnx']['dice']:.4f}")
        return folder
    card = artefact.read_card(source)
    parent = card.measured[artefact.WEIGHTS]
    with artefact.staged(folder) as working:
        graph, small = working / "model.onnx", working / "model.int8.onnx"
        export.export_onnx(
            artefact.load_network(source),
            graph,
            size=at.recipe.data.size,
            channels=card.channels,
            normalise=card.normalise,
        )
        quantize.quantize(graph, small, calibration=_calibration(at), frames=at.recipe.int8.images)
        export.export_openvino(graph, working / "openvino" / "model.xml")
        export.export_openvino(small, working / "openvino" / "model.int8.xml")
        measured: dict[str, Any] = {}
        for file, runtime in (("model.int8.onnx", "onnxruntime"), ("openvino/model.int8.xml", "openvino")):
            found = record_of(runner(working / file, runtime=runtime), at.val)
            measured[file] = {**found, "drop": drop(parent["dice"], found), "runtime": runtime}
            at.say(f"int8 on {runtime}: Dice {found['dice']:.4f}, its fp32 parent {parent['dice']:.4f}")
            allowed: dict[str, Any] = {
                "tolerance": at.recipe.tolerance,
                "what": f"the INT8 student on {runtime}",
                "knob": "int8.images up",
            }
            gate(parent["dice"], found["dice"], **allowed)
            gate_classes(dice_of(parent), dice_of(found), **allowed)
        kept = replace(card, stage="int8", parents=parents, recipe_hash=key, measured=measured)
        artefact.write_card(working, kept)
    return folder


def dice_of(measured: dict[str, Any]) -> dict[str, float | None]:
    """Dice by class out of a card's measurement."""
    return {name: values["dice"] for name, values in measured["per_class"].items()}


def _calibration(at: Run) -> list[np.ndarray]:
    stack = at.unlabelled if len(at.unlabelled.image) else at.labelled
    count = min(at.recipe.int8.images, len(stack.image))
    if count < 1:
        raise ValueError(f"int8.images: {at.recipe.int8.images} frames cannot calibrate; give at least 1")
    frames = frames_of(stack, count, seed=at.recipe.seed)
    said = unlike(frames, measure(frames_of(at.labelled, 500, seed=at.recipe.seed)), what="int8: calibration")
    if said is not None:
        at.say(f"warning: {said}")
    return [frame[None] for frame in frames]


def frames_of(stack: Stack, count: int, *, seed: int) -> np.ndarray:
    """At most `count` frames of a stack, uint8 [N, H, W, K], as the graph takes them."""
    count = min(count, len(stack.image))
    chosen = np.random.default_rng(seed).choice(len(stack.image), count, replace=False)
    frames = stack.frames(torch.from_numpy(np.sort(chosen)), "cpu").permute(0, 2, 3, 1)
    return np.rint(255 * frames.numpy()).astype(np.uint8)


def _gradients(stream: TwoStream, batches: int, network: nn.Module) -> None:
    """Gradients of the supervised loss on real batches, which rank the channels."""
    for index in range(batches):
        batch: Batch = stream.batch(index, torch.device("cpu"))
        dice_ce(network(batch.labelled).logits, batch.label).backward()
