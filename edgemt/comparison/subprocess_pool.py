"""The runs of a comparison in parallel processes, all of which end with this one."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager

from edgemt.comparison.runs import FAILED, Finished, TrainingRun
from edgemt.io.child_process import environment, python_module

STOPS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
PATIENCE = 10.0  # seconds until a process that does not end is killed


def train_in_subprocesses(
    plan: Sequence[TrainingRun], command: Callable[[TrainingRun], Sequence[str]], *, jobs: int
) -> Finished:
    """Train `jobs` runs at a time and yield each when it has ended, with the reason if it failed.

    `command` gives the arguments of `edgemt` that train one run; its output goes to train.log in the run's folder.
    However this ends, by Ctrl-C, SIGTERM or an error, no process is left running; the same command again resumes.
    Raises KeyboardInterrupt after a signal to stop.
    """
    waiting, working = list(plan), dict[TrainingRun, subprocess.Popen[bytes]]()
    with _stop_signals() as signals:
        try:
            while waiting or working:
                while waiting and len(working) < jobs and not signals:
                    run = waiting.pop(0)
                    run.folder.mkdir(parents=True, exist_ok=True)
                    with (run.folder / "train.log").open("ab") as log:
                        working[run] = subprocess.Popen(
                            python_module("edgemt.cli", *command(run)),
                            stdout=log,
                            stderr=log,
                            stdin=subprocess.DEVNULL,
                            env=environment(),
                        )
                for run in [run for run, process in working.items() if process.poll() is not None]:
                    yield run, _failure_of(run, working.pop(run).returncode)
                if signals:
                    raise KeyboardInterrupt
                time.sleep(0.2)
        finally:
            _end(working.values())


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """The list of signals to stop that were received; the loop checks it.

    The handlers do not raise: that could happen after a process was started and before it was recorded.
    """
    signals: list[int] = []
    main = threading.current_thread() is threading.main_thread()
    ours = [number for number in STOPS if main and signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, lambda number, frame: signals.append(number))
    try:
        yield signals
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


def _failure_of(run: TrainingRun, status: int) -> str:
    file = run.folder / FAILED
    if file.exists():
        return file.read_text(encoding="utf-8").strip()
    return f"its process ended with status {status}; see {run.folder / 'train.log'}" if status else ""
