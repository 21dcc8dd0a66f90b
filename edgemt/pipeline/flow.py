"""teacher -> (bank) -> student -> slim -> int8 -> ship -> report: each stage is a folder, made once.

Unlabelled images are used in every stage: in the teacher's consistency, in distillation, in the fine-tuning
after pruning, and in calibration. A file whose accuracy was not measured is not written.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch

from edgemt.artefacts import stage_folder
from edgemt.artefacts.run_lock import locked
from edgemt.io import process_rank
from edgemt.io.atomic import write_text
from edgemt.methods import METHODS, Method
from edgemt.methods.distillation import Distillation
from edgemt.pipeline import folds, package, prune, quantize, soft_label_bank, warm_up
from edgemt.pipeline import report as report_stage
from edgemt.pipeline.data_changes import log_changes
from edgemt.pipeline.fallback import describe_fallback
from edgemt.pipeline.log import log
from edgemt.pipeline.recipe import Recipe, StudentOptions, TeacherOptions, student_method, uses_soft_label_bank
from edgemt.pipeline.recipe_checks import needs_unlabelled, semi_supervised
from edgemt.pipeline.run_context import RunContext, open_run
from edgemt.pipeline.train import ensemble_stage, train_stage
from edgemt.pipeline.unused_options import log_unused
from edgemt.training import distributed
from edgemt.training.seeds import member_seed

STAGES = ("teacher", "bank", "student", "slim", "int8", "ship", "report")


@distributed.distributed_run()
def run(recipe: Recipe, out: Path, *, until: str = "report", overwrite: bool = False) -> Path:
    """Run every stage up to `until`: complete ones are skipped, an interrupted one is resumed. Returns the last folder.

    A stage or checkpoint that does not fit the recipe or the data any more is renamed, or replaced with `overwrite`
    (`edgemt.artefacts.reuse`). Several processes (`edgemt.training.distributed`) train together; the first one does
    all else in a folder that each of them sees. Raises ValueError, before anything is trained, for a folder that
    another run uses or that cannot be written.
    """
    context = open_run(recipe, out, overwrite=overwrite)
    with locked(out) if process_rank.is_main_process() else nullcontext():
        return _run(context, until)


def _run(context: RunContext, until: str) -> Path:
    out = context.out
    distributed.barrier()  # for the lock of the first process
    _log_processes(context)
    log_unused(context.recipe)
    context.slices.content  # noqa: B018  all processes together
    if process_rank.is_main_process():
        log_changes(context, STAGES[: STAGES.index(until) + 1])
        write_text(out / "recipe.json", stage_folder.to_json(context.recipe))
    _log_without_unlabelled(context)
    _check_all_labels(context)
    makers: dict[str, Callable[[RunContext], Path]] = {
        "teacher": teacher,
        "bank": _on_main_process(bank),
        "student": student,
        "slim": prune.slim,
        "int8": _on_main_process(quantize.int8),
        "ship": _on_main_process(package.ship),
        "report": report,
    }
    folder = out
    for stage in STAGES[: STAGES.index(until) + 1]:
        folder = makers[stage](context)
    _log_given_up(context, until)
    return folder


def _log_given_up(context: RunContext, until: str) -> None:
    """Log at the end of a run what its gates refused, and what is shipped in its place."""
    last = next((stage for stage in ("ship", "int8", "slim") if STAGES.index(stage) <= STAGES.index(until)), None)
    if last is None or not process_rank.is_main_process():
        return
    for record in stage_folder.read_card(context.folder(last)).given_up:
        log(f"given up: {describe_fallback(record)}")


def _log_without_unlabelled(context: RunContext) -> None:
    """Log the semi-supervised methods of a run that has no unlabelled images."""
    if context.slices.cohort.unlabelled:
        return
    for stage, of in (("teacher", context.recipe.teacher), ("student", context.recipe.student)):
        if needs_unlabelled(of.method):
            lost = "student.method.temporal has no effect" if isinstance(of.method, Distillation) else "as supervised"
            log(f"{stage}: {type(of.method).__name__} has no unlabelled images and learns from labels alone: {lost}")
    if "student_no_distillation" in context.recipe.controls:
        log("controls: student_no_distillation has no unlabelled images and is supervised")


def _check_all_labels(context: RunContext) -> None:
    """Log how many masks the control with all labels has. Raises ValueError where only the labelled images have one."""
    cohort = context.slices.cohort
    if "student_all_labels" not in context.recipe.controls:
        return
    own, every = (len({case.image for case in cases}) for cases in (cohort.labelled, context.slices.all_labelled))
    images = len({case.image for case in (*cohort.labelled, *cohort.unlabelled)})
    if every <= own < images:
        raise ValueError(
            f"controls: student_all_labels needs masks of the unlabelled images, and none of the {images - own} has "
            "one; leave it out"
        )
    if every < images:
        log(f"controls: student_all_labels learns from the {every} of {images} images that have a mask")


def _on_main_process(make: Callable[[RunContext], Path]) -> Callable[[RunContext], Path]:
    """A stage that the main process makes while the others wait."""
    return lambda context: Path(distributed.run_on_main(lambda: str(make(context))))


def _log_processes(context: RunContext) -> None:
    gpus, count = torch.cuda.device_count(), process_rank.world_size()
    if count > 1:
        log(f"{count} processes: a step sees {count} times the rows of schedule.labelled and schedule.unlabelled")
    elif gpus > 1:
        log(f"1 of {gpus} GPUs works; for all: torchrun --nproc-per-node {gpus} -m edgemt run RECIPE ...")


def teacher(context: RunContext) -> Path:
    """The full model: few labels, many unlabelled images. With several members, folds or flips, their mean."""
    of = context.recipe.teacher
    if context.recipe.data.folds > 1:
        folders = folds.fold_teachers(context)
        return ensemble_stage(context, "teacher", folders, flips=of.flips)
    if of.members == 1 and of.flips == 1:
        return train_stage(context, "teacher", of, of.method)
    alone = replace(of, members=1, flips=1)
    folders = []
    for number in range(of.members):
        recipe = replace(context.recipe, seed=member_seed(context.recipe.seed, number), teacher=alone)
        member = context.share_data(replace(context, recipe=recipe))
        folders.append(train_stage(member, f"members/{number + 1}", alone, of.method))
        member.share_data(context)
    return ensemble_stage(context, "teacher", folders, flips=of.flips)


def bank(context: RunContext) -> Path:
    """The teacher's predictions of every training image, on disk, where the student's method learns from it."""
    source = context.folder("teacher")
    if not uses_soft_label_bank(context.recipe.student.method):
        return source
    return soft_label_bank.fill_bank(context, source)


def student(context: RunContext) -> Path:
    """The small model, distilled from the frozen teacher on every image."""
    of, parent = context.recipe.student, context.folder("teacher")
    encoder = warm_up.warm_up(context, parent) if of.warm_up_steps else None
    return train_stage(context, "student", of, student_method(of), parent=parent, encoder=encoder)


def controls(context: RunContext) -> list[Path]:
    """The same networks and budgets without parts of the method, to measure what those contribute."""
    of = context.recipe
    teacher = replace(of.teacher, members=1, flips=1)
    floor = supervised_as(of.student.method)
    plan: dict[str, tuple[TeacherOptions | StudentOptions, Method, bool]] = {
        "teacher_supervised": (teacher, supervised_as(of.teacher.method), False),
        "student_supervised": (of.student, floor, False),
        "student_no_distillation": (of.student, semi_supervised(of), False),
        "student_all_labels": (of.student, floor, True),
    }
    return [
        train_stage(context, f"controls/{name}", plan[name][0], plan[name][1], all_labels=plan[name][2])
        for name in of.controls
    ]


def supervised_as(method: Method) -> Method:
    """The supervised method with the Dice of `method`, of each image or of the batch, so that only labels differ."""
    per_image = bool(getattr(method, "image_dice", False))
    return replace(METHODS["supervised"], image_dice=per_image)  # type: ignore[call-arg]


def report(context: RunContext) -> Path:
    """After the controls, which all processes train."""
    folders = controls(context)
    return _on_main_process(lambda context: report_stage.report(context, folders))(context)
