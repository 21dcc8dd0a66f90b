"""The one place where it is decided what may be shown. Threads write to it; whoever shows looks at it.

The state is worked out at the moment of the look, from ages. A thread that died cannot keep an old mask fresh.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from deploy.stream.state.frames import Clock, Frame, MaskRecord, Result, Shown, State, monotonic
from deploy.stream.state.overlay import nothing, words


@dataclass(frozen=True)
class Limits:
    """How old what may be, in milliseconds."""

    budget_ms: float = 100.0  # a mask, since its frame was captured
    no_signal_ms: float = 450.0  # the newest frame

    def __post_init__(self) -> None:
        for name in ("budget_ms", "no_signal_ms"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: must be above 0 ms, not {getattr(self, name):g}")


Problem = tuple[State, str]  # of the picture: a state and why


def judge(
    frame: Frame | None,
    result: Result | None,
    *,
    problem: Problem | None,
    fault: str | None,
    now_ns: int,
    limits: Limits,
) -> tuple[State, str]:
    """The state of the mask at `now_ns`, and why it is not fresh. The worst comes first."""
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
        return "stale", "the mask is of the picture before"
    if now_ns - result.frame.captured_ns > limits.budget_ms * 1e6:
        return "stale", "mask too old"
    return "fresh", ""


class Board:
    """The newest frame, the newest mask, and what is wrong with either."""

    def __init__(self, limits: Limits, *, model: str, masks: bool = True, clock: Clock = monotonic) -> None:
        self.limits, self.model, self.clock = limits, model, clock
        self._masks = masks
        self._changed = threading.Condition()
        self._version = 0
        self._frame: Frame | None = None
        self._result: Result | None = None
        self._problem: Problem | None = None
        self._refused = ""
        self._faults: dict[str, str] = {}  # who complains -> of what
        self.closed = False

    def put_frame(self, frame: Frame, problem: Problem | None = None) -> None:
        with self._changed:
            self._frame, self._problem, self._refused = frame, problem, ""
            self._turn()

    def put_result(self, result: Result) -> None:
        with self._changed:
            if self._result is None or result.frame.id > self._result.frame.id:
                self._result = result
            self._turn()

    def refuse(self, why: str) -> None:
        """The source gave a picture that cannot be used; told beside the state until one comes that can."""
        with self._changed:
            if why != self._refused:
                self._refused = why
                self._turn()

    def lost(self, why: str) -> None:
        """The source is gone: said at once, not when the last frame has grown old."""
        with self._changed:
            self._problem = ("no-signal", why)
            self._turn()

    def fault(self, who: str, what: str | None) -> None:
        """`who` ("inference", "model") complains, or with None no longer does. The mask at hand is dropped."""
        with self._changed:
            if what is None:
                if self._faults.pop(who, None) is None:
                    return
            else:
                self._faults[who] = what
                self._result = None
            self._turn()

    def close(self) -> None:
        with self._changed:
            self.closed = True
            self._turn()

    def wait(self, seen: int, timeout_s: float) -> int:
        """Sleep until there is something that `seen` did not have, or for `timeout_s`; returns what to give next."""
        with self._changed:
            self._changed.wait_for(lambda: self._version != seen, timeout_s)
            return self._version

    def look(self, of: Result | None = None) -> Shown:
        """What may be shown at this moment: of the newest mask, or of the mask `of`."""
        with self._changed:
            frame, result, problem = self._frame, of or self._result, self._problem
            fault, refused = next(iter(self._faults.values()), None), self._refused
            now = self.clock()
        if not self._masks:
            return Shown(
                frame, MaskRecord("stale", "masks are off", self.model), nothing(frame.size if frame else (0, 0))
            )
        state, reason = judge(frame, result, problem=problem, fault=fault, now_ns=now, limits=self.limits)
        if frame is None or result is None or state != "fresh":
            said = MaskRecord(state, reason, self.model, refused=refused if state == "no-signal" else "")
            plate = nothing((0, 0)) if frame is None else words(f"AI {state.upper()}: {reason}", frame.size)
            return Shown(frame, said, plate)
        record = MaskRecord(
            state="fresh", reason="", model=self.model,
            frame_id=result.frame.id, captured_ns=result.frame.captured_ns, source_ns=result.frame.source_ns,
            age_ms=(now - result.frame.captured_ns) / 1e6,
            confidence=result.agreement,
            confidence_is="" if result.agreement is None else "agreement with the mask before (Dice), no probability",
            likeness=result.likeness, mask=result.mask, valid_until_ns=self._ends_ns(frame, result),
        )  # fmt: skip
        return Shown(frame, record, result.marker, result)

    def _ends_ns(self, frame: Frame, result: Result) -> int:
        """When a mask that is fresh now stops being so, unless something newer comes."""
        mask_ns = result.frame.captured_ns + self.limits.budget_ms * 1e6
        return int(min(mask_ns, frame.received_ns + self.limits.no_signal_ms * 1e6))

    def next_change_s(self, shown: Shown) -> float:
        """When what was shown grows too old, if nothing else happens: seconds from now."""
        now, ends = self.clock(), []
        if shown.result is not None:
            ends.append(shown.result.frame.captured_ns + self.limits.budget_ms * 1e6)
        if shown.frame is not None and shown.record.state != "no-signal":
            ends.append(shown.frame.received_ns + self.limits.no_signal_ms * 1e6)
        return max(min(ends, default=now + 1e9) - now, 0) / 1e9 + 0.001

    def _turn(self) -> None:
        self._version += 1
        self._changed.notify_all()
