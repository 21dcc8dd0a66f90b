"""Loaded models behind one interface, whatever runtime runs them: raw frames in, class masks out.

Shapes: N batch, H W size in pixels, K channels.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

InferOne = Callable[[np.ndarray], np.ndarray]  # uint8 [1, H, W, K] -> uint8 [1, H, W], owned by the caller
UNCERTAINTY, FEATURES = "uncertainty", "features"  # names of the optional outputs of a graph beside the mask
GraphCall = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]  # inputs by name -> outputs by name
LoadedGraph = tuple[GraphCall, dict[str, tuple[int, ...]]]  # and the shape of each input


@dataclass(frozen=True)
class ErrorPatterns:
    """How a runtime words failures that occur in practice: regular expressions, without case; empty for none."""

    too_new: str = ""  # groups ir, most, opset, layer, rule, op: what the file has or needs that the runtime lacks
    other_engine: str = ""  # built by another version or for another GPU
    no_device: str = ""  # group plugin: the device
    not_the_cause: str = ""  # lines that name source code, and parts of a line to remove


@dataclass(frozen=True)
class RuntimeOptions:
    """How a runtime runs a file. None leaves the choice to the runtime."""

    threads: int
    precision: str | None = None
    device: str | None = None
    hint: Literal["latency", "throughput"] = "latency"
    streams: int | None = None  # frames in flight at once, for `infer_many`
    cache: Path | None = None  # where compiled graphs are stored
    cpu_fallback: bool = True  # False: refuse a graph of which nodes run on the processor instead of the device
    signed: bool = False  # file of a package with a checked signature: no cache without authentication


class AsyncSlot(Protocol):
    """One frame in flight: `start` returns at once, `finish` waits for the mask."""

    def start(self, frame: np.ndarray) -> None: ...

    def finish(self) -> np.ndarray: ...


class CallStages(NamedTuple):
    """The parts of one call, each of which returns when its work is done."""

    copy_in: Callable[[np.ndarray], None]
    infer: Callable[[], None]
    copy_out: Callable[[], np.ndarray]


@dataclass(frozen=True)
class LoadedModel:
    """A file that a runtime has loaded, and what the runtime reports about it."""

    call: InferOne
    input_spec: tuple[tuple[int, ...], str]  # shape and element type of the graph's only input
    output_spec: tuple[tuple[int, ...], str]
    precision: str
    threads: int
    device: str = "CPU"
    make_slots: Callable[[], Sequence[AsyncSlot]] | None = None  # called at the first use; None: one frame at a time
    streams: int = 1
    stages: CallStages | None = None
    read_uncertainty: Callable[[], np.ndarray] | None = (
        None  # map uint8 [1, H, W] of the last `call`, if the graph has it
    )
    uncertainty_spec: tuple[tuple[int, ...], str] | None = None
    read_features: Callable[[], np.ndarray] | None = (
        None  # float32 [1, D, h, w] of the last `call`, if the graph has it
    )
    details: Mapping[str, Any] = field(default_factory=dict)  # further facts for the record of a measurement


class ModelRunner:
    """A loaded graph. Not for two threads at once: there is one input buffer, and it is reused."""

    def __init__(self, loaded: LoadedModel, *, runtime: str, file: str, version: str, path: Path) -> None:
        self.runtime, self.file, self.version, self.path = runtime, file, version, path
        self.precision, self.threads = loaded.precision, loaded.threads
        self.device, self.streams, self.details = loaded.device, loaded.streams, dict(loaded.details)
        self.shape = loaded.input_spec[0]  # (1, H, W, K)
        self.stages = loaded.stages
        self._call, self._make_slots = loaded.call, loaded.make_slots
        self._read_uncertainty, self._read_features = loaded.read_uncertainty, loaded.read_features
        self._slots: Sequence[AsyncSlot] = ()

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """uint8 [N, H, W, K] -> uint8 [N, H, W]. Raises ValueError for any other shape or type."""
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != self.shape[1:] or not len(frames):
            _refuse_frames(frames, self.file, self.shape)
        try:
            if len(frames) == 1:
                return self._call(frames)
            return np.concatenate([self._call(frames[i : i + 1]) for i in range(len(frames))])
        except Exception as error:  # each runtime has exceptions of its own
            if not out_of_memory(error):
                raise
            where = f"{self.runtime} is out of memory on {self.device}"
            raise ValueError(f"{self.file}: {where} ({first_line(error)}); close other programs") from error

    @property
    def has_uncertainty(self) -> bool:
        """Whether the graph has the second output that `with_uncertainty` returns."""
        return self._read_uncertainty is not None

    def with_uncertainty(self, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [N, H, W, K] -> masks uint8 [N, H, W], and maps uint8 [N, H, W] = round(255 sqrt(p)).

        p is the probability that the class of the pixel is wrong: (value / 255) ** 2. Raises ValueError for a graph
        without that output.
        """
        if self._read_uncertainty is None:
            raise ValueError(
                f"{self.file}: has no output {UNCERTAINTY!r}; export the run again with --uncertainty softmax, or "
                "choose a file whose uncertainty passed its gate (card.json)"
            )
        if len(frames) == 1:
            return self(frames), self._read_uncertainty()
        masks, maps = [], []
        for i in range(len(frames)):
            masks.append(self(frames[i : i + 1]))
            maps.append(self._read_uncertainty())
        return np.concatenate(masks), np.concatenate(maps)

    @property
    def has_features(self) -> bool:
        """Whether the graph has the output that `features` returns."""
        return self._read_features is not None

    def features(self) -> np.ndarray:
        """The decoder's last features of the last frame that was called, float32 [D, h, w]; of INT8 dequantized.

        Raises ValueError for a graph without that output.
        """
        if self._read_features is None:
            raise ValueError(f"{self.file}: has no output {FEATURES!r}; add it with edgemt export SHIP --with-features")
        return self._read_features()[0]

    def infer_many(self, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """uint8 [1, H, W, K] each -> uint8 [1, H, W] each, in the same order, `streams` of them in flight."""
        if self._make_slots is None or self.streams == 1:
            yield from (self(frame) for frame in frames)
            return
        self._slots = self._slots or self._make_slots()
        free, busy = deque(self._slots), deque[AsyncSlot]()
        try:
            for frame in frames:
                if frame.dtype != np.uint8 or frame.shape != self.shape:
                    _refuse_frames(frame, self.file, self.shape)
                mask = None
                if free:
                    slot = free.popleft()
                else:
                    slot = busy.popleft()
                    mask = slot.finish()
                slot.start(frame)
                busy.append(slot)
                if mask is not None:
                    yield mask
            while busy:
                yield busy.popleft().finish()
        finally:
            for slot in busy:  # the caller stopped early: leave no frame in flight for the next call
                slot.finish()

    def run_stages(self, frame: np.ndarray) -> tuple[np.ndarray, tuple[int, int, int]]:
        """One call in three parts: the mask, and nanoseconds of copying in, inference and copying out.

        Raises ValueError where the runtime does all three in one step.
        """
        if self.stages is None:
            raise ValueError(f"{self.file}: {self.runtime} on {self.device} does not split a call into stages")
        if frame.dtype != np.uint8 or frame.shape != self.shape:
            _refuse_frames(frame, self.file, self.shape)
        marks = [time.perf_counter_ns()]
        self.stages.copy_in(frame)
        marks.append(time.perf_counter_ns())
        self.stages.infer()
        marks.append(time.perf_counter_ns())
        mask = self.stages.copy_out()
        marks.append(time.perf_counter_ns())
        return mask, (marks[1] - marks[0], marks[2] - marks[1], marks[3] - marks[2])


class TorchRunner:
    """A torch module with the interface of `ModelRunner`: uint8 [N, H, W, K] -> class indices uint8 [N, H, W]."""

    runtime = "torch"

    def __init__(
        self,
        module: Any,
        *,
        size: tuple[int, int],
        channels: int,
        name: str = "module",
        threads: int | None = None,
    ) -> None:
        torch = import_runtime("torch", "torch")
        if threads is not None:
            torch.set_num_threads(checked_threads(threads))
        self.file, self.version = name, str(torch.__version__)
        self.threads = int(torch.get_num_threads())
        self.shape = (1, *size, channels)
        self._torch, self._module = torch, module.eval()
        weights = next(iter(module.parameters()), None)
        self._device = weights.device if weights is not None else torch.device("cpu")
        kind = str(weights.dtype) if weights is not None else "torch.float32"
        self.precision = {"torch.float32": "f32", "torch.bfloat16": "bf16", "torch.float16": "f16"}.get(kind, kind)

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """uint8 [N, H, W, K] -> uint8 [N, H, W]."""
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != self.shape[1:]:
            _refuse_frames(frames, self.file, self.shape)
        with self._torch.inference_mode():
            mask = self._module(self._torch.from_numpy(np.ascontiguousarray(frames)).to(self._device))
            return mask.to(self._torch.uint8).cpu().numpy()


def _refuse_frames(frames: np.ndarray, file: str, shape: tuple[int, ...]) -> None:
    wanted = f"uint8 [N, {', '.join(str(n) for n in shape[1:])}]"
    raise ValueError(f"frames: {frames.dtype} {list(frames.shape)}, but {file} takes {wanted}; use fit_frame first")


def checked_threads(threads: int) -> int:
    """`threads`. Raises ValueError below 1."""
    if threads < 1:
        raise ValueError(f"threads {threads}: must be 1 or more")
    return threads


_LIBRARIES = {"tensorrt_rtx_bindings": "tensorrt_rtx_libs"}  # libraries to import before the module


def import_runtime(package: str, runtime: str, *, pip: str | None = None) -> Any:
    """The Python module of a runtime. Raises ValueError, naming what to install."""
    try:
        if package in _LIBRARIES:
            import_module(_LIBRARIES[package])
        return import_module(package)
    except (ImportError, OSError) as error:
        why = first_line(error)
        raise ValueError(f"runtime {runtime!r}: not installed here ({why}); pip install {pip or package}") from None


def first_line(error: BaseException) -> str:
    """The first line of an error message, without the source lines that some runtimes put before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    informative = [line for line in lines if not line.startswith("Exception from ")]
    return (informative or lines or [type(error).__name__])[0]


_NO_MEMORY = re.compile(
    r"out of memory|out of \w+ resources|failed to allocate|cannot allocate memory|bad.?alloc|CL_OUT_OF_|"
    r"CL_MEM_OBJECT_ALLOCATION_FAILURE",
    re.IGNORECASE,
)


def out_of_memory(error: BaseException) -> bool:
    """True for an out-of-memory error. Runtimes share no exception type for it, so the message is searched."""
    return isinstance(error, MemoryError) or bool(_NO_MEMORY.search(str(error)))


_ELEMENTS = {
    "u8": "uint8",
    "i32": "int32",
    "i64": "int64",
    "float32": "f32",
    "float": "f32",
    "bfloat16": "bf16",
    "float16": "f16",
    "half": "f16",
}


def element_type(kind: str) -> str:
    """One name for an element type that every runtime names differently: `tensor(uint8)`, `u8`, `uint8_t` -> uint8."""
    kind = kind.removeprefix("tensor(").removesuffix(")").removesuffix("_t")
    return _ELEMENTS.get(kind, kind)


def precision_summary(kinds: Mapping[str, int]) -> str:
    """Counts of layers by precision -> the precisions as one word, commonest first: "int8", "int8+bf16"."""
    return "+".join(k for k, n in sorted(kinds.items(), key=lambda item: -item[1]) if n)


class OutputIndices(NamedTuple):
    """Which output of a graph is which."""

    mask: int
    uncertainty: int | None
    features: int | None


def check_outputs(inputs: Any, names: Sequence[str]) -> OutputIndices:
    """The indices of the outputs of a graph, the mask being the one of any other name than `uncertainty`, `features`.

    Raises ValueError unless a graph has one input, one mask and at most one output of each of these names.
    """
    known = {name: [i for i, other in enumerate(names) if other == name] for name in (UNCERTAINTY, FEATURES)}
    masks = [i for i, name in enumerate(names) if name not in known] if len(names) > 1 else [0] * len(names)
    if len(inputs) != 1 or len(masks) != 1 or (len(names) > 1 and any(len(found) > 1 for found in known.values())):
        raise ValueError(f"{len(inputs)} inputs and {len(names)} outputs, wanted one of each")
    uncertainty, features = (found[0] if found and len(names) > 1 else None for found in known.values())
    return OutputIndices(masks[0], uncertainty, features)
