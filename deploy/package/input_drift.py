"""What the frames of training look like, and whether other frames look alike: another modality, a swapped colour
order or a dark camera gives masks all the same, and nothing but the frames themselves tells.

A frame is described by a few numbers (`deploy.package.frame_features`). Its distance to the training frames is the
larger of two:
a Mahalanobis distance with a shrunk covariance, in units of what 99 % of training frames reach, which sees odd
combinations; and how far it lies outside the ranges of training, which sees a single number that is far off.

Shapes: N frames, H W size in pixels, K channels, D descriptors.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from deploy.package.frame_features import describe, described_as
from deploy.package.package import Ship
from edgemt.io.atomic import write_text

INPUTS = "inputs.json"
_BINS = 32  # of the histogram that goes along
_FLOOR = 3.0  # grey levels: a descriptor that hardly varied in training may vary this much
_SHRINK = 0.2  # of the covariance towards the identity
_OUTSIDE = 1.5  # half widths of the ranges, all together, that 99 % of frames like those of training stay within
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
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            raise ValueError(f"{source}: holds no input statistics ({error}); export the model again") from None

    def distances(self, described: np.ndarray) -> np.ndarray:
        """[N, D] -> [N]: 1 is where 99 % of the training frames lie within."""
        apart = (described - np.array(self.mean)) / np.array(self.std)
        return np.maximum(_lengths(apart, np.array(self.inverse)) / self.reach, self._outside(described) / _OUTSIDE)

    def likeness(self, described: np.ndarray) -> np.ndarray:
        """[N, D] -> [N]: 1 for a usual frame, above 0.5 for 99 % of the training frames, towards 0 beyond."""
        return 1 / (1 + np.maximum(2 * self.distances(described) - 1, 0) ** 3)  # type: ignore[no-any-return]

    def _outside(self, described: np.ndarray) -> np.ndarray:
        """[N, D] -> [N], in half widths of the ranges. Few frames do not show how wide these are."""
        low, high = np.array(self.low), np.array(self.high)
        half = np.maximum((high - low) / 2, 2 * np.array(self.std))
        slack = 2 * self.frames**-0.5 * half
        beyond = np.maximum(np.maximum(low - slack - described, described - high - slack), 0) / half
        return np.linalg.norm(beyond, axis=1)  # type: ignore[no-any-return]


def measure(frames: np.ndarray, *, patients: int | None = None) -> InputStatistics:
    """uint8 [N, H, W, K], the frames of training -> what to compare others with. Raises ValueError for none at all.

    `patients`: how many the frames show, as many as frames unless given. Slices of one patient are alike,
    and a few patients do not show how far frames of others may be off.
    """
    if frames.ndim != 4 or not len(frames) or frames.dtype != np.uint8:
        raise ValueError(
            f"inputs: needs uint8 [N, H, W, K] frames to know them again, not {frames.dtype} {frames.shape}"
        )
    seen = min(patients or len(frames), _MOST)
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
        reach=round(max(own, 1.0) * (1 + 2 * min(seen, len(frames)) ** -0.5), 6),  # few do not show all there is
        histogram=tuple(_numbers(row) for row in counts / counts.sum(1, keepdims=True)),
    )


def unlike(frames: np.ndarray, known: InputStatistics, *, what: str) -> str | None:
    """A sentence when `frames` [N, H, W, K], taken together, do not look like the training frames; else None.

    One frame has to be farther off than many that all are: the median may be 0.8 + 0.7 / sqrt(N).
    """
    described = described_as(frames, known.names)
    if described is None:
        return _other_channels(what, frames.shape[-1])
    return _said(described, known, what)


def _other_channels(what: str, channels: int) -> str:
    return f"{what}: frames of {channels} channels cannot be compared with those of training"


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
        described = described_as(frame[None], self._known.names)
        return self.see_described(described) if described is not None else self._strange(frame.shape[-1])

    def see_described(self, described: np.ndarray) -> str | None:
        """[1, D], of a frame that was described already."""
        if self._done or self._known is None:
            return None
        self._seen.append(described[0])
        said = _said(np.stack(self._seen), self._known, self._what)
        self._done = said is not None or len(self._seen) >= _WATCHED
        return said

    def _strange(self, channels: int) -> str:
        self._done = True
        return _other_channels(self._what, channels)


def write_inputs(folder: str | Path, frames: np.ndarray) -> None:
    """Put `inputs.json` into a ship that is not sealed yet: uint8 [N, H, W, K], the frames of training."""
    write_text(Path(folder) / INPUTS, measure(frames).to_json())


def read_inputs(ship: Ship) -> InputStatistics | None:
    """None for a ship that was made without them."""
    if INPUTS not in ship.card.files:
        return None
    source = ship.path(INPUTS)
    try:
        text = ship.read(INPUTS).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{source}: is no text in UTF-8 ({error}); export the model again") from None
    return InputStatistics.from_json(text, source=source)


def _said(described: np.ndarray, known: InputStatistics, what: str) -> str | None:
    apart = known.distances(described)
    if known.frames < _FEWEST or np.median(apart) <= 0.8 + 0.7 * len(described) ** -0.5:
        return None
    middle = np.median(described, axis=0)
    beyond = np.maximum(np.array(known.low) - middle, middle - np.array(known.high))
    worst = int((beyond / np.array(known.std)).argmax())
    frames = "the frame looks" if len(described) == 1 else f"{int((apart > 1).sum())} of {len(described)} frames look"
    return (
        f"{what}: {frames} unlike those of training ({known.names[worst]} {middle[worst]:.0f}, there "
        f"{known.low[worst]:.0f} to {known.high[worst]:.0f} of 255); check modality, colour order and exposure"
    )


def _lengths(apart: np.ndarray, inverse: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(np.einsum("nd,de,ne->n", apart, inverse, apart), 0) / apart.shape[1])


def _numbers(values: np.ndarray) -> tuple[float, ...]:
    return tuple(round(float(value), 6) for value in values)
