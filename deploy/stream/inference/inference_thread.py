"""The inference thread: takes the newest frame and publishes a validated mask.

A failure, a hang or a crash of inference does not affect the video: `check_health` detects it, drops the current mask
and starts another thread.

Shapes: h w size of the model's input, K channels.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deploy.adaptation.session import PatientHead
from deploy.package.input_drift import InputStatistics
from deploy.stream.inference.contours import StreamContours
from deploy.stream.inference.flicker_estimate import FlickerEstimate
from deploy.stream.inference.mask_checks import InvalidMaskError, MaskPlausibility, validate_mask
from deploy.stream.inference.mask_vote import MaskVote
from deploy.stream.inference.standby import StandbyWorker, close_runner
from deploy.stream.state.band_lines import DeferredMarks
from deploy.stream.state.display_state import DisplayState
from deploy.stream.state.frames import Frame, InferenceResult
from deploy.stream.state.latest_queue import LatestQueue
from deploy.stream.state.overlay import Colour, outline
from edgemt.io.images import fit_frame
from edgemt.io.uncertain_region import uncertain_region

__all__ = ["InferFn", "InferenceCounters", "InferenceThread", "StreamModel", "close_runner"]

InferFn = Callable[[np.ndarray], np.ndarray]  # uint8 [1, h, w, K] -> uint8 [1, h, w]
_COMPONENT = "inference"
_FIRST_PAUSE_S, _MAX_PAUSE_S = 0.02, 2.0  # before a restart; no pause before the first one after a valid mask
_MAX_HUNG = 4  # threads that may hang at the same time; a thread cannot be killed


@dataclass(frozen=True, eq=False)
class StreamModel:
    """The model of a stream."""

    id: str  # reported with every mask
    load: Callable[[], InferFn]  # gives a new runner for each restart; may raise
    size: tuple[int, int]
    channels: int
    colours: Sequence[Colour]  # one per class
    input_statistics: InputStatistics | None = None
    golden: tuple[np.ndarray, np.ndarray] | None = None  # a frame [1, h, w, K] and its mask [1, h, w] on this machine
    contours: StreamContours | None = None  # None: no lines are drawn
    uncertain_above: float | None = (
        None  # probability of a wrong class from which on pixels are hatched; None: no output
    )
    patient: PatientHead | None = None  # None: the masks of the graph are shown as they are
    overlapping: bool = False  # masks are bits of classes that may overlap
    golden_every: int = 300  # masks between two self-tests; they detect NaN weights, which still give a mask


@dataclass
class InferenceCounters:
    """Written by the inference threads only."""

    masks: int = 0
    failures: int = 0
    restarts: int = 0
    last_failure: str = ""
    flicker: FlickerEstimate = field(default_factory=FlickerEstimate)  # of the masks that were published
    vote_delay_ms: float = 0.0  # sum over masks
    drift_message: str = ""  # set when the frames differ from the training frames


class InferenceThread:
    """Takes frames from `inbox` and writes inference results to `display_state`, in a thread that can be replaced."""

    def __init__(
        self, model: StreamModel, display_state: DisplayState, inbox: LatestQueue[Frame], *, hang_ms: float,
        runner: InferFn, standby: bool = True, vote: int = 1,
    ) -> None:  # fmt: skip
        """Starts with `runner`, which the caller closes. `standby`: if it is a process, hold a second one ready.

        `vote`: masks that vote on each pixel (`MaskVote`); 1 shows every mask as it is.
        """
        self._vote_width = vote
        self.counters = InferenceCounters()
        self._model, self._display_state, self._inbox, self._hang_ns = model, display_state, inbox, hang_ms * 1e6
        self._standby = StandbyWorker(runner, load=model.load, self_test=self._self_test, enabled=standby)
        self._stop = threading.Event()
        self._lock = threading.Lock()  # for the generation, and for what its thread publishes
        self._generation = 0  # of the current thread; earlier threads are abandoned and publish nothing
        self._busy_ns: int | None = None
        self._threads: list[threading.Thread] = []
        self._start(runner)

    def check_health(self) -> None:
        """Call it at short intervals: abandons a thread that hangs and starts another."""
        self._standby.check_health()
        with self._lock:
            busy = self._busy_ns
            if busy is None or self._display_state.clock() - busy < self._hang_ns:
                return
            if sum(thread.is_alive() for thread in self._threads) > _MAX_HUNG:
                return
            self._record_failure(f"inference hangs since {self._hang_ns / 1e6:.0f} ms")
            self._start(None)

    @property
    def busy(self) -> bool:
        return self._busy_ns is not None

    def stop(self, timeout_s: float = 3.0) -> None:
        self._stop.set()
        self._inbox.close()
        self._standby.close()
        self._threads[-1].join(timeout_s)

    def _start(self, infer: InferFn | None) -> None:
        self._generation += 1
        self._busy_ns = None
        args = (self._generation, infer)
        thread = threading.Thread(target=self._run, args=args, name="edgemt-inference", daemon=True)
        self._threads = [t for t in self._threads if t.is_alive()] + [thread]
        thread.start()

    def _run(self, generation: int, infer: InferFn | None) -> None:
        pause, plausibility = 0.0, MaskPlausibility(self._model.input_statistics)
        vote = MaskVote(self._vote_width, classes=len(self._model.colours), overlapping=self._model.overlapping)
        initial = infer  # closed by the caller
        while not self._stop.is_set() and generation == self._generation:
            try:
                if infer is None:
                    infer = self._standby.take()
                    self.counters.restarts += 1
                frame = self._inbox.take(0.1)
                if frame is None:
                    continue
                self._busy_ns = self._display_state.clock()
                result, fitted = self._result(infer, frame, plausibility, vote)
            except Exception as error:  # runtimes raise exceptions of any type
                self._abandon(generation, str(error).splitlines()[0] if str(error) else type(error).__name__)
                close_runner(infer)
                infer = None
                self._stop.wait(pause)
                pause = min(max(2 * pause, _FIRST_PAUSE_S), _MAX_PAUSE_S)
                continue
            self._publish(generation, result, fitted)
            pause = 0.0
            if self._model.patient is not None:
                self._model.patient.take_corrections(infer)  # type: ignore[arg-type]
        if infer is not initial:
            close_runner(infer)

    def _result(
        self, infer: InferFn, frame: Frame, plausibility: MaskPlausibility, vote: MaskVote
    ) -> tuple[InferenceResult, np.ndarray]:
        """The result of a frame, and the frame as the model saw it, uint8 [h, w, K]."""
        model = self._model
        if self.counters.masks % model.golden_every == model.golden_every - 1:
            self._self_test(infer)
        fitted = fit_frame(frame.pixels, size=model.size, channels=model.channels)
        found, values = _predict(infer, fitted[None], uncertainty=model.uncertain_above is not None)
        overlapping, count = model.overlapping, len(model.colours)
        mask, adapted = validate_mask(found, size=model.size, classes=count, overlapping=overlapping), False
        if model.patient is not None:
            mask, adapted = model.patient.mask(infer, mask)  # type: ignore[arg-type]
        agreement, likeness = plausibility.update(mask, fitted, epoch=frame.epoch)
        self.counters.drift_message = self.counters.drift_message or plausibility.drift_message
        mask = vote.add(mask, epoch=frame.epoch, captured_ns=frame.captured_ns) if vote.width > 1 else mask
        thickness = max(2, frame.size[0] // 360)
        overlay = outline(mask, size=frame.size, colours=model.colours, thickness=thickness, overlapping=overlapping)
        marks, reason = self._marks(mask, values, likeness, voted=vote.width > 1, adapted=adapted)
        done_ns, delay_ms = self._display_state.clock(), vote.delay_ms if vote.width > 1 else None
        result = InferenceResult(
            frame, mask, overlay, done_ns, agreement, likeness, delay_ms, marks, reason, adapted=adapted
        )
        return result, fitted

    def _marks(
        self, mask: np.ndarray, values: np.ndarray | None, likeness: float | None, *, voted: bool, adapted: bool
    ) -> tuple[DeferredMarks | None, str]:
        """The regions to draw with a mask, and why it has no outer and inner ones: margins hold for single masks.

        `values`: the uncertainty of the mask, or of the newest of those that voted, uint8 [h, w]. An `adapted` mask has
        no regions at all: margins and uncertainty are those of the shipped head.
        """
        if adapted:
            return None, "" if self._model.contours is None else "the head is adapted"
        contours, above = self._model.contours, self._model.uncertain_above
        reason = "" if contours is None else contours.dropped(likeness, voted=voted)
        marks: dict[str, Any] = {}
        if contours is not None and not reason:
            marks["bands"] = lambda: contours.of(mask)
        if values is not None and above is not None:
            marks["uncertain"] = lambda: uncertain_region(values, above=above)
        return (DeferredMarks(colours=self._model.colours, **marks) if marks else None), reason

    def _publish(self, generation: int, result: InferenceResult, fitted: np.ndarray) -> None:
        """Write the result to the display state, unless the thread was abandoned; then estimate its flicker."""
        with self._lock:
            if generation == self._generation:
                self._busy_ns = None
                self.counters.masks += 1
                self._display_state.set_fault(_COMPONENT, None)
                self._display_state.put_result(result)
                self.counters.vote_delay_ms += result.vote_delay_ms or 0.0
            else:
                return
        self.counters.flicker.add(result.mask, fitted, epoch=result.frame.epoch)

    def _abandon(self, generation: int, why: str) -> None:
        with self._lock:
            if generation == self._generation and not self._stop.is_set():
                self._busy_ns = None
                self._record_failure(why)

    def _record_failure(self, why: str) -> None:
        self.counters.failures += 1
        self.counters.last_failure = why
        self._display_state.set_fault(_COMPONENT, why)

    def _self_test(self, infer: InferFn) -> None:
        """Raises InvalidMaskError if `infer` does not reproduce the golden mask: another model, or NaN weights."""
        if self._model.golden is None:
            return
        frame, mask = self._model.golden
        same = float((np.asarray(infer(frame)) == mask).mean())
        if not same > 0.99:
            raise InvalidMaskError(f"the model no longer gives its golden mask ({same:.1%} of pixels)")


def _predict(infer: InferFn, frames: np.ndarray, *, uncertainty: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """Mask uint8 [1, h, w] of one frame, and its uncertainty uint8 [h, w] where the runner gives it."""
    if uncertainty and getattr(infer, "has_uncertainty", False):
        masks, maps = infer.with_uncertainty(frames)  # type: ignore[attr-defined]
        return masks, maps[0]
    return infer(frames), None
