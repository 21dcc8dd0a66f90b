"""The interface of an output, the thread that drives it, and the flag "something is being recorded"."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from deploy.stream.state.display_state import DisplayState
from deploy.stream.state.frames import DisplaySnapshot
from deploy.stream.state.overlay import Colour
from edgemt.model_card import ModelCard

_recordings: list[str] = []  # what this process writes to disk at present


class OutputSink(Protocol):
    """An output that is driven by an OutputThread."""

    def show(self, snapshot: DisplaySnapshot) -> None:
        """Write the newest frame, `snapshot.frame`, and the status of its mask, `snapshot.status`."""

    def close(self) -> None: ...


@dataclass(frozen=True, eq=False)
class OutputContext:
    """What an output is created with."""

    display_state: DisplayState
    card: ModelCard
    colours: Sequence[Colour]
    source: Any = None  # the source of the frames: OpenIGTLink masks get its position and time stamp


class OutputThread:
    """The thread of one output. An output that raises is closed and reported; the stream and other outputs go on.

    The thread takes a new snapshot after every `show`, so a slow output skips to the latest one and blocks no other.
    """

    def __init__(self, output: Any, display_state: DisplayState, *, name: str) -> None:
        """An output without `show` reads `display_state` itself; then no thread is started."""
        self.name, self.failed = name, ""
        self._output, self._display_state = output, display_state
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"edgemt-output-{name}", daemon=True)
        if hasattr(output, "show"):
            self._thread.start()

    def close(self, timeout_s: float = 2.0) -> None:
        """Stop the thread and close the output. Never raises, so that the other outputs are closed, too."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        if self._thread.is_alive():  # blocked in a write; closing the file in another thread could crash
            self._set_failed(f"does not come to an end within {timeout_s:g} s; what it wrote last may be missing")
        elif not self.failed:
            self._close_output()

    def _run(self) -> None:
        state, version = self._display_state, -1
        try:
            while not self._stop.is_set():
                version = state.wait(version, min(0.25, state.seconds_until_change(state.snapshot())))
                self._output.show(state.snapshot())
        except Exception as error:  # for example a full disk or a closed window
            self._set_failed(str(error) or type(error).__name__)
            self._close_output()

    def _close_output(self) -> None:
        try:
            self._output.close()
        except Exception as error:
            if not self.failed:
                self._set_failed(str(error) or type(error).__name__)

    def _set_failed(self, why: str) -> None:
        self.failed = why
        print(f"edgemt: warning: output {self.name} stopped: {why}", file=sys.stderr, flush=True)


@contextmanager
def recording(what: str) -> Iterator[None]:
    """Mark `what` as being written to disk until the end of the block. The page shows "Recording" meanwhile."""
    _recordings.append(what)
    try:
        yield
    finally:
        _recordings.remove(what)


def is_recording() -> bool:
    """Whether anything is being written to disk now, by `recording`."""
    return bool(_recordings)
