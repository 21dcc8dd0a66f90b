"""Every student and five heavy baselines on every runtime, at several sizes: what each costs, who lies on the front.

    python benchmarks/every_student.py --frames kvasir-seg/val/images --runs runs/polyps --out runs/every-student

Nothing is trained. A network of a finished run (--runs) has its weights and its Dice; any other has random weights and
batch-norm statistics of the frames, which changes no time, and the Dice that every_student_dice.py measured (--dice). A
row is one network at one size. Its calls take turns with two that every row has: the INT8 file of the first network,
which ratios are to, and a pile of dense INT8 convolutions, whose operations a second are the machine's measured peak. A
row is written when it is done and graphs are kept, so the same command goes on where it was cut; --prepare makes and
compiles graphs alone. Students are named as in `edgemt list students`, or NAME/DECODER.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from every_student_networks import BASELINES, PEAK_SIZE, Entrant, Peak, baselines, named, real_frames, settled, trained
from every_student_table import report
from torch import nn

import students
from deploy.benchmark.bench import BenchOptions, bench, without_raw
from deploy.export import DeployableModel, export_onnx
from deploy.hardware.machine import physical_cores
from deploy.measurement.timing import Call
from deploy.pruning.cost import count
from deploy.quantization.int8 import quantize
from deploy.runtimes.load import runner
from deploy.runtimes.runner import TorchRunner, first_line
from edgemt.io.atomic import write_text

FLOAT, SMALL = "model.onnx", "model.int8.onnx"
ON_RUNTIMES: dict[str, tuple[str, dict[str, Any]]] = {
    "ONNX Runtime fp32": (FLOAT, {"runtime": "onnxruntime"}),
    "ONNX Runtime INT8": (SMALL, {"runtime": "onnxruntime"}),
    "OpenVINO fp32": (FLOAT, {"runtime": "openvino", "precision": "f32"}),
    "OpenVINO bf16": (FLOAT, {"runtime": "openvino", "precision": "bf16"}),
    "OpenVINO INT8": (SMALL, {"runtime": "openvino"}),
}
COLUMNS = ("torch eager", "torch.compile", *ON_RUNTIMES)
CALIBRATION, TIMED = 8, 8  # frames


@dataclass(frozen=True)
class Sitting:
    """What all rows share."""

    out: Path
    frames: Path | None
    columns: tuple[str, ...]
    threads: int
    calls: int
    seconds: float

    @property
    def options(self) -> BenchOptions:
        return BenchOptions(
            warmup=20,
            warmup_seconds=0.3,
            iterations=self.calls,
            seconds=self.seconds,
            block_ms=50,
            paced_seconds=0,
            stage_calls=100,
            streams=(),
            streams_seconds=0,
            energy_seconds=0,
            cold=False,
        )


def graphs(entrant: Entrant, size: int, at: Sitting) -> tuple[Path, nn.Module, dict[str, str]]:
    """The folder with the float and the INT8 file, the network, and why a file is not there."""
    folder = at.out / "graphs" / f"{entrant.slug}-{size}"
    frames = real_frames(at.frames, size=size, channels=entrant.channels, count=CALIBRATION)
    network = settled(entrant, frames)
    failed: dict[str, str] = {}
    face = {"size": (size, size), "channels": entrant.channels, "normalise": entrant.normalise}
    for file, make in (
        (FLOAT, lambda: export_onnx(network, folder / FLOAT, **face)),
        (SMALL, lambda: quantize(folder / FLOAT, folder / SMALL, calibration=[f[None] for f in frames])),
    ):
        if (folder / file).exists():
            continue
        try:
            make()
        except ValueError as error:
            failed[file] = first_line(error)
    return folder, network, failed


def calls_of(
    entrant: Entrant, size: int, folder: Path, network: nn.Module, failed: Mapping[str, str], at: Sitting
) -> tuple[dict[str, Call], dict[str, str]]:
    """column -> call, and column -> why there is none."""
    calls: dict[str, Call] = {}
    missing: dict[str, str] = {}
    face = {"size": (size, size), "channels": entrant.channels, "threads": at.threads}
    module = DeployableModel(network, normalise=entrant.normalise, channels=entrant.channels).eval()
    torch.compiler.reset()  # eight graphs of one function, and it would go on in eager without a word in the table
    for column in at.columns:
        try:
            if column in ON_RUNTIMES:
                file, options = ON_RUNTIMES[column]
                if file in failed:
                    raise ValueError(failed[file])
                calls[column] = runner(folder / file, threads=at.threads, **options)
            else:
                made = module if column == "torch eager" else torch.compile(module)
                calls[column] = TorchRunner(made, name=column, **face)
            calls[column](np.zeros((size, size, entrant.channels), np.uint8)[None])  # compiles, where it does
        except Exception as error:  # of whatever compiler or runtime
            calls.pop(column, None)
            missing[column] = first_line(error)
    return calls, missing


def yardsticks(first: Entrant, size: int, at: Sitting) -> tuple[dict[str, Call], int]:
    """The two calls of every row, and the multiply-accumulates of the second."""
    folder = graphs(first, size, at)[0]
    quick = runner(folder / SMALL, runtime="openvino", threads=at.threads)
    pile = Entrant("peak", Peak)
    made, network, _ = graphs(pile, PEAK_SIZE, at)
    dense = runner(made / SMALL, runtime="openvino", threads=at.threads)
    fixed = real_frames(at.frames, size=PEAK_SIZE, channels=3, count=1)
    return {"first": quick, "peak": lambda _: dense(fixed)}, count(network, _image(3, PEAK_SIZE))[1]


def row(entrant: Entrant, size: int, fixed: tuple[dict[str, Call], int], at: Sitting) -> dict[str, Any]:
    folder, network, failed = graphs(entrant, size, at)
    calls, missing = calls_of(entrant, size, folder, network, failed, at)
    params, macs = count(network, _image(entrant.channels, size))
    frames = real_frames(at.frames, size=size, channels=entrant.channels, count=CALIBRATION + TIMED)[CALIBRATION:]
    record = without_raw(bench({**fixed[0], **calls}, frames, at.options))
    return {
        "network": entrant.name,
        "size": size,
        "params": params,
        "macs": macs,
        "peak_macs": fixed[1],
        "bytes": {file: (folder / file).stat().st_size for file in (FLOAT, SMALL) if (folder / file).exists()},
        "agreement": _agreement(calls, frames),
        "dice": entrant.dice,
        "baseline": entrant.baseline,
        "missing": missing,
        **{key: record[key] for key in ("created", "machine", "foreign_cores", "calibrator", "calls", "notes")},
    }


def _agreement(calls: Mapping[str, Call], frames: np.ndarray) -> float | None:
    """Share of pixels that INT8 and float name alike; with random weights it ranks how networks bear INT8."""
    if not {"OpenVINO fp32", "OpenVINO INT8"} <= set(calls):
        return None
    same = [np.mean(calls["OpenVINO fp32"](f[None]) == calls["OpenVINO INT8"](f[None])) for f in frames]
    return float(np.mean(same))


def _image(channels: int, size: int) -> torch.Tensor:
    return torch.zeros(1, channels, size, size)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--students", nargs="+", default=list(students.names()))
    parser.add_argument("--baselines", nargs="*", default=list(BASELINES), choices=list(BASELINES))
    parser.add_argument("--runs", nargs="*", type=Path, default=[], help="folders of finished runs: weights and Dice")
    parser.add_argument("--dice", type=Path, help="folder that every_student_dice.py wrote")
    parser.add_argument("--sizes", nargs="+", type=int, default=[256, 512])
    parser.add_argument("--channels", type=int, choices=(1, 3), default=3, help="of a frame")
    parser.add_argument("--frames", type=Path, help="folder of images; noise of several scales if not given")
    parser.add_argument("--columns", nargs="+", default=list(COLUMNS), choices=COLUMNS)
    parser.add_argument("--threads", type=int, default=physical_cores())
    parser.add_argument("--calls", type=int, default=1000, help="to keep of each, at most")
    parser.add_argument("--seconds", type=float, default=1.5, help="timed, of each call of a row, at most")
    parser.add_argument("--prepare", action="store_true", help="make and compile the graphs and stop")
    parser.add_argument("--out", type=Path, default=Path("runs/every-student"))
    given = parser.parse_args()
    at = Sitting(given.out, given.frames, tuple(given.columns), given.threads, given.calls, given.seconds)
    torch.set_num_threads(given.threads)
    try:
        options = {"channels": given.channels}
        entrants = [*named(given.students, **options), *baselines(given.baselines, **options)]
        entrants += [entrant for folder in given.runs for entrant in trained(folder, **options)]
        run(entrants, given.sizes, at, prepare=given.prepare, dice=given.dice)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None


def same_as_before(at: Sitting) -> None:
    """Rows of one folder are of one sitting: ValueError where it was begun with other frames, columns or times."""
    options, file = json.dumps(asdict(at), default=str, indent=1), at.out / "asked.json"
    if file.exists() and file.read_text() != options:
        raise ValueError(f"{at.out}: was begun with other flags ({file.name} has them); give another --out")
    write_text(file, options)


def run(entrants: list[Entrant], sizes: list[int], at: Sitting, *, prepare: bool, dice: Path | None = None) -> None:
    rows = []
    same_as_before(at)
    for size in sizes:
        fixed: tuple[dict[str, Call], int] | None = None
        for entrant in entrants:
            start, file = time.perf_counter(), at.out / "rows" / f"{entrant.slug}-{size}.json"
            if prepare:
                _, missing = calls_of(entrant, size, *graphs(entrant, size, at), at)
                _say(entrant, size, "; ".join(f"no {k}: {why}" for k, why in missing.items()) or "ready", start)
                continue
            if not file.exists():
                fixed = fixed or yardsticks(entrants[0], size, at)
                write_text(file, json.dumps(row(entrant, size, fixed, at), indent=1))
                _say(entrant, size, "timed", start)
            learnt = {"dice": _learnt(entrant, dice)} if dice and not entrant.dice else {}
            rows.append(json.loads(file.read_text()) | learnt)
    if rows:
        text = report(rows, columns=at.columns)
        write_text(at.out / "table.md", text)
        print(text)


def _learnt(entrant: Entrant, dice: Path) -> dict[str, Any]:
    """What every_student_dice.py measured of this network, or nothing."""
    file = dice / f"{entrant.slug}.json"
    return json.loads(file.read_text()) if file.exists() else {}


def _say(entrant: Entrant, size: int, what: str, start: float) -> None:
    print(f"{entrant.name} at {size}: {what} ({time.perf_counter() - start:.0f} s)", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
