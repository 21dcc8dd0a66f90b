"""What the second output of a graph costs, with reading it: the same student with and without it, in one run.

    python benchmarks/uncertainty_cost.py WITH WITHOUT FOLDER_OF_IMAGES --size 256 256

WITH and WITHOUT are two .onnx or .xml files of one student. Calls take turns on the same frames in random order, so
that differences hold on a busy machine too; WITHOUT is loaded twice, as a control. Prints ms.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from tyro.conf import Positional

from deploy.runtimes.load import runner
from edgemt.io.images import fit_frame, read_image


@dataclass(frozen=True)
class Options:
    """What is timed."""

    with_output: Positional[Path]
    without: Positional[Path]
    images: Positional[Path]
    size: tuple[int, int] = (256, 256)
    channels: int = 3
    runtime: str = "openvino"
    threads: int = 1
    rounds: int = 20


def main(options: Options) -> None:
    both, plain, control = (
        runner(path, runtime=options.runtime, threads=options.threads)
        for path in (options.with_output, options.without, options.without)
    )
    calls = {"mask alone": plain, "mask alone, again": control, "both outputs": both.with_uncertainty}
    frames = [
        fit_frame(read_image(path), size=options.size, channels=options.channels)[None]
        for path in sorted(options.images.iterdir())[:24]
    ]
    times: dict[str, list[float]] = {name: [] for name in calls}
    order, draw = list(calls), random.Random(0)
    for turn in range(options.rounds * len(frames)):
        draw.shuffle(order)
        for name in order:
            start = time.perf_counter()
            calls[name](frames[turn % len(frames)])  # type: ignore[operator]
            times[name].append(1e3 * (time.perf_counter() - start))
    for name, values in times.items():
        low, middle = np.quantile(values, (0.05, 0.5))
        added = middle - np.median(times["mask alone"])
        print(f"{name:24} p50 {middle:.3f}, p5 {low:.3f} ms, {added:+.3f} ms, {options.runtime}")


if __name__ == "__main__":
    main(tyro.cli(Options))
