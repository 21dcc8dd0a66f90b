"""The report's two pictures for slides, by matplotlib: the page itself does not need it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgemt.io.atomic import atomic_write
from edgemt.report.charts import binned, trade_ranges
from edgemt.report.formatting import DEADLINE_MS, LatencyPoint, families, family, fastest, figure, finite, timed
from edgemt.report.svg import CHAR, Axis, halo, place_labels

_TONES = ("#64748b", "#2373b8", "#7a5ac6", "#0a8f74", "#c2570c", "#b13a7a", "#77750c", "#9a4b3c")
_SHAPES = ("o", "s", "D", "^")
_DPI = 150
_UNIT = _DPI / 96  # pixels of one of `place`'s units


def draw_plots(folder: Path, record: Mapping[str, Any]) -> list[Path]:
    """accuracy_latency.png and curves.png, each only if there is something to draw. Needs matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    written = []
    for name, draw in (("accuracy_latency.png", _trade), ("curves.png", _curves)):
        picture = Figure(figsize=(9.0, 4.6), dpi=_DPI, layout="constrained")
        FigureCanvasAgg(picture)
        if draw(picture, record):
            with atomic_write(folder / name) as part:
                picture.savefig(part, format="png")
            written.append(folder / name)
    return written


def _trade(picture: Any, record: Mapping[str, Any]) -> bool:
    """Dice against median latency. False when no stage has a Dice."""
    stages = record.get("stages") or ()
    points = [t for t in timed(stages) if t.dice is not None]
    untimed = [s for s in stages if finite(s.get("dice")) is not None and fastest(s) is None]
    if not points and not untimed:
        return False
    (left, right), (low, high) = trade_ranges(points, untimed, deadline_ms=DEADLINE_MS)
    axes = _axes(picture.add_subplot(), "latency of one frame, ms: median, line to p99", "Dice")
    axes.set(xscale="log", xlim=(left, right), ylim=(low, high))
    ticks = Axis(left, right, 0.0, 1.0, log=True).ticks()
    axes.set_xticks(ticks, [figure(t, 1) for t in ticks])
    axes.minorticks_off()
    axes.axvspan(DEADLINE_MS, right, color="#c03a2b", alpha=0.06, linewidth=0)
    axes.axvline(DEADLINE_MS, color="#c03a2b", linewidth=1, linestyle=(0, (4, 3)))
    due = f"{DEADLINE_MS:.0f} ms, one frame at 30 Hz"
    axes.text(DEADLINE_MS, 1.02, due, transform=axes.get_xaxis_transform(), ha="center", fontsize=9, color="#c03a2b")
    colour, runtimes = families(stages), list(dict.fromkeys(t.runtime for t in points))
    for stage in untimed:
        name, dice = str(stage.get("name", "")), float(stage["dice"])
        axes.axhline(dice, color=_TONES[colour[family(name)] % len(_TONES)], linewidth=1, linestyle="--")
        axes.text(
            0.01,
            dice,
            _safe(f"{name}, not timed"),
            transform=axes.get_yaxis_transform(),
            fontsize=9,
            va="bottom",
        )
    for t in points:
        tone = _TONES[colour[family(t.stage)] % len(_TONES)]
        axes.plot([t.p50_ms, t.p99_ms or t.p50_ms], [t.dice, t.dice], color=tone, linewidth=2, alpha=0.5)
        shape = _SHAPES[runtimes.index(t.runtime) % len(_SHAPES)]
        axes.scatter(t.p50_ms, t.dice, s=46, color=tone, marker=shape, zorder=3, edgecolors="white")
    for i, runtime in enumerate(runtimes):
        axes.scatter([], [], s=40, color="#5a6876", marker=_SHAPES[i % len(_SHAPES)], label=_safe(runtime))
    if runtimes:
        axes.legend(frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=len(runtimes))
    picture.draw_without_rendering()  # the layout must stand before labels can be placed
    _label(axes, points, colour, [best for s in stages if (best := fastest(s)) in points])
    return True


def _label(axes: Any, points: list[LatencyPoint], colour: Mapping[str, int], marked: list[Any]) -> None:
    """Each stage's name at its fastest point, clear of every other point and whisker."""

    def units(t: Any, latency: float | None = None) -> tuple[float, float]:
        x, y = axes.transData.transform((latency or t.p50_ms, t.dice))
        return float(x) / _UNIT, float(y) / _UNIT

    ends = [(units(t), units(t, t.p99_ms)) for t in points]
    taken = [(a[0], a[1] - 3, b[0], b[1] + 3) for a, b in ends]
    taken += [halo(*units(t)) for t in points if t not in marked]
    box = axes.get_window_extent()
    bounds = (box.x0 / _UNIT, box.y0 / _UNIT, box.x1 / _UNIT, box.y1 / _UNIT)
    spots = place_labels([units(t) for t in marked], [CHAR * len(t.stage) for t in marked], bounds=bounds, taken=taken)
    for t, spot in zip(marked, spots, strict=True):
        at = axes.transData.inverted().transform((spot[0] * _UNIT, (spot[1] + spot[3]) / 2 * _UNIT))
        tone = _TONES[colour[family(t.stage)] % len(_TONES)]
        axes.text(*at, _safe(t.stage), fontsize=9, va="center_baseline", color=tone)


def _curves(picture: Any, record: Mapping[str, Any]) -> bool:
    """A row a stage: loss terms left, validation Dice right. False when there are no curves."""
    curves = {str(k): v for k, v in (record.get("curves") or {}).items() if v}
    if not curves:
        return False
    picture.set_size_inches(9.0, 2.6 * len(curves))
    grid = picture.subplots(len(curves), 2, squeeze=False)
    for (left, right), (stage, run) in zip(grid, curves.items(), strict=True):
        _axes(left, "steps", _safe(f"{stage}: loss"))
        _axes(right, "steps", "validation Dice")
        means = []
        for i, (term, values) in enumerate((run.get("terms") or {}).items()):
            bins = binned(run.get("step") or (), values)
            means += [mean for _, _, mean, _ in bins]
            tone = _TONES[i % len(_TONES)]
            left.plot([b[0] for b in bins], [b[2] for b in bins], color=tone, linewidth=1.2, label=_safe(str(term)))
        if means and min(means) > 0 and max(means) / min(means) > 30:
            left.set_yscale("log")
        if means:
            left.legend(frameon=False, fontsize=8)
        val = run.get("val") or {}
        points = binned(val.get("step") or (), val.get("dice") or ())
        right.plot([p[0] for p in points], [p[2] for p in points], color=_TONES[0], marker="o", markersize=3)
    return True


def _axes(axes: Any, across: str, up: str) -> Any:
    axes.set_xlabel(across, fontsize=9)
    axes.set_ylabel(up, fontsize=9)
    axes.tick_params(labelsize=9)
    axes.grid(axis="y", color="#dbe2e8", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _safe(words: str) -> str:
    """A dollar sign would start matplotlib's formula mode."""
    return words.replace("$", r"\$")
