"""Cardiac cine MRI (ACDC), slices with four classes: where labels are the limit."""

from __future__ import annotations

from pathlib import Path

from deploy.prune import PruneOptions
from edgemt.data.layouts import DataOptions
from edgemt.data.options import AugmentOptions
from edgemt.engine import Schedule
from edgemt.recipes import Recipe, Slim, Student, Teacher

_CLASSES = ("background", "right ventricle", "myocardium", "left ventricle")


def acdc_cpu() -> Recipe:
    """3 labelled patients, 67 unlabelled, 128 x 128, from scratch, sized for two cores.

    edgemt run acdc_cpu --data.root DIR
    """
    teacher = Schedule(steps=1000, precision="auto", learning_rate=2e-3, validations=4)
    student = Schedule(steps=1500, precision="32-true", learning_rate=2e-3, validations=4)
    return Recipe(
        name="acdc_cpu",
        data=DataOptions(
            layout="volumes",
            root=Path("acdc"),
            labelled="splits/labelled_3.txt",
            classes=_CLASSES,
            channels=1,
            size=(128, 128),
        ),
        augment=AugmentOptions(),
        per_image=True,
        teacher=Teacher(schedule=teacher),
        student=Student(pretrained="never", schedule=student),
        slim=Slim(
            prune=PruneOptions(macs=0.45),
            schedule=Schedule(steps=500, precision="32-true", learning_rate=1e-3, validations=2),
        ),
    )


def acdc_slices() -> Recipe:
    """3 labelled patients at 256 x 256 with a pretrained student, for a GPU.

    edgemt run acdc_slices --data.root DIR
    """
    long = Schedule(steps=30_000, labelled=12, unlabelled=12, learning_rate=1e-3, validations=10, checkpoint_every=500)
    return Recipe(
        name="acdc_slices",
        data=DataOptions(
            layout="volumes",
            root=Path("acdc"),
            labelled="splits/labelled_3.txt",
            classes=_CLASSES,
            channels=1,
            size=(256, 256),
        ),
        per_image=True,
        teacher=Teacher(schedule=long),
        student=Student(schedule=long),
        slim=Slim(
            prune=PruneOptions(macs=0.45),
            schedule=Schedule(steps=6000, labelled=12, unlabelled=12, learning_rate=5e-4, checkpoint_every=500),
        ),
    )
