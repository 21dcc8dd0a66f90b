"""Latency of a package while it is made: each runtime, file and precision that passed its gate, in turns."""

from __future__ import annotations

from typing import Any

from deploy.hardware.machine import describe
from deploy.measurement.variants import latency_records, quick_options
from deploy.package.files import IR_FP32
from deploy.runtimes.load import runner
from deploy.runtimes.registry import RUNTIME_OF, RUNTIMES
from deploy.runtimes.runner import ModelRunner
from edgemt.pipeline.log import log
from edgemt.pipeline.package_steps import Draft

_NUM_TIMED = 16  # frames


def latency_of(draft: Draft) -> tuple[dict[str, Any], ...]:
    """The latency records for the card, the fastest of each runtime marked; empty where no file can be timed."""
    calls = _loaded(draft)
    if not calls:
        return ()
    few = quick_options(draft.context.recipe.bench)
    records = latency_records(calls, draft.frames[:_NUM_TIMED], few, device=str(describe().get("cpu", "")))
    _log_fastest(records)
    return records


def _loaded(draft: Draft) -> dict[tuple[str, str, str | None], ModelRunner]:
    """(runtime, file, requested precision) -> runner, of what passed its gate and loads here."""
    package = draft.package()
    calls: dict[tuple[str, str, str | None], ModelRunner] = {}
    for file, runtime in RUNTIME_OF.items():
        if file not in draft.measured:
            continue
        exact = RUNTIMES[runtime].reference_precision  # compared with torch, also where it is not the default
        for precision in (None, exact) if exact and file == IR_FP32 else (None,):
            refused = "" if precision else draft.failure(draft.measured[file], file)
            try:
                made = runner(package, runtime=runtime, file=file, precision=precision)
            except ValueError as error:
                refused = refused or str(error)
            if refused:
                log(f"ship: {refused}; `runner` will not choose it")
            else:
                calls[runtime, file, precision] = made
    return calls


def _log_fastest(records: tuple[dict[str, Any], ...]) -> None:
    if records and records[0]["undecided"]:
        log(
            f"ship: other processes used {records[0]['foreign_cores']:.1f} cores while files were timed; which is the "
            "quickest stays undecided, and each device finds out for itself"
        )
        return
    for record in records:
        if record["fastest"]:
            others = [r for r in records if r["runtime"] == record["runtime"] and r is not record]
            second = (
                f", {others[0]['ratio'] / record['ratio']:.2f} times as fast as {_named(others[0])}" if others else ""
            )
            log(f"ship: quickest on {record['runtime']}: {_named(record)}, {record['p50_ms']:.2f} ms{second}")


def _named(record: dict[str, Any]) -> str:
    return f"{record['file']} ({record['precision']})"
