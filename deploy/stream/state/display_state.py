"""The only place that decides whether a mask may be shown.

Capture and inference write to it; displays and outputs read snapshots from it. The state of a mask is computed from
ages at the moment of the snapshot, so a mask grows stale even if every other thread has died.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from deploy.stream.state.frames import Clock, DisplaySnapshot, Frame, InferenceResult, MaskStatus, State, monotonic
from deploy.stream.state.overlay import empty_overlay, text_overlay


@dataclass(frozen=True)
class FreshnessLimits:
    """Maximum ages in milliseconds. Raises ValueError unless both are above 0."""

    budget_ms: float = 100.0  # of a mask, since its frame was captured
    no_signal_ms: float = 450.0  # of the newest frame

    def __post_init__(self) -> None:
        for name in ("budget_ms", "no_signal_ms"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: must be above 0 ms, not {getattr(self, name):g}")


Problem = tuple[State, str]  # of a frame: the state that it forces, and the reason


def mask_state(
    frame: Frame | None,
    result: InferenceResult | None,
    *,
    problem: Problem | None,
    fault: str | None,
    now_ns: int,
    limits: FreshnessLimits,
) -> tuple[State, str]:
    """(state, reason) of the mask at `now_ns`; the reason is empty for "fresh". The most severe state wins."""
    if problem is not None and problem[0] == "no-signal":
        return problem
    if frame is None:
        return "no-signal", "no frame yet"
    if now_ns - frame.received_ns > limits.no_signal_ms * 1e6:
        return "no-signal", "no new frame"
    if fault is not None:
        return "invalid", fault
    if problem is not None:
        return problem
    if result is None:
        return "stale", "no mask yet"
    if result.frame.epoch != frame.epoch or result.frame.size != frame.size:
        return "stale", "the mask belongs to the previous picture"
    if now_ns - result.frame.captured_ns > limits.budget_ms * 1e6:
        return "stale", "mask too old"
    return "fresh", ""


class DisplayState:
    """The newest frame, the newest mask, and the current problems of both. Safe for any number of threads."""

    def __init__(
        self, limits: FreshnessLimits, *, model: str, masks: bool = True, clock: Clock = monotonic, claim: str = "",
        uncertain_above: float | None = None,
    ) -> None:  # fmt: skip
        """`claim`: what the outer and inner line of a mask mean; empty where none are drawn.

        `uncertain_above`: the probability of a wrong class from which on pixels are hatched; None: none are.
        """
        self.limits, self.model, self.clock, self.claim = limits, model, clock, claim
        self.uncertain_above = uncertain_above
        self._masks = masks
        self._changed = threading.Condition()
        self._version = 0
        self._frame: Frame | None = None
        self._result: InferenceResult | None = None
        self._problem: Problem | None = None
        self._rejection = ""
        self._faults: dict[str, str] = {}  # component -> its fault
        self.closed = False

    def put_frame(self, frame: Frame, problem: Problem | None = None) -> None:
        with self._changed:
            self._frame, self._problem, self._rejection = frame, problem, ""
            self._notify()

    def put_result(self, result: InferenceResult) -> None:
        with self._changed:
            if self._result is None or result.frame.id > self._result.frame.id:
                self._result = result
            self._notify()

    def frame_rejected(self, reason: str) -> None:
        """The source gave an unusable frame. `reason` is reported with the state "no-signal" until a usable one."""
        with self._changed:
            if reason != self._rejection:
                self._rejection = reason
                self._notify()

    def source_lost(self, reason: str) -> None:
        """Switch to "no-signal" at once, before the last frame exceeds `no_signal_ms`."""
        with self._changed:
            self._problem = ("no-signal", reason)
            self._notify()

    def set_fault(self, component: str, fault: str | None) -> None:
        """Set the fault of a component ("inference", "model") and drop the current mask; None clears the fault."""
        with self._changed:
            if fault is None:
                if self._faults.pop(component, None) is None:
                    return
            else:
                self._faults[component] = fault
                self._result = None
            self._notify()

    def close(self) -> None:
        with self._changed:
            self.closed = True
            self._notify()

    def wait(self, version: int, timeout_s: float) -> int:
        """Wait until the version differs from `version`, at most `timeout_s`. Returns the current version."""
        with self._changed:
            self._changed.wait_for(lambda: self._version != version, timeout_s)
            return self._version

    def snapshot(self, result: InferenceResult | None = None) -> DisplaySnapshot:
        """The newest frame and the status of a mask at this moment: of `result`, or of the newest mask."""
        with self._changed:
            frame, result, problem = self._frame, result or self._result, self._problem
            fault, rejection = next(iter(self._faults.values()), None), self._rejection
            now = self.clock()
        if not self._masks:
            return DisplaySnapshot(
                frame, MaskStatus("stale", "masks are off", self.model), empty_overlay(frame.size if frame else (0, 0))
            )
        state, reason = mask_state(frame, result, problem=problem, fault=fault, now_ns=now, limits=self.limits)
        if frame is None or result is None or state != "fresh":
            status = MaskStatus(state, reason, self.model, refused=rejection if state == "no-signal" else "")
            text = f"AI {state.upper()}: {reason}"
            return DisplaySnapshot(
                frame, status, empty_overlay((0, 0)) if frame is None else text_overlay(text, frame.size)
            )
        status = MaskStatus(
            state="fresh", reason="", model=self.model,
            frame_id=result.frame.id, captured_ns=result.frame.captured_ns, source_ns=result.frame.source_ns,
            age_ms=(now - result.frame.captured_ns) / 1e6,
            confidence=result.agreement,
            confidence_is="" if result.agreement is None else "agreement with the mask before (Dice), no probability",
            likeness=result.likeness, vote_delay_ms=result.vote_delay_ms, contours=result.contours,
            mask=result.mask, valid_until_ns=self._valid_until_ns(frame, result), adapted=result.adapted,
        )  # fmt: skip
        return DisplaySnapshot(frame, status, result.overlay, result)

    def _valid_until_ns(self, frame: Frame, result: InferenceResult) -> int:
        """Time at which a fresh mask becomes stale if no newer frame or mask arrives."""
        mask_ns = result.frame.captured_ns + self.limits.budget_ms * 1e6
        return int(min(mask_ns, frame.received_ns + self.limits.no_signal_ms * 1e6))

    def seconds_until_change(self, snapshot: DisplaySnapshot) -> float:
        """Seconds until the state of `snapshot` changes by age alone."""
        now, ends = self.clock(), []
        if snapshot.result is not None:
            ends.append(snapshot.result.frame.captured_ns + self.limits.budget_ms * 1e6)
        if snapshot.frame is not None and snapshot.status.state != "no-signal":
            ends.append(snapshot.frame.received_ns + self.limits.no_signal_ms * 1e6)
        return max(min(ends, default=now + 1e9) - now, 0) / 1e9 + 0.001

    def _notify(self) -> None:
        self._version += 1
        self._changed.notify_all()
