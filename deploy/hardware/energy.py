"""Energy per call, where the machine has a meter: RAPL counters, NVML, INA3221 sensors of a Jetson. Read only.

A counter includes everything on its rail, also other programs, so the idle power is measured just before, and the
result has both: millijoules per mask, and millijoules per mask above idle.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from deploy.hardware.machine import read_text
from deploy.hardware.nvml import Gpu

_PERIOD_S = 0.05  # sampling period of power sensors without a counter: 20 readings per second


class Meter(Protocol):
    """A meter of energy: joules since an arbitrary moment, per rail. Only differences are meaningful."""

    @property
    def name(self) -> str: ...

    def read(self) -> dict[str, float]: ...


class Rapl:
    """Package counters of Intel and AMD, in microjoules; they wrap at `max_energy_range_uj`."""

    name = "rapl"

    def __init__(self, rails: Mapping[str, tuple[Path, int]]) -> None:
        self._rails = rails
        self._last: dict[str, tuple[int, int]] = {}  # rail -> (last raw value, microjoules of earlier wraps)

    @classmethod
    def detect(cls, root: Path) -> tuple[Rapl | None, str]:
        zones = sorted((root / "sys/class/powercap").glob("*rapl*:*"))
        if not zones:
            return None, "no RAPL zone under /sys/class/powercap (a virtual machine, or not x86)"
        rails, hidden = {}, 0
        for zone in zones:
            if zone.name.count(":") != 1 or zone.name.startswith("intel-rapl-mmio"):
                continue  # cores and memory are part of the package; mmio is the same package again
            if read_text(zone / "energy_uj") is None:
                hidden += 1
                continue
            span = int(read_text(zone / "max_energy_range_uj") or 1 << 32)
            rails[read_text(zone / "name") or zone.name] = (zone / "energy_uj", span)
        if not rails:
            return None, f"{hidden} RAPL zones, readable by root only (chmod a+r energy_uj)"
        return cls(rails), ""

    def read(self) -> dict[str, float]:
        joules = {}
        for name, (file, span) in self._rails.items():
            raw = int(read_text(file) or 0)
            last, before = self._last.get(name, (raw, 0))
            before += span if raw < last else 0
            self._last[name] = (raw, before)
            joules[name] = (raw + before) / 1e6
        return joules


@dataclass(frozen=True)
class Nvml:
    """Energy counter of the GPU, since the driver was loaded."""

    gpu: Gpu
    name: str = "nvml"

    @classmethod
    def detect(cls) -> tuple[Nvml | None, str]:
        gpu, why = Gpu.detect()
        if gpu is None:
            return None, why
        return (None, "the GPU counts no energy") if gpu.joules() is None else (cls(gpu), "")

    def read(self) -> dict[str, float]:
        joules = self.gpu.joules()
        return {} if joules is None else {"gpu": joules}


class JetsonIna3221:
    """INA3221 power monitors of a Jetson: voltage times current, sampled by a thread and integrated over time."""

    name = "ina"

    def __init__(self, rails: Mapping[str, tuple[Path, Path]], *, period_s: float = _PERIOD_S) -> None:
        self._rails, self._period = rails, period_s
        self._joules = dict.fromkeys(rails, 0.0)
        self._last: dict[str, tuple[float, float]] = {}  # rail -> (seconds, watts)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @classmethod
    def detect(cls, root: Path) -> tuple[JetsonIna3221 | None, str]:
        rails = {}
        for monitor in sorted((root / "sys/bus/i2c/drivers/ina3221").glob("*/hwmon/hwmon*")):
            for file in sorted(monitor.glob("in*_label")):
                number, label = file.name[2 : -len("_label")], read_text(file)
                volts, amperes = monitor / f"in{number}_input", monitor / f"curr{number}_input"
                if label and volts.exists() and amperes.exists():
                    rails[label] = (volts, amperes)
        return (cls(rails), "") if rails else (None, "no INA3221 power monitor (not a Jetson)")

    def read(self) -> dict[str, float]:
        if self._thread is None:
            self._thread = threading.Thread(target=self._sample, daemon=True)
            self._thread.start()
        self.take(time.monotonic())
        with self._lock:
            return dict(self._joules)

    def close(self) -> None:
        self._stop.set()

    def take(self, now: float) -> None:
        """Take one sample of every rail at `now` seconds, and add the energy since the last one (trapezoidal rule)."""
        with self._lock:
            for name, (volts, amperes) in self._rails.items():
                watts = int(read_text(volts) or 0) * int(read_text(amperes) or 0) / 1e6  # mV times mA
                before, power = self._last.get(name, (now, watts))
                self._joules[name] += (now - before) * (watts + power) / 2
                self._last[name] = (now, watts)

    def _sample(self) -> None:
        while not self._stop.wait(self._period):
            self.take(time.monotonic())


def meters(root: Path = Path("/")) -> tuple[list[Meter], dict[str, str]]:
    """(meters of this machine, kind of meter -> "ok" or the reason why it is missing)."""
    available: list[Meter] = []
    status = {}
    for name, (meter, why) in (
        ("rapl", Rapl.detect(root)),
        ("nvml", Nvml.detect()),
        ("ina", JetsonIna3221.detect(root)),
    ):
        status[name] = "ok" if meter is not None else why
        if meter is not None:
            available.append(meter)
    return available, status


def energy(
    call: Callable[[np.ndarray], Any], frames: Sequence[np.ndarray], *, using: Sequence[Meter], seconds: float
) -> dict[str, Any] | None:
    """Millijoules per mask by every meter: {meter: {rail: {joules, mj_per_mask, idle_w, above_idle_mj}}}.

    Idles for a quarter of `seconds`, then calls without a pause for `seconds`. None without a meter.
    """
    if not using or seconds <= 0:
        return None
    idle = _over(using, lambda: time.sleep(seconds / 4))
    done = 0

    def work() -> None:
        nonlocal done
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or not done:
            call(frames[done % len(frames)])
            done += 1

    busy = _over(using, work)
    result: dict[str, Any] = {"masks": done, "seconds": round(busy[0], 3)}
    for meter in using:
        result[meter.name] = {}
        for rail, joules in busy[1][meter.name].items():
            idle_w = idle[1][meter.name].get(rail, 0.0) / idle[0]
            result[meter.name][rail] = {
                "joules": round(joules, 4),
                "mj_per_mask": round(1e3 * joules / done, 4),
                "idle_w": round(idle_w, 3),
                "above_idle_mj": round(1e3 * (joules - idle_w * busy[0]) / done, 4),
            }
    return result


def _over(using: Sequence[Meter], work: Callable[[], None]) -> tuple[float, dict[str, dict[str, float]]]:
    """(seconds that the work took, joules used in that time by meter and rail)."""
    start = time.perf_counter()
    before = {meter.name: meter.read() for meter in using}
    work()
    after = {meter.name: meter.read() for meter in using}
    took = time.perf_counter() - start
    return took, {m: {rail: j - before[m].get(rail, j) for rail, j in rails.items()} for m, rails in after.items()}
