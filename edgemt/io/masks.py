"""What the values of masks mean, decided once for a whole set by the evidence of every file.

A file leaves `Evidence`: its values, its palette or colours, whether it was compressed with loss. `decide` finds the
one rule that fits all files, or refuses in one line that names file, values and flag; `Rule.indices` applies it.

Shapes: H W size of a mask, X Y Z of a volume's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from edgemt.io.array_values import to_unsigned_integers
from edgemt.io.file_types import is_h5, is_image
from edgemt.io.images import deep_channels, grey_values, is_deep_colour, is_grey, opened_image, read_label, upright

Kind = Literal["grey", "bit", "palette", "colour", "alpha"]
Colour = tuple[int, int, int]
BRIGHT = 248  # of 255: this and above is white, also where a viewer rounded it
_NOISE = 32  # of 255: what compression leaves of black at most
_NOISE_SHARE = 0.05  # of the pixels of a mask that compression left noisy without any object
_REGION = 0.2  # share of the pixels of a value in even blocks from which they are a region, no soft edge
_CHUNK = 1 << 22  # values counted at a time
_CLEAR = "--data.mask-threshold None"


@dataclass(frozen=True)
class Evidence:
    """Of one file. `levels` are the values of its array with their counts; of colours, the largest channel."""

    path: str
    kind: Kind
    levels: dict[int, int]
    lossy: bool = False
    colours: tuple[tuple[int, Colour], ...] = ()  # palette: index and colour of those in use; colour: (0, colour) each
    regions: frozenset[int] = frozenset()  # values between the lowest and the highest that fill areas
    conflict: str = ""  # why nothing can be read at all

    @property
    def top(self) -> int:
        return max(self.levels, default=0)


@dataclass(frozen=True)
class MaskFile:
    """A decoded mask: `array` [H, W] or [X, Y, Z] of whole numbers, in the smallest kind."""

    array: np.ndarray
    evidence: Evidence


def read_mask(path: str | Path) -> MaskFile:
    """A 2-D mask with its evidence. Raises ValueError, naming the file, for one that cannot be decoded."""
    if is_h5(path) or not is_image(path):
        return of_array(read_label(path), path)
    with opened_image(path, what="mask") as (image, turn):
        found = _of_image(image, str(path))
    return replace(found, array=upright(found.array, turn)) if turn > 1 else found


def of_array(array: np.ndarray, path: str | Path) -> MaskFile:
    """Evidence of whole numbers that need no decoding: a volume's, or a slice of an .h5 file."""
    levels = count(array)
    return MaskFile(array, Evidence(str(path), "grey", levels, regions=_regions(array, levels)))


def count(array: np.ndarray) -> dict[int, int]:
    """Each value of an array of whole numbers, and how often it occurs. Memory stays small."""
    flat = array.reshape(-1)
    if array.dtype != np.uint8:
        values, counts = np.unique(flat, return_counts=True)
        return dict(zip(values.tolist(), counts.tolist(), strict=True))
    total = np.zeros(256, np.int64)
    for start in range(0, len(flat), _CHUNK):
        part = flat[start : start + _CHUNK]
        between = part[part + np.uint8(1) > 1]  # neither 0 nor 255, of which most masks are made: counted the quick way
        total += np.bincount(between, minlength=256)
        total[0] += len(part) - np.count_nonzero(part)
        total[255] += np.count_nonzero(part == 255)
    return {int(v): int(total[v]) for v in np.flatnonzero(total)}


def _of_image(image: Image.Image, path: str) -> MaskFile:
    lossy = image.format in ("JPEG", "MPO") or (image.format == "WEBP" and len(image.getcolors(1 << 24) or ()) > 16)
    lossy = lossy or getattr(image, "tag_v2", {}).get(259) in (6, 7)  # TIFF with JPEG inside
    if image.mode == "1":
        array = to_unsigned_integers(np.asarray(image), path)
        return MaskFile(array, Evidence(path, "bit", count(array)))
    if image.mode == "P":
        return _of_palette(image, path)
    if is_grey(image):
        array = to_unsigned_integers(grey_values(image, path), path)
        levels = count(array)
        return MaskFile(array, Evidence(path, "grey", levels, lossy, regions=_regions(array, levels, lossy)))
    return _of_colours(image, path, lossy)


