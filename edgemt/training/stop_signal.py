"""SIGTERM during a training: the step in progress is finished and a checkpoint is written before the training ends.

Batch systems, services and time limits send SIGTERM some seconds before they kill a process.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from edgemt.io import process_rank


@contextmanager
def received_signals() -> Iterator[list[int]]:
    """The list of SIGTERM signals that were received in this block; the training loop checks it after each step.

    A second SIGTERM raises KeyboardInterrupt at once. The list stays empty, and SIGTERM acts as before, in a thread
    that is not the main one, where the program has a handler of its own, and in a training of several processes (one
    that stops a step earlier than the others would leave them waiting).
    """
    received: list[int] = []

    def note(number: int, frame: object) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    previous = signal.getsignal(signal.SIGTERM)
    usable = threading.current_thread() is threading.main_thread() and process_rank.world_size() == 1
    if not usable or previous not in (signal.SIG_DFL, signal.default_int_handler):
        yield received
        return
    signal.signal(signal.SIGTERM, note)
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, previous)
