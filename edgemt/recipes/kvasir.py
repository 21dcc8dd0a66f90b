"""Polyps in colonoscopy frames (Kvasir-SEG), with ImageNet encoders."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from deploy.pruning.options import PruneOptions
from edgemt.data.cohort import DataOptions
from edgemt.data.options import PRESETS
from edgemt.methods import METHODS
from edgemt.pipeline.recipe import Recipe, Slim, Student, Teacher
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
    quick = Schedule(steps=700, precision="32-true", learning_rate=2e-3, validations=4, start_size=0.5)
    supervised = replace(METHODS["supervised"], image_dice=True)  # type: ignore[call-arg]
    return Recipe(
        name="kvasir_cpu",
        data=_frames(256),
        augment=PRESETS["endoscopy"],
        teacher=Teacher(
            network="students/efficientnet_lite2",
            decoder="dense2",
            pretrained="always",
            method=supervised,
            members=3,
            schedule=replace(quick, steps=500, unlabelled=0, validations=2),
        ),
        student=Student(
            network="efficientnet_lite0",
            resolution=0.75,  # 1.3 times as fast for 0.7 points; pruning to that time costs three
            pretrained="always",
            method=replace(METHODS["two_stream_distillation"], guide="bank"),  # type: ignore[call-arg]
            schedule=replace(quick, steps=1000, start_size=0.6),
        ),
        slim=Slim(
            prune=PruneOptions(target="latency", share=0.12),
            schedule=Schedule(
                steps=400, precision="32-true", learning_rate=1e-3, validations=2, warmup=20, start_size=0.75
            ),
        ),
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
        teacher=Teacher(
            network="smp/UnetPlusPlus",
            encoder="efficientnet_lite2",
            pretrained="if-available",
            method=METHODS["two_stream_mt"],
            schedule=long,
        ),
        student=Student(network="efficientnet_lite0", schedule=long),
        slim=Slim(prune=PruneOptions(share=0.45), schedule=short),
    )
