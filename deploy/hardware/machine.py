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

from deploy.hardware.nvml import Gpu

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
_PACKAGES = (
    "numpy",
    "pillow",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "tensorrt-rtx-cu13-bindings",
    "torch",
)
_CPU = "/sys/devices/system/cpu"


def describe() -> dict[str, Any]:
    """Model, cores, clocks, governor, temperature, versions: JSON values, None where unknown."""
    info = _cpuinfo()
    flags = set(info.get("flags", info.get("features", "")).split())
    board = text_of("/proc/device-tree/model")
    gpu, _ = Gpu.find()
    return {
        "cpu": info.get("model name") or board or platform.processor() or platform.machine(),
        "board": board,
        "cores_allowed": len(_allowed()),
        "cpu_quota": cpu_quota(),
        "affinity": _ranges(sorted(_allowed())),
        "niceness": os.nice(0) if hasattr(os, "nice") else None,
        "flags": [name for name in _FLAGS if name in flags],
        "governor": text_of(f"{_CPU}/cpu0/cpufreq/scaling_governor"),
        "boost": _boost(),
        "clock_khz": text_of(f"{_CPU}/cpu0/cpufreq/scaling_cur_freq"),
        "top_clock_khz": text_of(f"{_CPU}/cpu0/cpufreq/cpuinfo_max_freq"),
        "power_mode": text_of("/var/lib/nvpmodel/status"),
        "jetpack": (text_of("/etc/nv_tegra_release") or "").split("\n")[0] or None,
        "gpu": gpu.describe() if gpu else None,
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
    return max(zones().values(), default=None)


def zones(root: Path = Path("/")) -> dict[str, float]:
    """Thermal zone -> degrees Celsius. A zone that is switched off says something impossible, and is left out."""
    found = {}
    for folder in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        raw = text_of(folder / "temp")
        if raw and raw.lstrip("-").isdigit() and -40 < int(raw) / 1000 < 150:
            found[f"{folder.name} {text_of(folder / 'type') or ''}".strip()] = int(raw) / 1000
    return found


def physical_cores() -> int:
    """Cores this process may use, counting two hardware threads of one core once, and no more than its CPU quota.

    More threads than the quota of a container would be halted together until its next period.
    """
    threads = f"{_CPU}/cpu{{}}/topology/thread_siblings_list"
    cores = len({text_of(threads.format(cpu)) or str(cpu) for cpu in _allowed()})
    quota = cpu_quota()
    return max(cores if quota is None else min(cores, int(quota)), 1)


def cpu_quota(root: Path = Path("/")) -> float | None:
    """CPUs that the control groups of this process may use on average, the least of them; None where there is no limit.

    `cpu.max` of version 2, `cpu.cfs_quota_us` of version 1, of the process's own group and those above it.
    Source: https://docs.kernel.org/admin-guide/cgroup-v2.html#cpu-interface-files
    """
    found = []
    for line in (text_of(root / "proc/self/cgroup") or "").splitlines():
        number, kinds, own = (line.split(":", 2) + ["", ""])[:3]
        if number == "0":
            base, limit = root / "sys/fs/cgroup", lambda group: (text_of(group / "cpu.max") or "").split()
        elif "cpu" in kinds.split(","):
            base = root / "sys/fs/cgroup" / "cpu"
            limit = lambda group: [  # noqa: E731
                text_of(group / f"cpu.cfs_{name}_us") or "" for name in ("quota", "period")
            ]
        else:
            continue
        parts = [part for part in own.split("/") if part not in ("", "..")]
        for depth in range(len(parts) + 1):
            words = limit(base.joinpath(*parts[:depth]))
            if len(words) == 2 and all(word.isdigit() and int(word) > 0 for word in words):
                found.append(int(words[0]) / int(words[1]))
    return min(found, default=None)


def memory() -> dict[str, int | None]:
    """Resident memory of this process now and at its peak, bytes. The peak starts anew with every program."""
    lines = (text_of("/proc/self/status") or "").splitlines()
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
        fields = (text_of("/proc/stat") or "").split("\n")[0].split()[1:9]
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


def _allowed() -> set[int]:
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
    """Whether clocks may go above the nominal one; None where unknown."""
    off, on = text_of(f"{_CPU}/intel_pstate/no_turbo"), text_of(f"{_CPU}/cpufreq/boost")
    return off == "0" if off is not None else on == "1" if on is not None else None


def _cpuinfo() -> dict[str, str]:
    found: dict[str, str] = {}
    for line in (text_of("/proc/cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        found.setdefault(key.strip().lower(), value.strip())
    return found


def _total_memory() -> int | None:
    if sys.platform == "win32" or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def text_of(path: str | Path) -> str | None:
    """What a small system file says; None where it is missing, hidden or empty."""
    try:
        return Path(path).read_text(errors="replace").strip("\0\n ") or None
    except OSError:
        return None
