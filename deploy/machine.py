"""What a measurement has to say about the machine it was made on. Reads; changes nothing."""

from __future__ import annotations

import os
import platform
import sys
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

# instructions that decide how quick bf16 and INT8 are
_FLAGS = (
    "avx2",
    "avx512f",
    "avx512_bf16",
    "amx_bf16",
    "amx_int8",
    "avx_vnni",
    "avx512_vnni",
    "asimddp",
    "i8mm",
    "bf16",
)
_PACKAGES = ("numpy", "pillow", "onnxruntime", "openvino", "torch")


def describe() -> dict[str, Any]:
    """Model, cores, clocks, governor, temperature, versions: JSON values, None where unknown."""
    info = _cpuinfo()
    flags = set(info.get("flags", info.get("features", "")).split())
    board = _text("/proc/device-tree/model")
    return {
        "cpu": info.get("model name") or board or platform.processor() or platform.machine(),
        "board": board,
        "cores_allowed": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "flags": [name for name in _FLAGS if name in flags],
        "governor": _text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "clock_khz": _text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq"),
        "virtual": "hypervisor" in flags,
        "temperature_c": temperature(),
        "memory_bytes": _total_memory(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in _PACKAGES},
    }


def version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def temperature() -> float | None:
    """The hottest zone, degrees Celsius."""
    zones = [_text(path) for path in Path("/sys/class/thermal").glob("thermal_zone*/temp")]
    degrees = [int(zone) / 1000 for zone in zones if zone and zone.lstrip("-").isdigit()]
    return max(degrees, default=None)


def physical_cores() -> int:
    """Cores this process may use, counting two hardware threads of one core once."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    threads = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    return max(len({_text(threads.format(cpu)) or str(cpu) for cpu in allowed}), 1)


def memory() -> dict[str, int | None]:
    """Resident memory of this process now and at its peak, bytes. The peak starts anew with every program."""
    lines = (_text("/proc/self/status") or "").splitlines()
    sizes = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith(("VmRSS", "VmHWM"))}
    return {
        "resident_bytes": int(sizes["VmRSS"]) * 1024 if "VmRSS" in sizes else None,
        "peak_bytes": int(sizes["VmHWM"]) * 1024 if "VmHWM" in sizes else None,
    }


@dataclass(frozen=True)
class Load:
    """A reading of the processors, to be compared with a later one."""

    wall_s: float
    own_s: float
    busy_s: float | None

    @classmethod
    def now(cls) -> Load:
        fields = (_text("/proc/stat") or "").split("\n")[0].split()[1:9]
        busy = None
        if len(fields) == 8:  # user nice system idle iowait irq softirq steal
            ticks = [int(v) for v in fields]
            busy = (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")
        return cls(time.monotonic(), time.process_time(), busy)

    def foreign(self, later: Load) -> float | None:
        """Cores that other processes and the host took meanwhile, on average; None where unknown."""
        if self.busy_s is None or later.busy_s is None or later.wall_s <= self.wall_s:
            return None
        others = (later.busy_s - self.busy_s) - (later.own_s - self.own_s)
        return round(max(others, 0.0) / (later.wall_s - self.wall_s), 3)


class Calibrator:
    """A fixed piece of arithmetic on one thread: where its time wanders, so do the other numbers."""

    def __init__(self) -> None:
        self._square = np.linspace(-1, 1, 1 << 18, dtype=np.float32)
        self.times_ns: list[int] = []

    def __call__(self) -> None:
        start = time.perf_counter_ns()
        x = self._square
        for _ in range(4):
            x = np.sqrt(x * x + 0.5)
        self.times_ns.append(time.perf_counter_ns() - start)

    def summary(self) -> dict[str, float | int]:
        times = np.array(self.times_ns or [0]) / 1e6
        low, mid, high = (round(float(v), 4) for v in np.percentile(times, (10, 50, 90)))
        return {"n": len(self.times_ns), "p10_ms": low, "p50_ms": mid, "p90_ms": high}


def _cpuinfo() -> dict[str, str]:
    found: dict[str, str] = {}
    for line in (_text("/proc/cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        found.setdefault(key.strip().lower(), value.strip())
    return found


def _total_memory() -> int | None:
    if sys.platform == "win32" or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _text(path: str | Path) -> str | None:
    try:
        return Path(path).read_text(errors="replace").strip("\0\n ") or None
    except OSError:
        return None
