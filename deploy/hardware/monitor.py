"""State of the machine during a measurement: clocks, temperature, throttling, CPU quota of a container, GPU.

Read between blocks and never during a call, so that it does not affect the times. Read only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from deploy.hardware.machine import memory, read_text, zones
from deploy.hardware.nvml import Gpu

_EVERY_S = 0.5


class HardwareMonitor:
    """Call it between blocks, and `summary()` at the end. `root` is the file system to read, which tests replace."""

    def __init__(self, *, root: Path = Path("/"), gpu: Gpu | None = None, every_s: float = _EVERY_S) -> None:
        self._root, self._gpu, self._every = root, gpu, every_s
        self._begun = time.monotonic()
        self._due = 0.0
        self.points: list[dict[str, float | None]] = []
        self._first = self._counters()

    def __call__(self) -> None:
        now = time.monotonic()
        if now >= self._due:
            self._due = now + self._every
            self.points.append(self.read())

    def read(self) -> dict[str, float | None]:
        """One reading now: seconds since the start, MHz, degrees Celsius, bytes."""
        clocks = cpu_clocks_mhz(self._root)
        gpu = self._gpu.read() if self._gpu else {}
        return {
            "at_s": round(time.monotonic() - self._begun, 2),
            "cpu_mhz": round(sum(clocks) / len(clocks), 1) if clocks else None,
            "cpu_lowest_mhz": min(clocks, default=None),
            "temperature_c": max(zones(self._root).values(), default=None),
            "resident_bytes": memory()["resident_bytes"],
            "gpu_mhz": gpu.get("clock_mhz"),
            "gpu_temperature_c": gpu.get("temperature_c"),
            "gpu_bytes": gpu.get("used_bytes"),
            "gpu_throttle": gpu.get("throttle"),
        }

    def summary(self) -> dict[str, Any]:
        """Range of every quantity, throttling, and all readings; None where the machine does not report a quantity."""
        self.points.append(self.read())
        later = self._counters()
        ranges = {name: _range([point[name] for point in self.points]) for name in self.points[0] if name != "at_s"}
        bits = {int(point["gpu_throttle"] or 0) for point in self.points}
        ranges.pop("gpu_throttle")
        return {
            "samples": len(self.points),
            **ranges,
            "throttled": {name: _since(self._first.get(name), later.get(name)) for name in _THROTTLES},
            "gpu_throttled": sorted({reason for b in bits for reason in Gpu.reasons(b)}) if self._gpu else None,
            "timeline": self.points,
        }

    def throttled(self) -> dict[str, float | None]:
        """Throttling events since the start, by kind; None where unknown."""
        later = self._counters()
        return {name: _since(self._first.get(name), later.get(name)) for name in _THROTTLES}

    def _counters(self) -> dict[str, float | None]:
        return {name: read(self._root) for name, read in _THROTTLES.items()}


def cpu_clocks_mhz(root: Path = Path("/")) -> list[float]:
    """Clocks of the processors in MHz; from /proc/cpuinfo where cpufreq is hidden, as in a virtual machine."""
    files = sorted(root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq"))
    read = [read_text(file) for file in files]
    clocks = [int(value) / 1000 for value in read if value and value.isdigit()]
    if clocks:
        return clocks
    lines = (read_text(root / "proc/cpuinfo") or "").splitlines()
    values = [line.partition(":")[2].strip() for line in lines if line.lower().startswith("cpu mhz")]
    return [float(value) for value in values if value.replace(".", "", 1).isdigit()]


def _heat_events(root: Path) -> float | None:
    """Number of thermal throttling events since boot, over all cores and packages."""
    files = root.glob("sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/*_throttle_count")
    counts = [int(value) for file in files if (value := read_text(file)) and value.isdigit()]
    return float(sum(counts)) if counts else None


def _quota_ms(root: Path) -> float | None:
    """Milliseconds for which the CPU quota of the container stopped this group of processes."""
    for file in (root / "sys/fs/cgroup/cpu.stat", root / "sys/fs/cgroup/cpu/cpu.stat"):
        for line in (read_text(file) or "").splitlines():
            name, _, value = line.partition(" ")
            if name in ("throttled_usec", "throttled_time") and value.isdigit():
                return int(value) / (1e3 if name == "throttled_usec" else 1e6)
    return None


def _stolen_s(root: Path) -> float | None:
    """Steal time in seconds, over all processors: time that the hypervisor gave to other machines."""
    fields = (read_text(root / "proc/stat") or "").split("\n")[0].split()[1:]
    return int(fields[7]) / 100 if len(fields) > 7 else None


_THROTTLES: Mapping[str, Callable[[Path], float | None]] = {
    "heat_events": _heat_events,
    "quota_ms": _quota_ms,
    "stolen_s": _stolen_s,
}


def _range(values: list[float | None]) -> dict[str, float] | None:
    present = sorted(value for value in values if value is not None)
    if not present:
        return None
    return {"min": present[0], "median": present[len(present) // 2], "max": present[-1]}


def _since(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else round(after - before, 3)
