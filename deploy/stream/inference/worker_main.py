"""The process that `worker_process.py` starts: loads a package, reports its facts, and writes a mask for every frame.

It exits when its parent process has ended.

    python -m deploy.stream.inference.worker_main SHIP OPTIONS FRAMES_FD MASKS_FD PARENT
"""

from __future__ import annotations

import json
import os
import struct
import sys
import threading
import time
from typing import Any

import numpy as np

_PARENT_EVERY_S = 1.0
_FACTS = ("runtime", "file", "precision", "threads", "device", "shape", "has_uncertainty")


def _serve(package: str, options: dict[str, Any], frames_fd: int, masks_fd: int) -> None:
    from deploy.package.package import card_hash, open_package
    from deploy.runtimes.load import runner

    try:
        opened = open_package(package)
        run = runner(opened, **options)
    except ValueError as error:
        return _write(masks_fd, json.dumps({"error": str(error)}).encode(), with_length=True)
    facts = {key: getattr(run, key) for key in _FACTS}
    facts["details"] = {key: run.details[key] for key in ("provider", "placement") if key in run.details}
    _write(masks_fd, json.dumps({**facts, "card": card_hash(opened.card)}).encode(), with_length=True)
    with os.fdopen(frames_fd, "rb") as frames:
        size = int(np.prod(run.shape))
        while len(data := frames.read(size)) == size:
            frame = np.frombuffer(data, np.uint8).reshape(run.shape)
            outputs = run.with_uncertainty(frame) if run.has_uncertainty else (run(frame),)
            _write(masks_fd, b"".join(np.ascontiguousarray(output).tobytes() for output in outputs))


def _write(descriptor: int, data: bytes, *, with_length: bool = False) -> None:
    view = memoryview(struct.pack("<I", len(data)) + data if with_length else data)
    while view:
        view = view[os.write(descriptor, view) :]


def _exit_with_parent(parent: int) -> None:
    """A worker that hangs in a driver does not notice the end of its pipe, so the parent is polled."""
    while os.getppid() == parent:
        time.sleep(_PARENT_EVERY_S)
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=_exit_with_parent, args=(int(sys.argv[5]),), daemon=True).start()
    try:
        _serve(sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    except (KeyboardInterrupt, BrokenPipeError):
        os._exit(0)
