"""The embedded default: synthetic frames, nothing to download, a whole run in minutes on two cores."""

from __future__ import annotations

from deploy.bench import BenchOptions
from deploy.prune import PruneOptions
from edgemt.data.layouts import DataOptions
from edgemt.engine import Schedule
from edgemt.phantom import CLASSES
from edgemt.recipes import Recipe, Slim, Student, Teacher


def phantom() -> Recipe:
    """12 labelled and 160 unlabelled synthetic frames at 96 x 96: every stage to a shipped INT8 student.

    edgemt run phantom
    About 5 minutes on two cores, 2 GiB. It shows the flow; its accuracy says nothing about patients.
    """
    quick = Schedule(steps=500, precision="32-true", validations=4, warmup=30, checkpoint_every=50, learning_rate=2e-3)
    return Recipe(
        name="phantom",
        data=DataOptions(layout="phantom", classes=CLASSES, size=(96, 96), channels=3),
        teacher=Teacher(widths=(8, 16, 32, 64, 128), schedule=quick),
        student=Student(pretrained="never", schedule=quick),
        slim=Slim(
            prune=PruneOptions(macs=0.45),
            schedule=Schedule(steps=250, precision="32-true", validations=2, learning_rate=1e-3, checkpoint_every=50),
        ),
        bench=BenchOptions(),
        tolerance=0.02,
    )
