"""Single-slot, latest-wins queue between one producer thread and one consumer thread.

A queue with n slots adds the time of up to n frames to the age of every mask; a single slot adds none.
"""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

Item = TypeVar("Item")


class LatestQueue(Generic[Item]):
    """`put` replaces the waiting item and never blocks."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._item: Item | None = None
        self._closed = False
        self.num_replaced = 0  # items that were replaced before they were taken

    def put(self, item: Item) -> None:
        with self._changed:
            self.num_replaced += self._item is not None
            self._item = item
            self._changed.notify()

    def take(self, timeout_s: float) -> Item | None:
        """Remove and return the newest item; wait for it up to `timeout_s`. None after the timeout or `close`."""
        with self._changed:
            self._changed.wait_for(lambda: self._item is not None or self._closed, timeout_s)
            item, self._item = self._item, None
            return item

    @property
    def empty(self) -> bool:
        return self._item is None

    def clear(self) -> None:
        with self._changed:
            self._item = None

    def close(self) -> None:
        """Wake the consumer that waits in `take`."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
