"""Rank of this process among the processes of one run.

Imports no torch: where torch is not loaded, there is no process group and the run has one process.
"""

from __future__ import annotations

import os
import sys
from typing import Any


def world_size() -> int:
    """Number of processes that share the run; 1 without a process group."""
    group = process_group()
    return group.get_world_size() if group else 1


def rank() -> int:
    """Rank of this process, from 0."""
    group = process_group()
    return group.get_rank() if group else 0


def is_main_process() -> bool:
    """Whether this is rank 0, which writes, prints and measures for all processes."""
    return rank() == 0


def is_main_before_init() -> bool:
    """`is_main_process`, valid also before the processes of `torchrun` have joined (it then reads RANK)."""
    not_joined = process_group() is None and "TORCHELASTIC_RUN_ID" in os.environ
    return os.environ.get("RANK", "0") == "0" if not_joined else is_main_process()


def process_group() -> Any | None:
    """The module `torch.distributed` where it is loaded and initialised, else None."""
    distributed = sys.modules.get("torch.distributed")
    return distributed if distributed and distributed.is_available() and distributed.is_initialized() else None
