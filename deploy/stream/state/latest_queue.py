"""A box with room for one: what comes replaces what lies there, so that whoever takes gets the newest.

A queue of any length hands out frames that are older by as many turns as it is long; this cannot.
"""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Mailbox(Generic[Item]):
    """Between one thread that puts and one that takes. Putting never waits."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._item: Item | None = None
        self._closed = False
        self.replaced = 0  # items that nobody took

    def put(self, item: Item) -> None:
        with self._changed:
            self.replaced += self._item is not None
            self._item = item
            self._changed.notify()

    def take(self, timeout_s: float) -> Item | None:
        """The newest item, waiting for one; None when there is none in time, or the box is closed."""
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
        """Wakes whoever waits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
