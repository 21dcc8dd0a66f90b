"""One run of a comparison: trained unless its result exists, and the result that it writes."""

from __future__ import annotations

import time
from pathlib import Path

from edgemt.artefacts.run_lock import FolderInUseError
from edgemt.artefacts.stage_folder import WEIGHTS
from edgemt.comparison import results
from edgemt.comparison.results import DIGITS, Result
from edgemt.comparison.run_inputs import RunInputs, groups_of
from edgemt.comparison.runs import EMA_CONTROL, TrainingRun, control_of, dice_of_cases, step_seconds, train
from edgemt.model_card import FileMetrics
from edgemt.pipeline.recipe import teacher_dims


def finished_result(run: TrainingRun, run_inputs: RunInputs, store: Path) -> Result | None:
    """The result of exactly this run, if `store` has it and it did not fail; else None."""
    file = results.file_of(store, run.method, run.settings, run.seed)
    if not file.exists():
        return None
    result = Result.read(file)
    return result if not result.failed and result.inputs == run_inputs.inputs(run) else None


def train_one(run: TrainingRun, run_inputs: RunInputs, store: Path) -> str:
    """Train what is missing and write the result. Returns why it failed, in one line; empty if it did not.

    A folder in which another process works is not touched, and neither is a result that exists by now.
    """
    if finished_result(run, run_inputs, store) is not None:
        return ""
    run_inputs.check_unlabelled(run)
    resumed = (run.folder / "teacher").exists() or (run.folder / "teacher.partial").exists()
    begun = time.monotonic()
    try:
        failed = train(run, run_inputs.recipe)
    except FolderInUseError as error:
        return " ".join(str(error).split())
    took = None if resumed else time.monotonic() - begun
    results.write(_result(run, run_inputs, failed=failed, seconds=took), store)
    return failed


def _result(run: TrainingRun, run_inputs: RunInputs, *, failed: str, seconds: float | None) -> Result:
    context, of = run_inputs.context_of(run), run_inputs.recipe
    measured = FileMetrics() if failed else run.card.measured[WEIGHTS]
    cases = {} if failed else dice_of_cases(run.card)
    groups = groups_of(context)
    distances = [values.get("hd95") for values in measured.per_class.values()]
    there = [value for value in distances if value is not None]
    took = None if failed else step_seconds(run)
    schedule = of.teacher.schedule
    return Result(
        method=run.method,
        settings=run.settings,
        seed=run.seed,
        delivers="average" if control_of(run.method) == EMA_CONTROL else "student",
        control=control_of(run.method),
        recipe=of.name,
        network=of.teacher.network,
        steps=schedule.steps,
        batch=(schedule.labelled, schedule.unlabelled),
        classes=tuple(of.data.classes[1:]),
        labelled=len({case.patient for case in context.slices.cohort.labelled}),
        drawn=run_inputs.drawn(run),
        created=time.strftime("%Y-%m-%d"),
        device=device(),
        dims=teacher_dims(of.teacher.network),
        ground=run_inputs.ground(run),
        inputs=run_inputs.inputs(run),
        cases={case: [None if v != v else round(v, DIGITS) for v in values] for case, values in cases.items()},
        groups={case: groups.get(case, case) for case in cases},
        hd95=round(sum(there) / len(there), 3) if there else None,
        step_seconds=None if took is None else round(took, 5),
        seconds=None if seconds is None else round(seconds, 1),
        failed=failed,
    )


def device() -> str:
    """The name of this machine's GPU, without one that of its CPU; empty if it cannot be found."""
    import torch

    from deploy.hardware.machine import describe

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return str(describe().get("cpu") or "")
