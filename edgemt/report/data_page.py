"""The page of a data report: one HTML file without a reference to anything outside."""

from __future__ import annotations

import base64
import io
import shlex
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from PIL import Image

from edgemt.contract import IGNORE
from edgemt.io.contours import contours
from edgemt.io.images import fit_label
from edgemt.report.css import STYLE
from edgemt.report.data_charts import TITLE, data_picture
from edgemt.report.figures import inline_svg
from edgemt.report.formatting import DASH, figure, fixed, whole_number
from edgemt.report.html import definition_list, grid, name_cell, scrolling, section, table

Record = Mapping[str, Any]
Pictures = Mapping[int, Sequence[tuple[str, np.ndarray]]]  # number of a finding -> caption, uint8 RGB [H, W, 3]

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_SIDE = 260  # pixels of a picture
_LISTED = 200  # files that the page names; all are in the JSON
_PARTS = {"labelled": "Labelled", "unlabelled": "Unlabelled", "val": "Validation", "calibration": "Calibration"}
_CSS = """
.mark{display:inline-block;min-width:5.2em;padding:1px 9px;border-radius:3px;font-size:13px;font-weight:560;
border:1px solid}
.mark.error{color:var(--late)}.mark.warning{color:var(--note-ink);background:var(--note);border-color:var(--note-rule)}
.mark.note{color:var(--soft)}
td.found{overflow-wrap:anywhere}td.found details{margin-top:6px;font-size:14px}
td.found summary{font-size:14px}td.found ol{margin:6px 0 0;padding-left:2.2em;color:var(--soft)}
.thumbs{display:flex;flex-wrap:wrap;gap:10px;margin-top:10px}.thumbs figure{margin:0;max-width:270px}
.thumbs img{display:block;max-width:100%;height:auto}.thumbs figcaption{font-size:12px;color:var(--soft);
overflow-wrap:anywhere}
pre{margin:0 0 14px;padding:12px 14px;background:var(--wash);overflow-x:auto;font-size:14px}
"""


def data_page(record: Record, pictures: Pictures | None = None) -> str:
    """The whole document; every string of the record is escaped. Charts are left out without matplotlib."""
    name = escape(str(record["root"]).rstrip("/").rpartition("/")[2] or str(record["root"]))
    parts = [
        f'<header><p class="over">EdgeMT data report \N{MIDDLE DOT} {escape(str(record["created"]))}</p>',
        f'<h1>{name}</h1><p class="lede">{escape(_lede(record))}</p></header><main>',
        section("Findings", _findings(record, pictures or {}), css="long"),
        section("Parts", _parts_table(record)),
        section("Images", _chart(record) + definition_list(_image_facts(record))),
        section("Classes", _class_table(record), note_html=escape(_meaning(record))),
    ]
    if record.get("suggestion"):
        parts.append(section("Suggested recipe", _suggestion(record), css="long"))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width,initial-scale=1">
<title>{name}: EdgeMT data report</title><style>{STYLE}{_CSS}</style></head>
<body>
{"".join(parts)}</main><footer>One file, readable without a network. It may show images of patients: treat it as the
data set itself. The same numbers, and every file of every finding, are in data.json.</footer>
</body></html>
"""


def _lede(record: Record) -> str:
    counts, parts = record["counts"], record["parts"]
    shown = ", ".join(f"{whole_number(p['files'])} {_PARTS[k].lower()}" for k, p in parts.items())
    found = ", ".join(f"{counts[k]} {k}{'s' * (counts[k] != 1)}" for k in ("error", "warning", "note"))
    closed = record["closed_masks"]
    hidden = f" {whole_number(closed)} masks of unlabelled images were not opened." if closed else ""
    return f"{shown} files; {found}.{hidden}"


def _findings(record: Record, pictures: Pictures) -> str:
    if not record["findings"]:
        return '<p class="say">No finding.</p>'
    rows = []
    for number, one in enumerate(record["findings"]):
        mark = f'<span class="mark {escape(one["severity"])}">{escape(one["severity"])}</span>'
        body = f"{escape(one['line'])}{_thumbs(pictures.get(number, ()))}{_files(one)}"
        rows.append(f'<tr><td>{mark}</td><td class="found">{body}</td></tr>')
    return grid("<th>Severity</th><th>Finding; remedy</th>", rows)


def _files(one: Record) -> str:
    files = one["files"]
    if len(files) < 2:
        return ""
    items = [f"<li>{escape(str(f['file']))}{': ' if f['detail'] else ''}{escape(str(f['detail']))}</li>" for f in files]
    more = f"<li>{len(files) - _LISTED} more in data.json</li>" if len(files) > _LISTED else ""
    return f"<details><summary>{len(files)} files</summary><ol>{''.join(items[:_LISTED])}{more}</ol></details>"


def _thumbs(pictures: Sequence[tuple[str, np.ndarray]]) -> str:
    shown = [
        f'<figure><img alt="" src="{jpeg(image)}"><figcaption>{escape(words)}</figcaption></figure>'
        for words, image in pictures
    ]
    return f'<div class="thumbs">{"".join(shown)}</div>' if shown else ""


def drawn(image: np.ndarray, mask: np.ndarray | None, *, overlapping: bool = False) -> np.ndarray:
    """uint8 [H, W] or [H, W, 3] and classes [H, W] -> uint8 RGB at most 260 pixels wide, with outlines of the mask.

    Ignored pixels have none.
    """
    height, width = image.shape[:2]
    scale = min(1.0, _SIDE / max(height, width))
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    frame = np.asarray(Image.fromarray(image).convert("RGB").resize(size[::-1], Image.Resampling.BOX))
    if mask is None:
        return frame
    classes = np.where(mask == IGNORE, 0, mask).astype(np.uint8)
    scale_of_line = max(1, _SIDE // max(size))
    return contours(frame, fit_label(classes, size=size), scale=scale_of_line, overlapping=overlapping)


def beside(images: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures uint8 RGB of any heights next to each other."""
    height = max(image.shape[0] for image in images)
    padded = [np.pad(image, ((0, height - image.shape[0]), (0, 4), (0, 0)), constant_values=255) for image in images]
    return np.concatenate(padded, axis=1)[:, :-4]


