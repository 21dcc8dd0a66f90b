"""Progress of a training: a bar on a terminal, lines in a log file, and TensorBoard events."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgemt.io import process_rank
from edgemt.learning.method import Method
from edgemt.training.busy_cores import BusyCores

_EVERY_S = 15.0  # seconds between lines where stderr is no terminal


class TrainingProgress:
    """Context manager that shows step, loss terms and remaining time. Shows nothing in ranks above 0."""

    def __init__(self, label: str, *, total: int, done: int = 0, events: Path | None = None, every: int = 10):
        self.label, self.total, self.start, self.every, self.events = label, total, done, every, events
        self.rich: Any = None
        self.writer: Any = None
        self.text = ""
        self.mute = not process_rank.is_main_process()

    def __enter__(self) -> TrainingProgress:
        self.began = self.last = time.monotonic()
        if self.mute:
            return self
        self.busy_cores = BusyCores()
        if sys.stderr.isatty() and os.environ.get("EDGEMT_PROGRESS") != "lines":
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self.rich = Progress(
                TextColumn("[bold]{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[text]}"),
                console=Console(stderr=True),
            )
            self.rich.start()
            self.task = self.rich.add_task(self.label, total=self.total, completed=self.start, text="")
        elif self.start:
            print(f"{self.label}: resumed at step {self.start} of {self.total}", file=sys.stderr, flush=True)
        if self.events is not None:
            self.writer = _event_writer(self.events, purge=self.start)
        return self

    def __exit__(self, *_: object) -> None:
        if self.rich is not None:
            self.rich.stop()
        if self.writer is not None:
            self.writer.close()

    def update(
        self, done: int, terms: Mapping[str, Any] | None = None, *, dice: Sequence[float] = ()
    ) -> dict[str, float]:
        """Show step `done`. On every `every`-th step returns the loss terms as floats: reading them synchronises."""
        read: dict[str, float] = {}
        if self.mute:
            return read
        if terms and (done % self.every == 0 or done == self.total):
            read = {name: float(value) for name, value in terms.items()}
            self.text = "  ".join(f"{name} {value:.3f}" for name, value in read.items())
        if self.writer is not None:
            for name, value in read.items():
                self.writer.add_scalar(f"loss/{name}", value, done)
            for value in dice:
                self.writer.add_scalar("val/dice", value, done)
        if self.rich is not None:
            self.rich.update(self.task, completed=done, text=self.text)
        if line := self.busy_cores.notice():
            self._show(f"{self.label}: {line}")
        now = time.monotonic()
        if dice or (self.rich is None and now - self.last > _EVERY_S):
            self.last = now
            self._print(done, now, dice)
        return read

    def _print(self, done: int, now: float, dice: Sequence[float]) -> None:
        remaining = (now - self.began) / max(done - self.start, 1) * (self.total - done)
        val = f"  val Dice {dice[-1]:.4f}" if dice else ""
        self._show(f"{self.label}: {done}/{self.total}  {self.text}{val}  {remaining:.0f} s left")

    def _show(self, line: str) -> None:
        if self.rich is not None:
            self.rich.console.print(line, highlight=False)
        else:
            print(line, file=sys.stderr, flush=True)


def _event_writer(folder: Path, *, purge: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    return SummaryWriter(str(folder), purge_step=purge)


def file_progress(label: str) -> Callable[[int, int], None]:
    """A progress callback (done, total) for reading files: a counter on a terminal, nothing elsewhere."""
    began = time.monotonic()

    def show(done: int, total: int) -> None:
        if process_rank.is_main_process() and sys.stderr.isatty() and (time.monotonic() - began > 1.0 or done == total):
            end = "\n" if done == total else ""
            print(f"\rreading {label}: {done}/{total}", end=end, file=sys.stderr, flush=True)

    return show


MAX_ACCEPTED = 0.95  # fraction of voxels above the confidence threshold from which on a warning is printed


def warn_if_threshold_accepts_all(method: Method, history: Mapping[str, Any], *, label: str) -> None:
    """Print a warning where nearly all voxels passed the confidence threshold in the second half of a run."""
    confidence = getattr(method, "confidence", getattr(getattr(method, "target", None), "confidence", None))
    accepted = history["terms"].get("accepted", [])
    late = accepted[len(accepted) // 2 :]
    if confidence is not None and late and sum(late) / len(late) > MAX_ACCEPTED:
        share = 100 * sum(late) / len(late)
        print(
            f"{label}: {share:.1f} % of the voxels passed the confidence threshold {confidence}, so that it filtered "
            "nothing; raise the method's confidence, or take a method with one threshold for each class",
            file=sys.stderr,
            flush=True,
        )
