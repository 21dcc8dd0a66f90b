"""The patient head of one session: corrections in, shadow run, take-over, fall-back, return by the operator.

    shipped -> (three corrections, fit, tests) -> shadow -> (so many frames without a failed test) -> adapted
    adapted or shadow -> (a failed test of a frame) -> shadow again; after several without a take-over between, or by
    the operator: shipped

The mask of the shipped graph is computed for every frame, so the very frame that fails a test is shown with it. Nothing
is written to disk: `close` forgets corrections and heads.

Shapes: K channels, D features, h w size of the feature maps, H W size of the mask.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from deploy.adaptation.fit import Example
from deploy.adaptation.guards import FrameGuard, GuardTest, judge
from deploy.adaptation.head import ClassifierHead
from deploy.adaptation.limits import AdaptLimits, FitOptions
from deploy.adaptation.record import change_plan, in_words

State = Literal["shipped", "shadow", "adapted"]
MAX_CORRECTIONS = 8  # the newest ones; older ones leave the fit
Observe = Callable[[str, dict[str, Any]], None]  # name and fields of an event


class FeatureRunner(Protocol):
    """A runner whose graph has the output `features`."""

    def __call__(self, frames: np.ndarray) -> np.ndarray: ...

    def features(self) -> np.ndarray:
        """Those of the last call, float32 [D, h, w]."""


@dataclass(frozen=True, eq=False)
class _Running:
    head: ClassifierHead
    guard: FrameGuard


class PatientHead:
    """`mask` and `take_corrections` are called in the thread of the runner, all others in any thread.

    A correction is fitted in a thread of its own, or at once with `background` False. `observe` gets every event.
    """

    def __init__(
        self, shipped: ClassifierHead, golden: Sequence[Example], *, limits: AdaptLimits | None = None,
        options: FitOptions | None = None, background: bool = True, clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        """`golden`: the golden frames of the package (`golden_examples`). Raises ValueError without any."""
        if not golden:
            raise ValueError("adapt: the ship has no golden frames to judge a head on; export the run again")
        self.shipped, self.limits, self.options = shipped, limits or AdaptLimits(), options or FitOptions()
        self.observe: Observe = lambda name, fields: None
        self.masks = 0  # that the adapted head has given
        self._golden, self._background, self._clock, self._began = list(golden), background, clock, clock()
        self._lock = threading.Lock()  # of all fields below
        self._confirmed: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=MAX_CORRECTIONS)  # not yet with features
        self._corrections: deque[Example] = deque(maxlen=MAX_CORRECTIONS)
        self._running: _Running | None = None
        self._state: State = "shipped"
        self._good, self._failed, self._fit = 0, 0, 0  # frames in a row; failed since a take-over; number of a fit
        self._changes: list[dict[str, Any]] = []
        self._threads: list[threading.Thread] = []
        self._closed = False

    @property
    def state(self) -> State:
        return self._state

    @property
    def corrections(self) -> int:
        return len(self._corrections) + len(self._confirmed)

    def correct(self, frame: np.ndarray, mask: np.ndarray) -> None:
        """A confirmed mask uint8 [H, W] of a frame uint8 [H, W, K], as the graph takes it.

        Raises ValueError for a mask of another size or with other classes.
        """
        if mask.shape != self.shipped.size or mask.dtype != np.uint8 or int(mask.max()) >= self.shipped.classes:
            raise ValueError(
                f"correction: a mask {mask.dtype} {list(mask.shape)} up to class {mask.max()}, wanted uint8 "
                f"{list(self.shipped.size)} of {self.shipped.classes} classes"
            )
        with self._lock:
            if not self._closed:
                self._confirmed.append((frame.copy(), mask.copy()))

    def mask(self, infer: FeatureRunner, shipped_mask: np.ndarray) -> tuple[np.ndarray, bool]:
        """The mask uint8 [H, W] to show for the frame of the last call of `infer`, and whether it is the adapted one.

        `shipped_mask` [H, W] is what that call gave: it is returned itself while no head is adapted.
        """
        running = self._running
        if running is None:
            return shipped_mask, False
        features = infer.features()
        scores = running.head.scores(features)
        adapted = running.head.classified(scores.changed)
        tests = running.guard.tests(features, scores, shown=shipped_mask, adapted=adapted)
        failed = next((test for test in tests if not test.passed), None)
        with self._lock:
            if running is not self._running:  # the operator, or a new fit, came between
                return shipped_mask, False
            show = failed is None and self._state == "adapted"
            self.masks += show
            event = None if show else self._step(failed)
        if event is not None:
            self._note(*event)
        return (adapted, True) if show else (shipped_mask, False)

    def take_corrections(self, infer: FeatureRunner) -> None:
        """Compute the features of the frames that were confirmed since the last call, and start a fit."""
        if not self._confirmed:
            return
        with self._lock:
            confirmed, number = list(self._confirmed), self._fit
        examples = []
        for frame, mask in confirmed:
            infer(frame[None])
            examples.append(Example(infer.features().copy(), mask))
        with self._lock:
            if self._closed or self._fit != number:  # the operator has returned in the meantime
                return
            for _ in confirmed:
                self._confirmed.popleft()
            self._corrections.extend(examples)
            self._fit += 1
            number, corrections = self._fit, list(self._corrections)
        if not self._background:
            return self._run_fit(number, corrections)
        thread = threading.Thread(target=self._run_fit, args=(number, corrections), name="edgemt-fit", daemon=True)
        self._threads = [t for t in self._threads if t.is_alive()] + [thread]
        thread.start()

    def use_shipped(self) -> bool:
        """Back to the shipped head, at once; corrections are forgotten. False if there was nothing to undo."""
        with self._lock:
            changed = self._running is not None or self.corrections > 0
            self._forget()
        if changed:
            self._note("operator-return", {})
        return changed

    def close(self) -> None:
        """Forget corrections and heads; later corrections are ignored."""
        with self._lock:
            changed, self._closed = self._running is not None or self.corrections > 0, True
            self._forget()
        if changed:
            self._note("forgotten", {})

    def wait(self, timeout_s: float = 10.0) -> None:
        """Until the fits that were started have ended."""
        for thread in list(self._threads):
            thread.join(timeout_s)

    def status(self) -> dict[str, Any]:
        """{state, corrections, note}: for a display; `note` is the latest event in words."""
        note = in_words(self._changes[-1]) if self._changes else ""
        return {"state": self._state, "corrections": self.corrections, "note": note}

    def record(self) -> dict[str, Any]:
        """The change plan with all changes of this session (`record.change_plan`): no pixels, no weights."""
        results = {"state": self._state, "adapted_masks": self.masks, "changes": list(self._changes)}
        return change_plan(self.shipped, self.limits, self.options, results=results)

    def _forget(self) -> None:
        self._fit += 1  # a fit that is under way is not used
        self._running, self._state, self._good, self._failed = None, "shipped", 0, 0
        self._corrections.clear()
        self._confirmed.clear()

    def _step(self, failed: GuardTest | None) -> tuple[str, dict[str, Any]] | None:
        """Count a frame that was shown with the shipped mask; the event that it causes."""
        if failed is None:
            self._good += 1
            if self._good < self.limits.shadow:
                return None
            self._state, self._failed = "adapted", 0
            return "took-over", {"shadow_frames": self._good}
        was = self._state
        self._good, self._failed = 0, self._failed + 1
        dropped = self._failed >= self.limits.fall_backs
        self._state = "shipped" if dropped else "shadow"
        self._running = None if dropped else self._running
        return ("fell-back" if was == "adapted" else "shadow-failed"), {**_fields(failed), "dropped": dropped}

    def _run_fit(self, number: int, corrections: list[Example]) -> None:
        began = self._clock()
        fields: dict[str, Any] = {"corrections": len(corrections)}
        running: _Running | None = None
        try:
            judged = judge(self.shipped, corrections, self._golden, limits=self.limits, options=self.options)
            reason, fields["tests"] = judged.refused, [_fields(test) for test in judged.tests]
            fields["scale"] = judged.scale
            if not reason:
                guard = FrameGuard(self.shipped, corrections=corrections, golden=self._golden, limits=self.limits)
                running = _Running(judged.head, guard)
        except (ValueError, np.linalg.LinAlgError) as error:
            reason = str(error)
        fields["seconds"] = round(self._clock() - began, 3)
        with self._lock:
            if self._closed or number != self._fit:
                return  # a newer correction is fitted, or the operator has returned
            if running is not None:
                self._running, self._state, self._good, self._failed = running, "shadow", 0, 0
        self._note(*(("refused", {**fields, "reason": reason}) if running is None else ("fitted", fields)))

    def _note(self, name: str, fields: dict[str, Any]) -> None:
        self._changes.append({"at_s": round(self._clock() - self._began, 3), "event": name, **fields})
        self.observe(name, fields)


def golden_examples(infer: FeatureRunner, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[Example]:
    """Golden frames uint8 [1, H, W, K] and their masks uint8 [H, W] as examples, with the features of `infer`."""
    examples = []
    for frame, mask in pairs:
        infer(frame)
        examples.append(Example(infer.features().copy(), mask))
    return examples


def _fields(test: GuardTest) -> dict[str, Any]:
    measured = round(test.measured, 4) if np.isfinite(test.measured) else None
    return {"test": test.name, "limit": round(test.limit, 4), "measured": measured, "passed": test.passed}
