"""The two pictures of a run, drawn by matplotlib: Dice against latency, and the curves of the training.

Each picture is drawn once; `inline_svg` puts it into report.html and `save_png` writes it as a file. All lengths are
units of the page: 1/72 inch, from the left and the top. The names of a record are text of the SVG, never markup.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from xml.etree import ElementTree

from edgemt.io.atomic import atomic_write
from edgemt.report.charts import Bin, binned, step_label, tick_label
from edgemt.report.css import COLOURS
from edgemt.report.formatting import DEADLINE_MS, LatencyPoint, families, family, fastest, figure, finite, timed
from edgemt.report.svg import TONES, Axis, Box, halo, leader_end, padded_range, place_labels, spread, truncate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Picture = Literal["accuracy_latency", "curves"]
TITLES: dict[Picture, str] = {
    "accuracy_latency": "Dice against latency",
    "curves": "Loss terms and validation Dice of every training",
}
_WIDTH, _FONT = 880.0, 12.0
_CHAR = 7.0  # width of a character of DejaVu Sans, which the PNG is set in; fonts of browsers are narrower
_PNG_DPI, _PNG_MARGIN = 144, 14.0
_SHAPES = ("o", "s", "D", "^")
# nothing depends on a user's matplotlibrc, on the time, or on a random number; a dollar sign starts no formula
STYLE: dict[str, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": _FONT,
    "svg.fonttype": "none",
    "svg.hashsalt": "edgemt",
    "text.color": COLOURS["ink"],
    "text.parse_math": False,
}


def draw_pictures(record: Mapping[str, Any]) -> dict[Picture, Figure]:
    """The pictures that the record has numbers for. Raises ModuleNotFoundError without matplotlib."""
    from matplotlib import style

    with style.context(["default", STYLE]):
        drawn: dict[Picture, Figure | None] = {"accuracy_latency": _accuracy_latency(record), "curves": _curves(record)}
    return {name: picture for name, picture in drawn.items() if picture is not None}


def save_png(picture: Figure, file: Path) -> None:
    """Write the picture as PNG, with a margin and a rim around its labels, both in the colour of the paper."""
    from matplotlib import style
    from matplotlib.patheffects import withStroke
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox

    extent = Bbox.from_bounds(0, 0, *picture.get_size_inches()).padded(_PNG_MARGIN / 72)
    labels = picture.findobj(lambda artist: isinstance(artist, Text) and artist.get_gid() == "label")
    with style.context(["default", STYLE]), atomic_write(file) as part:
        for label in labels:
            label.set_path_effects([withStroke(linewidth=3.5, foreground=COLOURS["paper"])])
        picture.savefig(part, format="png", dpi=_PNG_DPI, bbox_inches=extent)
        for label in labels:
            label.set_path_effects([])


def inline_svg(picture: Figure, title: str) -> str:
    """The picture as an <svg> element for a page with the style sheet of `css.py`.

    It has text as text, the colours and fonts of the page, no reference to anything outside, and no ids but those of
    its own marks. The same numbers give the same bytes.
    """
    from matplotlib import style

    buffer = io.StringIO()
    with style.context(["default", STYLE]):
        picture.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    root = ElementTree.fromstring(buffer.getvalue())
    body = "".join(filter(None, (_element(child) for child in root)))
    return f'<svg class="chart" viewBox="{root.get("viewBox")}" role="img" aria-label="{escape(title)}">{body}</svg>'


def _element(node: ElementTree.Element) -> str:
    """One element of matplotlib's SVG as HTML. Groups with one child or none, metadata and style sheets are dropped."""
    tag = node.tag.rpartition("}")[2]
    if tag in ("metadata", "style", "title"):
        return ""
    body = "".join(filter(None, (_element(child) for child in node)))
    name = node.get("id", "")
    if tag in ("g", "defs") and not body:
        return ""
    attributes = {key.rpartition("}")[2]: value for key, value in node.attrib.items() if key != "id"}
    if tag == "g" and name == "label":
        attributes["class"] = "label"
    elif tag != "g" and name:
        attributes["id"] = name  # of a mark that <use> refers to
    if tag == "g" and not attributes:
        return body
    if tag == "text":
        body = escape(node.text or "")
        if attributes.get("transform", "").startswith(("rotate(-0 ", "rotate(0 ")):
            del attributes["transform"]
    if "d" in attributes:
        attributes["d"] = " ".join(re.sub(r"\d+\.\d{3,}", lambda m: f"{float(m[0]):.2f}", attributes["d"]).split())
    if "style" in attributes:
        rules = (rule.strip() for rule in attributes["style"].split(";"))
        kept_rules = [rule for rule in rules if rule and not rule.startswith("font")]
        attributes["style"] = re.sub(r"#[0-9a-f]{6}", _page_colour, ";".join(kept_rules))
    head = "".join(f' {key}="{escape(value)}"' for key, value in attributes.items() if value)
    return f"<{tag}{head}>{body}</{tag}>" if body else f"<{tag}{head}/>"


