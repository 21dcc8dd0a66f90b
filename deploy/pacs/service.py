"""The whole service: receive, predict, send, each in threads of its own, until `stop`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from deploy.dicom.segmentation import Kind
from deploy.pacs.backoff import Backoff, RetryOptions
from deploy.pacs.destinations import Destination
from deploy.pacs.predictor import Predictor, ServiceModel
from deploy.pacs.receiver import Receiver, ReceiverOptions
from deploy.pacs.reports import Reports
from deploy.pacs.sender import Sender
from deploy.pacs.spool import Spool

_POLL_S = 0.2
_REMOVE_EVERY_S = 600.0


@dataclass(frozen=True)
class ServiceOptions:
    """Raises ValueError for a value out of range."""

    receiver: ReceiverOptions = field(default_factory=ReceiverOptions)
    retry: RetryOptions = field(default_factory=RetryOptions)
    quiet_s: float = 10.0
    """A series is complete when no image of it came for so long."""
    keep_hours: float = 24.0
    """A series is removed from the spool so long after everything of it was sent."""
    kind: Kind = "BINARY"

    def __post_init__(self) -> None:
        if not self.quiet_s > 0:
            raise ValueError(f"quiet-s: must be above 0, not {self.quiet_s:g}")
        if self.keep_hours < 0:
            raise ValueError(f"keep-hours: must be 0 or more, not {self.keep_hours:g}")


class PacsService:
    """Runs from its construction to `close`. Raises ValueError where it cannot listen."""

    def __init__(
        self, spool: Spool, model: ServiceModel, destinations: Sequence[Destination], options: ServiceOptions, *,
        reports: Reports,
    ) -> None:  # fmt: skip
        self._spool, self._options, self._reports = spool, options, reports
        self._stop = threading.Event()
        self._beat_at = time.monotonic()
        names = tuple(destination.name for destination in destinations)
        for name in spool.names("predicted"):  # what waits is for the destinations of now
            spool.update(name, lambda state: replace(state, destinations=names))
        predictor = Predictor(
            spool, model, destinations=names, quiet_s=options.quiet_s, retry=Backoff(options.retry), reports=reports,
            kind=options.kind, beat=self._beat,
        )  # fmt: skip
        senders = [
            Sender(spool, destination, number=number, retry=Backoff(options.retry), reports=reports)
            for number, destination in enumerate(destinations, 1)
        ]
        self.receiver = Receiver(spool, options.receiver, reports=reports, arrived=predictor.arrived)
        self._threads = [
            threading.Thread(target=self._predict, args=(predictor,), name="edgemt-pacs-predict", daemon=True),
            *(
                threading.Thread(target=self._send, args=(one,), name="edgemt-pacs-send", daemon=True)
                for one in senders
            ),
        ]
        for thread in self._threads:
            thread.start()

    def answering(self, within_s: float) -> bool:
        """Whether images are received, and the thread that predicts took a step or a frame within that time."""
        alive = self.receiver.alive and all(thread.is_alive() for thread in self._threads)
        return alive and time.monotonic() - self._beat_at < within_s

    def close(self, timeout_s: float = 20.0) -> None:
        """Stop to receive, end the series that is being predicted, and what is being sent, within the time."""
        self.receiver.close()
        self._stop.set()
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _beat(self) -> None:
        self._beat_at = time.monotonic()

    def _predict(self, predictor: Predictor) -> None:
        removed_at = -_REMOVE_EVERY_S
        while not self._stop.is_set():
            self._beat()
            if time.monotonic() - removed_at > _REMOVE_EVERY_S:
                self._spool.remove_sent(hours=self._options.keep_hours)
                removed_at = time.monotonic()
            if not self._tried(predictor.step):
                self._stop.wait(_POLL_S)

    def _send(self, sender: Sender) -> None:
        while not self._stop.is_set():
            if not self._tried(sender.step):
                self._stop.wait(_POLL_S)

    def _tried(self, step: Callable[[], bool]) -> bool:
        """One step; a full disk, or a fault that none foresaw, is reported and does not end the thread."""
        try:
            return step()
        except Exception as error:  # its text may have values of headers
            self._reports.once(f"warning: {type(error).__name__} in the spool; tried again")
            return False
