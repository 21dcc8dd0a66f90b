"""Shared by all tests: one thread, warnings of ours are errors, and one tiny run of the whole flow."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

try:
    import torch

    torch.set_num_threads(1)
except ImportError:
    pass

TINY = [
    "--student.network=test_efficientnet",  # timm's own for tests: every kind of layer, few of them
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
    "--bench.iterations=5",
    "--bench.rounds=2",
    "--bench.block-ms=5",
    "--bench.warmup=2",
    "--bench.paced-seconds=0.2",
    "--bench.no-cold",
    "--bench.streams-seconds=0",
    "--tolerance=1.0",
    "--threads=1",
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
    "--student.network=test_efficientnet",
    "--bench.iterations=5",
    "--bench.rounds=2",
    "--bench.block-ms=5",
    "--bench.warmup=2",
    "--bench.paced-seconds=0.2",
    "--bench.no-cold",
    "--bench.streams-seconds=0",
    "--tolerance=1.0",
    "--threads=1",
]


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the phantom recipe, made small: the folder with every stage in it."""
    from edgemt import cli

    out = tmp_path_factory.mktemp("tiny") / "run"
    cli.main(["run", "phantom", "--out", str(out), *TINY])
    return out
