"""Facts about this machine for the record of a measurement: CPU, memory, clocks, versions. Read only."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from deploy.hardware.nvml import Gpu

# instruction sets that determine the speed of bf16 and INT8
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
_CPU = "/sys/devices/system/cpu"


def describe(distributions: Iterable[str] = ()) -> dict[str, Any]:
    """Model, cores, clocks, governor, temperature, versions, as JSON values; None where unknown.

    Versions are those of NumPy, Pillow and the named distributions.
    """
    info = _cpuinfo()
    flags = set(info.get("flags", info.get("features", "")).split())
    board = read_text("/proc/device-tree/model")
    gpu, _ = Gpu.detect()
    return {
        "cpu": info.get("model name") or board or platform.processor() or platform.machine(),
        "board": board,
        "cores_allowed": len(allowed_cpus()),
        "cpu_quota": cpu_quota(),
        "affinity": _ranges(sorted(allowed_cpus())),
        "niceness": os.nice(0) if hasattr(os, "nice") else None,
        "flags": [name for name in _FLAGS if name in flags],
        "governor": read_text(f"{_CPU}/cpu0/cpufreq/scaling_governor"),
        "boost": _boost(),
        "clock_khz": read_text(f"{_CPU}/cpu0/cpufreq/scaling_cur_freq"),
        "top_clock_khz": read_text(f"{_CPU}/cpu0/cpufreq/cpuinfo_max_freq"),
        "power_mode": read_text("/var/lib/nvpmodel/status"),
        "jetpack": (read_text("/etc/nv_tegra_release") or "").split("\n")[0] or None,
        "gpu": gpu.describe() if gpu else None,
        "virtual": "hypervisor" in flags,
        "temperature_c": temperature(),
        "memory_bytes": _total_memory(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("numpy", "pillow", *distributions)},
    }


def version(package: str) -> str | None:
    """Version of an installed distribution; None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def temperature() -> float | None:
    """Temperature of the hottest zone in degrees Celsius; None where unknown."""
    return max(zones().values(), default=None)


def zones(root: Path = Path("/")) -> dict[str, float]:
    """Thermal zone -> degrees Celsius. Impossible values, of zones that are switched off, are omitted."""
    found = {}
    for folder in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        raw = read_text(folder / "temp")
        if raw and raw.lstrip("-").isdigit() and -40 < int(raw) / 1000 < 150:
            found[f"{folder.name} {read_text(folder / 'type') or ''}".strip()] = int(raw) / 1000
    return found


def physical_cores() -> int:
    """Physical cores that this process may use: hardware threads of one core count once, limited by the CPU quota.

    More threads than the quota of a container would all be stopped until its next period.
    """
    threads = f"{_CPU}/cpu{{}}/topology/thread_siblings_list"
    cores = len({read_text(threads.format(cpu)) or str(cpu) for cpu in allowed_cpus()})
    quota = cpu_quota()
    return max(cores if quota is None else min(cores, int(quota)), 1)


def cpu_quota(root: Path = Path("/")) -> float | None:
    """CPUs that this process may use on average: the lowest limit of its control groups; None without a limit.

    `cpu.max` of version 2, `cpu.cfs_quota_us` of version 1, of the process's own group and those above it.
    Source: https://docs.kernel.org/admin-guide/cgroup-v2.html#cpu-interface-files
    """
    limits = []
    for line in (read_text(root / "proc/self/cgroup") or "").splitlines():
        number, kinds, own = (line.split(":", 2) + ["", ""])[:3]
        if number == "0":
            base, limit = root / "sys/fs/cgroup", lambda group: (read_text(group / "cpu.max") or "").split()
        elif "cpu" in kinds.split(","):
            base = root / "sys/fs/cgroup" / "cpu"
            limit = lambda group: [  # noqa: E731
                read_text(group / f"cpu.cfs_{name}_us") or "" for name in ("quota", "period")
            ]
        else:
            continue
        parts = [part for part in own.split("/") if part not in ("", "..")]
        for depth in range(len(parts) + 1):
            fields = limit(base.joinpath(*parts[:depth]))
            if len(fields) == 2 and all(field.isdigit() and int(field) > 0 for field in fields):
                limits.append(int(fields[0]) / int(fields[1]))
    return min(limits, default=None)


def memory() -> dict[str, int | None]:
    """Resident memory of this process now and at its peak, in bytes. The peak is since the start of the program."""
    lines = (read_text("/proc/self/status") or "").splitlines()
    sizes = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith(("VmRSS", "VmHWM"))}
    return {
        "resident_bytes": int(sizes["VmRSS"]) * 1024 if "VmRSS" in sizes else None,
        "peak_bytes": int(sizes["VmHWM"]) * 1024 if "VmHWM" in sizes else None,
    }


@dataclass(frozen=True)
class CpuLoad:
    """A reading of the CPU counters, to be compared with a later one."""

    wall_s: float
    own_s: float
    busy_s: float | None

    @classmethod
    def now(cls) -> CpuLoad:
        """Read the counters."""
        fields = (read_text("/proc/stat") or "").split("\n")[0].split()[1:9]
        busy = None
        if len(fields) == 8:  # user nice system idle iowait irq softirq steal
            ticks = [int(v) for v in fields]
            busy = (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")
        return cls(time.monotonic(), time.process_time(), busy)

    def other_processes(self, later: CpuLoad) -> float | None:
        """Mean number of cores that other processes and the host used between the two readings; None where unknown."""
        if self.busy_s is None or later.busy_s is None or later.wall_s <= self.wall_s:
            return None
        others = (later.busy_s - self.busy_s) - (later.own_s - self.own_s)
        return round(max(others, 0.0) / (later.wall_s - self.wall_s), 3)


class SpeedReference:
    """A fixed computation on one thread, timed repeatedly: variation of its time shows variation of the machine."""

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


def allowed_cpus() -> set[int]:
    """Numbers of the processors on which this process may run."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def _ranges(numbers: list[int]) -> str:
    """[0, 1, 2, 5] -> "0-2,5", as taskset writes it."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _boost() -> bool | None:
    """True where clocks may exceed the nominal one; None where unknown."""
    off, on = read_text(f"{_CPU}/intel_pstate/no_turbo"), read_text(f"{_CPU}/cpufreq/boost")
    return off == "0" if off is not None else on == "1" if on is not None else None


def _cpuinfo() -> dict[str, str]:
    found: dict[str, str] = {}
    for line in (read_text("/proc/cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        found.setdefault(key.strip().lower(), value.strip())
    return found


def _total_memory() -> int | None:
    if sys.platform == "win32" or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def read_text(path: str | Path) -> str | None:
    """Content of a small system file; None where it is missing, unreadable or empty."""
    try:
        return Path(path).read_text(errors="replace").strip("\0\n ") or None
    except OSError:
        return None
