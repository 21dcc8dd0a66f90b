"""The picture of a data report: how large objects are, and how bright the images of each part are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgemt.report.css import COLOURS
from edgemt.report.figures import STYLE, canvas, caption, panel, printable, unclipped
from edgemt.report.formatting import figure
from edgemt.report.svg import TONES, Axis, Box, spread

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Area of the objects, and brightness of the images"
_PARTS = {"labelled": "labelled", "unlabelled": "unlabelled", "val": "validation", "calibration": "calibration"}
_BINS = 24


def data_picture(record: Mapping[str, Any]) -> Figure | None:
    """Left the share of a file that each class fills, right the mean brightness by part; None for nothing to draw.

    Raises ModuleNotFoundError without matplotlib.
    """
    from matplotlib import style

    areas, light = _areas(record), _light(record)
    if not areas and not light:
        return None
    with style.context(["default", STYLE]):
        picture = canvas(262.0)
        if areas:
            values = [v for some in areas.values() for v in some]
            low, high = min(values), max(values)
            x = Axis(low / 1.3, high * 1.3, 0.0, 1.0, log=True)
            edges = np.geomspace(x.low, x.high, _BINS + 1)
            _histograms(picture, (56.0, 30.0, 330.0, 208.0), areas, edges, x, "share of the masks")
            _unit(picture, "area of the objects, % of a file", 0)
        if light:
            x = Axis(0.0, 255.0, 0.0, 1.0)
            edges = np.linspace(0, 255, _BINS + 1)
            _histograms(picture, (516.0, 30.0, 768.0, 208.0), light, edges, x, "share of the images")
            _unit(picture, "mean brightness, 0 to 255", -1)
        return unclipped(picture)


def _areas(record: Mapping[str, Any]) -> dict[str, list[float]]:
    """Class -> the share of each file with it that it fills, in percent."""
    names = [str(row["name"]) for row in record["classes"]]
    rows = [(row["pixels"], row.get("counted") or sum(row["pixels"])) for row in record["files"] if row["pixels"]]
    found = {
        name: [100 * row[value] / total for row, total in rows if row[value]]
        for value, name in enumerate(names)
        if value
    }
    return {name: values for name, values in list(found.items())[:TONES] if values}


def _light(record: Mapping[str, Any]) -> dict[str, list[float]]:
    found = {
        words: [row["brightness"] for row in record["files"] if row["part"] == part and row["shape"]]
        for part, words in _PARTS.items()
    }
    return {words: values for words, values in found.items() if values}


def _histograms(
    picture: Figure, box: Box, runs: Mapping[str, Sequence[float]], edges: np.ndarray, x: Axis, what: str
) -> None:
    """A line for each run: the share of its values in each bin, named at the right."""
    shares = {name: np.histogram(values, edges)[0] / len(values) for name, values in runs.items()}
    y = Axis(0.0, max(float(s.max()) for s in shares.values()) * 1.15, 0.0, 1.0)
    axes = panel(picture, box, x, y, x_label=lambda v: figure(v, 1))
    caption(axes, (0.0, 1.0), (-56.0, 14.0), what)
    middles = np.sqrt(edges[1:] * edges[:-1]) if x.log else (edges[1:] + edges[:-1]) / 2
    height = box[3] - box[1]
    tops = spread([height * (1 - y(float(s.max()))) for s in shares.values()], gap=15, low=8, high=height)
    for i, ((name, share), top) in enumerate(zip(shares.items(), tops, strict=True)):
        tone = COLOURS[f"s{(i + 1) % TONES}"]
        axes.plot(middles, share, color=tone, linewidth=1.7)
        axes.fill_between(middles, 0, share, color=tone, alpha=0.12, linewidth=0)
        caption(axes, (1.0, 1.0), (9.0, -top - 4.0), printable(f"{name} ({len(runs[name])})", 20), color=tone)


def _unit(picture: Figure, words: str, which: int) -> None:
    caption(picture.axes[which], (1.0, 0.0), (0.0, -36.0), words, ha="right")
