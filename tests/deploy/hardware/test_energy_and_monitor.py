"""What the machine tells, read from a file system and a driver of the test's own: energy, clocks, throttling."""

from __future__ import annotations

import ctypes
import json
import os
from pathlib import Path

import numpy as np
import pynvml
import pytest
from hidden_packages import run_without

from deploy.hardware import energy as energy_module
from deploy.hardware.energy import JetsonIna3221, Nvml, Rapl, energy, meters
from deploy.hardware.machine import describe, zones
from deploy.hardware.monitor import HardwareMonitor, cpu_clocks_mhz
from deploy.hardware.nvml import Gpu

FRAMES = [np.zeros((1, 4, 4, 1), np.uint8)]


def put(root: Path, files: dict[str, object]) -> None:
    for name, value in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{value}\n")


def rapl(root: Path, joules: float, *, zone: str = "intel-rapl:0", name: str = "package-0") -> None:
    folder = f"sys/class/powercap/{zone}"
    span = {f"{folder}/max_energy_range_uj": 1_000_000_000}
    put(root, {f"{folder}/name": name, f"{folder}/energy_uj": round(joules * 1e6), **span})


def test_rapl_counts_packages_once_and_not_their_parts(tmp_path: Path) -> None:
    rapl(tmp_path, 10)
    rapl(tmp_path, 4, zone="intel-rapl:0:0", name="core")
    rapl(tmp_path, 10, zone="intel-rapl-mmio:0")
    meter, why = Rapl.detect(tmp_path)
    assert meter is not None and why == ""
    assert meter.read() == {"package-0": 10.0}


def test_a_rapl_counter_that_starts_anew_goes_on(tmp_path: Path) -> None:
    rapl(tmp_path, 990)
    meter, _ = Rapl.detect(tmp_path)
    assert meter is not None
    before = meter.read()["package-0"]
    rapl(tmp_path, 5)
    assert meter.read()["package-0"] - before == pytest.approx(15)


def test_a_rapl_counter_for_root_only_is_said(tmp_path: Path) -> None:
    put(tmp_path, {"sys/class/powercap/intel-rapl:0/name": "package-0"})
    meter, why = Rapl.detect(tmp_path)
    assert meter is None and "root only" in why


def jetson(root: Path) -> Path:
    monitor = root / "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3"
    rails = {"in1_label": "VDD_IN", "in1_input": 5000, "curr1_input": 2000}
    put(monitor, {**rails, "in2_label": "VDD_CPU_GPU_CV", "in2_input": 5000, "curr2_input": 400, "in7_label": "sum"})
    return monitor


def test_a_jetsons_rails_are_volts_times_amperes_over_time(tmp_path: Path) -> None:
    monitor = jetson(tmp_path)
    meter, _ = JetsonIna3221.detect(tmp_path)
    assert meter is not None
    meter.take(0.0)
    meter.take(2.0)  # 10 W and 2 W for two seconds
    put(monitor, {"curr1_input": 4000})
    meter.take(3.0)  # from 10 to 20 W within a second
    assert meter._joules["VDD_IN"] == pytest.approx(35)
    assert meter._joules["VDD_CPU_GPU_CV"] == pytest.approx(6)


def test_a_jetson_is_sampled_while_the_call_works(tmp_path: Path) -> None:
    jetson(tmp_path)
    meter, _ = JetsonIna3221.detect(tmp_path)
    assert meter is not None
    try:
        result = energy(lambda frame: None, FRAMES, using=[meter], seconds=0.1)
    finally:
        meter.close()
    assert result is not None
    assert result["ina"]["VDD_IN"]["joules"] == pytest.approx(10 * result["seconds"], rel=0.2)


def test_energy_of_a_mask_is_given_with_what_idling_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    class Steady:
        """5 W idle, 25 W at work."""

        name, joules = "steady", 0.0

        def read(self) -> dict[str, float]:
            return {"board": Steady.joules}

    def spend(seconds: float, watts: float) -> None:
        now[0] += seconds
        Steady.joules += seconds * watts

    class Clock:
        perf_counter = staticmethod(lambda: now[0])
        sleep = staticmethod(lambda seconds: spend(seconds, 5))

    monkeypatch.setattr(energy_module, "time", Clock)
    result = energy(lambda frame: spend(0.01, 25), FRAMES, using=[Steady()], seconds=2)
    assert result is not None
    assert result["masks"] == pytest.approx(200, abs=1)
    values = result["steady"]["board"]
    assert (values["mj_per_mask"], values["idle_w"]) == (pytest.approx(250), pytest.approx(5))
    assert values["above_idle_mj"] == pytest.approx(200)


