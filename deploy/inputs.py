"""What the frames of training look like, and whether other frames look alike: another modality, a swapped colour
order or a dark camera gives masks all the same, and nothing but the frames themselves tells.

A frame is described by a few numbers, brightness, contrast, black and white share, colour, detail, and its distance to
the training frames is a Mahalanobis distance with a shrunk covariance, in units of what 99 % of training frames reach.

Shapes: N frames, H W size in pixels, K channels, D descriptors.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from deploy.ship import Ship
from edgemt.files import write_text

INPUTS = "inputs.json"
_BINS = 32  # of the histogram that goes along
_FLOOR = 3.0  # grey levels: a descriptor that hardly varied in training may vary this much
_SHRINK = 0.2  # of the covariance towards the identity
_MOST = 1000  # frames of training that are looked at
_FEWEST = 5  # frames of training that show anything
_WATCHED = 100  # frames without a complaint after which none is expected


@dataclass(frozen=True)
class InputStatistics:
    """Of the frames a model learned from. `mean` to `inverse` are over the descriptors `names`."""

    frames: int
    names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    low: tuple[float, ...]  # 1 % and 99 % of the training frames
    high: tuple[float, ...]
    inverse: tuple[tuple[float, ...], ...]  # [D, D] of the shrunk correlation matrix
    reach: float  # distance that 99 % of training frames stay within
    histogram: tuple[tuple[float, ...], ...]  # [K, 32] share of pixels, all frames together

    def to_json(self) -> str:
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def from_json(cls, text: str, *, source: str | Path = INPUTS) -> InputStatistics:
        """Raises ValueError, naming `source`, when the text holds no such statistics."""
        try:
            raw = json.loads(text)
            missing = {field.name for field in fields(cls)} ^ set(raw)
            if missing:
                raise ValueError(f"{', '.join(sorted(missing))} missing or unknown")
            for key in ("inverse", "histogram"):
                raw[key] = tuple(tuple(float(v) for v in row) for row in raw[key])
            for key in ("mean", "std", "low", "high"):
                raw[key] = tuple(float(v) for v in raw[key])
            return cls(**{**raw, "names": tuple(raw["names"]), "reach": float(raw["reach"])})
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{source}: holds no input statistics ({error}); export the model again") from None

    def distances(self, described: np.ndarray) -> np.ndarray:
        """[N, D] -> [N]: 1 is where 99 % of the training frames lie within."""
        apart = (described - np.array(self.mean)) / np.array(self.std)
        return _lengths(apart, np.array(self.inverse)) / self.reach


def measure(frames: np.ndarray) -> InputStatistics:
    """uint8 [N, H, W, K], the frames of training -> what to compare others with. Raises ValueError for none at all."""
    if frames.ndim != 4 or not len(frames) or frames.dtype != np.uint8:
        raise ValueError(
            f"inputs: needs uint8 [N, H, W, K] frames to know them again, not {frames.dtype} {frames.shape}"
        )
    frames = frames[:: -(-len(frames) // _MOST)]
    described, names = describe(frames)
    mean, std = described.mean(0), np.maximum(described.std(0), _FLOOR)
    apart = (described - mean) / std
    shrink = _SHRINK + apart.shape[1] / len(apart)
    inverse = np.linalg.inv((apart.T @ apart / len(apart) + shrink * np.eye(apart.shape[1])) / (1 + shrink))
    own = float(np.quantile(_lengths(apart, inverse), 0.99))
    low, high = np.quantile(described, (0.01, 0.99), axis=0)
    counts = np.stack([np.histogram(frames[..., k], _BINS, (0, 256))[0] for k in range(frames.shape[-1])])
    return InputStatistics(
        frames=len(frames),
        names=names,
        mean=_numbers(mean),
        std=_numbers(std),
        low=_numbers(low),
        high=_numbers(high),
        inverse=tuple(_numbers(row) for row in inverse),
        reach=round(max(own, 1.0) * (1 + 2 * len(frames) ** -0.5), 6),  # few frames do not show all there is
        histogram=tuple(_numbers(row) for row in counts / counts.sum(1, keepdims=True)),
    )


def describe(frames: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """uint8 [N, H, W, K] -> [N, D] descriptors, all in grey levels, and their names."""
    return np.stack([_describe(frame) for frame in frames]), _names(frames.shape[-1])


def unlike(frames: np.ndarray, known: InputStatistics, *, what: str) -> str | None:
    """A sentence when `frames` [N, H, W, K], taken together, do not look like the training frames; else None.

    One frame has to be farther off than many that all are: the median may be 1 + 0.5 / sqrt(N).
    """
    described, names = describe(frames)
    if names != known.names:
        return f"{what}: frames of {frames.shape[-1]} channels cannot be compared with those of training"
    return _said(described, known, what)


class Watch:
    """Looks at frames as they come by and says once when they do not look like the training frames."""

    def __init__(self, known: InputStatistics | None, *, what: str) -> None:
        self._known, self._what = known, what
        self._seen: list[np.ndarray] = []
        self._done = known is None

    def see(self, frame: np.ndarray) -> str | None:
        """uint8 [H, W, K] -> a sentence the first time that it is needed, else None."""
        if self._done or self._known is None:
            return None
        self._seen.append(describe(frame[None])[0][0])
        said = _said(np.stack(self._seen), self._known, self._what)
        self._done = said is not None or len(self._seen) >= _WATCHED
        return said


def write_inputs(folder: str | Path, frames: np.ndarray) -> None:
    """Put `inputs.json` into a ship that is not sealed yet: uint8 [N, H, W, K], the frames of training."""
    write_text(Path(folder) / INPUTS, measure(frames).to_json())


def read_inputs(ship: Ship) -> InputStatistics | None:
    """None for a ship that was made without them."""
    if INPUTS not in ship.card.files:
        return None
    path = ship.path(INPUTS)
    return InputStatistics.from_json(path.read_text(encoding="utf-8"), source=path)


def _said(described: np.ndarray, known: InputStatistics, what: str) -> str | None:
    apart = known.distances(described)
    if known.frames < _FEWEST or np.median(apart) <= 1 + 0.5 * len(described) ** -0.5:
        return None
    middle = np.median(described, axis=0)
    beyond = np.maximum(np.array(known.low) - middle, middle - np.array(known.high))
    worst = int((beyond / np.array(known.std)).argmax())
    frames = "the frame looks" if len(described) == 1 else f"{int((apart > 1).sum())} of {len(described)} frames look"
    return (
        f"{what}: {frames} unlike those of training ({known.names[worst]} {middle[worst]:.0f}, there "
        f"{known.low[worst]:.0f} to {known.high[worst]:.0f} of 255); check modality, colour order and exposure"
    )


def _describe(frame: np.ndarray) -> np.ndarray:
    """uint8 [H, W, K] -> [D]. From histograms, which is quick."""
    channels = frame.shape[-1]
    levels = np.arange(256.0)
    shares = [np.bincount(frame[..., k].ravel(), minlength=256) / frame[..., k].size for k in range(channels)]
    means = [float(share @ levels) for share in shares]
    stds = [
        float(np.sqrt(np.maximum(share @ levels**2 - mean**2, 0))) for share, mean in zip(shares, means, strict=True)
    ]
    dark, white = ([255 * float(share[part].sum()) for share in shares] for part in (slice(8), slice(248, None)))
    colour = [means[0] - means[1], means[2] - means[1]] if channels == 3 else []
    grey = (frame.sum(-1, dtype=np.uint32) // channels).astype(np.int16)
    below = np.cumsum(np.bincount(grey.ravel(), minlength=256)) / grey.size
    quantiles = np.searchsorted(below, (0.1, 0.5, 0.9)).tolist()
    detail = [float(np.abs(np.diff(grey, axis=axis)).mean()) if grey.shape[axis] > 1 else 0.0 for axis in (0, 1)]
    return np.array([*means, *stds, *dark, *white, *colour, *quantiles, sum(detail) / 2])


def _names(channels: int) -> tuple[str, ...]:
    letters: Sequence[str] = {1: ("",), 3: (" of channel 1", " of channel 2", " of channel 3")}.get(
        channels, [f" of slice {k + 1}" for k in range(channels)]
    )
    kinds = ("brightness", "contrast", "black share", "white share")
    colour = ("channel 1 over 2", "channel 3 over 2") if channels == 3 else ()
    return (
        *(f"{kind}{letter}" for kind in kinds for letter in letters),
        *colour,
        *("dark level", "middle level", "bright level", "detail"),
    )


def _lengths(apart: np.ndarray, inverse: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(np.einsum("nd,de,ne->n", apart, inverse, apart), 0) / apart.shape[1])


def _numbers(values: np.ndarray) -> tuple[float, ...]:
    return tuple(round(float(value), 6) for value in values)
