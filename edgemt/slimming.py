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
from deploy.gate import gate
from deploy.runtime import runner
from edgemt import artefact, engine
from edgemt.contract import Batch
from edgemt.data.stream import TwoStream
from edgemt.evaluate import evaluate
from edgemt.losses import dice_ce
from edgemt.training import builder, frozen_kinds, keep, measurement
from edgemt.workspace import Run


def slim(at: Run) -> Path:
    """Structured pruning to the MACs target, then fine-tuning with the student's own method."""
    of, source, folder = at.recipe.slim, at.folder("student"), at.folder("slim")
    method = at.recipe.student.method
    distilled = "teacher" in frozen_kinds(method)
    parents = (artefact.identity(source), *((artefact.identity(at.folder("teacher")),) if distilled else ()))
    key = artefact.key_of(of, method, at.recipe.tolerance, parents)
    if artefact.stands(folder, key=key):
        at.say(f"slim: stands, Dice {artefact.read_card(folder).measured[artefact.WEIGHTS]['dice']:.4f}")
        return folder
    network = artefact.load_network(source)
    parent_dice = artefact.read_card(source).measured[artefact.WEIGHTS]["dice"]
    described = {**artefact.read_card(source).network, "plan": None}
    stream = at.stream(of.schedule)
    if of.prune.macs > 0:
        plan = prune.prune(
            network, example=at.example, options=of.prune, gradients=partial(_gradients, stream, of.batches)
        )
        prune.recalibrate(network, (stream.batch(i, torch.device("cpu")).image for i in range(of.batches)))
        described["plan"] = plan.to_dict()
        at.say(f"slim: {plan.macs[0] / 1e6:.1f} -> {plan.macs[1] / 1e6:.1f} MMACs; fine-tuning")
    start = {name: value.clone() for name, value in network.state_dict().items()}

    def pruned() -> nn.Module:
        fresh = artefact.build_network(artefact.offline(described))
        fresh.load_state_dict(start)
        return fresh

    known: dict[str, Callable[[], nn.Module]] = {"student": pruned}
    if distilled:
        known["teacher"] = partial(artefact.load_network, at.folder("teacher"))
    with artefact.staged(folder) as working:
        done = engine.train(
            method,
            build=builder(known, at),
            draw=stream.batch,
            schedule=of.schedule,
            folder=working,
            seed=at.recipe.seed + 1,
            evaluate=at.dice,
            key=key,
            label="slim",
            events=at.out / "log" / "slim",
        )
        scores = evaluate(at.predict(done.network), at.val, distances=True)
        gate(
            parent_dice=parent_dice,
            dice=scores.dice,
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
            scores=scores,
            parent_dice=parent_dice,
        )
    return folder


def int8(at: Run) -> Path:
    """One Q/DQ ONNX for every runtime, calibrated on unlabelled images, judged as each runtime runs it."""
    source, folder = at.folder("slim"), at.folder("int8")
    parents = (artefact.identity(source),)
    key = artefact.key_of(at.recipe.int8, at.recipe.tolerance, parents)
    if artefact.stands(folder, key=key):
        at.say(f"int8: stands, Dice {artefact.read_card(folder).measured['model.int8.onnx']['dice']:.4f}")
        return folder
    card = artefact.read_card(source)
    parent_dice = card.measured[artefact.WEIGHTS]["dice"]
    with artefact.staged(folder) as working:
        graph, small = working / "model.onnx", working / "model.int8.onnx"
        export.export_onnx(
            artefact.load_network(source),
            graph,
            size=at.recipe.data.size,
            channels=at.recipe.data.channels,
            normalise=card.normalise,
        )
        quantize.quantize(graph, small, calibration=_calibration(at), frames=at.recipe.int8.images)
        export.export_openvino(graph, working / "openvino" / "model.xml")
        export.export_openvino(small, working / "openvino" / "model.int8.xml")
        measured: dict[str, Any] = {}
        for file, runtime in (("model.int8.onnx", "onnxruntime"), ("openvino/model.int8.xml", "openvino")):
            scores = evaluate(runner(working / file, runtime=runtime), at.val, distances=True)
            measured[file] = measurement(scores, parent_dice, runtime)
            at.say(f"int8 on {runtime}: Dice {scores.dice:.4f}, its fp32 parent {parent_dice:.4f}")
            gate(
                parent_dice=parent_dice,
                dice=scores.dice,
                tolerance=at.recipe.tolerance,
                what=f"the INT8 student on {runtime}",
                knob="int8.images up",
            )
        kept = replace(card, stage="int8", parents=parents, recipe_hash=key, measured=measured)
        artefact.write_card(working, kept)
    return folder


def _calibration(at: Run) -> list[np.ndarray]:
    stack = at.unlabelled if len(at.unlabelled.image) else at.labelled
    count = min(at.recipe.int8.images, len(stack.image))
    if count < 1:
        raise ValueError(f"int8.images: {at.recipe.int8.images} frames cannot calibrate; give at least 1")
    chosen = np.random.default_rng(at.recipe.seed).choice(len(stack.image), count, replace=False)
    return [stack.image[i : i + 1].numpy() for i in sorted(chosen)]


def _gradients(stream: TwoStream, batches: int, network: nn.Module) -> None:
    """Gradients of the supervised loss on real batches, which rank the channels."""
    for index in range(batches):
        batch: Batch = stream.batch(index, torch.device("cpu"))
        dice_ce(network(batch.labelled).logits, batch.label).backward()
