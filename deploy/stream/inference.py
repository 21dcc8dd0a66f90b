"""The thread that makes masks: the newest frame in, a checked mask out. It may fail, hang or die without the video
noticing: `tend` sees it, drops the mask at hand and starts another.

Shapes: h w size of the model's frame, K channels.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from deploy.inputs import InputStatistics
from deploy.stream.board import Board
from deploy.stream.frame_record import Frame, Result
from deploy.stream.mailbox import Mailbox
from deploy.stream.marker import Colour, outline
from deploy.stream.mask_checks import BadMask, Belief, checked
from edgemt.frames import fit_frame

Infer = Callable[[np.ndarray], np.ndarray]  # uint8 [1, h, w, K] -> uint8 [1, h, w]
_WHO = "inference"
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 2.0  # before a new start
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


class Inference:
    """Takes frames from `inbox`, puts results on the board."""

    def __init__(self, model: Model, board: Board, inbox: Mailbox[Frame], *, hang_ms: float, first: Infer) -> None:
        self.counted = Counted()
        self._model, self._board, self._inbox, self._hang_ns = model, board, inbox, hang_ms * 1e6
        self._stop = threading.Event()
        self._turn = 0  # of the thread that may speak; those before it were given up
        self._busy_ns: int | None = None
        self._hung = 0
        self._threads: list[threading.Thread] = []
        self._begin(first)

    def tend(self) -> None:
        """Call it often: gives up a thread that hangs and starts another."""
        busy = self._busy_ns
        if busy is None or self._board.clock() - busy < self._hang_ns or self._hung >= _MOST_HUNG:
            return
        self._hung += 1
        self._failed(f"inference hangs since {self._hang_ns / 1e6:.0f} ms")
        self._begin(None)

    @property
    def busy(self) -> bool:
        return self._busy_ns is not None

    def stop(self, timeout_s: float = 3.0) -> None:
        self._stop.set()
        self._inbox.close()
        self._threads[-1].join(timeout_s)

    def _begin(self, infer: Infer | None) -> None:
        self._turn += 1
        self._busy_ns = None
        thread = threading.Thread(target=self._run, args=(self._turn, infer), name="edgemt-inference", daemon=True)
        self._threads = [t for t in self._threads if t.is_alive()] + [thread]
        thread.start()

    def _run(self, turn: int, infer: Infer | None) -> None:
        pause, belief = _FIRST_PAUSE_S, Belief(self._model.known)
        given = infer  # closed by whoever made it
        while not self._stop.is_set() and turn == self._turn:
            try:
                if infer is None:
                    infer = self._model.make()
                    self.counted.restarts += 1
                frame = self._inbox.take(0.1)
                if frame is None:
                    continue
                self._busy_ns = self._board.clock()
                result = self._result(infer, frame, belief)
            except Exception as error:  # whatever a runtime may raise
                if turn != self._turn:
                    return
                self._failed(str(error).splitlines()[0] if str(error) else type(error).__name__)
                close(infer)
                infer, self._busy_ns = None, None
                self._stop.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)
                continue
            if turn != self._turn:
                return  # came back from the dead: its mask is old, another thread is at work
            self._busy_ns, pause = None, _FIRST_PAUSE_S
            self.counted.masks += 1
            self._board.fault(_WHO, None)
            self._board.put_result(result)
        if infer is not given:
            close(infer)

    def _result(self, infer: Infer, frame: Frame, belief: Belief) -> Result:
        model = self._model
        if model.golden is not None and self.counted.masks % model.golden_every == model.golden_every - 1:
            _try_golden(infer, *model.golden)
        fitted = fit_frame(frame.pixels, size=model.size, channels=model.channels)
        mask = checked(infer(fitted[None]), size=model.size, classes=len(model.colours))
        agreement, likeness = belief.of(mask, fitted, epoch=frame.epoch)
        marker = outline(mask, size=frame.size, colours=model.colours, thickness=max(2, frame.size[0] // 360))
        return Result(frame, mask, marker, self._board.clock(), agreement, likeness)

    def _failed(self, why: str) -> None:
        self.counted.failures += 1
        self.counted.last_failure = why
        self._board.fault(_WHO, why)


def close(infer: Infer | None) -> None:
    """Of one that has something to close: a child process."""
    done = getattr(infer, "close", None)
    if done is not None:
        done()


def _try_golden(infer: Infer, frame: np.ndarray, mask: np.ndarray) -> None:
    same = float((np.asarray(infer(frame)) == mask).mean())
    if not same > 0.99:
        raise BadMask(f"the model no longer gives its golden mask ({same:.1%} of pixels)")
