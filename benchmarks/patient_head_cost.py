"""What a patient head adds to a frame: milliseconds with and without one, those of the output, and the same bits."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from deploy.adaptation.fit import Example
from deploy.adaptation.limits import AdaptLimits, FitOptions
from deploy.adaptation.session import PatientHead
from deploy.package.package import open_package
from deploy.runtimes.load import runner
from deploy.runtimes.runner import ModelRunner


def cost(infer: ModelRunner, head: Any, golden: list[Example], frames: np.ndarray, rounds: int = 300) -> dict[str, Any]:
    """Added milliseconds a frame, without a correction and with an adapted head; p50 by clock and by processor.

    The head in use is one that was fitted to the shipped masks, larger by a bias, of the frames uint8 [N, H, W, K]
    themselves: it passes every test.
    """
    idle = PatientHead(head, golden, background=False)
    always = AdaptLimits(golden_loss=1, gain=1e-9, worst=-1, shadow=1, disagreement=1.01, unsure=1e9, unlike=1e9)
    active = PatientHead(head, golden, limits=always, options=FitOptions(replay=0, pull=1e-3), background=False)
    larger = head.changed(head.change + 2.0 * (np.arange(head.classes) > 0)[:, None] * _last(head.change.shape[1]))
    for frame in frames[:: max(1, len(frames) // 5)][:5]:
        infer(frame[None])
        active.correct(frame, larger.mask(infer.features()))
    active.take_corrections(infer)
    times: dict[str, list[tuple[float, float]]] = {"call": [], "idle": [], "active": []}
    for n in range(rounds):
        frame = frames[n % len(frames)][None]
        start = _now()
        mask = infer(frame)[0]
        times["call"].append(_since(start))
        for name, session in (("idle", idle), ("active", active)):
            start = _now()
            session.mask(infer, mask)
            session.take_corrections(infer)
            times[name].append(_since(start))
    medians = {name: 1e3 * np.median(values, axis=0) for name, values in times.items()}
    return {
        **{f"{name}_ms": round(float(both[0]), 4) for name, both in medians.items()},
        **{f"{name}_processor_ms": round(float(both[1]), 4) for name, both in medians.items()},
        "state_when_active": active.state, "size": list(head.size),
    }  # fmt: skip


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.thread_time()


def _since(start: tuple[float, float]) -> tuple[float, float]:
    return time.perf_counter() - start[0], time.thread_time() - start[1]


def _last(width: int) -> np.ndarray:
    """[width]: 1 at the end, where a change has its bias."""
    return (np.arange(width) == width - 1).astype(float)


def cost_of_output(before: Path, after: Path, frames: np.ndarray, rounds: int = 200) -> dict[str, dict[str, float]]:
    """Milliseconds that the output adds to a call, by file and runtime: calls in turn, median of the differences."""
    found = {}
    for runtime, file in (("openvino", "int8"), ("openvino", "fp32"), ("onnxruntime", "fp32")):
        old, new = (runner(open_package(ship), runtime=runtime, file=file, threads=1) for ship in (before, after))
        differences, calls = [], []
        for n in range(rounds):
            frame = frames[n % len(frames)][None]
            marks = {}
            for name, call in (("old", old), ("new", new)) if n % 2 else (("new", new), ("old", old)):
                start = time.perf_counter()
                call(frame)
                marks[name] = time.perf_counter() - start
            calls.append(marks["old"])
            differences.append(marks["new"] - marks["old"])
        half = 1.57 * float(np.subtract(*np.percentile(differences, (75, 25)))) / rounds**0.5  # of the median, 95 %
        values = {"call_ms": float(np.median(calls)), "added_ms": float(np.median(differences)), "plus_minus": half}
        found[f"{file} {runtime}"] = {name: round(1e3 * value, 4) for name, value in values.items()}
    return found


def same_bits(
    infer: ModelRunner, other: ModelRunner, session: PatientHead, frames: np.ndarray, count: int
) -> dict[str, int]:
    """Frames without a correction, through a runner of its own and through a session: how many masks differ."""
    different, rng = 0, np.random.default_rng(0)
    for n in range(count):
        frame = np.roll(frames[n % len(frames)], tuple(rng.integers(-16, 17, 2)), axis=(0, 1))[None]
        shown, _ = session.mask(infer, infer(frame)[0])
        session.take_corrections(infer)
        different += not np.array_equal(shown, other(frame)[0])
    return {"frames": count, "different": different}
