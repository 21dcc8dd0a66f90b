"""How late a frame is when it comes, by the source's own clock.

That clock is not ours, so no age can be read from it. But a frame that took longer than the quickest one, from the
source's time to ours, lay somewhere on the way for the difference: in a driver, a network, a decoder that is behind.
"""

from __future__ import annotations

_DRIFT = 500e-6  # two clocks may part by so much of the time that passes, and no frame is called late for it


class Lateness:
    """Of the frames of one source in turn, since it was opened."""

    def __init__(self) -> None:
        self._source_ns: int | None = None
        self._received_ns = 0
        self._least_ns = 0.0  # the quickest way from the source's time to ours, clocks apart as they are

    def of(self, source_ns: int | None, *, received_ns: int) -> int:
        """Nanoseconds, 0 for the quickest frame. A source without times, or whose clock stands still or is set back,
        says nothing; then the count begins anew."""
        before, since_ns = self._source_ns, received_ns - self._received_ns
        self._source_ns, self._received_ns = source_ns, received_ns
        if source_ns is None:
            return 0
        way_ns = received_ns - source_ns
        if before is None or source_ns <= before:
            self._least_ns = way_ns
        else:
            self._least_ns = min(way_ns, self._least_ns + since_ns * _DRIFT)
        return int(way_ns - self._least_ns)