def _page_colour(match: re.Match[str]) -> str:
    """A colour of the palette as the variable of the page, which has another value in dark mode."""
    return next((f"var(--{name})" for name, colour in COLOURS.items() if colour == match[0]), match[0])


def _accuracy_latency(record: Mapping[str, Any]) -> Figure | None:
    """Dice against median latency; a line reaches to p99, a dashed line is a stage that was not timed."""
    stages = record.get("stages") or ()
    points = [t for t in timed(stages) if t.dice is not None]
    untimed = [s for s in stages if finite(s.get("dice")) is not None and fastest(s) is None]
    if not points and not untimed:
        return None
    reach = [v for t in points for v in (t.p50_ms, t.p99_ms) if v] + [DEADLINE_MS]
    heights = [t.dice for t in points if t.dice is not None] + [float(s["dice"]) for s in untimed]
    x = Axis(min(reach) / 1.6, max(reach) * 1.6, 0.0, 1.0, log=True)
    y = Axis(*padded_range(heights, least=0.02, low=0.0, high=1.0, pad=0.22), 0.0, 1.0)
    picture = canvas(418.0)
    axes = panel(picture, (56.0, 28.0, 868.0, 366.0), x, y, x_label=lambda v: figure(v, 1))
    colour, runtimes = families(stages), list(dict.fromkeys(t.runtime for t in points))
    axes.axvspan(DEADLINE_MS, x.high, color=COLOURS["late"], alpha=0.06, linewidth=0)
    axes.axvline(DEADLINE_MS, color=COLOURS["late"], linewidth=1.2, linestyle=(0, (4, 3)))
    due = f"{DEADLINE_MS:.0f} ms, one frame at {1000 / DEADLINE_MS:.0f} Hz"
    caption(axes, (x(DEADLINE_MS), 1.0), (0.0, 9.0), due, ha="center", color=COLOURS["late"])
    caption(axes, (0.0, 1.0), (-56.0, 9.0), "Dice")
    caption(axes, (1.0, 0.0), (0.0, -44.0), "latency of one frame, ms: median, line to p99", ha="right")
    taken: list[Box] = []
    marks = [axes.transData.transform((t.p50_ms, t.dice)) for t in points]
    for stage in untimed:
        name, dice = str(stage.get("name", "")), float(stage["dice"])
        axes.axhline(dice, color=_tone(colour, name), linewidth=1.2, linestyle=(0, (6, 4)))
        words = f"{printable(name, 32)}, not timed"
        width, up = _CHAR * len(words), float(axes.transData.transform((x.low, dice))[1])
        sides: list[Box] = [(62.0, up, 62.0 + width, up + 18), (862.0 - width, up, 862.0, up + 18)]
        side = min(sides, key=lambda box: sum(_inside(box, point) for point in marks))
        middle = (side[0] + side[2]) / 2 - 56.0
        caption(axes, (0.0, y(dice)), (middle, 5.0), words, ha="center", color=_tone(colour, name), gid="label")
        taken.append(side)
    for t in points:
        tone, ends = _tone(colour, t.stage), (t.p50_ms, t.p99_ms or t.p50_ms)
        axes.plot(ends, [t.dice, t.dice], color=tone, linewidth=2, alpha=0.55, solid_capstyle="round")
        (a, up), (b, _) = axes.transData.transform([(end, t.dice) for end in ends])
        taken.append((a, up - 3, b, up + 3))
    for t in points:
        shape, tone = _SHAPES[runtimes.index(t.runtime) % len(_SHAPES)], _tone(colour, t.stage)
        axes.plot([t.p50_ms], [t.dice], shape, color=tone, markersize=10, markeredgecolor=COLOURS["paper"])
    along = 5.0
    for i, runtime in enumerate(runtimes):
        name = printable(runtime, 32)
        axes.plot([along / 812.0], [-40.0 / 338.0], _SHAPES[i % len(_SHAPES)], color=COLOURS["soft"], markersize=9,
                  transform=axes.transAxes)  # fmt: skip
        caption(axes, (0.0, 0.0), (along + 11.0, -44.0), name)
        along += 36.0 + _CHAR * len(name)
    _label_stages(axes, points, colour, [best for s in stages if (best := fastest(s)) in points], taken)
    return unclipped(picture)


