"""teacher -> (bank) -> student -> slim -> int8 -> ship -> report: each stage a folder, made once, then skipped.

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
from edgemt.methods.supervised import Supervised
from edgemt.pipeline import frame_bank, package, prune, quantize, warm_up
from edgemt.pipeline import report as reporting
from edgemt.pipeline.data_changes import tell_changes
from edgemt.pipeline.fallback import told
from edgemt.pipeline.run_context import Run, start
from edgemt.pipeline.train import assembled, trained, wants_bank
from edgemt.recipes import Recipe, Student, Teacher, student_method
from edgemt.training import distributed

MEMBER_SEED = 1000  # between the seeds of a teacher's members: far from those that users compare
STAGES = ("teacher", "bank", "student", "slim", "int8", "ship", "report")


@distributed.distributed_run()
def run(recipe: Recipe, out: Path, *, until: str = "report", overwrite: bool = False) -> Path:
    """Every stage up to `until`; what stands is skipped, what was cut is resumed. Returns the last stage's folder.

    A stage or checkpoint that does not fit the recipe or the data any more is renamed, or replaced with `overwrite`
    (`edgemt.artefacts.reuse`). Several processes (`edgemt.training.distributed`) train together; the first one does
    all else in a folder that each of them sees. Raises ValueError, before anything is trained, for a folder that
    another run uses or that cannot be written.
    """
    at = start(recipe, out, overwrite=overwrite)
    with locked(out) if process_rank.is_main_process() else nullcontext():
        return _run(at, until)


def _run(at: Run, until: str) -> Path:
    out = at.out
    distributed.barrier()  # for the lock of the first process
    _say_what_shares(at)
    at.content  # noqa: B018  all processes together
    if process_rank.is_main_process():
        tell_changes(at, STAGES[: STAGES.index(until) + 1])
        write_text(out / "recipe.json", stage_folder.to_json(at.recipe))
    makers: dict[str, Callable[[Run], Path]] = {
        "teacher": teacher,
        "bank": _by_first(bank),
        "student": student,
        "slim": prune.slim,
        "int8": _by_first(quantize.int8),
        "ship": _by_first(package.ship),
        "report": report,
    }
    folder = out
    for stage in STAGES[: STAGES.index(until) + 1]:
        folder = makers[stage](at)
    _tell_what_was_given_up(at, until)
    return folder


def _tell_what_was_given_up(at: Run, until: str) -> None:
    """The last lines of a run: what its gates refused, and what stands in its place."""
    last = next((stage for stage in ("ship", "int8", "slim") if STAGES.index(stage) <= STAGES.index(until)), None)
    if last is None or not process_rank.is_main_process():
        return
    for record in stage_folder.read_card(at.folder(last)).given_up:
        at.say(f"given up: {told(record)}")


def _by_first(make: Callable[[Run], Path]) -> Callable[[Run], Path]:
    """A stage that one process makes while the others wait."""
    return lambda at: Path(distributed.run_on_main(lambda: str(make(at))))


def _say_what_shares(at: Run) -> None:
    gpus, count = torch.cuda.device_count(), process_rank.world_size()
    if count > 1:
        at.say(f"{count} processes: a step sees {count} times the rows of schedule.labelled and schedule.unlabelled")
    elif gpus > 1:
        at.say(f"1 of {gpus} GPUs works; for all: torchrun --nproc-per-node {gpus} -m edgemt.cli run RECIPE ...")


def teacher(at: Run) -> Path:
    """The full model: few labels, many unlabelled images. With several members or flips, their mean."""
    of = at.recipe.teacher
    if of.members == 1 and of.flips == 1:
        return trained(at, "teacher", of, of.method)
    alone = replace(of, members=1, flips=1)
    folders = []
    for number in range(of.members):
        recipe = replace(at.recipe, seed=at.recipe.seed + MEMBER_SEED * number, teacher=alone)
        member = at.share_data(replace(at, recipe=recipe))
        folders.append(trained(member, f"members/{number + 1}", alone, of.method))
        member.share_data(at)
    return assembled(at, "teacher", folders, flips=of.flips)


def bank(at: Run) -> Path:
    """What the teacher predicts of every training image, on disk, where the student's method learns from it."""
    source = at.folder("teacher")
    if not wants_bank(at.recipe.student.method):
        return source
    return at.volumetric.fill_bank(source) if at.deep else frame_bank.fill_bank(at, source)


def student(at: Run) -> Path:
    """The small model, distilled from the frozen teacher on every image."""
    of, parent = at.recipe.student, at.folder("teacher")
    encoder = warm_up.warm_up(at, parent) if of.warm_up_steps else None
    return trained(at, "student", of, student_method(of), parent=parent, encoder=encoder)


def controls(at: Run) -> list[Path]:
    """The same networks and budgets without what EdgeMT adds, so that its worth can be read off."""
    of = at.recipe
    teacher = replace(of.teacher, members=1, flips=1)
    floor = supervised_as(of.student.method)
    plan: dict[str, tuple[Teacher | Student, Method, bool]] = {
        "teacher_supervised": (teacher, supervised_as(of.teacher.method), False),
        "student_supervised": (of.student, floor, False),
        "student_no_distillation": (of.student, semi_supervised(of), False),
        "student_all_labels": (of.student, floor, True),
    }
    return [
        trained(at, f"controls/{name}", plan[name][0], plan[name][1], all_labels=plan[name][2]) for name in of.controls
    ]


def supervised_as(method: Method) -> Method:
    """The supervised method with the Dice of `method`, of each image or of the batch, so that only labels differ."""
    per_image = bool(getattr(method, "image_dice", False))
    return replace(METHODS["supervised"], image_dice=per_image)  # type: ignore[call-arg]


def semi_supervised(of: Recipe) -> Method:
    """The teacher's method; `two_stream_mt` where the teacher learns from labelled images alone."""
    return METHODS["two_stream_mt"] if isinstance(of.teacher.method, Supervised) else of.teacher.method


def report(at: Run) -> Path:
    """After the controls, which all processes train."""
    beside = controls(at)
    return _by_first(lambda at: reporting.report(at, beside))(at)
