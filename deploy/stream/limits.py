"""The time limits of a stream. This module does not import numpy, because the command line loads it at start-up."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StreamLimits:
    """All limits are in milliseconds."""

    budget_ms: float = 100.0
    """A mask older than this, since its frame was captured, is withdrawn."""
    no_signal_ms: float = 450.0
    """Without a new frame for this time, the state is no-signal."""
    frozen_ms: float = 400.0
    """If the picture does not change for this time, it is frozen and the mask stale; 0 turns the check off."""
    hang_ms: float = 2000.0
    """Inference that takes longer than this is abandoned and started again."""