def _label_stages(
    axes: Any, points: Sequence[LatencyPoint], colour: Mapping[str, int], marked: Sequence[Any], taken: list[Box]
) -> None:
    """The name of each stage at its fastest point, clear of every other point, line and label."""

    def at(t: LatencyPoint) -> tuple[float, float]:
        x, y = axes.transData.transform((t.p50_ms, t.dice or 0.0))
        return float(x), float(y)

    names, box = [printable(t.stage, 32) for t in marked], axes.bbox
    taken = [*taken, *(halo(*at(t)) for t in points if t not in marked)]
    bounds = (box.x0, box.y0, box.x1, box.y1)
    spots = place_labels([at(t) for t in marked], [_CHAR * len(name) for name in names], bounds=bounds, taken=taken)
    for t, name, spot in zip(marked, names, spots, strict=True):
        to = leader_end(at(t), spot)
        if to is not None:
            ends = axes.transData.inverted().transform([at(t), to])
            axes.plot(*ends.T, color=_tone(colour, t.stage), linewidth=0.8, zorder=1.5)
        middle = axes.transData.inverted().transform(((spot[0] + spot[2]) / 2, spot[1] + 3.5))
        axes.text(*middle, name, ha="center", va="baseline", color=_tone(colour, t.stage), gid="label", zorder=5)


def _curves(record: Mapping[str, Any]) -> Figure | None:
    """A row for each stage: loss terms left, validation Dice right. A band is the range of neighbouring steps."""
    rows = []
    for stage, run in (record.get("curves") or {}).items():
        val, steps = (run or {}).get("val") or {}, (run or {}).get("step") or ()
        terms = {str(name): binned(steps, values) for name, values in ((run or {}).get("terms") or {}).items()}
        terms = {name: bins for name, bins in terms.items() if bins}
        dice = binned(val.get("step") or (), val.get("dice") or ())
        if terms or dice:
            rows.append((printable(str(stage), 32), terms, dice))
    if not rows:
        return None
    pitch = 252.0
    picture = canvas(pitch * len(rows))
    for i, (stage, terms, dice) in enumerate(rows):
        top, bottom = pitch * i + 30.0, pitch * i + 208.0
        if terms:
            end = 430.0 - 14.0 - _CHAR * max(len(printable(name, 18)) for name in terms)
            _curve_panel(picture, (56.0, top, end, bottom), terms, f"{stage}: loss terms", dots=False)
        if dice:
            _curve_panel(picture, (516.0, top, 862.0, bottom), {"Dice": dice}, f"{stage}: validation Dice", dots=True)
    return unclipped(picture)


