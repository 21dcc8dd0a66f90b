"""The log line of a run."""

from __future__ import annotations

import sys

from edgemt.training import distributed


def log(text: str) -> None:
    """Print a line on stderr, from the first process only."""
    if distributed.first():
        print(text, file=sys.stderr, flush=True)