def _of_palette(image: Image.Image, path: str) -> MaskFile:
    array = np.asarray(image)
    levels = count(array)
    table = np.asarray((image.getpalette("RGB") or [])[:768], np.int64).reshape(-1, 3)
    colours = tuple((v, _rgb(table[v])) for v in levels if v < len(table))
    if len({colour for _, colour in colours}) < len(colours):
        colours = ()  # several indices in one colour: the palette tells nothing
    return MaskFile(array, Evidence(path, "palette", levels, False, colours))


def _of_colours(image: Image.Image, path: str, lossy: bool) -> MaskFile:
    """RGB, RGBA, LA, PA, CMYK ...: grey where the channels agree; else the largest channel, transparent being 0."""
    bands, alpha = _bands(image, path)
    conflict = ""
    if alpha is not None and all((band == band[0, 0]).all() for band in bands):
        levels = count(alpha)
        return MaskFile(alpha, Evidence(path, "alpha", levels, lossy, regions=_regions(alpha, levels, lossy)))
    if alpha is not None:
        if any(band[alpha == 0].any() for band in bands):
            conflict = "is transparent where its colours are not black"
        bands = [band * (alpha > 0) for band in bands]
    top = to_unsigned_integers(np.maximum(np.maximum(bands[0], bands[1]), bands[2]), path)
    spread = top - np.minimum(np.minimum(bands[0], bands[1]), bands[2])
    coloured = bool((spread > (_NOISE if lossy else 0)).any())
    colours = _distinct(bands) if coloured and not lossy else ()
    levels = count(top)
    regions = _regions(top, levels, lossy)
    return MaskFile(top, Evidence(path, "colour" if coloured else "grey", levels, lossy, colours, regions, conflict))


def _bands(image: Image.Image, path: str) -> tuple[list[np.ndarray], np.ndarray | None]:
    """Red, green and blue at full depth, and the transparency where something is drawn in it."""
    alpha: np.ndarray | None = None
    if is_deep_colour(image):
        deep = deep_channels(image, path)
        bands, alpha = [deep[..., k] for k in range(3)], deep[..., 3] if deep.shape[2] == 4 else None
    else:
        bands = [np.asarray(band) for band in (image if image.mode == "RGB" else image.convert("RGB")).split()]
        if image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
            alpha = np.asarray(image.convert("RGBA").getchannel("A"))
    if alpha is not None and alpha.max() == 0 and not any(np.ptp(band) for band in bands):
        bands = [band * 0 for band in bands]  # drawn in alpha elsewhere, nothing here
    return bands, None if alpha is None or alpha.min() == alpha.max() else alpha


