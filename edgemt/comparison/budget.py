"""How much a comparison still costs: trainings and steps before it starts, time once a run has been measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median

from edgemt.comparison.results import Result
from edgemt.comparison.runs import EMA_CONTROL, STUDENT_CONTROL, TrainingRun
from edgemt.methods.catalogue import costs


def before(plan: Sequence[TrainingRun], todo: Sequence[TrainingRun], *, steps: int, jobs: int) -> str:
    """One line: trainings, how many of them are finished, steps to come."""
    stand = f", {len(plan) - len(todo)} of them stand" if len(todo) < len(plan) else ""
    beside = f", {jobs} trainings at a time" if jobs > 1 else ""
    return (
        f"compare: {len(plan)} trainings of {_count(steps)} steps{stand}; {_count(len(todo) * steps)} steps to come"
        f"{beside}"
    )


def time_to_come(todo: Sequence[TrainingRun], finished: Iterable[Result], *, device: str, jobs: int) -> str:
    """`about 2.5 h to come`, from the runs that were measured on this device; empty where none was.

    A run of a method takes as many times longer than supervised training as `edgemt explain` states of its steps.
    """
    units = [unit for result in finished if result.device == device and (unit := _unit(result)) is not None]
    steps = {result.steps for result in finished}
    if not units or not todo or not steps:
        return ""
    dims = next(result.dims for result in finished)
    work = sum(relative(run.method, dims) for run in todo) * max(steps)
    return f"about {_duration(median(units) * work / min(jobs, len(todo)))} to come"


def relative(method: str, dims: int) -> float:
    """Time of a step over that of a supervised one; 1 where it was not measured."""
    if method in (EMA_CONTROL, STUDENT_CONTROL):
        return 1.0
    return float(costs().get("relative", {}).get(method, {}).get(f"{dims}d", 1.0))


def _unit(result: Result) -> float | None:
    """Seconds of a supervised step, by a finished run."""
    whole = None if result.seconds is None else result.seconds / result.steps
    step = whole if whole is not None else result.step_seconds
    return None if step is None or result.failed else step / relative(result.method, result.dims)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _count(number: int) -> str:
    return f"{number:,}"
