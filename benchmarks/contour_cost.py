"""What the outer and inner line of a live mask cost, beside the mask and its own outline, in one run.

    python benchmarks/contour_cost.py SHIP FOLDER_OF_IMAGES --file int8 --threads 2

The parts take turns on the same frames, so that the ratios hold on a busy machine too. Lines are drawn at the size of
the mask. Then whole masks, in turns: alone; with regions and lines computed before the mask is published; and as a
stream does it, where a second thread computes them for the newest mask while inference goes on. Prints ms.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from tyro.conf import Positional

from deploy.package.package import open_package
from deploy.runtimes.load import runner
from deploy.stream.inference.contours import StreamContours, stream_contours
from deploy.stream.state.band_lines import DeferredMarks, with_band_lines
from deploy.stream.state.latest_queue import LatestQueue
from deploy.stream.state.overlay import Colour, Overlay, outline
from edgemt.io import contour_bands
from edgemt.io.contours import class_colours
from edgemt.io.images import fit_frame, read_image

_SWITCH_INTERVAL_S = 0.0005  # of Python's threads, as `edgemt stream` sets it


@dataclass(frozen=True)
class Options:
    """What is timed."""

    ship: Positional[Path]
    images: Positional[Path]
    file: str = "int8"
    threads: int = 2
    rounds: int = 20
    hz: float = 30.0
    """Frames a second of the whole masks; 0: one after the other."""


@dataclass
class Painter:
    """A thread that computes the lines of the newest mask, as the display of a stream does."""

    contours: StreamContours
    colours: tuple[Colour, ...]
    drawn: int = 0

    def __post_init__(self) -> None:
        self._newest: LatestQueue[tuple[np.ndarray, Overlay]] = LatestQueue()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def put(self, mask: np.ndarray, overlay: Overlay) -> None:
        self._newest.put((mask, overlay))

    def close(self) -> None:
        self._stop.set()
        self._newest.close()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            item = self._newest.take(0.5)
            if item is not None:
                mask, overlay = item
                bands = DeferredMarks(bands=lambda mask=mask: self.contours.of(mask), colours=self.colours)  # type: ignore[misc]
                bands.on(overlay)
                self.drawn += 1


@contextmanager
def by_distances() -> Iterator[None]:
    """Regions from the exact distance transform."""
    limit, contour_bands._MAX_DISC = contour_bands._MAX_DISC, -1.0
    try:
        yield
    finally:
        contour_bands._MAX_DISC = limit


def main(options: Options) -> None:
    ship = open_package(options.ship)
    card, colours = ship.card, class_colours(len(ship.card.classes))
    made = runner(ship, file=options.file, threads=options.threads)
    contours = stream_contours(card, file=made.file)
    if contours.margins is None:
        raise SystemExit(contours.reason)
    frames = [
        fit_frame(read_image(path), size=card.size, channels=card.channels)[None]
        for path in sorted(options.images.iterdir())[:24]
    ]
    masks = [made(frame)[0].copy() for frame in frames]
    bands = [contours.of(mask) for mask in masks]
    drawn = [outline(mask, size=card.size, colours=colours) for mask in masks]

    def distances(i: int) -> None:
        with by_distances():
            contours.of(masks[i])

    times = _in_turns(
        {
            "mask": lambda i: made(frames[i]),
            "outline": lambda i: outline(masks[i], size=card.size, colours=colours),
            "regions by distances": distances,
            "regions": lambda i: contours.of(masks[i]),
            "lines": lambda i: with_band_lines(drawn[i], bands[i], colours=colours),
        },
        len(frames),
        options,
    )
    _print(times, of="mask")

    painter = Painter(contours, colours)
    sys.setswitchinterval(_SWITCH_INTERVAL_S)

    def before(i: int) -> None:
        mask = made(frames[i])[0]
        with_band_lines(drawn[i], contours.of(mask), colours=colours)

    def built(i: int) -> None:
        painter.put(made(frames[i])[0], drawn[i])

    whole = {"alone": lambda i: made(frames[i]), "lines in its path": before, "lines in another thread": built}
    _print(_in_blocks(whole, len(frames), options), of="alone")
    painter.close()
    print(f"{painter.drawn} masks were drawn of {options.rounds * len(frames)}")


def _in_turns(parts: dict[str, Callable[[int], object]], count: int, options: Options) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(options.rounds):
        for i in range(count):
            for name, call in parts.items():
                times[name].append(_ms(call, i))
    return times


def _in_blocks(parts: dict[str, Callable[[int], object]], count: int, options: Options) -> dict[str, list[float]]:
    """As `_in_turns`, but a part runs over all frames before the next one begins: another thread may still draw."""
    times: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(options.rounds):
        for name, call in parts.items():
            start = time.perf_counter()
            for i in range(count):
                if options.hz:
                    time.sleep(max(0.0, start + i / options.hz - time.perf_counter()))
                times[name].append(_ms(call, i))
    return times


def _ms(call: Callable[[int], object], i: int) -> float:
    start = time.perf_counter()
    call(i)
    return 1e3 * (time.perf_counter() - start)


def _print(times: dict[str, list[float]], *, of: str) -> None:
    for name, values in times.items():
        low, middle, high = np.quantile(values, (0.05, 0.5, 0.9))
        ratio = middle / np.median(times[of])
        print(f"{name:24} p50 {middle:.3f}, p5 {low:.3f}, p90 {high:.3f} ms, {ratio:.3f} of {of}")


if __name__ == "__main__":
    main(tyro.cli(Options))
