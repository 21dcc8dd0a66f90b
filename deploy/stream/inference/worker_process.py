"""Inference in a process of its own: what kills it there, a driver or the memory's end, leaves the video alone.

Frames and masks go through two pipes, at the model's size: a quarter of a megabyte, a fraction of a millisecond. No
wait on either is without an end. `child_main.py` is the other end.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import struct
import subprocess
import threading
import time
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np

from edgemt.io.child_process import environment, python_module

_REAP_S = 1.0  # a process that the kernel cannot end, stuck in a driver, is left to it
_RUNNING: WeakSet[ChildRunner] = WeakSet()


class ChildLost(Exception):
    """The process died or did not answer."""


def children_cpu_s() -> float:
    """Seconds of a core that inference processes of this one have used so far; without those at work outside Linux."""
    if os.name != "posix":
        return 0.0
    import resource

    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime + sum(_cpu_s(child.process) for child in list(_RUNNING))


def _cpu_s(process: subprocess.Popen[bytes]) -> float:
    if process.returncode is not None:
        return 0.0  # counted among those that ended
    try:
        return time.clock_gettime((~process.pid << 3) | 2)  # what clock_getcpuclockid(3) gives on Linux
    except OSError:
        return 0.0


class ChildRunner:
    """Has the face of a runner, for one thread; `close` may come from another.

    Raises ValueError when the child cannot load the ship, ChildLost later.
    """

    def __init__(
        self, ship: str | Path, *, hang_ms: float, start_s: float = 60.0, wait: bool = True, like: Any = None,
        **choice: Any,
    ) -> None:  # fmt: skip
        """`like`: the facts that its own must be, of one that it may have to replace."""
        if os.name != "posix":
            raise ValueError("isolation process: needs Linux or macOS; leave it at thread")
        self._ship, self._choice, self._hang_s, self._start_s = ship, choice, hang_ms / 1e3, start_s
        self._like, self._calling = like, threading.Lock()
        self.facts: dict[str, Any] = {}
        asked, self._to = os.pipe()
        self._from, answered = os.pipe()
        os.set_blocking(self._to, False)
        try:
            self.process = _started([str(ship), json.dumps(choice), str(asked), str(answered), str(os.getpid())])
        except BaseException:
            os.close(self._to)
            os.close(self._from)
            raise
        finally:
            os.close(asked)
            os.close(answered)
        _RUNNING.add(self)
        if wait:
            self.ready()

    def another(self) -> ChildRunner:
        """The same again, started and not waited for."""
        times = {"hang_ms": self._hang_s * 1e3, "start_s": self._start_s}
        return ChildRunner(self._ship, **times, wait=False, like=self.facts, **self._choice)

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    @property
    def loaded(self) -> bool:
        """Whether `ready` would return at once."""
        poll = select.poll()
        poll.register(self._from, select.POLLIN)
        return bool(poll.poll(0))

    def ready(self) -> ChildRunner:
        """Itself, when it has loaded the ship."""
        try:
            with self._calling:
                said = json.loads(self._read(struct.unpack("<I", self._read(4, self._start_s))[0], self._start_s))
            if "error" not in said and self._like not in (None, said):
                said = {"error": f"{self._ship}: is another model than the one at work; start the stream again"}
            if "error" in said:
                raise ValueError(said["error"])
        except (ChildLost, ValueError) as error:
            self.close()
            raise ValueError(f"isolation process: {error}" if isinstance(error, ChildLost) else str(error)) from None
        self.facts, self.shape = said, tuple(said["shape"])
        self.runtime, self.file, self.precision, self.threads = (
            said[key] for key in ("runtime", "file", "precision", "threads")
        )
        return self

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """uint8 [1, h, w, K] -> uint8 [1, h, w]."""
        with self._calling:
            self._write(np.ascontiguousarray(frames).tobytes())
            data = self._read(self.shape[1] * self.shape[2], self._hang_s)
        return np.frombuffer(data, np.uint8).reshape(self.shape[:3])

    def close(self) -> None:
        self.process.kill()  # whoever waits for its answer gets the end of the pipe
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_REAP_S)
        with self._calling:
            if self._to >= 0:
                os.close(self._to)
                os.close(self._from)
                self._to = self._from = -1

    def _write(self, data: bytes) -> None:
        view, until = memoryview(data), time.monotonic() + self._hang_s
        while view:
            self._wait(self._to, select.POLLOUT, until, self._hang_s)
            try:
                view = view[os.write(self._to, view) :]
            except BlockingIOError:
                continue
            except OSError:
                self._gone()

    def _read(self, count: int, within_s: float) -> bytes:
        data, until = bytearray(), time.monotonic() + within_s
        while len(data) < count:
            self._wait(self._from, select.POLLIN, until, within_s)
            part = os.read(self._from, count - len(data))
            if not part:
                self._gone()
            data += part
        return bytes(data)

    def _wait(self, descriptor: int, event: int, until: float, within_s: float) -> None:
        if descriptor < 0:
            raise ChildLost("the inference process was closed")
        poll = select.poll()
        poll.register(descriptor, event)
        if not poll.poll(max(until - time.monotonic(), 0) * 1e3):
            self.process.kill()
            raise ChildLost(f"the inference process did not answer within {within_s:.1f} s")

    def _gone(self) -> None:
        try:
            code = self.process.wait(_REAP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise ChildLost("the inference process closed its pipe") from None
        raise ChildLost(f"the inference process ended ({f'signal {-code}' if code < 0 else f'status {code}'})")


def _started(arguments: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        python_module("deploy.stream.inference.worker_main", *arguments),
        pass_fds=[int(descriptor) for descriptor in arguments[2:4]],
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the parent
    )
