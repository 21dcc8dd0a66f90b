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
from deploy.package.package import Package
from edgemt.contract import Runner
from edgemt.io.atomic import write_bytes
from edgemt.model_card import FileMetrics

_MASK = ".mask.png"


_GOLDEN_PIXELS = 1 << 26  # of a golden image, whose slices may lie side by side


_MARGIN = 0.02  # difference that the arithmetic of another processor may make


@dataclass(frozen=True)
class GoldenPair:
    """A golden frame and the mask that the unquantized graph gave for it."""

    name: str
    frame: np.ndarray  # uint8 [1, H, W, K]
    mask: np.ndarray  # uint8 [H, W], of the unquantized graph when the package was made


@dataclass(frozen=True)
class SelfTest:
    """Agreement of the masks of a runner with the golden masks."""

    frames: int
    pixels: float  # fraction of pixels with the same class, in the worst frame
    foreground_dice: float  # Dice between the two of all classes but the background, over all frames together
    ok: bool
    message: str


def write_golden(folder: str | Path, name: str, *, frame: np.ndarray, mask: np.ndarray) -> None:
    """Add one self-test pair to a package before `finalize`: frame uint8 [H, W, K] and mask uint8 [H, W].

    A frame with other than 3 channels, such as 5 slices, is stored as one grey image of its channels: [H, K * W].
    """
    if frame.dtype != np.uint8 or mask.dtype != np.uint8 or frame.shape[:2] != mask.shape:
        raise ValueError(f"golden {name}: frame {frame.shape} {frame.dtype} and mask {mask.shape} {mask.dtype} differ")
    if frame.ndim == 3 and frame.shape[2] != 3:
        frame = frame.swapaxes(1, 2).reshape(len(frame), -1)
    for suffix, array in ((".png", frame), (_MASK, mask)):
        buffer = BytesIO()
        Image.fromarray(array).save(buffer, "PNG")
        write_bytes(Path(folder) / GOLDEN / f"{name}{suffix}", buffer.getvalue())


def golden_pairs(package: Package) -> list[GoldenPair]:
    """The self-test pairs of a package, sorted by name; empty where it has none."""
    pairs = []
    for file in sorted(package.card.files):
        if not file.startswith(f"{GOLDEN}/") or file.endswith(_MASK) or not file.endswith(".png"):
            continue
        name = file.removeprefix(f"{GOLDEN}/").removesuffix(".png")
        frame = _png(package, file)
        mask = _png(package, f"{GOLDEN}/{name}{_MASK}")
        if frame.ndim == 2 and frame.shape[1] % package.card.channels == 0:
            frame = np.ascontiguousarray(frame.reshape(len(frame), package.card.channels, -1).swapaxes(1, 2))
        if frame.shape != (*package.card.size, package.card.channels) or mask.shape != package.card.size:
            raise ValueError(
                f"{package.folder / file}: frame {frame.shape} and mask {mask.shape} do not fit the card's "
                f"{package.card.size} x {package.card.channels}; export the model again"
            )
        pairs.append(GoldenPair(name, frame[None], mask))
    return pairs


def _png(package: Package, file: str) -> np.ndarray:
    """uint8 [H, W] or [H, W, 3], as `write_golden` wrote it."""
    try:
        with Image.open(BytesIO(package.read(file)), formats=("PNG",)) as image:
            if image.mode not in ("L", "RGB") or image.width * image.height > _GOLDEN_PIXELS:
                raise ValueError(f"mode {image.mode}, {image.width} x {image.height} pixels")
            return np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{package.folder / file}: is no golden picture ({error}); export the model again") from None


def self_test(package: Package, runner: Runner) -> SelfTest:
    """Run the golden frames and compare the masks with the golden ones.

    A float file must reproduce the masks; an INT8 or float16 file, or one that runs in bf16, must come close: as close
    as the file came when the package was made (`golden_pixels` and `golden_dice` on the card, less a margin for another
    processor), and 95 % of the pixels where the card has no such number. The test finds a broken runtime or a wrong
    input; the accuracy of INT8 is measured separately and is on the card.
    """
    pairs = golden_pairs(package)
    if not pairs:
        return SelfTest(0, float("nan"), float("nan"), False, "the ship has no golden frames, so nothing was compared")
    masks = [(pair.mask, runner(pair.frame)[0]) for pair in pairs]
    pixels = min(float((expected == given).mean()) for expected, given in masks)
    foreground_dice = _overlap(*(np.stack(part) for part in zip(*masks, strict=True)))
    reached = package.card.measured.get(runner.file, FileMetrics())
    near = (_near(reached.golden_pixels, most=0.95), _near(reached.golden_dice, most=0.8))
    exact = runner.precision == "f32" and ".fp16." not in runner.file
    floors = (0.999, 0.99) if exact else near
    ok = pixels >= floors[0] and foreground_dice >= floors[1]
    message = f"{pixels:.2%} of pixels and foreground Dice {foreground_dice:.3f} against the golden masks"
    if not ok:
        message += f", wanted {floors[0]:.1%} and {floors[1]:.3f}; do not use {runner.file} with {runner.runtime} here"
    return SelfTest(len(pairs), pixels, foreground_dice, ok, message)


def least_agreement(package: Package, file: str) -> float:
    """The fraction of pixels of each golden frame on which `file` must agree, whatever precision it runs in."""
    return _near(package.card.measured.get(file, FileMetrics()).golden_pixels, most=0.95)


def _near(reached: float | None, *, most: float) -> float:
    """The least agreement for a rounded file, by what it reached when the package was made."""
    return most if reached is None else min(most, reached - _MARGIN)


def _overlap(expected: np.ndarray, given: np.ndarray) -> float:
    same = int(((expected == given) & (expected > 0)).sum())
    total = int((expected > 0).sum()) + int((given > 0).sum())
    slack = expected.size / 1000  # a single wrong pixel in an empty frame is not a failure
    return (2 * same + slack) / (total + slack)
