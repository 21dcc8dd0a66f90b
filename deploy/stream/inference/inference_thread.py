"""The thread that makes masks: the newest frame in, a checked mask out. It may fail, hang or die without the video
noticing: `tend` sees it, drops the mask at hand and starts another.

Shapes: h w size of the model's frame, K channels.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from deploy.package.input_drift import InputStatistics
from deploy.stream.inference.mask_checks import BadMask, Belief, checked
from deploy.stream.inference.standby import Standby, close
from deploy.stream.state.display_state import Board
from deploy.stream.state.frames import Frame, Result
from deploy.stream.state.latest_queue import Mailbox
from deploy.stream.state.overlay import Colour, outline
from edgemt.io.images import fit_frame

__all__ = ["Counted", "Infer", "Inference", "Model", "close"]

Infer = Callable[[np.ndarray], np.ndarray]  # uint8 [1, h, w, K] -> uint8 [1, h, w]
_WHO = "inference"
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 2.0  # before a new start; the first after a good mask is at once
_MOST_HUNG = 4  # threads that may hang at once; a thread cannot be killed


@dataclass(frozen=True, eq=False)
class Model:
    """What the masks are made with."""

    id: str  # stands on every mask
    make: Callable[[], Infer]  # a new one for each start; may raise
    size: tuple[int, int]
    channels: int
    colours: Sequence[Colour]  # one a class
    known: InputStatistics | None = None
    golden: tuple[np.ndarray, np.ndarray] | None = None  # a frame [1, h, w, K] and the mask [1, h, w] it gave here
    golden_every: int = 300  # masks between two trials of it: weights turned NaN give a mask all the same


@dataclass
class Counted:
    masks: int = 0
    failures: int = 0
    restarts: int = 0
    last_failure: str = ""
    unlike: str = ""  # a sentence, where the frames do not look like those of training


class Inference:
    """Takes frames from `inbox`, puts results on the board."""

    def __init__(
        self, model: Model, board: Board, inbox: Mailbox[Frame], *, hang_ms: float, first: Infer, standby: bool = True
    ) -> None:
        """`standby`: where `first` is a process, keep another one ready behind it."""
        self.counted = Counted()
        self._model, self._board, self._inbox, self._hang_ns = model, board, inbox, hang_ms * 1e6
        self._standby = Standby(first, make=model.make, prove=self._prove, keep=standby)
        self._stop = threading.Event()
        self._lock = threading.Lock()  # around whose turn it is, and what the one whose turn it is has to say
        self._turn = 0  # of the thread that may speak; those before it were given up
        self._busy_ns: int | None = None
        self._threads: list[threading.Thread] = []
        self._begin(first)

    def tend(self) -> None:
        """Call it often: gives up a thread that hangs and starts another."""
        self._standby.tend()
        with self._lock:
            busy = self._busy_ns
            if busy is None or self._board.clock() - busy < self._hang_ns:
                return
            if sum(thread.is_alive() for thread in self._threads) > _MOST_HUNG:
                return
            self._failed(f"inference hangs since {self._hang_ns / 1e6:.0f} ms")
            self._begin(None)

    @property
    def busy(self) -> bool:
        return self._busy_ns is not None

    def stop(self, timeout_s: float = 3.0) -> None:
        self._stop.set()
        self._inbox.close()
        self._standby.close()
        self._threads[-1].join(timeout_s)

    def _begin(self, infer: Infer | None) -> None:
        self._turn += 1
        self._busy_ns = None
        thread = threading.Thread(target=self._run, args=(self._turn, infer), name="edgemt-inference", daemon=True)
        self._threads = [t for t in self._threads if t.is_alive()] + [thread]
        thread.start()

    def _run(self, turn: int, infer: Infer | None) -> None:
        pause, belief = 0.0, Belief(self._model.known)
        given = infer  # closed by whoever made it
        while not self._stop.is_set() and turn == self._turn:
            try:
                if infer is None:
                    infer = self._standby.take()
                    self.counted.restarts += 1
                frame = self._inbox.take(0.1)
                if frame is None:
                    continue
                self._busy_ns = self._board.clock()
                result = self._result(infer, frame, belief)
            except Exception as error:  # whatever a runtime may raise
                self._give_up(turn, str(error).splitlines()[0] if str(error) else type(error).__name__)
                close(infer)
                infer = None
                self._stop.wait(pause)
                pause = min(max(2 * pause, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
                continue
            self._deliver(turn, result)
            pause = 0.0
        if infer is not given:
            close(infer)

    def _result(self, infer: Infer, frame: Frame, belief: Belief) -> Result:
        model = self._model
        if self.counted.masks % model.golden_every == model.golden_every - 1:
            self._prove(infer)
        fitted = fit_frame(frame.pixels, size=model.size, channels=model.channels)
        mask = checked(infer(fitted[None]), size=model.size, classes=len(model.colours))
        agreement, likeness = belief.of(mask, fitted, epoch=frame.epoch)
        self.counted.unlike = self.counted.unlike or belief.unlike
        marker = outline(mask, size=frame.size, colours=model.colours, thickness=max(2, frame.size[0] // 360))
        return Result(frame, mask, marker, self._board.clock(), agreement, likeness)

    def _deliver(self, turn: int, result: Result) -> None:
        """Unless the thread was given up: then its mask is old, and another thread is at work."""
        with self._lock:
            if turn == self._turn:
                self._busy_ns = None
                self.counted.masks += 1
                self._board.fault(_WHO, None)
                self._board.put_result(result)

    def _give_up(self, turn: int, why: str) -> None:
        with self._lock:
            if turn == self._turn and not self._stop.is_set():
                self._busy_ns = None
                self._failed(why)

    def _failed(self, why: str) -> None:
        self.counted.failures += 1
        self.counted.last_failure = why
        self._board.fault(_WHO, why)

    def _prove(self, infer: Infer) -> None:
        """Raises BadMask for one that does not give the golden mask: another model, or weights turned NaN."""
        if self._model.golden is None:
            return
        frame, mask = self._model.golden
        same = float((np.asarray(infer(frame)) == mask).mean())
        if not same > 0.99:
            raise BadMask(f"the model no longer gives its golden mask ({same:.1%} of pixels)")
