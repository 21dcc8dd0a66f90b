"""The card of a model folder, card.json: what the network is, what it was made from and what was measured. No torch."""

from __future__ import annotations

import json
import types
from collections.abc import Mapping
from dataclasses import Field, asdict, dataclass, field, fields, is_dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from edgemt.contour_margins import ContourMargins

CARD_FORMAT = 1
_UNUSED_KEYS = {"postprocess": "argmax", "spacing_mm": None}  # of format 1: always these values, read by no version


@dataclass(frozen=True)
class Normalisation:
    """uint8 frame / 255, then (x - mean) / std per channel; `per_image` takes both from the frame itself."""

    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.25,)
    per_image: bool = False


@dataclass(frozen=True)
class FileMetrics:
    """What was measured of one file of the folder, on the validation list.

    In card.json a field with its default is left out, except `dice`, and `drop` where `runtime` is given: these two are
    null if they could not be measured.
    """

    dice: float | None = None  # mean of the foreground classes
    drop: float | None = None  # Dice of the network that it was made from, minus `dice`
    runtime: str = ""  # what ran the file: torch, onnxruntime, openvino
    per_class: dict[str, dict[str, float | None]] = field(default_factory=dict)  # class -> metric -> value
    cases: tuple[dict[str, Any], ...] = ()  # each: name, and class -> metric -> value
    unit: str = ""  # of the distances
    nsd_tolerance: float | None = None  # in that unit
    list_key: str = field(default="", metadata={"json": "list"})  # hash of the validation list
    measured_on: str = ""  # for a volume: hash of the list and of the options of inference
    largest_component: dict[str, float | None] = field(default_factory=dict)  # metric -> value after that clean-up
    without_clean_up: dict[str, float | None] = field(default_factory=dict)
    stride: tuple[int, ...] = ()  # of the windows, voxels
    windows_per_volume: float | None = None
    agreement: float | None = None  # fraction of pixels with the class that torch gives, at the same precision
    golden_pixels: float | None = None  # fraction of pixels like the golden masks, in the worst frame
    golden_dice: float | None = None  # foreground Dice with the golden masks
    golden_agreement: float | None = None  # fraction of golden pixels on which two runtimes agree in INT8
    float16_agreement: float | None = None  # of weights stored as float16: fraction of pixels like float32
    quantization: dict[str, Any] | None = None  # rung, kept, rungs ...: how INT8 was reached
    attempts: tuple[dict[str, Any], ...] = ()  # at pruning, each with dice, macs, steps and refused
    dice_on: dict[str, float | None] = field(default_factory=dict)  # runtime -> Dice, where one file has several
    uncertainty: dict[str, Any] = field(default_factory=dict)  # of the second output: auroc, ece, brier, aurc ...
    softmax_entropy: dict[str, Any] = field(default_factory=dict)  # the same of a float network's softmax
    measured_in: str = ""  # "torch": the figures are those of the network, whose masks the file gives
    cases_of: str = ""  # other cases than those of the card's list
    bound_to: str = ""  # "executorch 1.5.1": the one version of its runtime that reads the file
    other: dict[str, Any] = field(default_factory=dict)  # keys of card.json that this version has no field for

    def to_dict(self) -> dict[str, Any]:
        """The record of card.json."""
        empty, always = FileMetrics(), {"dice", "drop"} if self.runtime else {"dice"}
        record = {
            _key(f): getattr(self, f.name)
            for f in fields(self)
            if f.name in always or getattr(self, f.name) != getattr(empty, f.name)
        }
        record.pop("other", None)
        return record | self.other

    def without_golden(self) -> FileMetrics:
        """Without what was measured on the golden frames, which belong to one package."""
        return replace(self, golden_pixels=None, golden_dice=None, golden_agreement=None)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> FileMetrics:
        """Read a record of card.json. Raises TypeError, naming the key, for a value of another type."""
        known = {_key(f) for f in fields(cls)}
        other = {key: value for key, value in record.items() if key not in known}
        return cls(**_read_fields(cls, {key: record[key] for key in known & set(record)}), other=other)


