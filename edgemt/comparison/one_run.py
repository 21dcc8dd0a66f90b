"""One run of a comparison: trained if its result does not stand, and the result that it leaves."""

from __future__ import annotations

import time
from pathlib import Path

from edgemt.artefacts.run_lock import FolderInUseError
from edgemt.artefacts.stage_folder import WEIGHTS
from edgemt.comparison import results
from edgemt.comparison.results import DIGITS, Result
from edgemt.comparison.run_inputs import Wanted, groups_of
from edgemt.comparison.runs import AVERAGED, One, control_of, dice_of_cases, step_seconds, train
from edgemt.pipeline.recipe import teacher_dims


def standing(one: One, wanted: Wanted, store: Path) -> Result | None:
    """The result of this very run, if it is in `store` and did not fail."""
    file = results.file_of(store, one.method, one.settings, one.seed)
    if not file.exists():
        return None
    result = Result.read(file)
    return result if not result.failed and result.inputs == wanted.inputs(one) else None


def train_one(one: One, wanted: Wanted, store: Path) -> str:
    """Trains what is missing and writes the result. What it failed of, in one line; the empty text if it did not.

    A folder in which another process works is left alone, and so is a result that stands by now.
    """
    if standing(one, wanted, store) is not None:
        return ""
    resumed = (one.folder / "teacher").exists() or (one.folder / "teacher.partial").exists()
    begun = time.monotonic()
    try:
        failed = train(one, wanted.recipe)
    except FolderInUseError as error:
        return " ".join(str(error).split())
    took = None if resumed else time.monotonic() - begun
    results.write(_result(one, wanted, failed=failed, seconds=took), store)
    return failed


def _result(one: One, wanted: Wanted, *, failed: str, seconds: float | None) -> Result:
    context, of = wanted.run(one), wanted.recipe
    measured = {} if failed else one.card.measured[WEIGHTS]
    cases = {} if failed else dice_of_cases(one.card)
    groups = groups_of(context)
    distances = [values.get("hd95") for values in measured.get("per_class", {}).values()]
    there = [value for value in distances if value is not None]
    took = None if failed else step_seconds(one)
    schedule = of.teacher.schedule
    return Result(
        method=one.method,
        settings=one.settings,
        seed=one.seed,
        delivers="average" if control_of(one.method) == AVERAGED else "student",
        control=control_of(one.method),
        recipe=of.name,
        network=of.teacher.network,
        steps=schedule.steps,
        batch=(schedule.labelled, schedule.unlabelled),
        classes=tuple(of.data.classes[1:]),
        labelled=len({case.group for case in context.slices.cohort.labelled}),
        drawn=wanted.drawn(one),
        created=time.strftime("%Y-%m-%d"),
        device=device(),
        dims=teacher_dims(of.teacher.network),
        ground=wanted.ground(one),
        inputs=wanted.inputs(one),
        cases={case: [None if v != v else round(v, DIGITS) for v in values] for case, values in cases.items()},
        groups={case: groups.get(case, case) for case in cases},
        hd95=round(sum(there) / len(there), 3) if there else None,
        step_seconds=None if took is None else round(took, 5),
        seconds=None if seconds is None else round(seconds, 1),
        failed=failed,
    )


def device() -> str:
    import torch

    from deploy.hardware.machine import describe

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return str(describe().get("cpu") or "")
