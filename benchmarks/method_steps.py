"""What a step of every method costs, a supervised step at the same labelled rows being 1.

    python benchmarks/method_steps.py --threads 1

Steps go through the engine as in a run, with its own choice of precision and midway in the run, so that ramps are up
and first stages are over. Method and supervised control take turns, and the ratio is that of their medians: of
processor time on a CPU, which other work on the machine does not lengthen, and of wall-clock time on a GPU. The figures
go to `edgemt/methods/costs.json`, where `edgemt explain` and the table of docs/methods.md find them; with
`--methods` only theirs are renewed.

Shapes: N batch, L labelled, C classes, *space 2 or 3 axes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import nn

import teachers
from deploy.hardware.machine import describe
from edgemt.contract import Batch
from edgemt.methods import METHODS, Discriminator, Method
from edgemt.methods.catalogue import COSTS
from edgemt.training.device import resolve_precision
from edgemt.training.engine import Trainer
from edgemt.training.options import Schedule
from teachers.promptable import Promptable

CLASSES, STEPS = 3, 1000


@dataclass(frozen=True)
class World:
    """A network of the house and the batches it learns from."""

    network: str
    title: str  # how the table names it
    options: dict[str, Any]
    size: tuple[int, ...]
    labelled: int
    unlabelled: int

    def batch(self, device: torch.device) -> Batch:
        """Random rows with everything that some method asks for."""
        g, rows, dims = torch.Generator().manual_seed(0), self.labelled + self.unlabelled, len(self.size)
        image = torch.randn(rows, 1, *self.size, generator=g).to(device)
        label = torch.randint(0, CLASSES, (self.labelled, *self.size), generator=g).to(device)
        soft = torch.randn(rows, CLASSES, *self.size, generator=g).softmax(1).to(device)
        place = torch.eye(dims, dims + 1).repeat(rows, 1, 1).to(device)
        index = torch.arange(rows, device=device)
        return Batch(image, label, image[self.labelled :] * 1.1, soft, index, place)

    def run(self, method: Method) -> Trainer:
        """The engine midway in a run of that method."""

        def build(kind: str, init: int) -> nn.Module:
            torch.manual_seed(init)
            if kind == "discriminator":
                return Discriminator(channels=1, classes=CLASSES, dimensions=len(self.size))
            if kind == "promptable":
                return Promptable(channels=1)
            if kind not in ("student", "teacher"):
                raise ValueError(f"this benchmark has no network to play {kind!r}")
            heads = method.heads if kind == "student" else ()
            return teachers.build(self.network, channels=1, classes=CLASSES, heads=heads, **self.options)

        schedule = Schedule(steps=STEPS, labelled=self.labelled, unlabelled=self.unlabelled)
        run = Trainer(method, build=build, schedule=schedule, seed=0)
        run.index = STEPS // 2
        return run


WORLDS = {
    "2d": World("unet", "U-Net 16-256", {}, (64, 64), 4, 4),
    "3d": World("vnet", "V-Net of 8 filters", {"filters": 8}, (32, 32, 32), 2, 2),
}


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--methods", nargs="+", default=None, choices=METHODS, metavar="NAME", help="default: all")
    parser.add_argument("--worlds", nargs="+", default=list(WORLDS), choices=WORLDS)
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of each, after one that is not timed")
    parser.add_argument("--threads", type=int, default=0, help="of the CPU; 0: as torch chooses")
    parser.add_argument("--out", type=Path, default=COSTS)
    return parser.parse_args()


def main() -> None:
    given = options()
    if given.threads:
        torch.set_num_threads(given.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    record: dict[str, Any] = json.loads(given.out.read_text()) if given.methods and given.out.exists() else {}
    if not given.methods:
        record |= conditions(device, rounds=given.rounds)
    relative: dict[str, dict[str, float]] = record.setdefault("relative", {})
    for kind in given.worlds:
        controls = []
        for name in given.methods or METHODS:
            try:
                control, own = in_turns(METHODS[name], WORLDS[kind], device, rounds=given.rounds)
            except ValueError as error:
                print(f"{kind}  {name:<22}not measured: {error}", file=sys.stderr, flush=True)
                continue
            controls.append(control)
            relative.setdefault(name, {})[kind] = round(own / control, 2)
            print(f"{kind}  {name:<22}{own / control:6.2f}   ({own:.1f} ms)", flush=True)
        if not given.methods:
            record.setdefault("settings", {})[kind] = described(WORLDS[kind], device, statistics.median(controls))
        given.out.write_text(json.dumps(record, indent=1) + "\n")


def in_turns(method: Method, world: World, device: torch.device, *, rounds: int) -> tuple[float, float]:
    """Median milliseconds of a supervised step, and of one of the method. Raises ValueError for an unknown player."""
    batch = world.batch(device)
    runs = [world.run(each) for each in (METHODS["supervised"], method)]
    times: list[list[float]] = [[], []]
    for index in range(rounds + 1):
        for run, found in zip(runs, times, strict=True):
            took = timed(lambda run=run: run.step(lambda number, device: batch), device)
            if index:
                found.append(took)
    control, own = (statistics.median(found) for found in times)
    return control, own


def timed(step: Callable[[], object], device: torch.device) -> float:
    """Milliseconds of one call: of the processor, or with a GPU of the clock, its queue emptied before and after."""
    if device.type == "cpu":
        began = time.process_time()
        step()
        return (time.process_time() - began) * 1e3
    torch.cuda.synchronize()
    began = time.perf_counter()
    step()
    torch.cuda.synchronize()
    return (time.perf_counter() - began) * 1e3


def described(world: World, device: torch.device, control_ms: float) -> dict[str, Any]:
    """The network, the rows, the arithmetic, and what a supervised step takes."""
    learns = resolve_precision("auto", device, learns_volumes=len(world.size) == 3)
    for_averages = resolve_precision("auto", device)
    precision = learns if learns == for_averages else f"{learns} (averages {for_averages})"
    rows = {"labelled": world.labelled, "unlabelled": world.unlabelled}
    return {"network": world.title, "size": world.size, **rows, "precision": precision, "ms": round(control_ms, 1)}


def conditions(device: torch.device, *, rounds: int) -> dict[str, str]:
    """When, on what and how it was measured."""
    threads = torch.get_num_threads()
    machine = f"{describe()['cpu']}, {threads} thread{'s' if threads > 1 else ''}, processor time"
    return {
        "date": date.today().isoformat(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else machine,
        "torch": torch.__version__,
        "command": f"python benchmarks/method_steps.py --threads {threads} --rounds {rounds}",
    }


if __name__ == "__main__":
    main()
