"""Times between attempts: longer after each failure, with some jitter, so that devices do not come back as one."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class RetryOptions:
    """Waits between attempts to send, or to predict. Raises ValueError for times in the wrong order."""

    first_s: float = 2.0
    """Seconds until the second attempt; each further wait is twice as long."""
    most_s: float = 300.0
    """The longest wait."""

    def __post_init__(self) -> None:
        if not 0 < self.first_s <= self.most_s:
            raise ValueError(f"retry: first {self.first_s:g} s must be above 0 and at most {self.most_s:g} s")


class Backoff:
    """When the next attempt is due, by a key (a series, a destination)."""

    def __init__(self, options: RetryOptions, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._options, self._clock = options, clock
        self._failures: dict[str, tuple[int, float]] = {}

    def due(self, key: str) -> bool:
        return self._clock() >= self._failures.get(key, (0, 0.0))[1]

    def failures(self, key: str) -> int:
        return self._failures.get(key, (0, 0.0))[0]

    def failed(self, key: str) -> float:
        """Note a failure; returns the seconds until the next attempt."""
        count = self.failures(key)
        wait_s = min(self._options.first_s * 2.0 ** min(count, 30), self._options.most_s) * random.uniform(0.8, 1.0)
        self._failures[key] = (count + 1, self._clock() + wait_s)
        return wait_s

    def succeeded(self, key: str) -> bool:
        """Forget the failures; True where there were some."""
        return self._failures.pop(key, None) is not None
