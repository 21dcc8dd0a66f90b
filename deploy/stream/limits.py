"""How long things may take. A file of its own and without numpy: the command line reads it at start-up."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TimeLimits:
    """Milliseconds each."""

    budget_ms: float = 100.0
    """A mask older than this, since its frame was captured, is withdrawn."""
    no_signal_ms: float = 450.0
    """Without a new frame for so long there is no signal."""
    frozen_ms: float = 400.0
    """The same picture for so long is a frozen one; 0 lets pictures stand still."""
    hang_ms: float = 2000.0
    """Inference that takes so long is given up and started again."""
