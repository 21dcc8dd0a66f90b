"""The queue of segmentations: sent to a destination, tried again until it has them, also after a restart."""

from __future__ import annotations

from collections import Counter

from deploy.pacs.backoff import Backoff
from deploy.pacs.destinations import AwayError, Destination
from deploy.pacs.reports import Reports
from deploy.pacs.spool import Spool
from edgemt.io.atomic import NoSpaceError

_AT_ONCE = 50  # segmentations in one association


class Sender:
    """Sends what waits for one destination, in the thread that calls `step`.

    A destination that is away delays everything for it; a segmentation that it refuses delays that one alone. Nothing
    is given up: the longest wait is that of `retry`. `number` stands for the destination in the event log, which has
    no host names.
    """

    def __init__(
        self, spool: Spool, destination: Destination, *, number: int, retry: Backoff, reports: Reports
    ) -> None:
        self._spool, self._destination, self._retry, self._reports = spool, destination, retry, reports
        self._name, self._number = destination.name, number

    def step(self) -> bool:
        """Try once what is due; True where something was sent."""
        if not self._retry.due(""):
            return False
        waiting = [pair for pair in self._spool.unsent(self._name) if self._retry.due("/".join(pair))][:_AT_ONCE]
        if not waiting:
            return False
        results = self._destination.send([self._spool.seg(name, file) for name, file in waiting])
        sent = Counter[str]()
        try:
            for (name, file), refusal in zip(waiting, results, strict=False):
                self._back()
                if refusal:
                    self._refused(name, file, refusal)
                else:
                    self._spool.note_sent(name, file, self._name)
                    self._retry.succeeded(f"{name}/{file}")
                    sent[name] += 1
        except AwayError as error:
            self._away(str(error))
        except (NoSpaceError, OSError) as error:  # sent once more, when the disk has room to note it
            full = isinstance(error, NoSpaceError)
            self._away("the disk is full" if full else "the spool cannot be read or written")
        except Exception as error:  # of a library, on data from the network
            self._away(type(error).__name__)
        finally:
            results.close()  # type: ignore[attr-defined]
            self._report(sent)
        return bool(sent)

    def _report(self, sent: Counter[str]) -> None:
        for name, count in sent.items():
            plural = "s" if count > 1 else ""
            self._reports.line(f"series {name}: {count} segmentation{plural} sent to {self._name}")
            self._reports.event("sent", series=name, segmentations=count, destination=self._number)

    def _refused(self, name: str, file: str, why: str) -> None:
        wait_s = self._retry.failed(f"{name}/{file}")
        self._reports.line(f"warning: {self._name} {why}: series {name}, segmentation {file}; again in {wait_s:.0f} s")
        self._reports.event("not-taken", series=name, destination=self._number, reason=why)

    def _away(self, why: str) -> None:
        first = not self._retry.failures("")
        wait_s = self._retry.failed("")
        if first:
            self._reports.event("destination-away", destination=self._number, reason=why)
        self._reports.line(
            f"warning: {self._name}: {why}; its segmentations stay in the spool; next attempt in {wait_s:.0f} s"
        )

    def _back(self) -> None:
        if self._retry.succeeded(""):
            self._reports.line(f"{self._name} is there again")
            self._reports.event("destination-back", destination=self._number)
