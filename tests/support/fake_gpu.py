"""A GPU made of host memory, behind the same C signatures as the driver, and a TensorRT that runs the tiny ship on it.

What is put on a stream happens when somebody waits for the stream and not before; what is put on it while it records
happens when the graph is launched. A runner that forgets to wait, or to record, gives wrong masks here too.
"""

from __future__ import annotations

import ctypes
import traceback
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
from tiny_package import CHANNELS, SIZE, expected

from deploy.runtimes import cuda_driver

NAME, CAPABILITY, DRIVER = "Pretend Orin", (8, 7), 12060


class Library:
    """What `ctypes.CDLL("libcuda.so.1")` would be: C functions, called through C."""

    def __init__(self, *, devices: int = 1, memory: int = 1 << 30, records: bool = True) -> None:
        self.devices, self.memory, self.records = devices, memory, records
        self.allocated: dict[int, Any] = {}
        self.streams: dict[int, list[Callable[[], None]]] = {}
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.recording: int | None = None
        self.launched = 0
        self.current = False
        self._next = 1000
        for name, arguments in cuda_driver._FUNCTIONS.items():
            made = ctypes.CFUNCTYPE(ctypes.c_int, *arguments)(self._guarded(getattr(self, f"_{name}")))
            setattr(self, name, made)

    def _guarded(self, function: Callable[..., int | None]) -> Callable[..., int]:
        def called(*given: Any) -> int:
            try:
                return function(*given) or 0
            except (AssertionError, KeyError):  # C knows no exceptions
                traceback.print_exc()
                return 999

        return called

    def put(self, stream: int, work: Callable[[], None]) -> None:
        assert self.current, "no context is current in this thread"
        self.streams[stream].append(work)

    def _cuGetErrorString(self, code: int, text: Any) -> None:
        text[0] = b"pretended failure"

    def _cuInit(self, flags: int) -> None: ...

    def _cuDriverGetVersion(self, version: Any) -> None:
        version[0] = DRIVER

    def _cuDeviceGetCount(self, count: Any) -> None:
        count[0] = self.devices

    def _cuDeviceGet(self, device: Any, number: int) -> None:
        device[0] = number

    def _cuDeviceGetName(self, name: Any, size: int, device: int) -> None:
        for place, letter in enumerate(NAME.encode()):
            name[place] = letter

    def _cuDeviceGetAttribute(self, value: Any, attribute: int, device: int) -> None:
        value[0] = CAPABILITY[attribute - cuda_driver.CAPABILITY_MAJOR]

    def _cuDevicePrimaryCtxRetain(self, context: Any, device: int) -> None:
        context[0] = 1

    def _cuCtxSetCurrent(self, context: int) -> None:
        self.current = context == 1

    def _cuMemGetInfo_v2(self, free: Any, total: Any) -> None:
        free[0], total[0] = self.memory, self.memory

    def _allocate(self, place: Any, size: int) -> int:
        if size > self.memory:
            return cuda_driver.OUT_OF_MEMORY
        buffer = (ctypes.c_uint8 * size)()
        place[0] = ctypes.addressof(buffer)
        self.allocated[ctypes.addressof(buffer)] = buffer
        return 0

    def _cuMemAlloc_v2(self, place: Any, size: int) -> int:
        return self._allocate(place, size)

    def _cuMemHostAlloc(self, place: Any, size: int, flags: int) -> int:
        return self._allocate(place, size)

    def _cuMemFree_v2(self, place: int) -> None:
        del self.allocated[place]

    def _cuMemFreeHost(self, place: int) -> None:
        del self.allocated[place]

    def _cuMemcpyHtoDAsync_v2(self, there: int, here: int, size: int, stream: int) -> None:
        assert there in self.allocated and here in self.allocated, "copied from memory that is not pinned"
        self.put(stream, lambda: ctypes.memmove(there, here, size) and None)

    def _cuMemcpyDtoHAsync_v2(self, here: int, there: int, size: int, stream: int) -> None:
        assert there in self.allocated and here in self.allocated, "copied to memory that is not pinned"
        self.put(stream, lambda: ctypes.memmove(here, there, size) and None)

    def _cuStreamCreate(self, stream: Any, flags: int) -> None:
        assert flags == cuda_driver.NON_BLOCKING
        self._next += 1
        stream[0] = self._next
        self.streams[self._next] = []

    def _cuStreamSynchronize(self, stream: int) -> int:
        if self.recording == stream:
            return 900
        waiting, self.streams[stream] = self.streams[stream], []
        for work in waiting:
            work()
        return 0

    def _cuStreamDestroy_v2(self, stream: int) -> None:
        del self.streams[stream]

    def _cuStreamBeginCapture_v2(self, stream: int, mode: int) -> None:
        assert not self.streams[stream], "recorded before the warm-up was done"
        self.recording = stream

    def _cuStreamEndCapture(self, stream: int, graph: Any) -> int:
        self.recording = None
        recorded, self.streams[stream] = self.streams[stream], []
        if not self.records:
            return 901
        self._next += 1
        graph[0] = self._next
        self.graphs[self._next] = recorded
        return 0

    def _cuGraphInstantiateWithFlags(self, ready: Any, graph: int, flags: int) -> None:
        self._next += 1
        ready[0] = self._next
        self.graphs[self._next] = self.graphs[graph]

    def _cuGraphLaunch(self, ready: int, stream: int) -> None:
        self.launched += 1
        for work in self.graphs[ready]:
            self.put(stream, work)

    def _cuGraphExecDestroy(self, ready: int) -> None:
        del self.graphs[ready]

    def _cuGraphDestroy(self, graph: int) -> None:
        del self.graphs[graph]


