"""The embedded defaults: synthetic frames and volumes, nothing to download, a whole run in minutes on two cores."""

from __future__ import annotations

from deploy.benchmark.bench import BenchOptions
from deploy.pruning.options import PruneOptions
from edgemt.data.augment_options import VolumeOptions
from edgemt.data.options import DataOptions
from edgemt.data.phantom2d import CLASSES
from edgemt.data.phantom3d import CLASSES as ORGANS
from edgemt.methods import METHODS
from edgemt.pipeline.recipe import PruneStage, Recipe, StudentOptions, TeacherOptions
from edgemt.training.options import Schedule


def phantom() -> Recipe:
    """12 labelled and 160 unlabelled synthetic frames at 96 x 96: every stage to a shipped INT8 student.

    edgemt run phantom
    About 5 minutes on two cores, 2 GiB. It shows the flow; its accuracy holds for synthetic frames alone.
    """
    quick = Schedule(steps=500, precision="32-true", validations=4, warmup=30, checkpoint_every=50, learning_rate=2e-3)
    return Recipe(
        name="phantom",
        data=DataOptions(layout="phantom", classes=CLASSES, size=(96, 96), channels=3),
        teacher=TeacherOptions(widths=(8, 16, 32, 64, 128), schedule=quick),
        student=StudentOptions(pretrained="never", schedule=quick),
        slim=PruneStage(
            prune=PruneOptions(share=0.35),
            schedule=Schedule(steps=300, precision="32-true", validations=2, learning_rate=1e-3, checkpoint_every=50),
        ),
        bench=BenchOptions(),
        tolerance=0.03,  # 40 validation frames: with share 0.45 and 250 steps a drop of 0.022 was measured
    )


def phantom_volumes() -> Recipe:
    """3 labelled and 12 unlabelled synthetic volumes: a small V-Net teaches a student of three neighbouring slices.

    edgemt run phantom_volumes
    A few minutes on two cores. It shows a 3-D teacher of a 2-D student; its accuracy holds for synthetic volumes.
    """
    quick = Schedule(steps=400, precision="32-true", validations=2, warmup=30, checkpoint_every=50, learning_rate=2e-3)
    return Recipe(
        name="phantom_volumes",
        data=DataOptions(
            layout="phantom_volumes", classes=ORGANS, size=(64, 64), channels=1, slices=3, phantom=(3, 12, 4)
        ),
        volume=VolumeOptions(
            patch=(48, 48, 32), stride=(16, 16, 32), report_stride=(8, 8, 16), blend="gaussian", foreground=0.5
        ),
        teacher=TeacherOptions(
            network="vnet",
            filters=4,
            method=METHODS["mean_teacher"],
            schedule=Schedule(
                steps=250, labelled=2, unlabelled=2, validations=2, warmup=20, checkpoint_every=50, learning_rate=3e-3
            ),
        ),
        student=StudentOptions(pretrained="never", method=METHODS["slice_distillation"], schedule=quick),
        slim=PruneStage(
            prune=PruneOptions(share=0.42),
            schedule=Schedule(steps=200, precision="32-true", validations=2, learning_rate=1e-3, checkpoint_every=50),
        ),
        bench=BenchOptions(),
        tolerance=0.02,
    )
