"""Golden frames of a package and the self-test of a runner with them.

Shapes: N batch, H W size in pixels, K channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from deploy.package.files import GOLDEN
from deploy.package.package import Ship
from edgemt.contract import Runner
from edgemt.io.atomic import write_bytes

_MASK = ".mask.png"


_GOLDEN_PIXELS = 1 << 26  # of a golden picture, five slices side by side


_MARGIN = 0.02  # what another processor's arithmetic may move


@dataclass(frozen=True)
class Golden:
    name: str
    frame: np.ndarray  # uint8 [1, H, W, K]
    mask: np.ndarray  # uint8 [H, W], what the unquantized graph said when the ship was built


@dataclass(frozen=True)
class SelfTest:
    """How a runner's masks compare with the golden ones."""

    frames: int
    pixels: float  # share of pixels with the same class, worst frame
    foreground: float  # Dice between the two over everything but background, all frames together
    ok: bool
    message: str


def write_golden(folder: str | Path, name: str, *, frame: np.ndarray, mask: np.ndarray) -> None:
    """Add one self-test pair to a ship that is not sealed yet: uint8 [H, W, K] and uint8 [H, W].

    What no PNG can hold, five slices say, is laid side by side, grey: [H, K * W].
    """
    if frame.dtype != np.uint8 or mask.dtype != np.uint8 or frame.shape[:2] != mask.shape:
        raise ValueError(f"golden {name}: frame {frame.shape} {frame.dtype} and mask {mask.shape} {mask.dtype} differ")
    if frame.ndim == 3 and frame.shape[2] != 3:
        frame = frame.swapaxes(1, 2).reshape(len(frame), -1)
    for suffix, array in ((".png", frame), (_MASK, mask)):
        buffer = BytesIO()
        Image.fromarray(array).save(buffer, "PNG")
        write_bytes(Path(folder) / GOLDEN / f"{name}{suffix}", buffer.getvalue())


def golden(ship: Ship) -> list[Golden]:
    """The self-test pairs, by name. Empty when the ship has none."""
    pairs = []
    for file in sorted(ship.card.files):
        if not file.startswith(f"{GOLDEN}/") or file.endswith(_MASK) or not file.endswith(".png"):
            continue
        name = file.removeprefix(f"{GOLDEN}/").removesuffix(".png")
        frame = _png(ship, file)
        mask = _png(ship, f"{GOLDEN}/{name}{_MASK}")
        if frame.ndim == 2 and frame.shape[1] % ship.card.channels == 0:
            frame = np.ascontiguousarray(frame.reshape(len(frame), ship.card.channels, -1).swapaxes(1, 2))
        if frame.shape != (*ship.card.size, ship.card.channels) or mask.shape != ship.card.size:
            raise ValueError(
                f"{ship.folder / file}: frame {frame.shape} and mask {mask.shape} do not fit the card's "
                f"{ship.card.size} x {ship.card.channels}; export the model again"
            )
        pairs.append(Golden(name, frame[None], mask))
    return pairs


def _png(ship: Ship, file: str) -> np.ndarray:
    """uint8 [H, W] or [H, W, 3], as `write_golden` wrote it."""
    try:
        with Image.open(BytesIO(ship.read(file)), formats=("PNG",)) as image:
            if image.mode not in ("L", "RGB") or image.width * image.height > _GOLDEN_PIXELS:
                raise ValueError(f"mode {image.mode}, {image.width} x {image.height} pixels")
            return np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{ship.folder / file}: is no golden picture ({error}); export the model again") from None


def self_test(ship: Ship, runner: Runner) -> SelfTest:
    """Run the golden frames. A float file must repeat the masks; one that is rounded or runs in bf16 must stay near.

    How near is what the file reached where the ship was made (`golden_pixels` and `golden_dice` on the card, less a
    margin for another processor), and 95 % of pixels where the card does not say. This finds a runtime that is broken
    or fed wrongly. What INT8 costs in accuracy is measured, on the card.
    """
    pairs = golden(ship)
    if not pairs:
        return SelfTest(0, float("nan"), float("nan"), False, "the ship has no golden frames, so nothing was compared")
    masks = [(pair.mask, runner(pair.frame)[0]) for pair in pairs]
    pixels = min(float((want == got).mean()) for want, got in masks)
    foreground = _overlap(*(np.stack(part) for part in zip(*masks, strict=True)))
    reached = ship.card.measured.get(runner.file, {})
    near = (
        min(0.95, reached.get("golden_pixels", 1.0) - _MARGIN),
        min(0.8, reached.get("golden_dice", 1.0) - _MARGIN),
    )
    exact = runner.precision == "f32" and ".fp16." not in runner.file
    floors = (0.999, 0.99) if exact else near
    ok = pixels >= floors[0] and foreground >= floors[1]
    said = f"{pixels:.2%} of pixels and foreground Dice {foreground:.3f} against the golden masks"
    if not ok:
        said += f", wanted {floors[0]:.1%} and {floors[1]:.3f}; do not use {runner.file} with {runner.runtime} here"
    return SelfTest(len(pairs), pixels, foreground, ok, said)


def _overlap(want: np.ndarray, got: np.ndarray) -> float:
    same = int(((want == got) & (want > 0)).sum())
    total = int((want > 0).sum()) + int((got > 0).sum())
    slack = want.size / 1000  # a stray pixel on an empty frame is no failure
    return (2 * same + slack) / (total + slack)
