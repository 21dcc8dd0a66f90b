"""The left atrium in contrast-enhanced MRI (2018 challenge), for a student of neighbouring slices.

The volumes of the mean-teacher literature are crops around the true atrium, validation volumes too: every
figure made on them, here and in publications, is measured where the organ is known to be.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from deploy.pruning.options import PruneOptions
from edgemt.data.augment_options import PRESETS, AugmentOptions, VolumeOptions
from edgemt.data.options import DataOptions
from edgemt.learning.schedules import SigmoidRampUp
from edgemt.methods import METHODS
from edgemt.methods.mean_teacher import MeanTeacher
from edgemt.pipeline.recipe import PruneStage, Recipe, StudentOptions, TeacherOptions
from edgemt.recipes.cpu import cpu_schedule, cpu_slim, cpu_student, cpu_teacher
from edgemt.training.options import Schedule


def _volumes(*, size: tuple[int, int], slices: int) -> DataOptions:
    return DataOptions(
        layout="volumes",
        root=Path("la2018"),
        labelled="splits/labelled_8.txt",
        val="splits/val.txt",
        classes=("background", "atrium"),
        channels=1,
        size=size,
        slices=slices,  # type: ignore[arg-type]
    )


def la_cpu() -> Recipe:
    """8 labelled volumes, 62 unlabelled, five neighbouring slices of 160 x 128, ImageNet encoders, for two cores.

    edgemt run la_cpu --data.root DIR
    """
    schedule = cpu_schedule(steps=700, validations=3, start_size=0.6)
    return Recipe(
        name="la_cpu",
        data=_volumes(size=(160, 128), slices=5),
        augment=replace(PRESETS["mri"], rot90=False),  # the frames are no squares
        per_image=True,
        teacher=cpu_teacher(METHODS["two_stream_mt"], schedule, flips=2),
        student=cpu_student(replace(schedule, steps=2000), overlap=1.0, decoder="dense2"),
        slim=cpu_slim(0.17, steps=1200, learning_rate=2e-3),
    )


def la_vnet_cpu() -> Recipe:
    """8 labelled volumes, 62 unlabelled, half resolution, a V-Net of 8 filters: a 3-D teacher that fits two cores.

    edgemt run la_vnet_cpu --data.root DIR
    """
    return Recipe(
        name="la_vnet_cpu",
        data=_volumes(size=(160, 128), slices=3),
        augment=AugmentOptions(flip_vertical=True),
        volume=VolumeOptions(
            patch=(64, 64, 40),
            scale=0.5,
            stride=(32, 32, 20),
            report_stride=(16, 16, 10),
            blend="gaussian",
            foreground=0.5,
        ),
        teacher=TeacherOptions(
            network="vnet",
            filters=8,
            method=MeanTeacher(ramp=SigmoidRampUp(top=1.0)),
            schedule=Schedule(
                steps=1200, labelled=2, unlabelled=2, precision="auto", learning_rate=2e-3, validations=3
            ),
        ),
        student=StudentOptions(
            pretrained="never",
            method=METHODS["slice_distillation"],
            schedule=Schedule(steps=1500, precision="32-true", learning_rate=2e-3, validations=3),
        ),
        slim=PruneStage(
            prune=PruneOptions(share=0.42),
            schedule=Schedule(steps=800, precision="32-true", learning_rate=2e-3, validations=2),
        ),
    )


def la() -> Recipe:
    """8 labelled volumes with the schedule of the literature (6,000 steps of 2 + 2 patches), for a GPU.

    edgemt run la --data.root DIR
    16 labels: --data.labelled splits/labelled_16.txt. Longer: --teacher.schedule.steps 15000. The protocol of the
    papers trains on the validation volumes too, without their masks: --data.val-in-training.
    """
    long = Schedule(steps=20_000, labelled=8, unlabelled=16, learning_rate=1e-3, checkpoint_every=500)
    return Recipe(
        name="la",
        data=_volumes(size=(160, 160), slices=3),
        augment=AugmentOptions(flip_vertical=True),
        teacher=TeacherOptions(
            network="vnet",
            method=METHODS["ua_mt"],
            schedule=Schedule(
                steps=6000,
                labelled=2,
                unlabelled=2,
                optimiser="sgd",
                learning_rate=1e-2,
                weight_decay=1e-4,
                validations=6,
            ),
        ),
        student=StudentOptions(method=METHODS["slice_distillation"], schedule=long),
        slim=PruneStage(
            prune=PruneOptions(share=0.45),
            schedule=Schedule(steps=5000, labelled=8, unlabelled=16, learning_rate=5e-4, checkpoint_every=500),
        ),
    )
