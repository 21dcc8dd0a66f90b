"""What holds a loaded model and looks the same whatever runs it: raw frames in, class masks out.

Shapes: N batch, H W size in pixels, K channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

OneFrame = Callable[[np.ndarray], np.ndarray]  # uint8 [1, H, W, K] -> uint8 [1, H, W], the caller's to keep


@dataclass(frozen=True)
class Loaded:
    """What a runtime gives back for a file."""

    call: OneFrame
    takes: tuple[tuple[int, ...], str]  # shape and element type of the graph's only input
    gives: tuple[tuple[int, ...], str]
    precision: str
    threads: int


class GraphRunner:
    """A loaded graph. Not for two threads at once: the input buffer is one and is reused."""

    def __init__(self, loaded: Loaded, *, runtime: str, file: str, version: str, path: Path) -> None:
        self.runtime, self.file, self.version, self.path = runtime, file, version, path
        self.precision, self.threads = loaded.precision, loaded.threads
        self.shape = loaded.takes[0]  # (1, H, W, K)
        self._call = loaded.call

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """uint8 [N, H, W, K] -> uint8 [N, H, W]. Raises ValueError for any other shape or type."""
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != self.shape[1:] or not len(frames):
            _refuse_frames(frames, self.file, self.shape)
        if len(frames) == 1:
            return self._call(frames)
        return np.concatenate([self._call(frames[i : i + 1]) for i in range(len(frames))])


class TorchRunner:
    """A torch module with the same face: it takes uint8 [N, H, W, K] and returns class indices [N, H, W]."""

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
        torch = imported("torch", "torch")
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
    if threads < 1:
        raise ValueError(f"threads {threads}: must be 1 or more")
    return threads


def imported(package: str, runtime: str) -> Any:
    try:
        return import_module(package)
    except ImportError as error:
        why = first_line(error)
        raise ValueError(f"runtime {runtime!r}: not installed here ({why}); pip install {package}") from None


def first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