def _curve_panel(picture: Figure, box: Box, runs: Mapping[str, list[Bin]], title: str, *, dots: bool) -> None:
    """Lines named at their ends, or one line of dots. Losses turn logarithmic when they span much."""
    reach = [v for run in runs.values() for _, low, _, high in run for v in (low, high)]
    means = [mean for run in runs.values() for _, _, mean, _ in run]
    steps = [step for run in runs.values() for step, *_ in run]
    log = not dots and min(reach) > 0 and max(means) / min(means) > 30
    if log:
        y = Axis(min(reach) / 1.1, max(reach) * 1.1, 0.0, 1.0, log=True)
    else:
        low, high = padded_range(reach, least=0.02 if dots else 1e-3)
        y = Axis(max(low, 0.0) if dots else min(0.0, min(reach)), high, 0.0, 1.0)
    x = Axis(min(0.0, *steps), max(*steps, 1.0), 0.0, 1.0)
    axes = panel(picture, box, x, y, x_label=step_label)
    caption(axes, (0.0, 1.0), (-56.0, 14.0), title + (", logarithmic" if log else ""))
    caption(axes, (1.0, 0.0), (0.0, -34.0), "steps", ha="right")
    tones = {name: COLOURS[f"s{i % TONES}"] for i, name in enumerate(runs)}
    for name, run in runs.items():
        at, lows, mean, highs = zip(*run, strict=True)
        if any(high > low for low, high in zip(lows, highs, strict=True)):
            axes.fill_between(at, lows, highs, color=tones[name], alpha=0.15, linewidth=0)
        axes.plot(at, mean, "o-" if dots or len(run) == 1 else "-", color=tones[name], linewidth=1.7, markersize=5)
    if not dots:
        height = box[3] - box[1]
        ends = spread([height * (1 - y(run[-1][2])) for run in runs.values()], gap=15, low=4, high=height)
        for name, end in zip(runs, ends, strict=True):
            caption(axes, (1.0, 1.0), (7.0, -end - 4.0), printable(name, 18), color=tones[name])


def canvas(height: float) -> Figure:
    """An empty picture as wide as the page."""
    from matplotlib.figure import Figure

    return Figure(figsize=(_WIDTH / 72, height / 72), dpi=72, facecolor=COLOURS["paper"])


def panel(picture: Figure, box: Box, x: Axis, y: Axis, *, x_label: Any) -> Any:
    """Axes without a frame that cover `box`, with the ticks of `x` and `y` and horizontal grid lines."""
    left, top, right, bottom = box
    height = picture.get_figheight() * 72
    place = (left / _WIDTH, 1 - bottom / height, (right - left) / _WIDTH, (bottom - top) / height)
    axes = picture.add_axes(place, frameon=False)
    axes.set(xscale="log" if x.log else "linear", yscale="log" if y.log else "linear")
    axes.set(xlim=(x.low, x.high), ylim=(y.low, y.high))
    axes.minorticks_off()
    across, up = x.ticks(), y.ticks()
    axes.set_xticks(across, [x_label(v) for v in across])
    axes.set_yticks(up, [tick_label(v) for v in up])
    axes.tick_params(color=COLOURS["rule"], labelcolor=COLOURS["soft"])
    axes.tick_params("y", length=0, pad=8)
    axes.grid(axis="y", color=COLOURS["rule"], linewidth=1)
    axes.set_axisbelow(True)
    return axes


def caption(axes: Any, at: tuple[float, float], offset: tuple[float, float], words: str, **style: Any) -> None:
    """Text at a fraction of the axes, moved by `offset` units (right, up)."""
    style = {"color": COLOURS["soft"], **style}
    axes.annotate(words, at, offset, xycoords="axes fraction", textcoords="offset points", **style)


def _inside(box: Box, point: Sequence[float], reach: float = 6.0) -> bool:
    """Whether a mark at the point touches the box."""
    across = box[0] - reach <= point[0] <= box[2] + reach
    return across and box[1] - reach <= point[1] <= box[3] + reach


def unclipped(picture: Figure) -> Figure:
    """Without clip paths, which the marks do not need: everything lies within its axes."""
    for artist in picture.findobj():
        artist.set_clip_on(False)
    return picture


def _tone(colour: Mapping[str, int], stage: str) -> str:
    return COLOURS[f"s{colour.get(family(stage), 0) % TONES}"]


def printable(name: str, most: int) -> str:
    """The name in at most `most` characters, without control characters, which XML does not allow."""
    return truncate("".join(c if c.isprintable() else " " for c in name), most)