@dataclass(frozen=True)
class ModelCard:
    """Description of a model folder. Plain JSON, never executed."""

    task: str = "segmentation"
    stage: str = ""
    name: str = ""
    classes: tuple[str, ...] = ()
    size: tuple[int, int] = (0, 0)  # height, width of the fixed input, pixels
    patch: tuple[int, ...] | None = None  # X, Y, Z that a 3-D teacher sees at once, voxels; it has no frame size
    channels: int = 3
    # "RGB", "grey", "slices": neighbours of a volume's slice, itself in the middle, or "channels": several files of a
    # case, in the order of data["channel_names"] (`edgemt.io.channels`)
    channel_order: str = "RGB"
    normalise: Normalisation = field(default_factory=Normalisation)
    network: dict[str, Any] = field(default_factory=dict)  # how to build it again
    data: dict[str, Any] = field(default_factory=dict)  # how the frames were read
    parents: tuple[str, ...] = ()  # card hashes of the artefacts this one came from
    recipe_hash: str = ""
    files: dict[str, str] = field(default_factory=dict)  # relative path -> sha256
    measured: dict[str, FileMetrics] = field(default_factory=dict)  # file -> figures
    latency: tuple[dict[str, Any], ...] = ()
    given_up: tuple[dict[str, Any], ...] = ()  # what was wanted, what ships in its place, and why
    params: int = 0
    macs: int = 0
    created: str = ""
    format: int = CARD_FORMAT
    contours: dict[str, ContourMargins] = field(default_factory=dict)  # file -> margins of its outer and inner line
    version: int = 0  # grows with every release of this model; 0: none was given
    expires: str = ""  # the last day on which it may run, YYYY-MM-DD; empty: no end
    overlapping: bool = False  # masks are bits of classes that may overlap (`edgemt.io.class_regions`)

    def to_json(self) -> str:
        raw = {
            **asdict(self),
            **_UNUSED_KEYS,
            "measured": {file: metrics.to_dict() for file, metrics in self.measured.items()},
        }
        # a card without them is as versions before them wrote it
        for name in ("contours", "version", "expires", "overlapping"):
            if not raw[name]:
                del raw[name]
        return json.dumps(raw, indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str, *, source: str | Path = "card.json") -> ModelCard:
        """Raises ValueError, naming `source`, when the text is no card that this version reads."""
        try:
            raw = json.loads(text)
            if not isinstance(raw, dict):
                raise TypeError("not an object")
            if raw.get("format") != CARD_FORMAT:
                raise ValueError(f"format {raw.get('format')!r}, this version reads {CARD_FORMAT}")
            return cls(**_read_fields(cls, {key: raw[key] for key in raw if key not in _UNUSED_KEYS}))
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            raise ValueError(f"{source}: not a readable card ({error}); export the model again") from error


def _key(f: Field[Any]) -> str:
    """The name of a dataclass field in JSON."""
    return str(f.metadata.get("json", f.name))


@lru_cache
def _types(cls: type) -> dict[str, tuple[str, Any]]:
    """JSON key -> name and type of the field, for a dataclass."""
    types_of = get_type_hints(cls)
    return {_key(f): (f.name, types_of[f.name]) for f in fields(cls)}


def _read_fields(cls: type, raw: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a dataclass from a JSON object. Raises ValueError for unknown keys and TypeError for wrong types."""
    known = _types(cls)
    if unknown := raw.keys() - known.keys():
        raise ValueError(f"unknown fields {', '.join(sorted(unknown))}")
    return {known[key][0]: _read(known[key][1], value, key) for key, value in raw.items()}


def _read(kind: Any, value: Any, key: str) -> Any:
    """A JSON value as the type of a field: lists become tuples, objects become dataclasses.

    Raises TypeError, naming the key, if the value has another type.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        return None if value is None else _read(next(k for k in inner if k is not type(None)), value, key)
    if is_dataclass(kind) or origin is dict:
        _check(value, dict, key)
        if origin is dict:
            return {name: _read(inner[1], v, f"{key}.{name}") for name, v in value.items()}
        if kind is FileMetrics:
            return FileMetrics.from_dict(value)
        return kind(**_read_fields(kind, value))  # type: ignore[operator]
    if origin is tuple:
        _check(value, list, key)
        kinds = inner[:1] * len(value) if inner[-1] is Ellipsis else inner
        if len(value) != len(kinds):
            raise TypeError(f"{key} has {len(value)} values instead of {len(kinds)}")
        return tuple(_read(k, v, key) for k, v in zip(kinds, value, strict=True))
    _check(value, (int, float) if kind is float else kind, key)
    return value


def _check(value: Any, kind: Any, key: str) -> None:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise TypeError(f"{key} is no {'number' if isinstance(kind, tuple) else kind.__name__}")
