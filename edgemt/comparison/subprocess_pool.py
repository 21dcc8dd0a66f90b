"""The runs of a comparison in processes beside each other, none of which outlives us."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager

from edgemt.comparison.runs import FAILED, Finished, One
from edgemt.io.child_process import environment, python_module

STOPS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
PATIENCE = 10.0  # seconds that a process is given to end


def train_beside(plan: Sequence[One], command: Callable[[One], Sequence[str]], *, jobs: int) -> Finished:
    """Each run when it is done, `jobs` at a time: `command` is what `edgemt` is given to train one, log: train.log.

    However it ends, by Ctrl-C, SIGTERM or an error, no process is left running; the same command again resumes.
    Raises KeyboardInterrupt where it was told to stop.
    """
    waiting, working = list(plan), dict[One, subprocess.Popen[bytes]]()
    with _stopped() as asked:
        try:
            while waiting or working:
                while waiting and len(working) < jobs and not asked:
                    one = waiting.pop(0)
                    one.folder.mkdir(parents=True, exist_ok=True)
                    with (one.folder / "train.log").open("ab") as log:
                        working[one] = subprocess.Popen(
                            python_module("edgemt.cli", *command(one)),
                            stdout=log,
                            stderr=log,
                            stdin=subprocess.DEVNULL,
                            env=environment(),
                        )
                for one in [one for one, process in working.items() if process.poll() is not None]:
                    yield one, _left_behind(one, working.pop(one).returncode)
                if asked:
                    raise KeyboardInterrupt
                time.sleep(0.2)
        finally:
            _end(working.values())


@contextmanager
def _stopped() -> Iterator[list[int]]:
    """The signals that told us to stop, written down until the loop looks.

    A handler that raised could do so between the start of a process and its being written down.
    """
    asked: list[int] = []
    main = threading.current_thread() is threading.main_thread()
    ours = [number for number in STOPS if main and signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, lambda number, frame: asked.append(number))
    try:
        yield asked
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def _end(processes: Collection[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()
    ends = time.monotonic() + PATIENCE
    for process in processes:
        try:
            process.wait(max(0.0, ends - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _left_behind(one: One, status: int) -> str:
    file = one.folder / FAILED
    if file.exists():
        return file.read_text(encoding="utf-8").strip()
    return f"its process ended with status {status}; see {one.folder / 'train.log'}" if status else ""
