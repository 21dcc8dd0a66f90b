"""The two pictures of `edgemt eval --corrupt`: Dice against severity as an SVG file, and a sheet of corrupted frames.

Shapes: H W size in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from edgemt.report.svg import Axis, dot, line, path, text

_COLUMNS = 4
_PANEL = (226.0, 172.0)  # of a corruption in the chart, with its title and axis
_PLOT = (34.0, 24.0, 172.0, 132.0)  # left, top, right, bottom of the curves in a panel
_STYLE = """text{font:11px "Liberation Sans",Arial,sans-serif;fill:#16212c}.head{font-size:13px;font-weight:600}
.mid{text-anchor:middle}.end{text-anchor:end}.tick{fill:#5a6876}.grid{stroke:#dbe2e8}.clean{stroke:#5a6876;
stroke-dasharray:4 3}.curve{fill:none;stroke:#2373b8;stroke-width:1.8}.dot{fill:#2373b8}.visible{fill:none;
stroke:#2373b8;stroke-width:1.3;stroke-dasharray:2 3}.blue{fill:#2373b8}.unsure{fill:none;stroke:#c2570c;
stroke-width:1.5}.orange{fill:#c2570c}"""


def corruption_chart(record: Mapping[str, Any]) -> str:
    """An SVG file: a panel for each corruption, Dice at each severity, the clean Dice as a dashed line.

    Where the record has an uncertainty, its mean is a second curve with a scale of its own on the right. `record` is
    that of `edgemt.inference.evaluate_corrupted`.
    """
    rows, clean = record["corruptions"], float(record["clean"]["dice"])
    severities = [int(s) for s in record["mean"]]
    columns = min(_COLUMNS, len(rows))
    width, height = columns * _PANEL[0] + 16, math.ceil(len(rows) / columns) * _PANEL[1] + 66
    every = [v["dice"] for row in rows.values() for v in row.values()] + [clean]
    unsure = [v["uncertainty"] for row in rows.values() for v in row.values() if "uncertainty" in v]
    scales = Axis(0, max(unsure) * 1.1 or 1, _PLOT[3], _PLOT[1]) if unsure else None
    dice = Axis(
        max(0.0, math.floor(min(every) * 10) / 10), min(1.0, math.ceil(max(every) * 10) / 10), _PLOT[3], _PLOT[1]
    )
    parts = [
        '<rect width="100%" height="100%" fill="#fff"/>',
        text("head", 14, 24, f"Dice under corruptions: {record['name']}, {record['file']}, {record['counted']} cases"),
        text(
            "tick", 14, 42, f"dashed: clean, {clean:.3f}; severity 1 (mild) to 5 (severe); at the end: Dice at the last"
        ),
    ]
    for i, (name, row) in enumerate(rows.items()):
        x, y = 8 + (i % columns) * _PANEL[0], 54 + (i // columns) * _PANEL[1]
        inner = _panel(name, row, clean, severities, dice=dice, scales=scales)
        parts.append(f'<g transform="translate({x:.0f} {y:.0f})">{"".join(inner)}</g>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}">'
    return f"{head}<style>{_STYLE}</style>{''.join(parts)}</svg>\n"


def _panel(
    name: str,
    row: Mapping[str, Mapping[str, float]],
    clean: float,
    severities: Sequence[int],
    *,
    dice: Axis,
    scales: Axis | None,
) -> list[str]:
    left, top, right, bottom = _PLOT
    across = Axis(min(severities) - 0.3, max(severities) + 0.3, left, right)
    parts = [text("head", left, top - 9, name.replace("_", " "))]
    for tick in dice.ticks(4):
        parts += [
            line("grid", left, dice(tick), right, dice(tick)),
            text("tick end", left - 5, dice(tick) + 4, f"{tick:g}"),
        ]
    parts += [text("tick mid", across(s), bottom + 15, str(s)) for s in severities]
    parts.append(line("clean", left, dice(clean), right, dice(clean)))

    def curve(key: str) -> list[tuple[float, float]]:
        return [(across(s), dice(row[str(s)][key])) for s in severities]

    last = row[str(severities[-1])]
    if "visible_dice" in last:
        parts.append(path("visible", curve("visible_dice")))
    points = curve("dice")
    parts.append(path("curve", points))
    values = (row[str(s)]["dice"] for s in severities)
    parts += [dot("dot", *at, title=f"{name}: {value:.3f}", size=3.2) for at, value in zip(points, values, strict=True)]
    parts.append(text("blue", right + 6, points[-1][1] + 4, f"{last['dice']:.2f}"))
    if "visible_dice" in last:  # never below the curve
        parts.append(text("tick", right + 6, min(dice(last["visible_dice"]), points[-1][1] - 13) + 4, "visible"))
    if scales is not None and "uncertainty" in last:
        marks = [(across(s), scales(row[str(s)]["uncertainty"])) for s in severities]
        parts.append(path("unsure", marks))
        parts.append(text("orange", right + 6, marks[-1][1] - 8, f"p {last['uncertainty']:.2f}"))
    return parts


def corruption_sheet(
    frame: np.ndarray, kinds: Sequence[str], corrupt: Callable[[np.ndarray, str, int], np.ndarray], *, cell: int = 160
) -> Image.Image:
    """One uint8 frame [H, W] or [H, W, 3] under each kind at severities 1, 3 and 5; the first row shows it clean.

    `corrupt(frame, kind, severity)` gives the corrupted frame.
    """
    severities, columns, gap, head = (1, 3, 5), 2 if len(kinds) > 3 else 1, 14, 22
    height = max(8, round(cell * frame.shape[0] / frame.shape[1]))
    rows = math.ceil(len(kinds) / columns)
    wide = columns * (3 * cell + gap) + gap
    sheet = Image.new("RGB", (wide, height + head + 8 + rows * (height + head + 8)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)

    def put(picture: np.ndarray, x: int, y: int) -> None:
        sheet.paste(Image.fromarray(picture).convert("RGB").resize((cell, height), Image.Resampling.LANCZOS), (x, y))

    draw.text((gap, 5), "clean", fill="black", font=font)
    put(frame, gap, head)
    for i, kind in enumerate(kinds):
        x, y = gap + (i % columns) * (3 * cell + gap), (1 + i // columns) * (height + head + 8)
        draw.text((x, y + 5), f"{kind.replace('_', ' ')}: severity 1, 3, 5", fill="black", font=font)
        for k, severity in enumerate(severities):
            put(corrupt(frame, kind, severity), x + k * cell, y + head)
    return sheet
