"""The log line of a run."""

from __future__ import annotations

import sys

from edgemt.io import process_rank


def log(text: str) -> None:
    """Print a line on stderr, from the first process only."""
    if process_rank.is_main_process():
        print(text, file=sys.stderr, flush=True)
