"""The process that `child.py` starts: loads a ship, says what it is, and gives a mask for every frame. It ends by
itself when its parent is gone.

    python -m deploy.stream.inference.worker_main SHIP CHOICE ASKED ANSWERS PARENT
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


def _serve(ship: str, choice: dict[str, Any], asked: int, answers: int) -> None:
    from deploy.package.package import card_hash, open_package
    from deploy.runtimes.load import runner

    try:
        opened = open_package(ship)
        run = runner(opened, **choice)
    except ValueError as error:
        return _answer(answers, json.dumps({"error": str(error)}).encode(), counted=True)
    facts = {key: getattr(run, key) for key in ("runtime", "file", "precision", "threads", "shape")}
    _answer(answers, json.dumps({**facts, "card": card_hash(opened.card)}).encode(), counted=True)
    with os.fdopen(asked, "rb") as frames:
        size = int(np.prod(run.shape))
        while len(data := frames.read(size)) == size:
            mask = run(np.frombuffer(data, np.uint8).reshape(run.shape))
            _answer(answers, np.ascontiguousarray(mask).tobytes())


def _answer(descriptor: int, data: bytes, *, counted: bool = False) -> None:
    view = memoryview(struct.pack("<I", len(data)) + data if counted else data)
    while view:
        view = view[os.write(descriptor, view) :]


def _end_with(parent: int) -> None:
    """One that hangs in a driver does not see the end of its pipe."""
    while os.getppid() == parent:
        time.sleep(_PARENT_EVERY_S)
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=_end_with, args=(int(sys.argv[5]),), daemon=True).start()
    try:
        _serve(sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    except (KeyboardInterrupt, BrokenPipeError):
        os._exit(0)
