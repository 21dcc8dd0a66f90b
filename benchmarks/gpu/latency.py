"""Latency of a ship's INT8, half and float files on a GPU runtime, beside NVIDIA's own tool on the same engine.

--runtime cuda is ONNX Runtime's CUDA provider; tensorrt and tensorrt_rtx build an engine of each file first (stored in
WORK/cache, so that a part that was cut builds none twice) and try it on the golden frames. The ship is made from the
zoo, with a float16 file added; its golden masks are compared on every runtime before anything is timed.

In a dry run ONNX Runtime on the processor stands in for the engine and its build.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import against_vendor_tools

from gpu import record

RUNTIMES = {"cuda": "onnxruntime:CUDA", "tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt_rtx"}
TOOLS = {"tensorrt": "trtexec", "tensorrt_rtx": "tensorrt_rtx"}
SHIP, DRY_SHIP = "zoo/polyp", "zoo/polyp_quick"
ROUNDS, SECONDS = 5, 3.0  # of the comparison with the vendor's tool
BENCH = {"iterations": 3000, "seconds": 8.0, "rounds": 10}
DRY_BENCH = {"iterations": 3, "seconds": 0.01, "rounds": 1, "warmup": 1, "paced_seconds": 0.05, "stage_calls": 3}
DRY_BENCH |= {"streams_seconds": 0.05, "energy_seconds": 0.0, "cold": False}


def main() -> None:
    parser = record.options(__doc__)
    parser.add_argument("--runtime", choices=tuple(RUNTIMES), required=True)
    parser.add_argument("--ship", default="", help=f"a ship folder or zoo/NAME; {SHIP} if not given")
    parser.add_argument("--tool", default="", help="trtexec, or the tensorrt_rtx program; without it no comparison")
    given = parser.parse_args()
    with record.recorded(given) as (found, work):
        os.environ["EDGEMT_CACHE"] = str(work / "cache")
        measure(found, work, given)


def measure(found: record.Record, work: Path, given: argparse.Namespace) -> None:
    """Time every file that is not in the record yet. Raises ValueError where no file runs."""
    from deploy.package.files import ONNX
    from deploy.package.package import open_package

    ship = open_package(prepared_ship(given.ship or (DRY_SHIP if given.dry else SHIP), work))
    files = found.facts.setdefault("files", {})
    for kind in [kind for kind, file in ONNX.items() if file in ship.card.files]:
        if "refused" in files.get(kind, {"refused": "not tried yet"}):
            try:
                files[kind] = time_file(ship, kind, work / "timings" / f"{given.part}.{kind}.json", given)
            except ValueError as error:
                files[kind] = {"refused": record.first_line(error)}
        fill(found, kind, files[kind], ship.card.size)
        record.write(work, found)
    if not files:
        raise ValueError(f"{ship.folder}: no ONNX file that the runtime could take")
    if all("refused" in result for result in files.values()):
        raise ValueError(f"no file runs: {next(iter(files.values()))['refused']}")


def prepared_ship(source: str, work: Path) -> Path:
    """A ship folder as it is; of zoo/NAME a folder in WORK with float and float16 graphs, made once."""
    if not source.startswith("zoo/"):
        return Path(source)
    from deploy.package.files import ONNX_FP16, ONNX_FP32
    from deploy.package.package import finalize, open_package
    from deploy.quantization.float16 import to_float16
    from edgemt.pipeline.export_student import export

    folder = work / "ships" / source.removeprefix("zoo/")
    if folder.exists():
        return folder
    exported = export(source, out=folder.with_name(f"{folder.name}.exported"), say=partial(print, flush=True))
    draft = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(draft, ignore_errors=True)
    shutil.copytree(exported, draft)
    to_float16(draft / ONNX_FP32, draft / ONNX_FP16)
    finalize(draft, replace(open_package(exported).card, files={}))
    draft.rename(folder)
    return folder


def time_file(ship: Any, kind: str, raw: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Build, time, and compare one file; every single time goes to `raw`. Raises ValueError where it does not run."""
    from deploy.benchmark.bench import BenchOptions
    from deploy.benchmark.package_bench import bench_package
    from deploy.runtimes.load import runner

    runtime = "onnxruntime" if given.dry else RUNTIMES[given.runtime]
    engine = None if given.dry or given.runtime == "cuda" else build_engine(ship, runtime, kind)
    options = BenchOptions(**(DRY_BENCH if given.dry else BENCH))  # type: ignore[arg-type]
    bench = bench_package(ship, runtimes=(runtime,), file=kind, options=options)
    raw.parent.mkdir(parents=True, exist_ok=True)
    raw.write_text(json.dumps(bench) + "\n", encoding="utf-8")
    entry = bench["calls"][0]
    keys = ("precision", "device", "version", "n", "p50_ms", "p90_ms", "p99_ms", "throughput_hz", "details")
    result = {name: entry[name] for name in keys} | {"engine": engine, "notes": bench["notes"]}
    result["infer_ms"] = entry["stages"]["infer"]["p50_ms"] if entry["stages"] else None
    result["cold_ms"] = entry["cold"]["process_ms"] if entry["cold"] else None
    if given.tool and given.runtime in TOOLS:
        run = runner(ship, runtime=runtime, file=kind)
        result["tool"] = beside_tool(ship, run, TOOLS[given.runtime], given)
    return result


