"""Shared by all tests: one thread, no telemetry, the order of the files, and one tiny run of the whole flow."""

from __future__ import annotations

import fcntl
import os
import signal
from pathlib import Path

import pytest

from edgemt.telemetry import switch_off

os.environ.setdefault("OMP_NUM_THREADS", "1")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # of a background shell; those we start would be deaf
    signal.signal(signal.SIGINT, signal.default_int_handler)
switch_off()  # a test may import a runtime before anything of the package

try:
    import torch

    torch.set_num_threads(1)
    # torch.manual_seed keeps the whole call stack as text, for a GPU that may yet come
    if not torch.cuda.is_available():
        torch.cuda.manual_seed_all = lambda seed: None
    if not torch.xpu.is_available():
        torch.xpu.manual_seed_all = lambda seed: None
except ImportError:
    pass

LONGEST = (  # begun first, so that no process of a test run ends alone with one of them
    "test_flow", "test_contract", "test_flow_volumes", "test_int8_ladder", "test_readme", "test_export",
    "test_prompted", "test_stream_faults", "test_prune_latency", "test_several_processes", "test_half",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


BRIEF = [
    "--student.network=test_efficientnet",  # timm's own for tests: every kind of layer, few of them
    "--bench.iterations=5",
    "--bench.rounds=2",
    "--bench.block-ms=5",
    "--bench.warmup=2",
    "--bench.paced-seconds=0.05",
    "--bench.no-cold",
    "--bench.streams-seconds=0",
    "--tolerance=1.0",
    "--threads=1",
]

TINY = [
    "--data.size=64",
    "64",
    "--data.phantom=6",
    "12",
    "4",
    "--teacher.widths=4",
    "8",
    "8",
    "8",
    "8",
    "--teacher.schedule.steps=12",
    "--student.schedule.steps=12",
    "--slim.schedule.steps=6",
    "--slim.batches=2",
    "--teacher.schedule.checkpoint-every=4",
    "--student.schedule.checkpoint-every=4",
    "--slim.schedule.checkpoint-every=4",
    "--int8.images=8",
    *BRIEF,
]

TINY_VOLUMES = [
    "--data.phantom=2",
    "2",
    "2",
    "--data.size=32",
    "32",
    "--volume.patch=16",
    "16",
    "16",
    "--volume.stride=16",
    "16",
    "16",
    "--volume.report-stride=16",
    "16",
    "8",
    "--teacher.filters=2",
    "--teacher.schedule.steps=4",
    "--teacher.schedule.checkpoint-every=2",
    "--student.schedule.steps=6",
    "--student.schedule.checkpoint-every=3",
    "--slim.schedule.steps=3",
    "--slim.batches=1",
    "--int8.images=6",
    *BRIEF,
]


@pytest.fixture(scope="session", autouse=True)
def key_of_the_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Not the user's own."""
    os.environ["EDGEMT_CACHE_KEY"] = str(tmp_path_factory.mktemp("key") / "cache.key")


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the phantom recipe, made small: the folder with every stage in it.

    Made once for all processes of a test run, so never change it: work on a copy.
    """
    from edgemt import cli

    here = tmp_path_factory.getbasetemp()
    shared = here.parent if "PYTEST_XDIST_WORKER" in os.environ else here
    out, made = shared / "tiny" / "run", shared / "tiny" / "made"
    out.parent.mkdir(exist_ok=True)
    with (shared / "tiny" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the system opens it when its holder dies, and the run resumes
        if not made.exists():
            cli.main(["run", "phantom", "--out", str(out), *TINY])
            made.touch()
    return out
