"""The prompt input of a package: a frame is embedded once; clicks, a box or a first mask then give a mask.

A package has one where it was added (`deploy.promptable.add_to_package`); it runs without torch. Coordinates are
fractions of the frame, (0, 0) is its top left corner, x before y.

Shapes: H W the frame of the prompt graphs, h w another size, K channels, P points at most, F features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np

from deploy.package.model_bytes import ModelBytes, read_model
from deploy.package.package import Package
from deploy.package.signing import require_signed
from deploy.runtimes.registry import CHECKED, RUNTIMES
from deploy.runtimes.runner import GraphCall
from edgemt.errors import unknown_name_message
from edgemt.io.images import fit_frame

EMBED, DECODE = "prompt/embed.onnx", "prompt/decode.onnx"
POINTS = 16  # P
NO_POINT = -2  # sign of an absent point; 1: on the object, 0: background
_TAKES = ("fine", "deep", "box", "points", "signs", "first", "put")

Embedding = tuple[np.ndarray, np.ndarray]  # fine [1, F0, H/2, W/2], deep [1, F, H/8, W/8]
Box = tuple[float, float, float, float]  # x0 y0 x1 y1


@dataclass(frozen=True)
class Prompt:
    """A prompt for one object: a box and points. Raises ValueError for an invalid one."""

    box: Box | None = None
    points: tuple[tuple[float, float, bool], ...] = ()  # x, y, True on the object

    def __post_init__(self) -> None:
        corners = () if self.box is None else (self.box[:2], self.box[2:])
        for x, y in (*corners, *(point[:2] for point in self.points)):
            if not (math.isfinite(x) and math.isfinite(y) and 0 <= x <= 1 and 0 <= y <= 1):
                raise ValueError(f"prompt: ({x:g}, {y:g}) lies outside of the picture; write shares of it, 0 to 1")
        if self.box is not None and not (self.box[0] < self.box[2] and self.box[1] < self.box[3]):
            raise ValueError("prompt: the box is empty; draw it from one corner to the other")
        if len(self.points) > POINTS:
            raise ValueError(
                f"prompt: {len(self.points)} clicks on one structure, at most {POINTS}; draw a box instead"
            )


class PromptedMask(NamedTuple):
    """The result of a prompt."""

    logits: np.ndarray  # float32 [H, W], above 0 inside
    quality: float  # predicted intersection over union of the mask, 0 to 1


class PromptableRunner:
    """The two graphs of a prompt input, loaded. Not for two threads at once."""

    def __init__(self, embed: GraphCall, decode: GraphCall, *, shape: tuple[int, ...], runtime: str) -> None:
        self.size, self.channels, self.runtime = (shape[1], shape[2]), shape[3], runtime
        self._embed, self._decode = embed, decode

    def embed(self, pixels: np.ndarray) -> Embedding:
        """Embedding of an image uint8 [h, w] or [h, w, 3] of any size."""
        frame = fit_frame(pixels, size=self.size, channels=self.channels)
        embedded = self._embed({"frame": np.ascontiguousarray(frame[None])})
        return embedded["fine"], embedded["deep"]

    def segment(self, embedding: Embedding, prompt: Prompt, *, first: np.ndarray | None = None) -> PromptedMask:
        """The mask of an object. `first`: logits [H, W] of a mask to start from.

        Raises ValueError without box, points and first mask, and for NaN in the result.
        """
        if prompt.box is None and not prompt.points and first is None:
            raise ValueError("prompt: it is empty; give a click, a box or a first mask")
        points, signs = np.full((1, POINTS, 2), 0.5, np.float32), np.full((1, POINTS), NO_POINT, np.int64)
        for i, (x, y, on) in enumerate(prompt.points):
            points[0, i], signs[0, i] = (x, y), int(on)
        begun = np.zeros(self.size, np.float32) if first is None else np.asarray(first, np.float32)
        outputs = self._decode(
            {
                "fine": embedding[0],
                "deep": embedding[1],
                "box": np.array([prompt.box or (0, 0, 0, 0)], np.float32),
                "points": points,
                "signs": signs,
                "first": begun[None],
                "put": np.array([prompt.box is not None, first is not None], np.float32),
            }
        )
        logits, quality = outputs["logits"][0], float(outputs["quality"].reshape(-1)[0])
        if not np.isfinite(logits).all():
            raise ValueError(f"{DECODE}: gave no numbers (NaN); build the prompt input again")
        return PromptedMask(logits, quality)


def has_prompt(package: Package) -> bool:
    """True where the package has a prompt input."""
    return EMBED in package.card.files and DECODE in package.card.files


def open_prompt(package: Package, *, runtime: str = "auto", threads: int = 1) -> PromptableRunner:
    """Load the prompt input of a package. Raises ValueError in one line for a package without a valid one."""
    if not has_prompt(package):
        raise ValueError(f"{package.folder}: has no prompt input; add one with edgemt export SHIP --with-prompt")
    require_signed(package.folder, signed=package.signed)
    return load_prompt(package.model(EMBED), package.model(DECODE), runtime=runtime, threads=threads)


def load_prompt(
    embed: Path | ModelBytes, decode: Path | ModelBytes, *, runtime: str = "auto", threads: int = 1
) -> PromptableRunner:
    """Load the two graphs of a prompt input, from verified bytes or from two files that no card lists.

    Raises ValueError in one line for graphs that do not load or are no prompt input.
    """
    loaders = {name: spec.load_graph for name, spec in RUNTIMES.items() if spec.load_graph is not None}
    if runtime == "auto":
        runtime = next((name for name in loaders if find_spec(RUNTIMES[name].package) is not None), CHECKED[-1])
    if runtime not in loaders:
        raise ValueError(unknown_name_message("runtime of a prompt input", runtime, loaders))
    loaded = []
    for part in (embed, decode):
        if not isinstance(part, ModelBytes):
            require_signed(part, signed=False)
    models = [part if isinstance(part, ModelBytes) else read_model(part) for part in (embed, decode)]
    for model in models:
        try:
            loaded.append(loaders[runtime](model, threads))
        except (RuntimeError, ValueError, KeyError) as error:
            why = (str(error).strip() or type(error).__name__).splitlines()[-1]
            raise ValueError(f"{model.path}: {runtime} cannot load it ({why}); build the prompt input again") from None
    (first, first_inputs), (second, second_inputs) = loaded
    shape = first_inputs.get("frame", ())
    if set(first_inputs) != {"frame"} or len(shape) != 4 or set(second_inputs) != set(_TAKES):
        inputs = ", ".join((*first_inputs, *second_inputs))
        raise ValueError(f"{models[0].path.parent}: takes {inputs}, which is no prompt input of this version")
    return PromptableRunner(first, second, shape=shape, runtime=runtime)
