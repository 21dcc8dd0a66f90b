"""Why a training on a processor may crawl: its threads wait for one whose core other programs use."""

from __future__ import annotations

import os

import torch

from deploy.hardware.machine import CpuLoad, allowed_cpus, cpu_quota
from edgemt.io import process_rank

_AFTER_S = 10.0  # seconds of the reading: start-up is over, and few steps are lost
_CORES = 0.4  # less than that of a core, in the mean, is a desktop at rest


class BusyCores:
    """Compares, once, `_AFTER_S` seconds after it was made, the threads of torch with the cores that are free."""

    def __init__(self) -> None:
        alone = process_rank.world_size() == 1  # the load of sister processes is not that of others
        self._threads = torch.get_num_threads()
        self._start = CpuLoad.now() if alone and self._threads > 1 and not torch.cuda.is_available() else None

    def notice(self) -> str:
        """One line with the remedy where other programs take cores that torch's threads need; else, and later, ""."""
        if self._start is None:
            return ""
        now = CpuLoad.now()
        if now.wall_s - self._start.wall_s < _AFTER_S:
            return ""
        others, self._start = self._start.other_processes(now), None
        return describe_crowding(others, threads=self._threads, cores=usable_cores())


def describe_crowding(others: float | None, *, threads: int, cores: float) -> str:
    """The line for `others` of `cores` in use by other programs (None: unknown); "" where the threads have room."""
    if others is None or others < _CORES or threads + others <= cores + _CORES:
        return ""
    passive = os.environ.get("OMP_WAIT_POLICY", "").lower() == "passive"
    remedy = f"--threads {max(1, int(cores - others))}"
    if not passive:
        remedy += ", or OMP_WAIT_POLICY=passive in the environment"
    return (
        f"other programs use {others:.1f} of {cores:g} cores, and {threads} threads wait for each other; try {remedy}"
    )


def usable_cores() -> float:
    """The processors that this process may use, at most its quota."""
    return min(float(len(allowed_cpus())), cpu_quota() or float("inf"))
