"""Inference in a separate process: a crash of a driver or a lack of memory there does not affect the video.

Frames and masks are sent through two pipes, at the model's input size: a quarter of a megabyte, a fraction of a
millisecond. Every wait on a pipe has a time limit. The other end is `worker_main.py`.
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

_REAP_S = 1.0  # how long to wait for a killed process; one that is stuck in a driver is left to the kernel
_RUNNING: WeakSet[WorkerProcess] = WeakSet()


class WorkerLostError(Exception):
    """The process has ended or did not answer in time."""


def workers_cpu_s() -> float:
    """CPU seconds of all inference processes of this process so far; outside Linux, only of those that have ended."""
    if os.name != "posix":
        return 0.0
    import resource

    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime + sum(_cpu_s(child.process) for child in list(_RUNNING))


def _cpu_s(process: subprocess.Popen[bytes]) -> float:
    if process.returncode is not None:
        return 0.0  # included in RUSAGE_CHILDREN
    try:
        return time.clock_gettime((~process.pid << 3) | 2)  # the clock id of clock_getcpuclockid(3) on Linux
    except OSError:
        return 0.0


class WorkerProcess:
    """A runner in a child process. It is called from one thread; `close` may be called from another.

    Raises ValueError if the child cannot load the package, WorkerLostError later.
    """

    def __init__(
        self, package: str | Path, *, hang_ms: float, start_s: float = 60.0, wait: bool = True,
        expected_facts: Any = None, **options: Any,
    ) -> None:  # fmt: skip
        """`hang_ms` and `start_s` are the time limits of one mask and of loading. `options` go to the runner.

        `expected_facts`: the facts of the worker that this one may replace; loading fails if its own differ.
        """
        if os.name != "posix":
            raise ValueError("isolation process: needs Linux or macOS; leave it at thread")
        self._package, self._options, self._hang_s, self._start_s = package, options, hang_ms / 1e3, start_s
        self._expected_facts, self._calling = expected_facts, threading.Lock()
        self.facts: dict[str, Any] = {}
        self.has_uncertainty = False
        frames_read, self._frames_write = os.pipe()
        self._masks_read, masks_write = os.pipe()
        os.set_blocking(self._frames_write, False)
        try:
            descriptors = [str(frames_read), str(masks_write)]
            self.process = _start_process([str(package), json.dumps(options), *descriptors, str(os.getpid())])
        except BaseException:
            os.close(self._frames_write)
            os.close(self._masks_read)
            raise
        finally:
            os.close(frames_read)
            os.close(masks_write)
        _RUNNING.add(self)
        if wait:
            self.ready()

    def spawn_standby(self) -> WorkerProcess:
        """Start another worker with the same options, without waiting for it."""
        times = {"hang_ms": self._hang_s * 1e3, "start_s": self._start_s}
        return WorkerProcess(self._package, **times, wait=False, expected_facts=self.facts, **self._options)

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    @property
    def loaded(self) -> bool:
        """Whether `ready` would return at once."""
        poll = select.poll()
        poll.register(self._masks_read, select.POLLIN)
        return bool(poll.poll(0))

    def ready(self) -> WorkerProcess:
        """Wait until the package is loaded. Returns itself."""
        try:
            with self._calling:
                reply = json.loads(self._read(struct.unpack("<I", self._read(4, self._start_s))[0], self._start_s))
            if "error" not in reply and self._expected_facts not in (None, reply):
                reply = {"error": f"{self._package}: is another model than the one at work; start the stream again"}
            if "error" in reply:
                raise ValueError(reply["error"])
        except (WorkerLostError, ValueError) as error:
            self.close()
            lost = isinstance(error, WorkerLostError)
            raise ValueError(f"isolation process: {error}" if lost else str(error)) from None
        self.facts, self.shape = reply, tuple(reply["shape"])
        self.runtime, self.file, self.precision, self.threads = (
            reply[key] for key in ("runtime", "file", "precision", "threads")
        )
        self.device, self.details = reply["device"], reply["details"]
        self.has_uncertainty = bool(reply["has_uncertainty"])
        return self

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """uint8 [1, h, w, K] -> uint8 [1, h, w]."""
        return self._outputs(frames)[0]

    def with_uncertainty(self, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [1, h, w, K] -> mask and map uint8 [1, h, w], as `ModelRunner.with_uncertainty`."""
        mask, values = self._outputs(frames)
        return mask, values

    def _outputs(self, frames: np.ndarray) -> np.ndarray:
        """uint8 [outputs, 1, h, w]: the mask and, if the graph has it, the uncertainty."""
        count = 1 + self.has_uncertainty
        with self._calling:
            self._write(np.ascontiguousarray(frames).tobytes())
            data = self._read(count * self.shape[1] * self.shape[2], self._hang_s)
        return np.frombuffer(data, np.uint8).reshape(count, *self.shape[:3])

    def close(self) -> None:
        self.process.kill()  # a thread that waits for its answer gets the end of the pipe
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_REAP_S)
        with self._calling:
            if self._frames_write >= 0:
                os.close(self._frames_write)
                os.close(self._masks_read)
                self._frames_write = self._masks_read = -1

    def _write(self, data: bytes) -> None:
        view, deadline = memoryview(data), time.monotonic() + self._hang_s
        while view:
            self._wait(self._frames_write, select.POLLOUT, deadline, self._hang_s)
            try:
                view = view[os.write(self._frames_write, view) :]
            except BlockingIOError:
                continue
            except OSError:
                self._raise_lost()

    def _read(self, count: int, timeout_s: float) -> bytes:
        data, deadline = bytearray(), time.monotonic() + timeout_s
        while len(data) < count:
            self._wait(self._masks_read, select.POLLIN, deadline, timeout_s)
            chunk = os.read(self._masks_read, count - len(data))
            if not chunk:
                self._raise_lost()
            data += chunk
        return bytes(data)

    def _wait(self, descriptor: int, event: int, deadline: float, timeout_s: float) -> None:
        if descriptor < 0:
            raise WorkerLostError("the inference process was closed")
        poll = select.poll()
        poll.register(descriptor, event)
        if not poll.poll(max(deadline - time.monotonic(), 0) * 1e3):
            self.process.kill()
            raise WorkerLostError(f"the inference process did not answer within {timeout_s:.1f} s")

    def _raise_lost(self) -> None:
        try:
            code = self.process.wait(_REAP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise WorkerLostError("the inference process closed its pipe") from None
        raise WorkerLostError(f"the inference process ended ({f'signal {-code}' if code < 0 else f'status {code}'})")


def _start_process(arguments: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        python_module("deploy.stream.inference.worker_main", *arguments),
        pass_fds=[int(descriptor) for descriptor in arguments[2:4]],
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the parent
    )