class TensorRT(SimpleNamespace):
    """As much of the `tensorrt` module as building and running takes. `fails` builds run out of memory first."""

    def __init__(self, library: Library, *, version: str = "10.3.0", fails: int = 0) -> None:
        class ILogger:
            ERROR, INTERNAL_ERROR = "error", "internal error"

        super().__init__(
            __version__=version,
            __spec__=object(),
            ILogger=ILogger,
            NetworkDefinitionCreationFlag=SimpleNamespace(STRONGLY_TYPED=1),
            MemoryPoolType=SimpleNamespace(WORKSPACE="workspace"),
            ProfilingVerbosity=SimpleNamespace(DETAILED="detailed"),
            BuilderFlag=SimpleNamespace(TF32="tf32"),
            HardwareCompatibilityLevel=SimpleNamespace(AMPERE_PLUS="ampere+"),
            TensorIOMode=SimpleNamespace(INPUT="in", OUTPUT="out"),
            LayerInformationFormat=SimpleNamespace(JSON="json"),
            Builder=lambda log: Builder(self, log),
            OnnxParser=lambda network, log: SimpleNamespace(parse=lambda data: network.append(data) or True),
            Runtime=lambda log: SimpleNamespace(deserialize_cuda_engine=lambda data: Engine(self, data)),
        )
        self.library, self.fails = library, fails
        self.workspaces: list[int] = []
        self.networks: list[int] = []
        self.configs: list[Any] = []
        self.timings: list[bytes] = []


class Builder:
    def __init__(self, trt: TensorRT, log: Any) -> None:
        self.trt, self.log = trt, log

    def create_network(self, flags: int) -> list[bytes]:
        self.trt.networks.append(flags)
        return []

    def create_builder_config(self) -> Any:
        flags: set[str] = set()
        made = SimpleNamespace(
            flags=flags,
            set_flag=flags.add,
            clear_flag=flags.discard,
            set_memory_pool_limit=lambda pool, size: self.trt.workspaces.append(size),
            create_timing_cache=lambda data: SimpleNamespace(data=data, serialize=lambda: data + b"timed "),
            set_timing_cache=lambda cache, ignore_mismatch: not cache.data.startswith(b"foreign"),
        )
        self.trt.configs.append(made)
        return made

    def build_serialized_network(self, network: list[bytes], config: Any) -> bytes | None:
        if self.trt.fails:
            self.trt.fails -= 1
            self.log.log("error", "Requested amount of GPU memory could not be allocated")
            return None
        return b"engine of " + network[0]


class Engine:
    """The tiny ship's graph, computed on the pretended device."""

    names: tuple[str, ...] = ("frame", "mask")
    layers = '{"Layers": [{"LayerType": "CaskConvolution", "Inputs": [{"Format/Datatype": "NC/32HW32 Int8"}]}, "name"]}'

    def __init__(self, trt: TensorRT, data: bytes) -> None:
        assert data.startswith(b"engine of ")
        self.trt = trt

    @property
    def num_io_tensors(self) -> int:
        return len(self.names)

    def get_tensor_name(self, number: int) -> str:
        return self.names[number]

    def get_tensor_mode(self, name: str) -> str:
        return "in" if name == "frame" else "out"

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (1, *SIZE, CHANNELS) if name == "frame" else (1, *SIZE)

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name="UINT8")

    def create_engine_inspector(self) -> Any:
        return SimpleNamespace(get_engine_information=lambda form: self.layers)

    def create_execution_context(self) -> Any:
        places: dict[str, int] = {}
        library = self.trt.library

        def compute() -> None:
            size = {name: int(np.prod(self.get_tensor_shape(name))) for name in places}
            frame = np.frombuffer(ctypes.string_at(places["frame"], size["frame"]), np.uint8).reshape(*SIZE, CHANNELS)
            ctypes.memmove(places["mask"], expected(frame).tobytes(), size["mask"])
            if "uncertainty" in self.names:  # a map that no mask looks like
                ctypes.memmove(places["uncertainty"], (100 + expected(frame)).tobytes(), size["uncertainty"])

        def execute(stream: int) -> bool:
            library.put(stream, compute)
            return True

        return SimpleNamespace(set_tensor_address=places.__setitem__, execute_async_v3=execute)
