"""What the recipes for two cores share: EfficientNet-Lite encoders with ImageNet weights, and a short prune stage."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from deploy.pruning.options import PruneOptions
from edgemt.methods import METHODS, Method
from edgemt.pipeline.recipe import PruneStage, StudentOptions, TeacherOptions
from edgemt.training.options import Schedule


def cpu_schedule(**options: Any) -> Schedule:
    """A training in float32, as CPUs compute it, with a learning rate for few steps."""
    return Schedule(**{"precision": "32-true", "learning_rate": 2e-3, **options})


def cpu_teacher(method: Method, schedule: Schedule, *, members: int = 1, flips: Literal[1, 2, 4] = 1) -> TeacherOptions:
    """EfficientNet-Lite2; with several `members` and `flips`, their mean probability is the teacher."""
    return TeacherOptions(
        network="students/efficientnet_lite2", decoder="dense2", pretrained="always", method=method, members=members,
        flips=flips, schedule=schedule,
    )  # fmt: skip


def cpu_student(schedule: Schedule, *, overlap: float = 0.0, **options: Any) -> StudentOptions:
    """EfficientNet-Lite0, distilled from the stored predictions of the teacher. `overlap`: weight of soft Dice."""
    method = replace(METHODS["two_stream_distillation"], teacher_source="bank", overlap=overlap)  # type: ignore[call-arg]
    return StudentOptions(
        network="efficientnet_lite0", pretrained="always", method=method, schedule=schedule, **options
    )


def cpu_slim(share: float, **options: Any) -> PruneStage:
    """Pruning of a share of the measured latency, then fine-tuning; `options` of its schedule, 400 steps by default."""
    schedule = cpu_schedule(**{"steps": 400, "learning_rate": 1e-3, "validations": 2, "warmup": 20, **options})
    return PruneStage(prune=PruneOptions(target="latency", share=share), schedule=schedule)
