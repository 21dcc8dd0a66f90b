"""Segmentations of the series in the spool: when a series has been quiet for a while, it is predicted as a whole.

Images that arrive later make the series due again, and it gets a new segmentation, of all its images, with a higher
series number. Images without patient coordinates have a segmentation each; those that have one are not predicted again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from deploy.dicom.images import Series, series_of
from deploy.dicom.segmentation import Kind, check_segments, segment_series
from deploy.package.input_drift import InputDriftMonitor, read_inputs
from deploy.package.package import Package, card_hash, open_package
from deploy.package.versions import note_version
from deploy.package.watcher import PackageWatcher
from deploy.pacs.backoff import Backoff
from deploy.pacs.reports import Reports
from deploy.pacs.series_state import SegFile
from deploy.pacs.spool import Spool
from deploy.runtimes.load import runner
from deploy.runtimes.runner import ModelRunner
from edgemt.io.atomic import Failures, NoSpaceError
from edgemt.io.bit_depth import of_card

_NONE_READ = "its images cannot be decoded, or lack what a segmentation needs; edgemt predict on them names it"
MAX_ATTEMPTS = 5  # of a series, until it waits for another image


@dataclass(frozen=True)
class ServiceModel:
    """A verified package with a loaded runner."""

    package: Package
    runner: ModelRunner
    watcher: PackageWatcher

    @property
    def id(self) -> str:
        card = self.package.card
        return f"{card.name}@{card_hash(card)[:12]} {self.runner.file} {self.runner.runtime} {self.runner.precision}"


def load_service_model(
    folder: Path, *, runtime: str = "auto", file: str | None = None, threads: int | None = None
) -> ServiceModel:
    """Verify a ship, run its reference frames, and note its version where a trusted key signed it.

    Raises ValueError in one line for a ship that is refused, and for one whose masks are not written as DICOM SEG.
    """
    package = open_package(folder)
    check_segments(package)
    made = runner(package, runtime=runtime, file=file, threads=threads)
    if package.signed:
        note_version(package.card)
    return ServiceModel(package, made, PackageWatcher(package))


class PredictionError(RuntimeError):
    """The runner gave no mask."""


class Predictor:
    """Predicts what is due, one series after the other, in the thread that calls `step`.

    `beat` is called before each frame: a runner that hangs stops it. `arrived` may be called from any thread.
    """

    def __init__(
        self, spool: Spool, model: ServiceModel, *, destinations: tuple[str, ...], quiet_s: float, retry: Backoff,
        reports: Reports, kind: Kind = "BINARY", beat: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._spool, self._model, self._destinations, self._quiet_s = spool, model, destinations, quiet_s
        self._retry, self._reports, self._kind, self._beat, self._clock = retry, reports, kind, beat, clock
        self._depth = of_card(model.package.card.data, source=model.package.folder / "card.json")
        self._statistics = read_inputs(model.package)
        self._lock = threading.Lock()
        self._arrivals = dict.fromkeys(spool.names("received"), clock())  # of a run before: quiet from now on
        self._fault = ""

    def arrived(self, name: str) -> None:
        with self._lock:
            self._arrivals[name] = self._clock()
        self._retry.succeeded(name)

    def step(self) -> bool:
        """Predict the series that has been quiet for the longest time; False where none is due."""
        name = self._due()
        if name is None or not self._model_is_whole():
            return False
        if self._spool.state(name).attempts >= MAX_ATTEMPTS:
            self._give_up(name, f"{MAX_ATTEMPTS} attempts did not end; the last ones may have ended this program")
            return True
        try:
            self._predict(name)
        except NoSpaceError:
            self._wait(name, "the disk is full")
        except Exception as error:  # of a runtime or a library, whose texts may have values of headers
            self._failed(name, type(error).__name__)
        return True

    def _due(self) -> str | None:
        with self._lock:
            arrivals = dict(self._arrivals)
        now = self._clock()
        quiet = [
            name for name in self._spool.names("received")
            if now - arrivals.get(name, 0.0) >= self._quiet_s and self._retry.due(name)
        ]  # fmt: skip
        return min(quiet, key=lambda name: arrivals.get(name, 0.0), default=None)

    def _model_is_whole(self) -> bool:
        fault = self._model.watcher.check() or ""
        if fault and fault != self._fault:
            self._reports.line(f"warning: {fault}; nothing is predicted until it is as it was")
            self._reports.event("model-changed", reason=fault)
        self._fault = fault
        return not fault

    def _predict(self, name: str) -> None:
        began = time.monotonic()
        images = self._spool.images(name)
        before = self._spool.update(name, lambda state: replace(state, attempts=state.attempts + 1))
        failures, watch = Failures(total=1), InputDriftMonitor(self._statistics, what="image")
        drift: list[str] = []

        def predict(frames: np.ndarray) -> np.ndarray:
            self._beat()
            if (warning := watch.update(frames[0])) is not None:
                drift.append(warning)
            try:
                return self._model.runner(frames)
            except ValueError as error:  # out of memory: not a fault of the image, which would be left out
                raise PredictionError(type(error).__name__) from error

        done, segs, generation = {seg.images: seg for seg in before.segs}, list[SegFile](), before.generation + 1
        for number, series in enumerate(series_of(images, depth=self._depth, failures=failures)):
            of = tuple(sorted(file.path.name for file in series.files))
            seg = done.get(of) or self._segment(name, series, of, predict, failures, (generation, number))
            segs += [seg] if seg is not None else []
        covered, left_out = tuple(path.name for path in images), len(failures)
        if not segs:
            return self._give_up(name, _NONE_READ, covered=covered)
        self._spool.update(
            name,
            lambda state: replace(
                state, covered=covered, segs=tuple(_with_sent(segs, state.segs)), destinations=self._destinations,
                generation=generation, attempts=0, unreadable=left_out,
            ),
        )  # fmt: skip
        self._retry.succeeded(name)
        fresh = [seg for seg in segs if seg.images not in done]
        self._report(name, images, fresh, grown=generation > 1, left_out=left_out, drift=drift, began=began)

    def _segment(
        self, name: str, series: Series, of: tuple[str, ...], predict: Callable[[np.ndarray], np.ndarray],
        failures: Failures, number: tuple[int, int],
    ) -> SegFile | None:  # fmt: skip
        generation, position = number
        made = segment_series(
            self._model.package.card, predict, series, failures, kind=self._kind, number=generation + position
        )
        for file in series.files:
            file.close()
        if made is None:
            return None
        seg = SegFile(f"{generation}-{position + 1}.dcm", of)
        self._spool.put_seg(name, seg.file, made[1])
        return seg

    def _report(
        self, name: str, images: list[Path], segs: list[SegFile], *, grown: bool, left_out: int, drift: list[str],
        began: float,
    ) -> None:  # fmt: skip
        seconds = time.monotonic() - began
        again = ", again as more came" if grown else ""
        missing = f", {left_out} images could not be decoded and are left out" if left_out else ""
        count = f"{len(images)} images, {len(segs)} segmentation{'s' if len(segs) != 1 else ''}"
        self._reports.line(f"series {name}: {count} in {seconds:.1f} s{again}{missing}")
        self._reports.event(
            "predicted", series=name, images=len(images), segmentations=len(segs), unreadable=left_out,
            seconds=round(seconds, 2),
        )  # fmt: skip
        for warning in drift:
            self._reports.line(f"warning: series {name}: {warning}")
            self._reports.event("unlike-training", series=name)

    def _failed(self, name: str, why: str) -> None:
        if self._spool.state(name).attempts >= MAX_ATTEMPTS:
            self._give_up(name, f"{MAX_ATTEMPTS} attempts failed ({why})")
        else:
            self._wait(name, why)

    def _wait(self, name: str, why: str) -> None:
        wait_s = self._retry.failed(name)
        self._reports.line(f"warning: series {name}: not predicted ({why}); next attempt in {wait_s:.0f} s")

    def _give_up(self, name: str, why: str, *, covered: tuple[str, ...] = ()) -> None:
        """The images stay in the spool; another image of the series, or --retry, begins anew."""
        self._spool.update(name, lambda state: replace(state, failed=why, covered=covered or state.covered))
        self._reports.line(f"warning: series {name}: has no segmentation: {why}")
        self._reports.event("failed", series=name, reason=why)


def _with_sent(segs: list[SegFile], now: tuple[SegFile, ...]) -> list[SegFile]:
    """The segmentations with what was sent of them while others were predicted."""
    sent = {seg.file: seg.sent for seg in now}
    return [replace(seg, sent=sent.get(seg.file, seg.sent)) for seg in segs]
