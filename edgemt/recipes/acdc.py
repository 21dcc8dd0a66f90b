"""Cardiac cine MRI (ACDC), slices with four classes: where labels are the limit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from deploy.pruning.options import PruneOptions
from edgemt.data.augment_options import PRESETS, AugmentOptions
from edgemt.data.options import DataOptions
from edgemt.methods import METHODS
from edgemt.pipeline.recipe import PruneStage, Recipe, StudentOptions, TeacherOptions
from edgemt.recipes.cpu import cpu_schedule, cpu_slim, cpu_student, cpu_teacher
from edgemt.training.options import Schedule

# What the releases of the compared methods do to slices of the heart.
LIGHT = AugmentOptions(
    rotation=20,
    scale=(1, 1),
    translate=0,
    flip_horizontal=True,
    flip_vertical=True,
    rot90=True,
    elastic=0,
    labelled_intensity=0,
)


def _slices(side: int) -> DataOptions:
    return DataOptions(
        layout="volumes",
        root=Path("acdc"),
        labelled="splits/labelled_3.txt",
        classes=("background", "right ventricle", "myocardium", "left ventricle"),
        channels=1,
        size=(side, side),
    )


def acdc_cpu() -> Recipe:
    """3 labelled patients, 67 unlabelled, 160 x 160, ImageNet encoders, for two cores.

    edgemt run acdc_cpu --data.root DIR
    """
    schedule = cpu_schedule(steps=900, validations=4, start_size=0.6)
    return Recipe(
        name="acdc_cpu",
        data=_slices(160),
        augment=PRESETS["mri"],
        per_image=True,
        teacher=cpu_teacher(METHODS["two_stream_mt"], schedule, members=2, flips=2),
        student=cpu_student(replace(schedule, steps=2000), overlap=1.0, decoder="dense2"),  # 1.3 points over 900 steps
        slim=cpu_slim(0.17, steps=1200, learning_rate=2e-3),  # 400 steps at half the rate cost 0.8
    )


def acdc_slices() -> Recipe:
    """3 labelled patients at 256 x 256 with a pretrained student, for a GPU.

    edgemt run acdc_slices --data.root DIR
    1 or 7 patients: --data.labelled splits/labelled_1.txt or splits/labelled_7.txt.
    """
    long = Schedule(steps=30_000, labelled=12, unlabelled=12, validations=10, checkpoint_every=500)
    short = Schedule(steps=6000, labelled=12, unlabelled=12, learning_rate=5e-4, checkpoint_every=500)
    return Recipe(
        name="acdc_slices",
        data=_slices(256),
        augment=PRESETS["mri"],
        per_image=True,
        teacher=TeacherOptions(method=METHODS["two_stream_mt"], schedule=long),
        student=StudentOptions(network="efficientnet_lite0", decoder="dense2", schedule=long),
        slim=PruneStage(prune=PruneOptions(share=0.45), schedule=short),
    )


def acdc_methods() -> Recipe:
    """3 labelled patients at 96 x 96 and the U-Net of the releases: for comparing methods, some 15 core-minutes each.

    edgemt compare mean_teacher cps bcp --recipe acdc_methods --seeds 3 --draw-labelled 3 --data.root DIR
    Images are augmented as in the releases: flips, quarter turns and rotations, labels at their own intensity. Zoom,
    shift and a network of half the width cost up to 18 points of Dice here and hid what methods differ by.
    """
    schedule = Schedule(steps=2000, labelled=4, unlabelled=4, precision="32-true", learning_rate=2e-3, validations=4)
    return Recipe(
        name="acdc_methods",
        data=_slices(96),
        per_image=True,
        augment=LIGHT,
        teacher=TeacherOptions(widths=(16, 32, 64, 128, 256), method=METHODS["mean_teacher"], schedule=schedule),
        student=StudentOptions(pretrained="never"),
        threads=1,
    )
