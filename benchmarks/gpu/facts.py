"""What the device is: driver, clocks, power and temperature at rest and under load, arithmetic and copy rates.

Rates are those of torch: a product of two square bf16 matrices, and a copy from device memory to device memory (bytes
read and written). They tell whether the device does what its kind does, before any other figure of it is believed.
"""  # words: ok

from __future__ import annotations

import shutil
import subprocess
import time
from typing import Any

from gpu import record

QUERY = (
    "name,driver_version,vbios_version,pstate,persistence_mode,compute_mode,mig.mode.current,ecc.mode.current,"
    "memory.total,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,clocks.applications.graphics,temperature.gpu,"
    "power.draw,power.limit,clocks_event_reasons.active"
)
SIDE, SECONDS = 8192, 3.0
DRY_SIDE, DRY_SECONDS = 128, 0.05


def main() -> None:
    given = record.options(__doc__).parse_args()
    side, seconds = (DRY_SIDE, DRY_SECONDS) if given.dry else (SIDE, SECONDS)
    with record.recorded(given) as (found, _):
        from deploy.hardware.machine import describe

        found.facts = {"machine": describe(record.VERSIONS), "at_rest": nvidia_smi(), **rates(side, seconds)}
        fill(found)


def fill(found: record.Record) -> None:
    """The rows of the table, from the facts."""
    machine, rest, load = (found.facts[name] for name in ("machine", "at_rest", "under_load"))
    gib = f"{machine['memory_bytes'] / 2**30:.0f} GiB" if machine["memory_bytes"] else "unknown"
    found.row("processor", f"{machine['cpu']}, {machine['cores_allowed']} cores, {gib}")
    for name, value in rest.items():
        found.row(f"{name} at rest", value)
    for name in ("pstate", "clocks.sm", "clocks.mem", "temperature.gpu", "power.draw", "clocks_event_reasons.active"):
        if name in load:
            found.row(f"{name} under load", load[name])
    dtype, side = found.facts["dtype"], found.facts["side"]
    found.row("matrix product", found.facts["tflops"], "TFLOP/s", f"{side} x {side}, {dtype}, median")
    found.row("copy in device memory", found.facts["gb_per_s"], "GB/s", "bytes read and written, median")


def nvidia_smi() -> dict[str, str]:
    """The fields of QUERY as nvidia-smi prints them, with units; empty without nvidia-smi."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return {}
    found = {}
    for name in QUERY.split(","):  # one by one: a driver that lacks one field refuses the whole list
        command = [program, f"--query-gpu={name}", "--format=csv,noheader", "--id=0"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode == 0 and done.stdout.strip():
            found[name] = done.stdout.strip().splitlines()[0]
    return found


def rates(side: int, seconds: float) -> dict[str, Any]:
    """TFLOP/s of a matrix product and GB/s of a copy, and what nvidia-smi prints right after the products."""
    import torch

    cuda = torch.cuda.is_available()
    device, dtype = torch.device("cuda" if cuda else "cpu"), torch.bfloat16 if cuda else torch.float32
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    source = torch.empty(side * side * 16, device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    took = timed(lambda: torch.matmul(a, b), seconds)
    load = nvidia_smi()
    copy = timed(lambda: target.copy_(source), seconds / 3)
    return {
        "side": side,
        "dtype": str(dtype).removeprefix("torch."),
        "tflops": 2 * side**3 / took / 1e12,
        "gb_per_s": 2 * source.nbytes / copy / 1e9,
        "under_load": load,
    }


def timed(work: Any, seconds: float) -> float:
    """Median seconds of a call, over blocks of ten calls with an empty queue before and after."""
    import statistics

    import torch

    def settle() -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    work()
    settle()
    end, times = time.perf_counter() + seconds, []
    while not times or time.perf_counter() < end:
        began = time.perf_counter()
        for _ in range(10):
            work()
        settle()
        times.append((time.perf_counter() - began) / 10)
    return statistics.median(times)


if __name__ == "__main__":
    main()
