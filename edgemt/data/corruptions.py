"""Corruptions of medical images at five severities, for evaluation (`edgemt eval --corrupt`) and for training.

    corrupt(frame, "smoke", 3, seed=0, case="case7")

A corrupted image is a function of (seed, case, kind, severity), and the pattern of (seed, case, kind): severity 5 of a
case has the smoke of its severity 1 at the same places. The label is never changed. That is exact for all kinds but
`black_rim`, which hides pixels: these are scored as the label has them, and an evaluation reports the Dice of the
visible pixels besides (`hidden_pixels`). Needs OpenCV, no torch.

Shapes: S slices of a volume, H W size, K channels.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from edgemt.data import corruption_formulas as formulas
from edgemt.data.corruption_formulas import Draws
from edgemt.errors import unknown_name_message

SEVERITIES = (1, 2, 3, 4, 5)
Modality = Literal["endoscopy", "mri", "ct", "ultrasound"]
Formula = Callable[[np.ndarray, float, Draws], np.ndarray]


@dataclass(frozen=True)
class Corruption:
    """A kind of corruption and its parameter at each severity."""

    formula: Formula
    levels: tuple[float, float, float, float, float]  # the parameter at severities 1 to 5
    colour: bool = False  # only for RGB


CORRUPTIONS: dict[str, Corruption] = {
    "smoke": Corruption(formulas.smoke, (0.25, 0.4, 0.55, 0.7, 0.82), colour=True),
    "specular": Corruption(formulas.specular, (0.005, 0.012, 0.025, 0.045, 0.075), colour=True),
    "blood": Corruption(formulas.blood, (0.08, 0.16, 0.26, 0.38, 0.5), colour=True),
    "defocus": Corruption(formulas.defocus, (0.0134, 0.0179, 0.0268, 0.0357, 0.0446)),
    "motion_blur": Corruption(formulas.motion_blur, (0.03, 0.05, 0.075, 0.105, 0.14)),
    "jpeg": Corruption(formulas.jpeg, (25, 18, 15, 10, 7)),
    "overexposure": Corruption(formulas.overexposure, (0.5, 1, 1.5, 2, 2.5)),
    "underexposure": Corruption(formulas.underexposure, (1, 2, 3, 4, 5)),
    "black_rim": Corruption(formulas.black_rim, (1.1, 1, 0.9, 0.8, 0.7)),
    "noise": Corruption(formulas.noise, (0.02, 0.04, 0.07, 0.11, 0.16)),
    "bias_field": Corruption(formulas.bias_field, (0.2, 0.4, 0.6, 0.85, 1.1)),
    "ghosting": Corruption(formulas.ghosting, (0.2, 0.35, 0.5, 0.7, 0.9)),
    "rician_noise": Corruption(formulas.rician_noise, (0.015, 0.03, 0.05, 0.075, 0.1)),
    "shadow": Corruption(formulas.shadow, (0.4, 0.55, 0.7, 0.83, 0.95)),
    "speckle": Corruption(formulas.speckle, (0.15, 0.25, 0.38, 0.54, 0.75)),
}

# What each modality meets; `--corrupt` and `--augment.corruptions` take these names too.
BY_MODALITY: dict[str, tuple[str, ...]] = {
    "endoscopy": (
        *("smoke", "specular", "blood", "defocus", "motion_blur", "jpeg"),
        *("overexposure", "underexposure", "black_rim", "noise"),
    ),
    "mri": ("bias_field", "ghosting", "rician_noise"),
    "ct": ("noise", "defocus", "jpeg"),
    "ultrasound": ("shadow", "speckle", "overexposure", "underexposure", "defocus", "jpeg"),
}


def corrupt(image: np.ndarray, name: str, severity: int, *, seed: int = 0, case: str | int = 0) -> np.ndarray:
    """A frame [H, W] or [H, W, K] (K 1, or 3 for RGB), corrupted; shape, type and range stay.

    uint8 has the range 0 to 255, other types the range of the image's own values. Raises ValueError for an unknown
    name, a severity out of 1 to 5, another shape or type, and a grey image where the kind needs RGB.
    """
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3)):
        raise ValueError(f"corrupt: needs [H, W], [H, W, 1] or [H, W, 3], this image is {image.shape}")
    unit, low, span = _to_unit(image)
    changed = corrupt_unit(unit.reshape(*image.shape[:2], -1), name, severity, seed=seed, case=case)
    return _from_unit(changed.reshape(image.shape), low, span, image.dtype)


def corrupt_volume(volume: np.ndarray, name: str, severity: int, *, seed: int = 0, case: str | int = 0) -> np.ndarray:
    """The slices [S, H, W] of a volume, each corrupted; shape, type and range stay.

    Field, ghosts and shadows are those of the case, the same in each slice; noise is drawn for each slice. Raises
    ValueError as `corrupt`.
    """
    if volume.ndim != 3:
        raise ValueError(f"corrupt_volume: needs slices [S, H, W], this volume is {volume.shape}")
    unit, low, span = _to_unit(volume)
    changed = corrupt_unit(np.moveaxis(unit, 0, -1), name, severity, seed=seed, case=case, slices=True)
    return _from_unit(np.moveaxis(changed, -1, 0), low, span, volume.dtype)


def corrupt_unit(
    x: np.ndarray, name: str, severity: int, *, seed: int = 0, case: str | int = 0, slices: bool = False
) -> np.ndarray:
    """Float [H, W, K] in [0, 1] -> float32, the same shape and range. With `slices` the channels are slices."""
    kind, level = _kind(name, severity)
    if kind.colour and (slices or x.shape[2] != 3):
        raise ValueError(_needs_colour(name))
    x = np.ascontiguousarray(x, np.float32)
    if not slices:
        return np.clip(kind.formula(x, level, _draws(seed, name, case, 0)), 0, 1).astype(np.float32, copy=False)
    channels = [kind.formula(x[..., k : k + 1], level, _draws(seed, name, case, k)) for k in range(x.shape[2])]
    return np.clip(np.concatenate(channels, axis=2), 0, 1).astype(np.float32, copy=False)


def hidden_pixels(
    size: tuple[int, int], name: str, severity: int, *, seed: int = 0, case: str | int = 0
) -> np.ndarray | None:
    """The pixels, bool [H, W], that the corruption hides; None for all kinds but `black_rim`."""
    if name != "black_rim":
        return None
    return formulas.hidden_by_rim(size, _kind(name, severity)[1], _draws(seed, name, case, 0))


def check_names(chosen: Sequence[str]) -> None:
    """Raises ValueError for a name that is no kind, no modality, and neither "all" nor "auto"."""
    known = [*CORRUPTIONS, *BY_MODALITY, "all", "auto"]
    for name in chosen:
        if name not in known:
            raise ValueError(f"{unknown_name_message('corruption', name, known)}: {', '.join(known)}")


def corruption_names(chosen: Sequence[str], *, modality: Modality, colour: bool) -> tuple[str, ...]:
    """The kinds that `chosen` names, each once: kinds, modalities (all of theirs), "all" or "auto".

    "auto", and none at all: those of `modality`. "all": all that fit. Without `colour`, groups leave out the kinds that
    need RGB. Raises ValueError for an unknown name, and for a kind that needs RGB without `colour`.
    """
    check_names(chosen)
    names: list[str] = []
    for name in chosen or ("auto",):
        if name in CORRUPTIONS:
            if CORRUPTIONS[name].colour and not colour:
                raise ValueError(_needs_colour(name))
            names.append(name)
            continue
        groups: dict[str, tuple[str, ...]] = {**BY_MODALITY, "auto": BY_MODALITY[modality], "all": tuple(CORRUPTIONS)}
        names += [kind for kind in groups[name] if colour or not CORRUPTIONS[kind].colour]
    return tuple(dict.fromkeys(names))


def modality_of(preset: str, *, colour: bool, volumes: bool, window: bool) -> tuple[Modality, str]:
    """The modality of a data set, and the reason: the preset of its augmentation, else what its images are."""
    if preset in get_args(Modality):
        return preset, f"augment.preset {preset}"  # type: ignore[return-value]
    if colour:
        return "endoscopy", "RGB frames"
    if volumes:
        return ("ct", "volumes with a window of intensities") if window else ("mri", "volumes")
    return "ultrasound", "grey frames"


def check_severities(severities: Sequence[int]) -> tuple[int, ...]:
    """The severities, sorted, each once. Raises ValueError for one out of 1 to 5, and where there is none."""
    for severity in severities:
        _check_severity(severity)
    if not severities:
        raise ValueError("severities: none is given; use some of 1 to 5")
    return tuple(sorted(set(severities)))


def _needs_colour(name: str) -> str:
    fitting = ", ".join(other for other, row in CORRUPTIONS.items() if not row.colour)
    return f"corruption {name!r}: needs RGB frames, these are grey; use {fitting}"


def _kind(name: str, severity: int) -> tuple[Corruption, float]:
    if name not in CORRUPTIONS:
        raise ValueError(f"{unknown_name_message('corruption', name, CORRUPTIONS)}: {', '.join(CORRUPTIONS)}")
    return CORRUPTIONS[name], CORRUPTIONS[name].levels[_check_severity(severity) - 1]


def _check_severity(severity: int) -> int:
    if isinstance(severity, bool) or severity not in SEVERITIES:
        raise ValueError(f"severities: {severity!r} is none of 1 to 5 (1 mild, 5 severe)")
    return int(severity)


def _draws(seed: int, name: str, case: str | int, index: int) -> Draws:
    parts = [seed, zlib.crc32(name.encode()), zlib.crc32(str(case).encode())]
    return Draws(np.random.default_rng([0, *parts]), np.random.default_rng([1, *parts, index]))


def _to_unit(image: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Values in 0..1, and the low end and the width of their range."""
    if image.dtype.kind not in "uif" or not image.size:
        raise ValueError(f"corrupt: needs an image of integers or floats, this is {image.dtype} {image.shape}")
    if image.dtype == np.uint8:
        return image.astype(np.float32) / 255, 0.0, 255.0
    low, high = float(image.min()), float(image.max())
    if not np.isfinite(high - low):
        raise ValueError("corrupt: the image holds values that are not finite; replace them first")
    span = high - low or 1.0
    return ((image.astype(np.float64) - low) / span).astype(np.float32), low, span


def _from_unit(unit: np.ndarray, low: float, span: float, kind: np.dtype) -> np.ndarray:
    values = unit.astype(np.float64) * span + low if kind != np.uint8 else unit * 255
    return (np.rint(values) if kind.kind in "ui" else np.clip(values, low, low + span)).astype(kind)
