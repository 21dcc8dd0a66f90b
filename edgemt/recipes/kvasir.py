"""Polyps in colonoscopy frames (Kvasir-SEG), with ImageNet encoders."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from deploy.pruning.options import PruneOptions
from edgemt.data.augment_options import PRESETS
from edgemt.data.options import DataOptions
from edgemt.methods import METHODS
from edgemt.pipeline.recipe import PruneStage, Recipe, StudentOptions, TeacherOptions
from edgemt.recipes.cpu import cpu_schedule, cpu_slim, cpu_student, cpu_teacher
from edgemt.training.options import Schedule


def _frames(side: int) -> DataOptions:
    return DataOptions(
        layout="pairs",
        root=Path("kvasir-seg"),
        labelled="splits/labelled_80.txt",
        classes=("background", "polyp"),
        channels=3,
        size=(side, side),
        mask_threshold=128,  # the masks are JPEG
    )


def kvasir_cpu() -> Recipe:
    """80 labelled frames, 720 unlabelled, 256 x 256, ImageNet encoders, for two cores.

    edgemt run kvasir_cpu --data.root DIR
    """
    supervised = replace(METHODS["supervised"], image_dice=True)  # type: ignore[call-arg]
    return Recipe(
        name="kvasir_cpu",
        data=_frames(256),
        augment=PRESETS["endoscopy"],
        teacher=cpu_teacher(
            supervised, cpu_schedule(steps=500, unlabelled=0, validations=2, start_size=0.5), members=3, flips=2
        ),
        student=cpu_student(
            cpu_schedule(steps=2000, validations=4, start_size=0.6),  # 0.6 points over 1,000 steps without overlap
            overlap=1.0,
            resolution=0.75,  # 1.3 times as fast for 0.7 points; pruning to that time costs three
        ),
        slim=cpu_slim(0.12, steps=1200, learning_rate=2e-3, start_size=0.75),  # 400 steps at half the rate cost 1.4
        tolerance=0.015,
    )


def kvasir() -> Recipe:
    """80 labelled frames at 256 x 256, pretrained U-Net++ and EfficientNet-Lite student, for a GPU.

    edgemt run kvasir --data.root DIR
    """
    long = Schedule(steps=20_000, unlabelled=16, learning_rate=5e-4, validations=10, checkpoint_every=500)
    short = Schedule(steps=5000, unlabelled=16, learning_rate=3e-4, checkpoint_every=500)
    return Recipe(
        name="kvasir",
        data=_frames(256),
        augment=PRESETS["endoscopy"],
        teacher=TeacherOptions(
            network="smp/UnetPlusPlus",
            encoder="efficientnet_lite2",
            pretrained="if-available",
            method=METHODS["two_stream_mt"],
            schedule=long,
        ),
        student=StudentOptions(network="efficientnet_lite0", schedule=long),
        slim=PruneStage(prune=PruneOptions(share=0.45), schedule=short),
    )
