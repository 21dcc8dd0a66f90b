"""Counts what a stream shows, twice a second, and keeps the file of its session up to date.

The thread that shows pictures only stores a reference; another one measures (one or two milliseconds of a core each
time) and writes once a minute and at the end. While the disk is full a warning is given once and the video goes on.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path

from deploy.site_statistics.features import features_of, measure_mask, measure_picture
from deploy.site_statistics.session_file import SessionStatistics, histogram_of, write_session
from deploy.stream.state.frames import DisplaySnapshot
from edgemt.io.atomic import make_folder

SAMPLE_S = 0.5
WRITE_S = 60.0


class SessionStatisticsWriter:
    """Observes a session from `start` to `close`. `log` gets a warning when the file cannot be written."""

    def __init__(
        self, folder: Path, *, classes: Sequence[str], device: str, model: str, card: str,
        log: Callable[[str], None], sample_s: float = SAMPLE_S, clock: Callable[[], float] = time.monotonic,
        overlapping: bool = False,
    ) -> None:  # fmt: skip
        """Raises ValueError for a folder that cannot be made."""
        self._folder, self._log, self._clock = make_folder(folder), log, clock
        self._classes, self._sample_s, self._overlapping = tuple(classes), sample_s, overlapping
        self._features = {feature.name: feature for feature in features_of(classes)}
        self._histograms = {name: histogram_of(feature) for name, feature in self._features.items()}
        self._names = (device, model, card)
        self._session, self._day = secrets.token_hex(8), f"{datetime.now(timezone.utc):%Y-%m-%d}"
        self._began = self._due = clock()
        self._samples = 0
        self._next: DisplaySnapshot | None = None
        self._wake, self._stop = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self.error = ""

    def start(self) -> None:
        """Write the file once, so that a folder that cannot be written stops the start, and begin to count."""
        write_session(self._folder, self.statistics())
        self._thread = threading.Thread(target=self._run, name="edgemt-statistics", daemon=True)
        self._thread.start()

    def observe(self, snapshot: DisplaySnapshot) -> None:
        """Call it with every picture that is shown."""
        now = self._clock()
        if now >= self._due and self._next is None:
            self._due = max(self._due + self._sample_s, now)
            self._next = snapshot
            self._wake.set()

    def close(self) -> None:
        """Count what is left and write the file."""
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(5.0)
        self._count_next()
        self._write()

    def statistics(self) -> SessionStatistics:
        """What was counted so far."""
        device, model, card = self._names
        seconds = round(self._clock() - self._began, 1)
        return SessionStatistics(
            self._session, self._day, device, model, card, seconds, self._samples, self._histograms
        )

    def _run(self) -> None:
        written = self._clock()
        while not self._stop.is_set():
            self._wake.wait(1.0)
            self._wake.clear()
            self._count_next()
            if self._clock() - written >= WRITE_S:
                written = self._clock()
                self._write()

    def _count_next(self) -> None:
        snapshot, self._next = self._next, None
        if snapshot is None or snapshot.frame is None:
            return
        status, result = snapshot.status, snapshot.result
        values = measure_picture(snapshot.frame.pixels)
        values["no mask"] = float(status.state != "fresh")
        if status.likeness is not None:
            values["likeness"] = status.likeness
        if status.age_ms is not None:
            values["age"] = status.age_ms
        if result is not None:
            uncertain = None if result.marks is None else result.marks.uncertain
            values |= measure_mask(result.mask, self._classes, uncertain, overlapping=self._overlapping)
        for name, value in values.items():
            self._histograms[name].counts[self._features[name].bin_of(value)] += 1
        self._samples += 1

    def _write(self) -> None:
        try:
            write_session(self._folder, self.statistics())
        except (OSError, ValueError) as error:
            if not self.error:
                self._log(f"warning: statistics in {self._folder} cannot be written ({error}); the video goes on")
            self.error = str(error)
            return
        if self.error:
            self._log(f"statistics in {self._folder} are written again")
            self.error = ""
