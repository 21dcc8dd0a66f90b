"""What the outer and inner line of a live mask cost, beside the mask and its own outline, in one run.

    python benchmarks/contour_cost.py SHIP FOLDER_OF_IMAGES --file int8 --threads 2

The parts take turns on the same frames, so that the ratios hold on a busy machine too. Lines are drawn at the size of
the mask. Prints medians in ms.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from tyro.conf import Positional

from deploy.package.package import open_package
from deploy.runtimes.load import runner
from deploy.stream.inference.contours import stream_contours
from deploy.stream.state.band_lines import with_band_lines
from deploy.stream.state.overlay import outline
from edgemt.io.contours import class_colours
from edgemt.io.images import fit_frame, read_image


@dataclass(frozen=True)
class Options:
    """What is timed."""

    ship: Positional[Path]
    images: Positional[Path]
    file: str = "int8"
    threads: int = 2
    rounds: int = 20


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
    bands = [contours.of(mask, None)[0] for mask in masks]
    drawn = [outline(mask, size=card.size, colours=colours) for mask in masks]
    parts: dict[str, Callable[[int], object]] = {
        "mask": lambda i: made(frames[i]),
        "outline": lambda i: outline(masks[i], size=card.size, colours=colours),
        "regions": lambda i: contours.of(masks[i], None),
        "lines": lambda i: with_band_lines(drawn[i], bands[i], colours=colours),
    }
    times: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(options.rounds):
        for i in range(len(frames)):
            for name, call in parts.items():
                start = time.perf_counter()
                call(i)
                times[name].append(1e3 * (time.perf_counter() - start))
    for name, values in times.items():
        low, middle = np.quantile(values, (0.05, 0.5))
        print(f"{name:8} p50 {middle:.3f} ms, p5 {low:.3f} ms, {middle / np.median(times['mask']):.2f} of a mask")


if __name__ == "__main__":
    main(tyro.cli(Options))
