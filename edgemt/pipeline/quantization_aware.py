"""Quantization-aware distillation: the pruned student is trained further with simulated 8-bit rounding.

The student's own method is used: the teacher stays frozen, unlabelled images are used too, and every layer rounds its
input and its weights (`edgemt.training.fake_quant`). The result has plain float weights, which are then calibrated as
any others are: there is one INT8 format and one way to it.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import nn

from edgemt.artefacts import network_folder, stage_folder
from edgemt.data.slice_dataset import TwoStreamBatches
from edgemt.pipeline.accuracy import measured_of
from edgemt.pipeline.guidance import student_guidance
from edgemt.pipeline.recipe import student_method
from edgemt.pipeline.run_context import RunContext
from edgemt.pipeline.stage import FORMAT, Stage
from edgemt.training.fake_quant import calibrate, fake_quantize, remove_fake_quant

STAGE = "qad"


def distil_in_eight_bits(context: RunContext) -> Path:
    """The folder of the pruned student after quantization-aware distillation, trained unless it is complete."""
    of, source, slices = context.recipe.int8, context.folder("slim"), context.slices
    method = student_method(context.recipe.student)
    guidance = student_guidance(context, method)
    inputs = {
        "format": FORMAT,
        "int8": {"schedule": of.schedule},
        "student": {"method": method},
        "seed": context.recipe.seed,
        "parents": {"slim": stage_folder.identity(source), **guidance.parents()},
    }
    stage = Stage(context, STAGE, inputs)
    if stage.is_complete():
        return stage.reuse(parent=source, note=" in float")
    parent_dice = measured_of(source, measured_on=slices.measured_on).dice
    stream = slices.stream(of.schedule, bank=guidance.bank)
    with stage.working_folder() as working:
        done = stage.train(
            method,
            networks={"student": partial(_fake_quantized, source, stream), **guidance.networks()},
            draw=stream.batch,
            schedule=of.schedule,
            folder=working,
            seed=context.recipe.seed + 2,
        )
        remove_fake_quant(done.network)
        stage.measure_and_save(working, done, stage_folder.read_card(source).network, parent_dice=parent_dice)
    return stage.folder


def _fake_quantized(source: Path, stream: TwoStreamBatches) -> nn.Module:
    """The pruned student with rounding layers, their ranges taken from a few batches of both streams."""
    network = fake_quantize(network_folder.load_network(source))
    return calibrate(network, [stream.batch(index, torch.device("cpu")).image for index in range(4)])