def test_without_a_meter_there_is_no_energy_but_a_reason(tmp_path: Path) -> None:
    using, result = meters(tmp_path)
    assert set(result) == {"rapl", "nvml", "ina"}
    assert "RAPL" in result["rapl"] and "INA3221" in result["ina"]
    assert energy(lambda frame: None, FRAMES, using=[], seconds=1) is None
    assert all(meter.name == "nvml" for meter in using)  # the driver is the machine's own


class Driver:
    """What looks like libnvidia-ml to pynvml: writes through the pointers it is given. Other calls are missing."""

    def __init__(self, *, broken: bool = False) -> None:
        self.broken, self.millijoules, self.pid = broken, 5000, os.getpid()

    def nvmlInitWithFlags(self, flags: int) -> int:
        return pynvml.NVML_ERROR_DRIVER_NOT_LOADED if self.broken else 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: ctypes.c_uint, out: object) -> int:
        return 0 if index.value == 0 else pynvml.NVML_ERROR_INVALID_ARGUMENT

    def nvmlDeviceGetClockInfo(self, device: object, kind: ctypes.c_uint, out: object) -> int:
        out._obj.value = {1: 1200, 2: 2600}[kind.value]  # type: ignore[attr-defined]
        return 0

    def nvmlDeviceGetTotalEnergyConsumption(self, device: object, out: object) -> int:
        out._obj.value = self.millijoules  # type: ignore[attr-defined]
        return 0

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, device: object, out: object) -> int:
        out._obj.value = 0x1 | 0x4 | 0x40  # type: ignore[attr-defined]
        return 0

    def nvmlDeviceGetName(self, device: object, buffer: ctypes.Array, size: ctypes.c_uint) -> int:
        buffer.value = b"NVIDIA Test"
        return 0

    def nvmlDeviceGetCudaComputeCapability(self, device: object, major: object, minor: object) -> int:
        major._obj.value, minor._obj.value = 8, 7  # type: ignore[attr-defined]
        return 0

    def nvmlDeviceGetEnforcedPowerLimit(self, device: object, out: object) -> int:
        out._obj.value = 60_000  # type: ignore[attr-defined]
        return 0

    def nvmlDeviceGetMemoryInfo(self, device: object, out: object) -> int:
        out._obj.total, out._obj.used = 1 << 33, 1 << 20  # type: ignore[attr-defined]
        return 0

    def nvmlSystemGetDriverVersion(self, buffer: ctypes.Array, size: ctypes.c_uint) -> int:
        buffer.value = b"580.1"
        return 0

    def nvmlDeviceGetComputeRunningProcesses_v3(self, device: object, count: object, infos: ctypes.Array | None) -> int:
        there, count._obj.value = count._obj.value, 2  # type: ignore[attr-defined]
        if there < 2:
            return pynvml.NVML_ERROR_INSUFFICIENT_SIZE
        infos[0].pid, infos[0].usedGpuMemory = 1, 7
        infos[1].pid, infos[1].usedGpuMemory = self.pid, 4096
        return 0


@pytest.fixture()
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    """A driver of the test's own, which pynvml finds loaded."""
    made = Driver()
    monkeypatch.setattr(pynvml, "nvmlLib", made)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    return made


def test_a_gpu_tells_clocks_memory_of_this_process_and_why_it_is_slow(driver: Driver) -> None:
    gpu = Gpu()
    read = gpu.read()
    assert (read["clock_mhz"], read["memory_clock_mhz"], read["used_bytes"]) == (1200, 2600, 4096)
    assert read["temperature_c"] is None  # this driver lacks the call
    assert Gpu.reasons(int(read["throttle"] or 0)) == ["power cap", "heat (hardware)"]
    assert gpu.describe() == {
        "name": "NVIDIA Test",
        "driver": "580.1",
        "capability": "8.7",
        "memory_bytes": 1 << 33,
        "power_limit_w": 60.0,
        "max_clock_mhz": None,
    }
    assert Nvml(gpu).read() == {"gpu": 5.0}


