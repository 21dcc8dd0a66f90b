"""The gallery: one row a frame, one column a model, outlines over the same photograph.

Shapes: H W size in pixels, K image channels (1 grey, 3 RGB), s scale.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from functools import partial
from html import escape
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from edgemt.io.class_regions import in_class, present_classes
from edgemt.io.contours import Colour, class_colours, contours, outlines
from edgemt.io.images import fit_label
from edgemt.report.formatting import DASH, fixed

Gallery = Sequence[Mapping[str, Any]]  # {"name": str, "image": uint8 [H, W, K], "masks": {column: integers [H, W]}}
COLUMNS = {"true": "true mask", "teacher": "teacher", "student": "student", "slim": "slim", "int8": "INT8"}
_ABSENT = "not run"
_LONGEST = 640  # pixels of a frame; larger ones are reduced


def gallery_section(classes: Sequence[str], gallery: Gallery, *, overlapping: bool = False) -> str:
    """The frames once each, as PNG; outlines as transparent PNG over them, so that pointing can lift them."""
    if not gallery:
        return ""
    columns, colours = _columns(gallery), _colours(classes, gallery, overlapping)
    cells = [f'<div class="col">{escape(COLUMNS.get(c, c))}</div>' for c in columns]
    for i, item in enumerate(gallery):
        frame, masks = shown(item["image"], item["masks"])
        cells.append(f'<div class="row">{escape(str(item.get("name", "")))}</div>')
        for j, column in enumerate(columns):
            size = f'width="{frame.shape[1]}" height="{frame.shape[0]}"'
            photo = f'<image id="frame-{i}" {size} href="{_png(frame)}"/>' if j == 0 else f'<use href="#frame-{i}"/>'
            cut, sentence = "", _ABSENT
            if column in masks:
                drawn = outlines(masks[column], colours=colours, scale=_scale(frame), overlapping=overlapping)
                sentence = _caption(column, masks, overlapping)
                cut = f'<image class="cut" {size} href="{_png(drawn)}"/>'
            box = f"0 0 {frame.shape[1]} {frame.shape[0]}"
            cells.append(f'<figure><svg viewBox="{box}">{photo}{cut}</svg><figcaption>{sentence}</figcaption></figure>')
    key = "".join(
        f'<li><i style="background:rgb{colour}"></i>{escape(name)}</li>' for name, colour in _legend(classes, colours)
    )
    head = (
        f'<div class="head"><h2>Gallery</h2><ul class="legend">{key}</ul>'
        '<p class="say">Point at a picture to see it without outlines.</p></div>'
    )
    style = f"grid-template-columns:repeat({len(columns)},1fr)"
    grid = f'<div class="gallery" style="{style}">{"".join(cells)}</div>'
    return f'<section class="wide">{head}<div class="scroll">{grid}</div></section>'


def contact_sheet(
    classes: Sequence[str], gallery: Gallery, *, side: int = 320, overlapping: bool = False
) -> Image.Image | None:
    """The same gallery as one RGB picture for slides and papers; None when it is empty."""
    if not gallery:
        return None
    columns, colours = _columns(gallery), _colours(classes, gallery, overlapping)
    gap, band, top = 8, 22, 34
    rows = []
    for item in gallery:
        frame, masks = shown(item["image"], item["masks"])
        high = round(side * frame.shape[0] / frame.shape[1])
        blank = np.zeros(frame.shape[:2], np.uint8)
        draw = partial(contours, frame, colours=colours, scale=_scale(frame), overlapping=overlapping)
        tiles = [draw(masks.get(c, blank)) for c in columns]
        pictures = [Image.fromarray(t).resize((side, high), Image.Resampling.LANCZOS) for t in tiles]
        words = [_caption(c, masks, overlapping) if c in masks else _ABSENT for c in columns]
        rows.append((str(item.get("name", "")), high, pictures, words))
    width = max(gap + (side + gap) * len(columns), 3 * side)
    sheet = Image.new("RGB", (width, 2 * top + sum(high + band for _, high, _, _ in rows)), "white")
    pen, font, small = ImageDraw.Draw(sheet), ImageFont.load_default(16), ImageFont.load_default(13)
    for j, c in enumerate(columns):
        pen.text((gap + j * (side + gap), 8), COLUMNS.get(c, c), fill="#16212c", font=font)
    y = top
    for name, high, pictures, words in rows:
        for j, (picture, caption) in enumerate(zip(pictures, words, strict=True)):
            x = gap + j * (side + gap)
            sheet.paste(picture, (x, y))
            pen.text((x, y + high + 3), name if j == 0 else caption, fill="#5a6876", font=small)
        y += high + band
    x = gap
    for name, colour in _legend(classes, colours):
        pen.rectangle((x, y + 12, x + 20, y + 16), fill=colour, outline="#5a6876")
        pen.text((x + 28, y + 6), name, fill="#16212c", font=small)
        x += 52 + int(pen.textlength(name, font=small))
    return sheet


def shown(image: np.ndarray, masks: Mapping[str, np.ndarray | None]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """A frame at the gallery's size, uint8 [H, W] or [H, W, 3], and its masks uint8 [H, W] at that size."""
    frame = image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image
    ratio = min(1.0, _LONGEST / max(frame.shape[:2]))
    size = (max(1, round(frame.shape[0] * ratio)), max(1, round(frame.shape[1] * ratio)))
    if ratio < 1.0:
        frame = np.asarray(Image.fromarray(frame).resize(size[::-1], Image.Resampling.BOX))
    return frame, {str(k): fit_label(np.asarray(m), size=size) for k, m in masks.items() if m is not None}


def dice_of(mask: np.ndarray, true: np.ndarray, *, overlapping: bool = False) -> float:
    """Mean over the foreground classes that either mask holds; NaN where both are empty."""
    classes = sorted({c for one in (mask, true) for c in present_classes(one, overlapping=overlapping)})
    pairs = [tuple(in_class(one, c, overlapping=overlapping) for one in (mask, true)) for c in classes]
    each = [2.0 * np.sum(p & q) / (np.sum(p) + np.sum(q)) for p, q in pairs]
    return float(np.mean(each)) if each else float("nan")


def _caption(column: str, masks: Mapping[str, np.ndarray], overlapping: bool = False) -> str:
    if column == "true" or "true" not in masks:
        return "\N{NO-BREAK SPACE}"
    dice = fixed(dice_of(masks[column], masks["true"], overlapping=overlapping), 2)
    return "both empty" if dice == DASH else f"Dice {dice}"


def _columns(gallery: Gallery) -> list[str]:
    found = list(dict.fromkeys(str(k) for item in gallery for k in item["masks"]))
    return [c for c in COLUMNS if c in found] + [c for c in found if c not in COLUMNS]


def _colours(classes: Sequence[str], gallery: Gallery, overlapping: bool = False) -> tuple[Colour, ...]:
    if overlapping:
        return class_colours(len(classes))
    masks = [np.asarray(m) for item in gallery for m in item["masks"].values() if m is not None]
    return class_colours(max([len(classes), *(int(m.max()) + 1 for m in masks if m.size)]))


def _legend(classes: Sequence[str], colours: Sequence[Colour]) -> list[tuple[str, Colour]]:
    return [(classes[c] if c < len(classes) else f"class {c}", colours[c]) for c in range(1, len(colours))]


def _scale(frame: np.ndarray) -> int:
    longest = max(frame.shape[:2])
    return 3 if longest <= 192 else 2 if longest <= 400 else 1


def _png(image: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
