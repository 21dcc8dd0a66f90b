"""Inference in a process of its own: what kills it there, a driver or the memory's end, leaves the video alone.

Frames and masks go through two pipes, at the model's size: a quarter of a megabyte, a fraction of a millisecond.
The child ends by itself when its parent is gone.
"""

from __future__ import annotations

import json
import os
import select
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np


class ChildLost(Exception):
    """The process died or did not answer."""


class ChildRunner:
    """Has the face of a runner. Raises ValueError when the child cannot load the ship, ChildLost later."""

    def __init__(self, ship: str | Path, *, hang_ms: float, start_s: float = 60.0, **choice: Any) -> None:
        if os.name != "posix":
            raise ValueError("isolation process: needs Linux or macOS; leave it at thread")
        asked, self._to = os.pipe()
        self._from, answered = os.pipe()
        arguments = [str(ship), json.dumps(choice), str(asked), str(answered)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "deploy.stream.child", *arguments],
            pass_fds=(asked, answered),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        os.close(asked)
        os.close(answered)
        self._hang_s = start_s
        said = json.loads(self._read(struct.unpack("<I", self._read(4))[0]))
        if "error" in said:
            self.close()
            raise ValueError(said["error"])
        self._hang_s = hang_ms / 1e3
        self.runtime, self.file, self.precision, self.threads = (
            said[key] for key in ("runtime", "file", "precision", "threads")
        )
        self.shape = tuple(said["shape"])

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """uint8 [1, h, w, K] -> uint8 [1, h, w]."""
        try:
            _write(self._to, np.ascontiguousarray(frames).tobytes())
        except OSError:
            self._gone()
        data = self._read(self.shape[1] * self.shape[2])
        return np.frombuffer(data, np.uint8).reshape(self.shape[:3])

    def close(self) -> None:
        if self._to >= 0:
            os.close(self._to)
            os.close(self._from)
            self._to = self._from = -1
        self.process.kill()
        self.process.wait()

    def _read(self, count: int) -> bytes:
        """So many bytes, all of them within the time to hang."""
        data, until = bytearray(), time.monotonic() + self._hang_s
        while len(data) < count:
            ready, _, _ = select.select([self._from], [], [], max(until - time.monotonic(), 0))
            if not ready:
                self.process.kill()
                raise ChildLost(f"the inference process did not answer within {self._hang_s:.1f} s")
            part = os.read(self._from, count - len(data))
            if not part:
                self._gone()
            data += part
        return bytes(data)

    def _gone(self) -> None:
        try:
            code = self.process.wait(1.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        raise ChildLost(f"the inference process ended ({f'signal {-code}' if code < 0 else f'status {code}'})")


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _child(ship: str, choice: dict[str, Any], asked: int, answers: int) -> None:
    from deploy.runtime import runner

    try:
        run = runner(ship, **choice)
    except ValueError as error:
        said = json.dumps({"error": str(error)}).encode()
        return _write(answers, struct.pack("<I", len(said)) + said)
    facts = {key: getattr(run, key) for key in ("runtime", "file", "precision", "threads", "shape")}
    said = json.dumps(facts).encode()
    _write(answers, struct.pack("<I", len(said)) + said)
    with os.fdopen(asked, "rb") as frames:
        size = int(np.prod(run.shape))
        while len(data := frames.read(size)) == size:
            mask = run(np.frombuffer(data, np.uint8).reshape(run.shape))
            _write(answers, np.ascontiguousarray(mask).tobytes())


if __name__ == "__main__":
    try:
        _child(sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    except (KeyboardInterrupt, BrokenPipeError):
        os._exit(0)