def _distinct(bands: Sequence[np.ndarray]) -> tuple[tuple[int, Colour], ...]:
    """At most 64 colours that occur."""
    kind, bits = ("u4", 8) if bands[0].dtype == np.uint8 else ("u8", 16)
    found: np.ndarray = np.empty(0, kind)
    flat = [band.reshape(-1) for band in bands]
    for start in range(0, len(flat[0]), _CHUNK // 8):
        packed: np.ndarray = np.zeros(1, kind)
        for band in flat:
            packed = np.left_shift(packed, bits) | band[start : start + _CHUNK // 8]
        found = np.union1d(found, packed)
    mask = (1 << bits) - 1
    return tuple((0, (v >> 2 * bits, v >> bits & mask, v & mask)) for v in found[:64].tolist())


def _rgb(row: np.ndarray) -> Colour:
    return int(row[0]), int(row[1]), int(row[2])


def _regions(array: np.ndarray, levels: dict[int, int], lossy: bool = False) -> frozenset[int]:
    """Values strictly between 0 and the largest that fill areas: blocks of 2 x 2 equal pixels, as soft edges do not."""
    if lossy and array.ndim == 2:
        return _even_areas(array, levels)
    if lossy or len(levels) < 3 or array.ndim < 2:
        return frozenset()
    top = max(levels)
    between = [v for v in levels if 0 < v < top]
    if array.ndim > 2:
        return frozenset(between)  # voxels have no soft edges
    corner = array[:-1, :-1]
    even = (corner == array[1:, :-1]) & (corner == array[:-1, 1:]) & (corner == array[1:, 1:])
    inside = count(to_unsigned_integers(corner[even], "mask"))
    return frozenset(v for v in between if inside.get(v, 0) > _REGION * levels[v])


def _even_areas(array: np.ndarray, levels: dict[int, int]) -> frozenset[int]:
    """Of a mask compressed with loss: the values of areas that are neither black nor white. Around each of their
    pixels 5 x 5 differ by noise alone, which the pixels of an edge do not."""
    if sum(n for v, n in levels.items() if _NOISE <= v < 255 - _NOISE) < 25 or min(array.shape) < 5:
        return frozenset()
    low = high = array
    for axis in (0, 1):
        length = array.shape[axis] - 4
        low = np.minimum.reduce([np.take(low, range(k, k + length), axis) for k in range(5)])
        high = np.maximum.reduce([np.take(high, range(k, k + length), axis) for k in range(5)])
    even = (high - low <= _NOISE) & (low >= _NOISE) & (high < 255 - _NOISE)
    return frozenset(np.unique(array[2:-2, 2:-2][even]).tolist())


@dataclass(frozen=True)
class Rule:
    """How values become class indices. `threshold` None: they are the indices."""

    classes: tuple[str, ...]
    threshold: int | None = None
    text: str = ""  # one line for the user
    by_colour: frozenset[str] = field(default=frozenset(), repr=False)  # palette files whose colours are the values

    def indices(self, mask: MaskFile) -> np.ndarray:
        """uint8 class indices of the shape of the mask."""
        evidence = mask.evidence
        if evidence.kind == "bit":
            return mask.array
        if self.threshold is not None:
            if evidence.path in self.by_colour:
                return _table(evidence, lambda colour: int(max(colour) >= self.threshold))[mask.array]  # type: ignore[operator]
            return (mask.array >= self.threshold).view(np.uint8)
        if evidence.path in self.by_colour:
            return _table(evidence, lambda colour: colour[0])[mask.array]
        return mask.array.astype(np.uint8, copy=False)

    def shares(self, files: Sequence[Evidence]) -> tuple[float, ...]:
        """Of all pixels of the masks, the share of each class; empty without a mask."""
        counts = np.zeros(len(self.classes))
        for one in files:
            for value, number in self._values(one):
                value = value if self.threshold is None or one.kind == "bit" else int(value >= self.threshold)
                counts[value] += number
        return tuple((counts / counts.sum()).tolist()) if counts.any() else ()

    def _values(self, one: Evidence) -> list[tuple[int, int]]:
        """Value and number of pixels, by colour where the colours of a palette are the values."""
        if one.path in self.by_colour:
            return [(max(colour), one.levels[index]) for index, colour in one.colours]
        return list(one.levels.items())


def _table(evidence: Evidence, value: Callable[[Colour], int]) -> np.ndarray:
    table = np.zeros(256, np.uint8)
    for index, colour in evidence.colours:
        table[index] = value(colour)
    return table


def decide(files: Sequence[Evidence], *, classes: tuple[str, ...], threshold: int | None = None) -> Rule:
    """The rule that fits every file of a set.

    Raises ValueError in one line, naming a file, its values and the flag, where no rule fits or several do.
    """
    for one in files:
        if one.conflict:
            raise ValueError(f"{one.path}: {one.conflict}; save the mask without transparency")
        if min(one.levels, default=0) < 0:
            raise ValueError(f"{one.path}: mask holds {_shown(one)}; write class indices from 0 on")
    rule = _thresholded(files, classes, threshold) if threshold is not None else _by_evidence(files, classes)
    return replace(rule, text=f"{rule.text}; {len(files)} files" if files else rule.text)


def _shown(one: Evidence) -> str:
    values = sorted(one.levels)
    return ", ".join(map(str, values[:6])) + (f" ... {values[-1]}" if len(values) > 6 else "")


def _grey_colours(one: Evidence) -> bool:
    return all(max(colour) == min(colour) for _, colour in one.colours)


# With a threshold -----------------------------------------------------------------------------------------------------


def _thresholded(files: Sequence[Evidence], classes: tuple[str, ...], threshold: int) -> Rule:
    by_colour = frozenset(one.path for one in files if one.kind == "palette" and one.colours)
    seen = [_as_values(one) if one.path in by_colour else one for one in files]
    white = 255 if max((one.top for one in seen), default=0) <= 255 else 65535
    for one in seen:
        if one.kind == "bit":
            continue
        if 0 < one.top < threshold and not _only_noise(one):
            raise ValueError(
                f"{one.path}: mask holds {_shown(one)}, all below data.mask_threshold {threshold}: it would be empty; "
                f"leave the threshold out ({_CLEAR}) for class indices, or lower it"
            )
        if one.kind == "colour":
            _need_black(one, threshold)
    _refuse_two_whites(seen)
    _refuse_noise(seen, threshold)
    _refuse_labels(seen, threshold)
    shown = _levels_text(seen, white)
    if any(one.kind in ("colour", "palette") for one in seen):
        shown += ", the largest channel of a colour"
    return Rule(classes, threshold, f"masks: {shown}, threshold {threshold}", by_colour)


def _as_values(one: Evidence) -> Evidence:
    """A palette file by the largest channel of its colours."""
    levels: dict[int, int] = {}
    for index, colour in one.colours:
        levels[max(colour)] = levels.get(max(colour), 0) + one.levels[index]
    return replace(one, levels=levels, regions=frozenset(v for v in levels if 0 < v < max(levels)))


def _only_noise(one: Evidence) -> bool:
    above = sum(n for v, n in one.levels.items() if v)
    return one.lossy and one.top < _NOISE and above <= _NOISE_SHARE * sum(one.levels.values())


def _need_black(one: Evidence, threshold: int) -> None:
    if len(one.colours) > 1 and all(max(colour) >= threshold for _, colour in one.colours):
        raise ValueError(
            f"{one.path}: a colour mask without black ({_colours(one)}): which colour is the background? "
            "write 0 for it, or class indices"
        )


def _colours(one: Evidence) -> str:
    return ", ".join(_text(colour) for _, colour in one.colours[:4])


def _refuse_labels(files: Sequence[Evidence], threshold: int) -> None:
    """Raises for values between black and white that are no soft edge but labels of something else."""
    sharp = [one for one in files if not one.lossy and one.kind != "bit"]
    top = max((one.top for one in sharp), default=0)
    between = {v for one in sharp for v in one.levels if 0 < v < top * BRIGHT / 255}
    for one in sharp:
        labels = sorted(v for v in one.levels if v in between and (v in one.regions or len(between) == 1))
        small = [v for v in labels if v < min(threshold, 16)]
        if labels and (threshold > 1 or (small and top == 255 and len(between) < 16)):
            if small and top >= 255:
                raise ValueError(
                    f"{one.path}: mask holds {_shown(one)}: class indices beside {top}, which often means ignore; "
                    f"write 0 and {', '.join(map(str, small))} alone and leave the threshold out ({_CLEAR})"
                )
            raise ValueError(
                f"{one.path}: mask holds {_shown(one)}, and {labels[0]} is no edge but an area; "
                "--data.mask-threshold 1 counts every value above 0 as the object, several classes need class indices"
            )


def _refuse_two_whites(files: Sequence[Evidence]) -> None:
    white = {one.top: one.path for one in files if one.top in (255, 65535)}
    if len(white) > 1:
        raise ValueError(f"{white[65535]}: mask holds 65535 for white, {white[255]} holds 255; use one white in all")


def _refuse_noise(files: Sequence[Evidence], threshold: int) -> None:
    """Raises where the noise of compression would decide what lies above the threshold, or an area falls below it."""
    for one in files:
        if not one.lossy:
            continue
        dim = sorted(v for v in one.regions if v < threshold + _NOISE)
        if threshold > _NOISE and dim:
            about = dim[len(dim) // 2]
            raise ValueError(
                f"{one.path}: compressed with loss, and its areas of about {about} lie below data.mask_threshold "
                f"{threshold} or within the noise around it; write the masks as PNG, or set {max(about // 2, 1)}"
            )
        noise = [v for v in one.levels if threshold <= v < _NOISE and v]
        if noise:
            raise ValueError(
                f"{one.path}: compressed with loss, data.mask_threshold {threshold} counts its noise of {noise[0]} to "
                f"{noise[-1]} as the object; set 128, or write the masks as PNG"
            )


def _levels_text(files: Sequence[Evidence], white: int) -> str:
    if all(one.kind == "bit" for one in files):
        return "1 bit"
    values = sorted({v for one in files for v in one.levels if one.kind != "bit"} | {0})
    text = "/".join(map(str, values)) if len(values) <= 4 else f"0/{white}"
    if any(one.lossy for one in files):
        text = f"0/{white} with the noise of JPEG"
    elif len(values) > 4:
        text += " with soft edges"
    if any(one.kind == "alpha" for one in files):
        text += " drawn in alpha"
    return text + (", some of 1 bit" if any(one.kind == "bit" for one in files) else "")


# Without --------------------------------------------------------------------------------------------------------------


def _by_evidence(files: Sequence[Evidence], classes: tuple[str, ...]) -> Rule:
    files, by_colour = _palettes(files, classes)
    count_ = len(classes)
    last = count_ - 1
    for one in files:
        if one.kind == "colour":
            return _one_colour(files, classes)
    many = [one for one in files if one.kind != "bit"]
    values = sorted({v for one in many for v in one.levels} | {0})
    fits = [one for one in many if one.top <= last]
    if len(fits) == len(many) and not (count_ > 2 and any(one.lossy for one in many)):
        shown = "1 bit" if not many and files else "/".join(map(str, values))
        return Rule(classes, None, f"masks: {shown}, class indices", by_colour)
    worst = next((one for one in many if one.top > last), many[0])
    if count_ > 2:
        raise ValueError(_not_classes(worst, many, classes))
    named = [one for one in fits if one.top == 1]
    if named:
        raise ValueError(
            f"{worst.path}: mask holds {_shown(worst)}, the 2 classes are 0 to 1, and {named[0].path} holds "
            f"{_shown(named[0])}; write all masks the same way: 0 and 1, or 0 and 255"
        )
    for one in many:
        _binary(one, classes)
    _refuse_two_whites(many)
    _refuse_noise(many, 128)
    _refuse_labels(many, 128)
    white = 255 if max(one.top for one in many) < 256 else 65535
    return Rule(
        classes, (white + 1) // 2, f"masks: {_levels_text(files, white)}, threshold {(white + 1) // 2}", by_colour
    )


def _binary(one: Evidence, classes: tuple[str, ...]) -> None:
    """Raises unless the file is black and white, up to soft edges and the noise of compression."""
    if one.top == 0 or _only_noise(one):
        return
    white = 255 if one.top < 256 else 65535
    total = sum(one.levels.values())
    low, high = (_NOISE, white - _NOISE * (white // 255)) if one.lossy else (0, white * BRIGHT // 255)
    between = sum(n for v, n in one.levels.items() if low * (white // 255) < v < high)
    above = sum(n for v, n in one.levels.items() if v >= high)
    small = [v for v in one.levels if 0 < v < 16 and not one.lossy]
    if above and small and (one.regions & set(small) or len(one.levels) == 3):
        raise ValueError(
            f"{one.path}: mask holds {_shown(one)}, the 2 classes are 0 to 1; class indices beside {one.top}, which "
            "often means ignore: write 0 and 1 alone"
        )
    if not above or between > min(0.1 * total, 0.5 * above + _NOISE):
        raise ValueError(
            f"{one.path}: mask holds {_shown(one)}, the 2 classes are 0 to 1; set data.mask_threshold to the value "
            f"from which on a pixel is {classes[1]!r}, or write 0 and 1"
        )


def _not_classes(worst: Evidence, files: Sequence[Evidence], classes: tuple[str, ...]) -> str:
    last = len(classes) - 1
    if worst.top <= last:
        return f"{worst.path}: compressed with loss, which changes class indices; write the masks as PNG"
    wrong = [v for v in sorted(worst.levels) if v > last]
    shown = ", ".join(map(str, wrong[:4])) + (" ..." if len(wrong) > 4 else "")
    start = f"{worst.path}: mask holds {shown}, the {len(classes)} classes are 0 to {last}"
    used = {v for one in files for v in one.levels if v}
    if len(used) == last and len(wrong) == 1 and wrong[0] < 255:
        return (
            f"{start}; number the labels without a gap, {wrong[0]} as {next(v for v in range(1, 256) if v not in used)}"
        )
    if wrong == [255]:
        return f"{start}; 255 often means ignore, which is not read: write 0 or the class"
    return f"{start}; name every class in data.classes, or renumber the labels"


def _one_colour(files: Sequence[Evidence], classes: tuple[str, ...]) -> Rule:
    """Black and one colour are two classes; any other colours are refused."""
    shown: dict[Colour, str] = {}
    for one in files:
        if one.kind == "colour" and one.lossy:
            raise ValueError(f"{one.path}: a colour mask, compressed with loss; {_colour_hint(classes)}")
        for colour in _drawn(one):
            shown.setdefault(colour, one.path)
    if len(shown) == 1 and len(classes) == 2:
        ((colour, _),) = shown.items()
        for one in files:
            _need_black(one, max(colour))
        return Rule(classes, max(colour), f"masks: black and the colour {_text(colour)}")
    (first, path), *rest = shown.items()
    beside = f", {rest[0][1] + ' ' if rest[0][1] != path else ''}{_text(rest[0][0])}" if rest else ""
    raise ValueError(f"{path}: a colour mask, it holds {_text(first)}{beside}; {_colour_hint(classes)}")


def _drawn(one: Evidence) -> list[Colour]:
    """The colours of a file but black; of a grey one its values."""
    if one.kind == "colour":
        return [colour for _, colour in one.colours if max(colour)]
    return [(v, v, v) for v in one.levels if v]


def _text(colour: Colour) -> str:
    return str(colour).replace(" ", "")


def _colour_hint(classes: tuple[str, ...]) -> str:
    if len(classes) == 2:
        return f"--data.mask-threshold 128 counts every colour as {classes[1]!r}, or write class indices"
    return f"write class indices 0 to {len(classes) - 1}"


def _palettes(files: Sequence[Evidence], classes: tuple[str, ...]) -> tuple[list[Evidence], frozenset[str]]:
    """Palette files as grey ones: by their indices, or by their colours where those are the values.

    Raises ValueError where indices and colours cannot be distinguished, and where palettes contradict.
    """
    last, out, by_colour = len(classes) - 1, [], set()
    meaning: dict[Any, tuple[Any, str]] = {}
    for one in files:
        if one.kind != "palette" or not one.colours:
            out.append(replace(one, kind="grey") if one.kind == "palette" else one)
            continue
        values = _as_values(one)
        grey = _grey_colours(one)
        if grey and all(index == colour[0] for index, colour in one.colours):
            out.append(replace(one, kind="grey"))
            continue
        white = len(classes) == 2 and all(v == 0 or v >= BRIGHT for v in values.levels) and values.top > 0
        if grey and (white or values.top <= last):
            by_colour.add(one.path)
            out.append(replace(values, kind="grey"))
            continue
        black = [index for index, colour in one.colours if not max(colour)]
        ordered = [colour[0] for _, colour in one.colours] == sorted(colour[0] for _, colour in one.colours)
        for index, colour in one.colours:
            for key, value in ((("index", index), colour), (("colour", colour), index)):
                before = meaning.setdefault(key, (value, one.path))
                if before[0] != value:
                    raise ValueError(
                        f"{one.path}: its palette gives colour {_text(colour)} to index {index}, that of "
                        f"{before[1]} does not; write class indices with one palette, or grey"
                    )
        if (black and black != [0]) or (grey and not ordered):
            raise ValueError(
                f"{one.path}: palette index {one.colours[0][0]} is {_text(one.colours[0][1])} and black is "
                f"index {black[0] if black else 'none'}: indices or colours? write class indices, grey"
            )
        out.append(replace(one, kind="grey"))
    return out, frozenset(by_colour)