def build_engine(ship: Any, runtime: str, kind: str) -> dict[str, Any]:
    """The record of the engine of a file, built unless the cache has it, and tried on the golden frames."""
    from deploy.runtimes.load import runner
    from deploy.runtimes.tensorrt_build import build_package
    from deploy.runtimes.tensorrt_engine_cache import EngineNotBuiltError

    try:
        made = runner(ship, runtime=runtime, file=kind)
        return {"stored": True, "mib": made.details["engine_bytes"] / 2**20, "built_s": None}
    except EngineNotBuiltError:
        ((engine, line),) = build_package(ship, runtime=runtime, file=kind, self_test=runner)
    print(line, flush=True)
    return {"stored": False, "mib": engine.record["bytes"] / 2**20, "built_s": engine.record["built_s"]}


def beside_tool(ship: Any, run: Any, tool: str, given: argparse.Namespace) -> dict[str, Any]:
    """Medians of each round, ours and the tool's in turns; or why the tool did not run."""
    source = against_vendor_tools.vendor_source(run)
    rounds, seconds = (1, 0.02) if given.dry else (ROUNDS, SECONDS)

    def theirs() -> float:
        return against_vendor_tools.vendor(tool, source, program=given.tool, threads=1, seconds=seconds)

    try:
        frames = against_vendor_tools.frames_of(ship, run)
        return {"tool": tool, "ms": against_vendor_tools.alternate(run, frames, theirs, rounds=rounds, seconds=seconds)}
    except (ValueError, OSError) as error:
        return {"tool": tool, "failed": record.first_line(error)}


def fill(found: record.Record, kind: str, result: dict[str, Any], size: tuple[int, int]) -> None:
    """The rows of one file, in place of those that it had."""
    import statistics

    found.rows = [row for row in found.rows if row["what"].split(",")[0] != kind]
    if "refused" in result:
        return found.row(kind, "refused", note=result["refused"])
    where = f"{size[0]} x {size[1]}, in {result['precision']} on {result['device']}"
    tail = f"p90 {result['p90_ms']:.3f}, p99 {result['p99_ms']:.3f}, n {result['n']}; {result['throughput_hz']:.0f} Hz"
    found.row(f"{kind}, frame in, mask out, p50", result["p50_ms"], "ms", f"{where}; {tail}")
    if result["infer_ms"] is not None:
        found.row(f"{kind}, inference alone, p50", result["infer_ms"], "ms", "without the copies")
    if result["cold_ms"] is not None:
        found.row(f"{kind}, new process to first mask", result["cold_ms"], "ms")
    engine = result["engine"]
    if engine is not None:
        built = f"built in {engine['built_s']:.0f} s" if engine["built_s"] is not None else "built in an earlier call"
        found.row(f"{kind}, engine", engine["mib"], "MiB", f"{built}; gives the golden masks")
    tool = result.get("tool")
    if tool is None:
        return None
    if "failed" in tool:
        return found.row(f"{kind}, {tool['tool']}", "not compared", note=tool["failed"])
    found.row(f"{kind}, {tool['tool']}, median", statistics.median(tool["ms"]["theirs"]), "ms", "the same file")
    for name, what in (("whole", "ours"), ("alone", "our inference alone")):
        ratios = against_vendor_tools.ratio_of(tool["ms"], name)
        note = f"median of {len(ratios)} rounds in turns"
        found.row(f"{kind}, {what} / {tool['tool']}", statistics.median(ratios), "times", note)


if __name__ == "__main__":
    main()