def jpeg(image: np.ndarray) -> str:
    """A picture uint8 RGB [H, W, 3] as the address of an <img>."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _parts_table(record: Record) -> str:
    heads = ["Part", "Files", "Slices", "Patients", "Masks", "With an object", "Brightness|median", "Contrast|median"]
    rows = []
    for part, row in record["parts"].items():
        light, contrast = ((row[k] or {}).get("median") for k in ("brightness", "contrast"))
        counts = [whole_number(row[k]) for k in ("files", "slices", "patients", "masks", "with_object")]
        rows.append((name_cell(_PARTS[part]), [*counts, fixed(light, 0), fixed(contrast, 0)], False))
    return table(heads, rows)


def _image_facts(record: Record) -> list[tuple[str, str]]:
    images = record["images"]
    facts = [
        ("layout", str(record["layout"])),
        ("sizes, most frequent first", _shapes(images["shapes"])),
        ("rows, median (lowest to highest)", _range(images["rows"])),
        ("columns, median (lowest to highest)", _range(images["columns"])),
        ("slices, median (lowest to highest)", _range(images["slices"])),
        ("read as 8 bits by", str(images["depth"])),
        ("files with more than 8 bits", str(images["deep"])),
        ("files with colours", str(images["colour"])),
        ("turned upright by EXIF", str(images["rotated_by_exif"])),
    ]
    if "orientation" in images:
        codes = ", ".join(f"{code} ({n})" for code, n in images["orientation"].items())
        facts += [("orientation", codes), ("read in the order", str(images["read_as"]))]
        spacing = images["spacing_mm"]
        facts.append(
            ("voxel size by the headers, mm", " \N{MULTIPLICATION SIGN} ".join(map(_range, spacing or ())) or DASH)
        )
    return facts


def _shapes(shapes: Sequence[Record]) -> str:
    shown = [f"{' x '.join(map(str, s['shape']))} ({s['files']})" for s in shapes[:4]]
    return ", ".join(shown) + (" ..." if len(shapes) > 4 else "")


def _range(values: Mapping[str, float] | None) -> str:
    if not values:
        return DASH
    if values["min"] == values["max"]:
        return figure(values["median"])
    return f"{figure(values['median'])} ({figure(values['min'])} to {figure(values['max'])})"


def _chart(record: Record) -> str:
    try:
        picture = data_picture(record)
    except ModuleNotFoundError:
        return '<p class="say">No chart without matplotlib (pip install matplotlib).</p>'
    return "" if picture is None else scrolling(inline_svg(picture, TITLE))


def _meaning(record: Record) -> str:
    """What the values of masks mean, and what is left out of the numbers."""
    ignored, words = record.get("ignored"), str(record["masks"])
    if record.get("overlapping"):
        words += "; classes may overlap, a pixel counts in each of its classes"
    if ignored:
        words += (
            f"; {100 * ignored['share']:.2g} % of the pixels, in {ignored['files']} files, are ignored and in no share"
        )
    return words


def _class_table(record: Record) -> str:
    heads = [
        "Class",
        "Share|of all pixels, %",
        "Files",
        "Slices",
        "Area|median, % of a file",
        "Smallest|%",
        "Largest|%",
    ]
    rows = []
    for number, row in enumerate(record["classes"]):
        area = row["area"] or {}
        share = None if row["share"] is None else 100 * row["share"]
        cells = [figure(share), whole_number(row["files"]), whole_number(row["slices"])]
        cells += [figure(area.get(k)) for k in ("median", "min", "max")]
        values = row.get("values", [number])
        note = f"value{'s' * (len(values) > 1)} {', '.join(map(str, values))}" if values else ""
        rows.append((name_cell(str(row["name"]), note=note), cells, False))
    return table(heads, rows)


def _suggestion(record: Record) -> str:
    found = record["suggestion"]
    reasons = found["reasons"]
    values = {"base": found["base"], **{f"data.{k}": v for k, v in found["data"].items()}}
    values |= {"augment.preset": found["preset"] or "(defaults)", "per_image": found["per_image"]}
    rows = []
    for name, value in values.items():
        why = reasons.get(name.rpartition(".")[2], "")
        shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        rows.append(f"<tr><td>{escape(name)}</td><td>{escape(shown) or DASH}</td><td>{escape(why)}</td></tr>")
    rows += [f"<tr><td>{k}</td><td></td><td>{escape(reasons[k])}</td></tr>" for k in ("teacher", "student")]
    return f"<pre>{escape(_run_command(record))}</pre>" + grid("<th>Field</th><th>Value</th><th>Why</th>", rows)


def _run_command(record: Record) -> str:
    """The command that trains the suggested recipe, with the options that the user gave to the report."""
    data, reasons = record["suggestion"]["data"], record["suggestion"]["reasons"]
    given = [name for name in data if reasons.get(name) == "as given" or (name == "val" and name not in reasons)]
    words = ["edgemt", "run", "auto", "--data.root", record["root"]]
    for name in given:
        value = data[name] if isinstance(data[name], list) else [data[name]]
        if value == [True]:
            words.append(f"--data.{name.replace('_', '-')}")
        elif value not in ([""], [None]):
            words += [f"--data.{name.replace('_', '-')}", *map(str, value)]
    return shlex.join(words)
