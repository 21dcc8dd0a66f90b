"""Polyps in colonoscopy frames (Kvasir-SEG): where, from scratch on a CPU, compute is the limit."""

from __future__ import annotations

from pathlib import Path

from deploy.prune import PruneOptions
from edgemt.data.layouts import DataOptions
from edgemt.engine import Schedule
from edgemt.methods import METHODS
from edgemt.recipes import Recipe, Slim, Student, Teacher


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
    """80 labelled frames, 720 unlabelled, 96 x 96, from scratch, sized for two cores.

    edgemt run kvasir_cpu --data.root DIR
    """
    return Recipe(
        name="kvasir_cpu",
        data=_frames(96),
        teacher=Teacher(
            method=METHODS["soft_cutmix_mt"],
            schedule=Schedule(steps=1400, precision="auto", learning_rate=2e-3, validations=4),
        ),
        student=Student(
            pretrained="never",
            schedule=Schedule(steps=900, precision="32-true", learning_rate=2e-3, validations=4),
        ),
        slim=Slim(
            prune=PruneOptions(share=0.42),
            schedule=Schedule(steps=500, precision="32-true", learning_rate=2e-3, validations=3),
        ),
    )


def kvasir() -> Recipe:
    """80 labelled frames at 256 x 256, pretrained U-Net++ and MobileNetV4 encoders, for a GPU.

    edgemt run kvasir --data.root DIR
    """
    long = Schedule(steps=20_000, unlabelled=16, learning_rate=5e-4, validations=10, checkpoint_every=500)
    short = Schedule(steps=5000, unlabelled=16, learning_rate=3e-4, checkpoint_every=500)
    return Recipe(
        name="kvasir",
        data=_frames(256),
        teacher=Teacher(
            network="smp/UnetPlusPlus",
            encoder="resnet34",
            pretrained="if-available",
            method=METHODS["soft_cutmix_mt"],
            schedule=long,
        ),
        student=Student(network="mobilenetv4_medium", schedule=long),
        slim=Slim(prune=PruneOptions(share=0.45), schedule=short),
    )
