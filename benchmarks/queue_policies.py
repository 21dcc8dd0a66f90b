"""How old a mask is when it is shown, by what stands between camera and model. Three policies on one camera clock, in
the same run: a queue of five that blocks the camera, a queue of five that drops its oldest, and a box for one that
keeps the newest, which is what `edgemt stream` has.

    python benchmarks/queue_policies.py --hz 30 --model-ms 80 --seconds 10

The model sleeps, so that the three do not take the processor from each other: what differs is the waiting alone.
"""

from __future__ import annotations

import argparse
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from deploy.measurement.percentiles import summary
from deploy.stream.state.latest_queue import LatestQueue

LENGTH = 5


class Policy(Protocol):
    def put(self, captured_ns: int) -> None: ...

    def take(self) -> int | None: ...


class Blocking:
    """A full queue makes the camera wait, and its driver keep frames, which this does not count."""

    def __init__(self) -> None:
        self._queue: queue.Queue[int] = queue.Queue(LENGTH)

    def put(self, captured_ns: int) -> None:
        self._queue.put(captured_ns)

    def take(self) -> int | None:
        try:
            return self._queue.get(timeout=0.1)
        except queue.Empty:
            return None


class DropOldest:
    def __init__(self) -> None:
        self._frames: deque[int] = deque(maxlen=LENGTH)
        self._there = threading.Semaphore(0)

    def put(self, captured_ns: int) -> None:
        full = len(self._frames) == LENGTH
        self._frames.append(captured_ns)
        if not full:
            self._there.release()

    def take(self) -> int | None:
        return self._frames.popleft() if self._there.acquire(timeout=0.1) else None


class KeepLatest:
    def __init__(self) -> None:
        self._box: LatestQueue[int] = LatestQueue()

    def put(self, captured_ns: int) -> None:
        self._box.put(captured_ns)

    def take(self) -> int | None:
        return self._box.take(0.1)


POLICIES: dict[str, Callable[[], Policy]] = {
    f"queue of {LENGTH}, blocking": Blocking,
    f"queue of {LENGTH}, drop oldest": DropOldest,
    "one slot, keep latest": KeepLatest,
}


@dataclass
class Seen:
    ages_ns: list[int] = field(default_factory=list)
    captured: int = 0


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hz", type=float, default=30.0)
    parser.add_argument("--model-ms", type=float, default=80.0)
    parser.add_argument("--seconds", type=float, default=10.0)
    args = parser.parse_args(argv)
    print(table(measure(hz=args.hz, model_s=args.model_ms / 1e3, seconds=args.seconds), seconds=args.seconds))


def measure(*, hz: float, model_s: float, seconds: float) -> dict[str, Seen]:
    """All policies side by side, each with a camera and a model of its own on the same clock."""
    seen = {name: Seen() for name in POLICIES}
    start, end = time.monotonic_ns() + 50_000_000, time.monotonic_ns() + int(seconds * 1e9)
    threads = []
    for name, made in POLICIES.items():
        policy = made()
        threads.append(threading.Thread(target=_camera, args=(policy, seen[name], start, end, hz), daemon=True))
        threads.append(threading.Thread(target=_model, args=(policy, seen[name], end, model_s), daemon=True))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds + 10)
    return seen


def _camera(policy: Policy, seen: Seen, start_ns: int, end_ns: int, hz: float) -> None:
    due, period = start_ns, int(1e9 / hz)
    while due < end_ns:
        time.sleep(max(due - time.monotonic_ns(), 0) / 1e9)
        policy.put(time.monotonic_ns())
        seen.captured += 1
        due = max(due + period, time.monotonic_ns() - period)


def _model(policy: Policy, seen: Seen, end_ns: int, model_s: float) -> None:
    while time.monotonic_ns() < end_ns:
        captured = policy.take()
        if captured is not None:
            time.sleep(model_s)
            seen.ages_ns.append(time.monotonic_ns() - captured)
    while policy.take() is not None:  # a camera that still waits to put
        pass


def table(seen: dict[str, Seen], *, seconds: float) -> str:
    """Markdown; ages from capture to the finished mask."""
    lines = ["| between camera and model | masks | age p50 ms | p90 ms | max ms | captured Hz |", "|---" * 6 + "|"]
    for name, found in seen.items():
        ages_ms = summary(found.ages_ns)
        ages = " | ".join(f"{ages_ms[key]:.0f}" for key in ("p50_ms", "p90_ms", "max_ms"))
        lines.append(f"| {name} | {ages_ms['n']} | {ages} | {found.captured / seconds:.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
