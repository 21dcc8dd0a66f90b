"""Input drift: do frames look like the training frames?

Another modality, a swapped colour order or a dark camera gives plausible masks too, so only the frames themselves can
show it.

A frame is described by D features (`deploy.package.frame_features`). Its distance to the training frames is the larger
of two numbers: a Mahalanobis distance with a shrunk covariance, relative to the 99 % quantile of the training frames,
which detects unusual combinations; and the distance outside the 1 % to 99 % ranges of training, which detects a single
feature that is far off.

Shapes: N frames, H W size in pixels, K channels, D features.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from deploy.package.frame_features import frame_features, matching_features
from deploy.package.package import Package
from edgemt.io.atomic import write_text

INPUTS = "inputs.json"
_BINS = 32  # of the stored histogram
_FLOOR = 3.0  # grey levels: standard deviation that every feature is allowed at least
_SHRINK = 0.2  # of the covariance towards the identity
_OUTSIDE = 1.5  # in half widths of the ranges: 99 % of frames like the training frames stay within
_MOST = 1000  # training frames that are measured
_FEWEST = 5  # training frames needed for any message
_WATCHED = 100  # frames without a message after which the monitor stops
LIKENESS_LIMIT = 0.5  # 99 % of the training frames have a score above it; below it no calibration holds


@dataclass(frozen=True)
class InputStatistics:
    """Statistics of the training frames, over the features `names`. The field names are the keys of `inputs.json`."""

    frames: int
    names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    low: tuple[float, ...]  # 1 % and 99 % quantiles of the training frames
    high: tuple[float, ...]
    inverse: tuple[tuple[float, ...], ...]  # [D, D] precision matrix: inverse of the shrunk correlation matrix
    reach: float  # 99 % quantile of the Mahalanobis distance of the training frames
    histogram: tuple[tuple[float, ...], ...]  # [K, 32] fraction of pixels, over all frames

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

    def distances(self, features: np.ndarray) -> np.ndarray:
        """Features [N, D] -> distances [N] to the training frames: 99 % of the training frames are below 1."""
        deviation = (features - np.array(self.mean)) / np.array(self.std)
        return np.maximum(_lengths(deviation, np.array(self.inverse)) / self.reach, self._outside(features) / _OUTSIDE)

    def in_distribution_score(self, features: np.ndarray) -> np.ndarray:
        """Features [N, D] -> scores [N]: 1 for a usual frame, above 0.5 for 99 % of training frames, 0 far from them.

        score = 1 / (1 + max(2 d - 1, 0)^3) for the distance d.
        """
        return 1 / (1 + np.maximum(2 * self.distances(features) - 1, 0) ** 3)  # type: ignore[no-any-return]

    def _outside(self, features: np.ndarray) -> np.ndarray:
        """[N, D] -> [N], in half widths of the ranges, which are widened where the training frames were few."""
        low, high = np.array(self.low), np.array(self.high)
        half = np.maximum((high - low) / 2, 2 * np.array(self.std))
        slack = 2 * self.frames**-0.5 * half
        beyond = np.maximum(np.maximum(low - slack - features, features - high - slack), 0) / half
        return np.linalg.norm(beyond, axis=1)  # type: ignore[no-any-return]


def measure(frames: np.ndarray, *, patients: int | None = None) -> InputStatistics:
    """Statistics of the training frames uint8 [N, H, W, K]. Raises ValueError without frames.

    `patients`: number of patients in the frames, by default one for each frame. Slices of one patient resemble each
    other, so few patients show too little variation: the allowed distance is scaled by 1 + 2 / sqrt(patients).
    """
    if frames.ndim != 4 or not len(frames) or frames.dtype != np.uint8:
        raise ValueError(f"inputs: needs uint8 [N, H, W, K] frames to measure, not {frames.dtype} {frames.shape}")
    count = min(patients or len(frames), _MOST)
    frames = frames[:: -(-len(frames) // _MOST)]
    features, names = frame_features(frames)
    mean, std = features.mean(0), np.maximum(features.std(0), _FLOOR)
    deviation = (features - mean) / std
    shrink = _SHRINK + deviation.shape[1] / len(deviation)
    inverse = np.linalg.inv(
        (deviation.T @ deviation / len(deviation) + shrink * np.eye(deviation.shape[1])) / (1 + shrink)
    )
    own = float(np.quantile(_lengths(deviation, inverse), 0.99))
    low, high = np.quantile(features, (0.01, 0.99), axis=0)
    counts = np.stack([np.histogram(frames[..., k], _BINS, (0, 256))[0] for k in range(frames.shape[-1])])
    return InputStatistics(
        frames=len(frames),
        names=names,
        mean=_numbers(mean),
        std=_numbers(std),
        low=_numbers(low),
        high=_numbers(high),
        inverse=tuple(_numbers(row) for row in inverse),
        reach=round(max(own, 1.0) * (1 + 2 * min(count, len(frames)) ** -0.5), 6),  # few frames show too little spread
        histogram=tuple(_numbers(row) for row in counts / counts.sum(1, keepdims=True)),
    )


def drift_message(frames: np.ndarray, statistics: InputStatistics, *, what: str) -> str | None:
    """A message where frames uint8 [N, H, W, K], taken together, do not look like the training frames; else None.

    The limit of the median distance is 0.8 + 0.7 / sqrt(N): a single frame has to be farther off than many.
    """
    features = matching_features(frames, statistics.names)
    if features is None:
        return _other_channels(what, frames.shape[-1])
    return _message(features, statistics, what)


def _other_channels(what: str, channels: int) -> str:
    return f"{what}: frames of {channels} channels cannot be compared with those of training"


class InputDriftMonitor:
    """Checks frames one by one and reports once where they do not look like the training frames."""

    def __init__(self, statistics: InputStatistics | None, *, what: str) -> None:
        self._statistics, self._what = statistics, what
        self._features: list[np.ndarray] = []
        self._done = statistics is None

    def update(self, frame: np.ndarray) -> str | None:
        """Check the frame uint8 [H, W, K]; returns a message the first time that one is due, else None."""
        if self._done or self._statistics is None:
            return None
        features = matching_features(frame[None], self._statistics.names)
        return self.update_features(features) if features is not None else self._strange(frame.shape[-1])

    def update_features(self, features: np.ndarray) -> str | None:
        """As `update`, of the features [1, D] of a frame."""
        if self._done or self._statistics is None:
            return None
        self._features.append(features[0])
        message = _message(np.stack(self._features), self._statistics, self._what)
        self._done = message is not None or len(self._features) >= _WATCHED
        return message

    def _strange(self, channels: int) -> str:
        self._done = True
        return _other_channels(self._what, channels)


def write_inputs(folder: str | Path, frames: np.ndarray) -> None:
    """Write `inputs.json` into a package before `finalize`, from the training frames uint8 [N, H, W, K]."""
    write_text(Path(folder) / INPUTS, measure(frames).to_json())


def read_inputs(package: Package) -> InputStatistics | None:
    """The input statistics of a package; None where it has none. Raises ValueError for an unreadable file."""
    if INPUTS not in package.card.files:
        return None
    source = package.path(INPUTS)
    try:
        text = package.read(INPUTS).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{source}: is no text in UTF-8 ({error}); export the model again") from None
    return InputStatistics.from_json(text, source=source)


def _message(features: np.ndarray, statistics: InputStatistics, what: str) -> str | None:
    distances = statistics.distances(features)
    if statistics.frames < _FEWEST or np.median(distances) <= 0.8 + 0.7 * len(features) ** -0.5:
        return None
    middle = np.median(features, axis=0)
    beyond = np.maximum(np.array(statistics.low) - middle, middle - np.array(statistics.high))
    worst = int((beyond / np.array(statistics.std)).argmax())
    frames = "the frame is" if len(features) == 1 else f"{int((distances > 1).sum())} of {len(features)} frames are"
    return (
        f"{what}: {frames} unlike those of training ({statistics.names[worst]} {middle[worst]:.0f}, there "
        f"{statistics.low[worst]:.0f} to {statistics.high[worst]:.0f} of 255); check modality, colour order and "
        "exposure"
    )


def _lengths(deviation: np.ndarray, inverse: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(np.einsum("nd,de,ne->n", deviation, inverse, deviation), 0) / deviation.shape[1])


def _numbers(values: np.ndarray) -> tuple[float, ...]:
    return tuple(round(float(value), 6) for value in values)
