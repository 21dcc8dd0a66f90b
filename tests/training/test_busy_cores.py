"""A training whose threads lack cores prints one line with the remedy, once; one that has room prints nothing."""

from __future__ import annotations

import re

import pytest
import torch

from deploy.hardware.machine import CpuLoad
from edgemt.training import busy_cores
from edgemt.training.busy_cores import BusyCores, describe_crowding
from edgemt.training.progress import TrainingProgress


@pytest.fixture(autouse=True)
def no_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)


@pytest.mark.parametrize(
    ("others", "threads", "cores", "tries"),
    [
        (1.0, 2, 2, "--threads 1"),
        (5.2, 8, 8, "--threads 2"),
        (7.9, 8, 8, "--threads 1"),
        (0.5, 2, 1.5, "--threads 1"),
        (0.3, 2, 2, ""),  # a desktop at rest
        (1.0, 2, 4, ""),  # there is room
        (None, 2, 2, ""),
    ],
)
def test_the_line_names_threads_that_have_room(others: float | None, threads: int, cores: float, tries: str) -> None:
    line = describe_crowding(others, threads=threads, cores=cores)

    assert re.findall(r"--threads \d+", line) == ([tries] if tries else [])
    assert ("OMP_WAIT_POLICY=passive" in line) == bool(tries)


def test_threads_that_sleep_while_they_wait_are_not_advised_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")

    assert describe_crowding(1.0, threads=2, cores=2).endswith("try --threads 1")


def _readings(monkeypatch: pytest.MonkeyPatch, *readings: CpuLoad) -> None:
    left = list(readings)
    monkeypatch.setattr(busy_cores.CpuLoad, "now", classmethod(lambda cls: left.pop(0)))
    monkeypatch.setattr(busy_cores, "usable_cores", lambda: 2.0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_a_training_prints_it_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    early, late = CpuLoad(3.0, 3.0, 6.0), CpuLoad(12.0, 10.0, 22.0)  # from 0: this one 10 of 22 busy seconds
    _readings(monkeypatch, CpuLoad(0.0, 0.0, 0.0), early, late)

    with TrainingProgress("teacher", total=9) as progress:
        for step in range(4):
            progress.update(step)

    assert capsys.readouterr().err.splitlines() == [
        "teacher: other programs use 1.0 of 2 cores, and 2 threads wait for each other; try --threads 1, or "
        "OMP_WAIT_POLICY=passive in the environment"
    ]


def test_one_thread_waits_for_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    _readings(monkeypatch)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)

    assert BusyCores().notice() == ""


def test_this_machine_has_cores() -> None:
    assert busy_cores.usable_cores() > 0
