"""Energy of a call, where the machine tells: RAPL counters, NVML, a Jetson's INA sensors. Read only.

A counter holds everything on its rail, other programs too, so the idle power of the same machine is measured just
before and given beside the total: millijoules a mask, of which so much above idle.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from deploy.hardware.machine import text_of
from deploy.hardware.nvml import Gpu

_PERIOD_S = 0.05  # of power sensors, which have no counter: 20 readings a second


class Meter(Protocol):
    """Joules since some moment, per rail; only differences mean something."""

    @property
    def name(self) -> str: ...

    def read(self) -> dict[str, float]: ...


class Rapl:
    """Intel's and AMD's package counters: microjoules that start anew at `max_energy_range_uj`."""

    name = "rapl"

    def __init__(self, rails: Mapping[str, tuple[Path, int]]) -> None:
        self._rails = rails
        self._seen: dict[str, tuple[int, int]] = {}  # rail -> (last raw value, microjoules of the rounds before)

    @classmethod
    def find(cls, root: Path) -> tuple[Rapl | None, str]:
        zones = sorted((root / "sys/class/powercap").glob("*rapl*:*"))
        if not zones:
            return None, "no RAPL zone under /sys/class/powercap (a virtual machine, or not x86)"
        rails, hidden = {}, 0
        for zone in zones:
            if zone.name.count(":") != 1 or zone.name.startswith("intel-rapl-mmio"):
                continue  # a package counts its cores and memory controller; mmio is the same package again
            if text_of(zone / "energy_uj") is None:
                hidden += 1
                continue
            span = int(text_of(zone / "max_energy_range_uj") or 1 << 32)
            rails[text_of(zone / "name") or zone.name] = (zone / "energy_uj", span)
        if not rails:
            return None, f"{hidden} RAPL zones, readable by root only (chmod a+r energy_uj)"
        return cls(rails), ""

    def read(self) -> dict[str, float]:
        said = {}
        for name, (file, span) in self._rails.items():
            raw = int(text_of(file) or 0)
            last, before = self._seen.get(name, (raw, 0))
            before += span if raw < last else 0
            self._seen[name] = (raw, before)
            said[name] = (raw + before) / 1e6
        return said


@dataclass(frozen=True)
class Nvml:
    """The GPU's own counter, millijoules since the driver was loaded."""

    gpu: Gpu
    name: str = "nvml"

    @classmethod
    def find(cls) -> tuple[Nvml | None, str]:
        gpu, why = Gpu.find()
        if gpu is None:
            return None, why
        return (None, "the GPU counts no energy") if gpu.joules() is None else (cls(gpu), "")

    def read(self) -> dict[str, float]:
        joules = self.gpu.joules()
        return {} if joules is None else {"gpu": joules}


class Ina:
    """A Jetson's INA3221 rails: volts and amperes, sampled by a thread and summed up over time."""

    name = "ina"

    def __init__(self, rails: Mapping[str, tuple[Path, Path]], *, period_s: float = _PERIOD_S) -> None:
        self._rails, self._period = rails, period_s
        self._joules = dict.fromkeys(rails, 0.0)
        self._last: dict[str, tuple[float, float]] = {}  # rail -> (seconds, watts)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @classmethod
    def find(cls, root: Path) -> tuple[Ina | None, str]:
        rails = {}
        for monitor in sorted((root / "sys/bus/i2c/drivers/ina3221").glob("*/hwmon/hwmon*")):
            for file in sorted(monitor.glob("in*_label")):
                number, label = file.name[2 : -len("_label")], text_of(file)
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
        """One sample of every rail at `now` seconds; the trapezoid since the one before is added."""
        with self._lock:
            for name, (volts, amperes) in self._rails.items():
                watts = int(text_of(volts) or 0) * int(text_of(amperes) or 0) / 1e6  # mV times mA
                before, power = self._last.get(name, (now, watts))
                self._joules[name] += (now - before) * (watts + power) / 2
                self._last[name] = (now, watts)

    def _sample(self) -> None:
        while not self._stop.wait(self._period):
            self.take(time.monotonic())


def meters(root: Path = Path("/")) -> tuple[list[Meter], dict[str, str]]:
    """Every meter of this machine, and for each kind "ok" or why it is not there."""
    found: list[Meter] = []
    said = {}
    for name, (meter, why) in (("rapl", Rapl.find(root)), ("nvml", Nvml.find()), ("ina", Ina.find(root))):
        said[name] = "ok" if meter is not None else why
        if meter is not None:
            found.append(meter)
    return found, said


def energy(
    call: Callable[[np.ndarray], Any], frames: Sequence[np.ndarray], *, using: Sequence[Meter], seconds: float
) -> dict[str, Any] | None:
    """Millijoules a mask by every meter: {meter: {rail: {joules, mj_per_mask, idle_w, above_idle_mj}}}.

    Idles for a quarter of `seconds`, then calls back to back for `seconds`. None without a meter.
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
    said: dict[str, Any] = {"masks": done, "seconds": round(busy[0], 3)}
    for meter in using:
        said[meter.name] = {}
        for rail, joules in busy[1][meter.name].items():
            idle_w = idle[1][meter.name].get(rail, 0.0) / idle[0]
            said[meter.name][rail] = {
                "joules": round(joules, 4),
                "mj_per_mask": round(1e3 * joules / done, 4),
                "idle_w": round(idle_w, 3),
                "above_idle_mj": round(1e3 * (joules - idle_w * busy[0]) / done, 4),
            }
    return said


def _over(using: Sequence[Meter], work: Callable[[], None]) -> tuple[float, dict[str, dict[str, float]]]:
    """Seconds that the work took, and joules by meter and rail meanwhile."""
    start = time.perf_counter()
    before = {meter.name: meter.read() for meter in using}
    work()
    after = {meter.name: meter.read() for meter in using}
    took = time.perf_counter() - start
    return took, {m: {rail: j - before[m].get(rail, j) for rail, j in rails.items()} for m, rails in after.items()}
