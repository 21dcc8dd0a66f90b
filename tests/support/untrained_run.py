"""A run up to its slim student, in seconds and without training: a network whose masks are the truth by definition.

`plant` scales one channel up and undoes that in the next layer: in float nothing changes, while one scale a tensor has
no steps left for the other channels.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgemt.artefacts import network_folder, stage_folder
from edgemt.methods import METHODS
from edgemt.pipeline.network_spec import network_spec
from edgemt.pipeline.run_context import RunContext
from edgemt.recipes import RECIPES, Int8Stage
from edgemt.training.options import Schedule

READER = "down.0.4"  # the convolution that reads what was planted


def network(seed: int = 0) -> nn.Module:
    """A small U-Net with batch statistics of its own."""
    return network_folder.build_network(
        {
            "room": "teachers",
            "name": "unet",
            "channels": 3,
            "classes": 4,
            "heads": [],
            "options": {"widths": [8, 8, 8], "dropout": [0.0, 0.0, 0.0]},
        }
    )


def plant(net: nn.Module, *, by: float) -> nn.Module:
    first, second = net.down[0][1], net.down[0][4]  # type: ignore[index]
    with torch.no_grad():
        first.weight[0] *= by
        first.bias[0] *= by
        second.weight[:, 0] /= by
    return net


def begin(
    out: Path, *, by: float, int8: Int8Stage, tolerance: float, strict: bool = False, **options: Any
) -> RunContext:
    """A run whose teacher, student and slim student are one network; planted in the slim student alone."""
    base = RECIPES["phantom"]()
    recipe = replace(
        base,
        data=replace(base.data, size=(48, 48), phantom=(4, 12, 6)),
        teacher=replace(base.teacher, widths=(8, 8, 8)),
        # the teacher sees what the student sees: untrained, it says something else of every other view
        student=replace(
            base.student, method=replace(METHODS["distillation"], teacher_view="same", supervised_weight=0.0)
        ),  # type: ignore[call-arg]
        int8=int8,
        bench=replace(base.bench, iterations=5, rounds=2, block_ms=5),
        tolerance=tolerance,
        strict=strict,
        **options,
    )
    context = RunContext(recipe, out)
    torch.manual_seed(0)
    net = network().train()
    for norm in (module for module in net.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.momentum = None  # the plain mean: learning later starts where the statistics say
    with torch.no_grad():
        for index in range(12):
            net(context.slices.stream(Schedule(steps=6)).batch(index, torch.device("cpu")).image)
        for norm in (module for module in net.modules() if isinstance(module, nn.BatchNorm2d)):
            norm.momentum = 0.1
        _balance(net.eval(), context.slices.stream(Schedule(steps=6)).batch(7, torch.device("cpu")).image)
    predict = context.slices.predict(net)
    vars(context.slices)["labelled"] = replace(
        context.slices.labelled, label=torch.from_numpy(predict(context.slices.labelled.image.numpy()))
    )
    truths = tuple(predict(context.slices.val.frames))
    vars(context.slices)["val"] = replace(context.slices.val, truths=truths)
    for stage in ("teacher", "slim"):
        _save_stage(context, stage, plant(net, by=by) if stage == "slim" else net)
    return context


def _balance(net: nn.Module, image: torch.Tensor) -> None:
    """Every class gets its share of the pixels: logits of one mean and one deviation."""
    logits = net(image).logits
    head: Any = net.head
    deviation, mean = logits.std((0, 2, 3)), logits.mean((0, 2, 3))
    head.bias.copy_(4 * (head.bias - mean) / deviation)  # sure of itself, as a trained network is
    head.weight.mul_(4 / deviation[:, None, None, None])


def _save_stage(context: RunContext, stage: str, net: nn.Module) -> None:
    folder = context.folder(stage)
    folder.mkdir(parents=True)
    measured = context.slices.measured(net)
    card = replace(
        context.slices.card(),
        stage=stage,
        network={
            **network_spec(context.recipe.teacher, context.slices, METHODS["supervised"]),
            "options": {"widths": [8, 8, 8], "dropout": [0.0] * 3},
        },
        recipe_hash=stage,
        measured={stage_folder.WEIGHTS: replace(measured, runtime="torch")},
    )
    network_folder.save_network(folder, net, card)


def again(context: RunContext, **choices: Any) -> RunContext:
    """The same run with other choices, its planted data included."""
    other = RunContext(replace(context.recipe, **choices), context.out)
    vars(other.slices).update({name: vars(context.slices)[name] for name in ("labelled", "val")})
    return other
