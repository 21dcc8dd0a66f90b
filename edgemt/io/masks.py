"""How the values of masks become class indices, decided once for a data set from the evidence of every file.

`decide` finds the one rule that fits the `Evidence` of all files (`edgemt.io.mask_files`), or raises ValueError in one
line that names file, values and flag. `Rule.indices` applies the rule.

Shapes: H W size of a mask, X Y Z of a volume's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from edgemt.contract import IGNORE
from edgemt.io.mask_files import _NOISE, Colour, Evidence
from edgemt.io.mask_rule import MaskValues, Rule

BRIGHT = 248  # of 255: this and above is white, also where a viewer rounded it
_NOISE_SHARE = 0.05  # of the pixels of a mask that compression left noisy without any object
_CLEAR = "--data.mask-threshold None"


def decide(
    files: Sequence[Evidence],
    *,
    classes: tuple[str, ...],
    threshold: int | None = None,
    values: MaskValues = MaskValues(),
) -> Rule:
    """The rule that fits every file of a set; `values` states what values mean, and which of them is ignored.

    Raises ValueError in one line, naming a file, its values and the flag, where no rule fits or several do.
    """
    for one in files:
        if one.conflict:
            raise ValueError(f"{one.path}: {one.conflict}; save the mask without transparency")
        if min(one.levels, default=0) < 0:
            raise ValueError(f"{one.path}: mask holds {_shown(one)}; write class indices from 0 on")
    if values.stated:
        return _stated(files, classes, threshold, values)
    rule = _thresholded(files, classes, threshold) if threshold is not None else _by_evidence(files, classes)
    return replace(rule, text=f"{rule.text}; {len(files)} files" if files else rule.text)


def _stated(files: Sequence[Evidence], classes: tuple[str, ...], threshold: int | None, values: MaskValues) -> Rule:
    """The rule of data.label_map and data.ignore. Raises ValueError, naming the file, for a value that has no class."""
    if threshold is not None:
        raise ValueError(f"data.mask_threshold: {threshold} excludes data.label_map and data.ignore; give {_CLEAR}")
    table = values.indices(classes)
    for one in files:
        if one.kind == "colour":
            raise ValueError(f"{one.path}: a colour mask; data.label_map and data.ignore want numbers, write them")
        if one.lossy:
            raise ValueError(f"{one.path}: compressed with loss, which changes values; write the masks as PNG")
        unknown = sorted(set(one.levels) - set(table))
        if unknown:
            known = ", ".join(map(str, sorted(table)))
            raise ValueError(
                f"{one.path}: mask holds {', '.join(map(str, unknown[:4]))}, known values are {known}; name it in "
                "data.label_map, or ignore it with data.ignore"
            )
    groups = {name: values_of(table, k, overlapping=values.overlapping) for k, name in enumerate(classes)}
    text = "; ".join(f"{' '.join(map(str, own))} {name}" for name, own in groups.items())
    ignored = f"; {values.ignore} is ignored" if values.ignore is not None else ""
    count = f"; {len(files)} files" if files else ""
    return Rule(classes, None, f"masks: {text}{ignored}{count}", table=table, overlapping=values.overlapping)


def values_of(table: Mapping[int, int], index: int, *, overlapping: bool) -> list[int]:
    """The values of a class; of overlapping ones the background has those of no class."""
    if not overlapping or not index:
        return sorted(value for value, found in table.items() if found == index)
    return sorted(value for value, bits in table.items() if bits != IGNORE and bits >> (index - 1) & 1)


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
                    f"--data.ignore {top} leaves them out, with {_CLEAR}"
                )
            raise ValueError(
                f"{one.path}: mask holds {_shown(one)}, and {labels[0]} is no edge but an area; "
                "--data.mask-threshold 1 counts every value above 0 as the object, several classes need class indices"
            )


def _refuse_two_whites(files: Sequence[Evidence]) -> None:
    white = {one.top: one.path for one in files if one.top in (255, 65535)}
    if len(white) > 1:
        raise ValueError(
            f"{white[65535]}: mask holds 65535 for white, {white[255]} holds 255; use one value for all masks"
        )


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
            f"{_shown(named[0])}; use the same values in all masks: 0 and 1, or 0 and 255"
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
            f"often means ignore: give --data.ignore {one.top} (and no threshold), or write 0 and 1 alone"
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
        return f"{start}; 255 often means ignore: --data.ignore 255 leaves such pixels out, or write the class"
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

    Raises ValueError where values may be indices or colours, and where palettes contradict each other.
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
