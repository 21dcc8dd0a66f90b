"""Readings of an NVIDIA GPU by `nvidia-ml-py` (import name `pynvml`), NVIDIA's binding of the driver's NVML. Read only.

NVML of Tegra boards reports no clocks or power; their sensors are read by `energy.py`.
"""

from __future__ import annotations

import os
from typing import Any

# nvml.h: nvmlClocksEventReason*; the rest (idle, application clocks, display) does not slow down work
_REASONS = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "heat (software)",
    0x40: "heat (hardware)",
    0x80: "power brake",
}


class Gpu:
    """The first GPU that this process may use. Every reading is None where the driver does not report it."""

    def __init__(self, *, index: int = 0) -> None:
        """Raises OSError without `nvidia-ml-py`, without a driver, and where there is no GPU of this index."""
        try:
            import pynvml
        except ImportError:
            raise OSError("nvidia-ml-py is not installed: pip install nvidia-ml-py") from None
        self._nvml = pynvml
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            raise OSError(f"NVML does not start: no NVIDIA driver is loaded ({error})") from None
        try:
            self._device = pynvml.nvmlDeviceGetHandleByIndex(index)
        except pynvml.NVMLError:
            raise OSError(f"NVML has no GPU {index}") from None

    @classmethod
    def detect(cls) -> tuple[Gpu | None, str]:
        """(GPU, "") or (None, why there is none)."""
        try:
            return cls(), ""
        except OSError as error:
            return None, str(error)

    def describe(self) -> dict[str, Any]:
        """Name, driver, memory and limits, for the record of a measurement."""
        capability = self._read("nvmlDeviceGetCudaComputeCapability")
        return {
            "name": self._read("nvmlDeviceGetName"),
            "driver": self._driver(),
            "capability": capability and "{}.{}".format(*capability),
            "memory_bytes": self._memory("total"),
            "power_limit_w": self._number("nvmlDeviceGetEnforcedPowerLimit", unit=1e-3),
            "max_clock_mhz": self._number("nvmlDeviceGetMaxClockInfo", self._nvml.NVML_CLOCK_SM),
        }

    def read(self) -> dict[str, float | None]:
        """Current clocks, temperature, memory of this process, and throttle bits."""
        return {
            "clock_mhz": self._number("nvmlDeviceGetClockInfo", self._nvml.NVML_CLOCK_SM),
            "memory_clock_mhz": self._number("nvmlDeviceGetClockInfo", self._nvml.NVML_CLOCK_MEM),
            "temperature_c": self._number("nvmlDeviceGetTemperature", self._nvml.NVML_TEMPERATURE_GPU),
            "used_bytes": self.used_bytes(),
            "throttle": self._number("nvmlDeviceGetCurrentClocksThrottleReasons"),
        }

    def joules(self) -> float | None:
        """Energy since the driver was loaded; Volta and later."""
        return self._number("nvmlDeviceGetTotalEnergyConsumption", unit=1e-3)

    def watts(self) -> float | None:
        """Current power."""
        return self._number("nvmlDeviceGetPowerUsage", unit=1e-3)

    def used_bytes(self) -> float | None:
        """Device memory of this process; of all processes on the GPU where a container hides the pid."""
        for process in self._read("nvmlDeviceGetComputeRunningProcesses_v3") or ():
            if process.pid == os.getpid() and process.usedGpuMemory is not None:
                return float(process.usedGpuMemory)
        return self._memory("used")

    @staticmethod
    def reasons(bits: int) -> list[str]:
        """Names of the throttle reasons in `bits`."""
        return [name for bit, name in _REASONS.items() if bits & bit]

    def _read(self, function: str, *arguments: Any) -> Any:
        """What a function of NVML returns for this GPU; None where the driver cannot tell."""
        try:
            return getattr(self._nvml, function)(self._device, *arguments)
        except self._nvml.NVMLError:
            return None

    def _number(self, function: str, *arguments: int, unit: float = 1.0) -> float | None:
        value = self._read(function, *arguments)
        return None if value is None else value * unit

    def _memory(self, field: str) -> float | None:
        memory = self._read("nvmlDeviceGetMemoryInfo")
        return None if memory is None else float(getattr(memory, field))

    def _driver(self) -> str | None:
        try:
            return self._nvml.nvmlSystemGetDriverVersion()
        except self._nvml.NVMLError:
            return None
