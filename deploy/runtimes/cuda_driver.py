"""The part of the CUDA driver API that a runner needs, by ctypes: no CUDA toolkit, no torch, no Python package.

`libcuda.so.1` is part of the NVIDIA driver, on a Jetson of the board support package. Its functions return 0 or an
error number; the methods here raise ValueError, which names the function and the error as the driver describes it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

OUT_OF_MEMORY = 2
NON_BLOCKING = 1  # a stream that does not wait for the default one
CAPTURE_THREAD_LOCAL = 1  # other threads may go on while this one records
CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76
_DRIVER = Path("/sys/module/nvidia/version")

_Handle, _Size = ctypes.c_void_p, ctypes.c_size_t
_Address = ctypes.c_uint64  # CUdeviceptr
# with the version suffix that the macros of cuda.h add
_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "cuGetErrorString": (ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)),
    "cuInit": (ctypes.c_uint,),
    "cuDriverGetVersion": (ctypes.POINTER(ctypes.c_int),),
    "cuDeviceGetCount": (ctypes.POINTER(ctypes.c_int),),
    "cuDeviceGet": (ctypes.POINTER(ctypes.c_int), ctypes.c_int),
    "cuDeviceGetName": (ctypes.POINTER(ctypes.c_char), ctypes.c_int, ctypes.c_int),
    "cuDeviceGetAttribute": (ctypes.POINTER(ctypes.c_int), ctypes.c_int, ctypes.c_int),
    "cuDevicePrimaryCtxRetain": (ctypes.POINTER(_Handle), ctypes.c_int),
    "cuCtxSetCurrent": (_Handle,),
    "cuMemGetInfo_v2": (ctypes.POINTER(_Size), ctypes.POINTER(_Size)),
    "cuMemAlloc_v2": (ctypes.POINTER(_Address), _Size),
    "cuMemFree_v2": (_Address,),
    "cuMemHostAlloc": (ctypes.POINTER(_Handle), _Size, ctypes.c_uint),
    "cuMemFreeHost": (_Handle,),
    "cuMemcpyHtoDAsync_v2": (_Address, _Handle, _Size, _Handle),
    "cuMemcpyDtoHAsync_v2": (_Handle, _Address, _Size, _Handle),
    "cuStreamCreate": (ctypes.POINTER(_Handle), ctypes.c_uint),
    "cuStreamSynchronize": (_Handle,),
    "cuStreamDestroy_v2": (_Handle,),
    "cuStreamBeginCapture_v2": (_Handle, ctypes.c_int),
    "cuStreamEndCapture": (_Handle, ctypes.POINTER(_Handle)),
    "cuGraphInstantiateWithFlags": (ctypes.POINTER(_Handle), _Handle, ctypes.c_ulonglong),
    "cuGraphLaunch": (_Handle, _Handle),
    "cuGraphExecDestroy": (_Handle,),
    "cuGraphDestroy": (_Handle,),
}


@dataclass(frozen=True)
class Gpu:
    """The first device that the driver lists."""

    name: str  # "NVIDIA H100 80GB HBM3", "Orin"
    capability: str  # "8.7"
    driver: str  # "560.35.03, CUDA 12.6"; on a Jetson the second alone


class Cuda:
    """The driver and the first device's primary context, which TensorRT shares."""

    def __init__(self, library: Any) -> None:
        self._library = library
        for name, arguments in _FUNCTIONS.items():
            function = getattr(library, name)
            function.argtypes, function.restype = list(arguments), ctypes.c_int
        self.call("cuInit", 0)
        count, device, self._context = ctypes.c_int(), ctypes.c_int(), _Handle()
        self.call("cuDeviceGetCount", ctypes.byref(count))
        if count.value < 1:
            raise ValueError("the NVIDIA driver shows no GPU; is CUDA_VISIBLE_DEVICES empty?")
        self.call("cuDeviceGet", ctypes.byref(device), 0)
        self._device = device.value
        self.gpu = self._describe()

    def call(self, name: str, *arguments: Any, doing: str = "") -> None:
        """Call a driver function. Raises ValueError in one line for an error; `doing` names the work in it."""
        code = getattr(self._library, name)(*arguments)
        if code == OUT_OF_MEMORY:
            raise ValueError(
                f"out of memory on the GPU{f' for {doing}' if doing else ''}; close other programs on it, or choose "
                "fewer streams or a smaller model"
            )
        if code:
            raise ValueError(f"{name} failed{f' for {doing}' if doing else ''}: {self._error(code)}")

    def enter(self) -> None:
        """Make the context current in the calling thread; cheap where it is current already."""
        if not self._context:
            self.call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._device)
        self.call("cuCtxSetCurrent", self._context)

    def memory(self) -> tuple[int, int]:
        """(free, total) bytes of the device."""
        self.enter()
        free, total = _Size(), _Size()
        self.call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def on_device(self, size: int) -> int:
        """Address of `size` bytes of device memory. Free it with cuMemFree_v2."""
        address = _Address()
        self.call("cuMemAlloc_v2", ctypes.byref(address), size, doing=f"{size / 2**20:.1f} MiB of device memory")
        return address.value

    def pinned(self, shape: tuple[int, ...]) -> np.ndarray:
        """A uint8 array in page-locked memory, which the device copies directly. Free it with cuMemFreeHost."""
        size, place = int(np.prod(shape)), _Handle()
        self.call("cuMemHostAlloc", ctypes.byref(place), size, 0, doing=f"{size / 2**20:.1f} MiB of pinned memory")
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(place.value or 0)).reshape(shape)

    def stream(self) -> int:
        """Handle of a new stream. Destroy it with cuStreamDestroy_v2."""
        handle = _Handle()
        self.call("cuStreamCreate", ctypes.byref(handle), NON_BLOCKING)
        return handle.value or 0

    def recorded(self, stream: int, work: Callable[[], None]) -> int:
        """Record the work that `work` enqueues on the stream as a CUDA graph; returns the handle to launch it again.

        Raises ValueError where it cannot be recorded.
        """
        graph, ready = _Handle(), _Handle()
        self.call("cuStreamBeginCapture_v2", stream, CAPTURE_THREAD_LOCAL)
        try:
            work()
        finally:  # a capture left open makes the stream unusable
            code = self._library.cuStreamEndCapture(stream, ctypes.byref(graph))
        if code or not graph:
            raise ValueError(f"cuStreamEndCapture failed: {self._error(code)}")
        try:
            self.call("cuGraphInstantiateWithFlags", ctypes.byref(ready), graph, 0)
        finally:
            self.call("cuGraphDestroy", graph)
        return ready.value or 0

    def _describe(self) -> Gpu:
        name, number = ctypes.create_string_buffer(256), ctypes.c_int()
        self.call("cuDeviceGetName", name, len(name), self._device)
        found = []
        for attribute in (CAPABILITY_MAJOR, CAPABILITY_MINOR):
            self.call("cuDeviceGetAttribute", ctypes.byref(number), attribute, self._device)
            found.append(number.value)
        self.call("cuDriverGetVersion", ctypes.byref(number))
        parts = [f"CUDA {number.value // 1000}.{number.value % 1000 // 10}"]
        if _DRIVER.is_file():
            parts.insert(0, _DRIVER.read_text().strip())
        return Gpu(name.value.decode("utf-8", "replace"), f"{found[0]}.{found[1]}", ", ".join(parts))

    def _error(self, code: int) -> str:
        text = ctypes.c_char_p()
        self._library.cuGetErrorString(code, ctypes.byref(text))
        return f"{(text.value or b'unknown').decode('utf-8', 'replace')} (CUDA error {code})"


@cache
def cuda() -> Cuda:
    """The CUDA driver, opened once. Raises ValueError in one line where there is no driver or no GPU."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        raise ValueError("no NVIDIA driver on this machine (libcuda.so.1 not found)") from None
    return Cuda(library)


def gpu() -> Gpu | None:
    """The GPU of this machine; None where there is no usable one."""
    try:
        return cuda().gpu
    except (ValueError, AttributeError):
        return None
