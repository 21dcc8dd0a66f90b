"""Readings of an NVIDIA GPU from NVML, the library of the driver, by ctypes. Read only.

NVML of Tegra boards reports no clocks or power; their sensors are read by `energy.py`.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

_LIBRARY = "libnvidia-ml.so.1"
_CLOCK_SM, _CLOCK_MEMORY = 1, 2
# nvml.h: nvmlClocksEventReason*; the rest (idle, application clocks, display) does not slow down work
_REASONS = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "heat (software)",
    0x40: "heat (hardware)",
    0x80: "power brake",
}


class _Memory(ctypes.Structure):
    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


class _Process(ctypes.Structure):
    """nvmlProcessInfo_t of the _v3 calls."""

    _fields_ = [
        ("pid", ctypes.c_uint),
        ("used", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    ]


class Gpu:
    """The first GPU that this process may use. Every reading is None where the driver does not report it."""

    def __init__(self, library: Any, *, index: int = 0) -> None:
        """`library`: the loaded libnvidia-ml, or a fake with its interface. Raises OSError where it has no such GPU."""
        self._lib, self._device = library, ctypes.c_void_p()
        if library.nvmlInit_v2() != 0:
            raise OSError("NVML does not start: no NVIDIA driver is loaded")
        if library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(self._device)) != 0:
            raise OSError(f"NVML has no GPU {index}")

    @classmethod
    def detect(cls) -> tuple[Gpu | None, str]:
        """(GPU, "") or (None, why there is none)."""
        try:
            return cls(ctypes.CDLL(_LIBRARY)), ""
        except (OSError, AttributeError) as error:
            return None, str(error) or "no NVML"

    def describe(self) -> dict[str, Any]:
        """Name, driver, memory and limits, for the record of a measurement."""
        return {
            "name": self._string("nvmlDeviceGetName"),
            "driver": self._driver(),
            "capability": self._capability(),
            "memory_bytes": self._memory("total"),
            "power_limit_w": _scaled(self._number("nvmlDeviceGetEnforcedPowerLimit"), 1000),
            "max_clock_mhz": self._number("nvmlDeviceGetMaxClockInfo", _CLOCK_SM),
        }

    def read(self) -> dict[str, float | None]:
        """Current clocks, temperature, memory of this process, and throttle bits."""
        return {
            "clock_mhz": self._number("nvmlDeviceGetClockInfo", _CLOCK_SM),
            "memory_clock_mhz": self._number("nvmlDeviceGetClockInfo", _CLOCK_MEMORY),
            "temperature_c": self._number("nvmlDeviceGetTemperature", 0),
            "used_bytes": self.used_bytes(),
            "throttle": self._number("nvmlDeviceGetCurrentClocksThrottleReasons", wide=True),
        }

    def joules(self) -> float | None:
        """Energy since the driver was loaded; Volta and later."""
        return _scaled(self._number("nvmlDeviceGetTotalEnergyConsumption", wide=True), 1000)

    def watts(self) -> float | None:
        """Current power."""
        return _scaled(self._number("nvmlDeviceGetPowerUsage"), 1000)

    def used_bytes(self) -> float | None:
        """Device memory of this process; of all processes on the GPU where a container hides the pid."""
        count, infos = ctypes.c_uint(64), (_Process * 64)()
        if self._ok("nvmlDeviceGetComputeRunningProcesses_v3", ctypes.byref(count), infos):
            own = [infos[i].used for i in range(count.value) if infos[i].pid == os.getpid()]
            if own and own[0] < 1 << 60:  # all ones: not available
                return float(own[0])
        return self._memory("used")

    @staticmethod
    def reasons(bits: int) -> list[str]:
        """Names of the throttle reasons in `bits`."""
        return [name for bit, name in _REASONS.items() if bits & bit]

    def _ok(self, function: str, *arguments: Any) -> bool:
        call = getattr(self._lib, function, None)
        return call is not None and call(self._device, *arguments) == 0

    def _number(self, function: str, *arguments: int, wide: bool = False) -> float | None:
        value = (ctypes.c_ulonglong if wide else ctypes.c_uint)()
        c_arguments = [ctypes.c_uint(argument) for argument in arguments]
        return float(value.value) if self._ok(function, *c_arguments, ctypes.byref(value)) else None

    def _memory(self, field: str) -> float | None:
        memory = _Memory()
        return float(getattr(memory, field)) if self._ok("nvmlDeviceGetMemoryInfo", ctypes.byref(memory)) else None

    def _string(self, function: str) -> str | None:
        buffer = ctypes.create_string_buffer(96)
        return buffer.value.decode(errors="replace") if self._ok(function, buffer, ctypes.c_uint(96)) else None

    def _capability(self) -> str | None:
        major, minor = ctypes.c_int(), ctypes.c_int()
        succeeded = self._ok("nvmlDeviceGetCudaComputeCapability", ctypes.byref(major), ctypes.byref(minor))
        return f"{major.value}.{minor.value}" if succeeded else None

    def _driver(self) -> str | None:
        buffer, call = ctypes.create_string_buffer(96), getattr(self._lib, "nvmlSystemGetDriverVersion", None)
        return buffer.value.decode() if call is not None and call(buffer, ctypes.c_uint(96)) == 0 else None


def _scaled(value: float | None, by: float) -> float | None:
    return None if value is None else value / by