def test_where_a_container_hides_the_process_the_memory_is_that_of_the_gpu(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = Gpu()
    monkeypatch.setattr(os, "getpid", lambda: 3)
    assert gpu.used_bytes() == 1 << 20


def test_a_driver_that_does_not_start_is_an_error_with_words(driver: Driver) -> None:
    with pytest.raises(OSError, match="no GPU 3"):
        Gpu(index=3)
    driver.broken = True
    with pytest.raises(OSError, match="driver"):
        Gpu()


def test_without_nvidia_ml_py_there_are_no_figures_of_a_gpu_and_one_line_names_the_package() -> None:
    program = """
from deploy.hardware.energy import meters
from deploy.hardware.machine import describe
print(meters()[1]["nvml"]); print(describe()["gpu"])
"""
    lines = run_without(program, hide=["pynvml"]).splitlines()
    assert lines == ["nvidia-ml-py is not installed: pip install nvidia-ml-py", "None"]


CPU = "sys/devices/system/cpu/cpu{}/cpufreq/scaling_cur_freq"


def test_the_watch_sees_clocks_fall_heat_events_quota_and_steal(tmp_path: Path, driver: Driver) -> None:
    heat = "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count"
    quota, stat = "sys/fs/cgroup/cpu.stat", "proc/stat"
    zone = {"sys/class/thermal/thermal_zone0/temp": 61000, "sys/class/thermal/thermal_zone0/type": "cpu"}
    put(tmp_path, {CPU.format(0): 3000000, CPU.format(1): 2000000, heat: 4, **zone})
    put(tmp_path, {quota: "usage_usec 5\nthrottled_usec 1000", stat: "cpu 1 2 3 4 5 6 7 100"})
    watch = HardwareMonitor(root=tmp_path, gpu=Gpu(), every_s=0)
    watch()
    put(tmp_path, {CPU.format(0): 1000000, heat: 9, quota: "throttled_usec 51000", stat: "cpu 1 2 3 4 5 6 7 250"})
    result = watch.summary()
    assert result["samples"] == 2
    assert result["cpu_mhz"] == {"min": 1500, "median": 2500, "max": 2500}
    assert result["cpu_lowest_mhz"]["min"] == 1000
    assert result["temperature_c"]["max"] == 61
    assert result["throttled"] == {"heat_events": 5, "quota_ms": 50, "stolen_s": 1.5}
    assert result["gpu_throttled"] == ["heat (hardware)", "power cap"]
    assert result["gpu_bytes"]["max"] == 4096
    assert json.loads(json.dumps(result))["timeline"][0]["cpu_mhz"] == 2500


def test_what_a_machine_hides_is_none_and_not_zero(tmp_path: Path) -> None:
    result = HardwareMonitor(root=tmp_path).summary()
    assert result["cpu_mhz"] is None and result["temperature_c"] is None and result["gpu_throttled"] is None
    assert result["throttled"] == {"heat_events": None, "quota_ms": None, "stolen_s": None}


def test_a_virtual_machine_tells_its_clock_in_cpuinfo(tmp_path: Path) -> None:
    put(tmp_path, {"proc/cpuinfo": "processor : 0\ncpu MHz\t\t: 2596.138\nprocessor : 1\ncpu MHz\t\t: 2000.0"})
    assert cpu_clocks_mhz(tmp_path) == [2596.138, 2000.0]


def test_a_thermal_zone_that_is_off_is_left_out(tmp_path: Path) -> None:
    for i, value in enumerate((48000, -256000)):
        put(tmp_path, {f"sys/class/thermal/thermal_zone{i}/temp": value})
    assert zones(tmp_path) == {"thermal_zone0": 48.0}


def test_the_machine_says_who_it_may_use_and_how_it_is_set() -> None:
    found = json.loads(json.dumps(describe()))
    assert {"affinity", "niceness", "governor", "boost", "power_mode", "gpu", "versions"} <= set(found)
    assert found["affinity"][0].isdigit()
