"""The page of `edgemt site report`: what changed between groups of sessions. One file without an outside reference."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from deploy.site_statistics.compare import FeatureChange, SiteComparison
from deploy.site_statistics.explain import amount, in_words
from edgemt.report import svg
from edgemt.report.css import STYLE
from edgemt.report.formatting import fixed
from edgemt.report.html import grid, section
from edgemt.report.svg import Axis

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_CSS = """
.found{margin:0;padding:0;list-style:none;max-width:62em}.found li{padding:6px 0;border-bottom:1px solid var(--rule)}
.legend{margin:22px 0 16px}.legend i{background:var(--c);outline:0}
td.plot{width:250px}td.plot svg{width:240px}tr.changed td:first-child{font-weight:620}
svg .fill{fill:var(--c);opacity:.14}
"""
_WIDE, _HIGH = 240.0, 46.0


def site_page(pairs: Sequence[tuple[tuple[str, str], SiteComparison]]) -> str:
    """The whole document: one section for each pair of groups (their names, and their comparison)."""
    body = "".join(_pair(names, comparison) for names, comparison in pairs)
    changed = sum(len(comparison.changed) for _, comparison in pairs)
    untested = [comparison.reason for _, comparison in pairs if comparison.reason]
    lede = f"{changed} {'feature' if changed == 1 else 'features'} changed." if changed else "No change was found."
    if untested:
        lede = f"{lede} {len(untested)} of {len(pairs)} comparisons have too few sessions."
    title = " / ".join(dict.fromkeys(name for names, _ in pairs for name in names))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width,initial-scale=1">
<title>{escape(title)}: drift</title><style>{STYLE}{_CSS}</style></head>
<body><header><p class="over">EdgeMT site report</p><h1>{escape(title)}</h1><p class="lede">{escape(lede)}</p></header>
<main>{body}</main><footer>Histograms of what was shown, two samples a second: no pixels, no names of patients or files.
Medians are means over sessions, each with the same weight.</footer></body></html>
"""


def _pair(names: tuple[str, str], comparison: SiteComparison) -> str:
    sentences = "".join(f"<li>{escape(line)}</li>" for line in (*in_words(comparison, names), *comparison.notes))
    key = "".join(
        f'<li class="s{tone}"><i></i>{escape(name)}, {n} sessions</li>'
        for tone, name, n in zip((1, 4), names, comparison.sessions, strict=True)
    )
    heads = (
        "<th>feature</th><th>share of the frames</th><th>median of each session, by day</th>"
        f'<th class="n">{escape(names[0])}</th><th class="n">{escape(names[1])}</th>'
        '<th class="n">PSI</th><th class="n">adjusted p</th>'
    )
    rows = [_row(one) for one in sorted(comparison.features, key=lambda one: (not one.changed, one.p))]
    body = f'<ul class="found">{sentences}</ul><ul class="legend">{key}</ul>{grid(heads, rows)}'
    return section(f"{escape(names[0])} and {escape(names[1])}", body, css="wide")


def _row(one: FeatureChange) -> str:
    mark = ' class="changed"' if one.changed else ""
    cells = (amount(one, 0), amount(one, 1), fixed(one.psi, 2), fixed(one.p, 4))
    figures = "".join(f'<td class="n">{escape(text)}</td>' for text in cells)
    name = f'{escape(one.name)}<span class="note">{escape(one.unit)}{", changed" if one.changed else ""}</span>'
    return (
        f'<tr{mark}><td>{name}</td><td class="plot">{_distribution(one)}</td><td class="plot">{_days(one)}</td>'
        f"{figures}</tr>"
    )


def _distribution(one: FeatureChange) -> str:
    """Both distributions as steps, over the bins that are in use."""
    used = np.flatnonzero(one.shares.max(0) > 0)
    low, high = max(int(used[0]) - 1, 0), min(int(used[-1]) + 2, one.shares.shape[1])
    x = Axis(low, high, 0.0, _WIDE)
    y = Axis(0.0, float(one.shares.max()), _HIGH, 2.0)
    parts = [svg.line("grid", 0, _HIGH, _WIDE, _HIGH)]
    for tone, row in zip((1, 4), one.shares, strict=True):
        points = [(x(k + side), y(float(row[k]))) for k in range(low, high) for side in (0, 1)]
        parts.append(svg.path(f"fill s{tone}", [(x(low), _HIGH), *points, (x(high), _HIGH)], closed=True))
        parts.append(svg.path(f"curve s{tone}", points))
    return svg.drawing(_WIDE, _HIGH + 2, f"distribution of {one.name}", parts)


def _days(one: FeatureChange) -> str:
    """A dot for the median of each session, by day."""
    days = sorted({day for group in one.medians_by_session for day, _ in group})
    values = [value for group in one.medians_by_session for _, value in group]
    low, high = min(values), max(values)
    pad = (high - low) * 0.08 or 1.0
    x, y = Axis(-0.5, len(days) - 0.5, 4.0, _WIDE - 4), Axis(low - pad, high + pad, _HIGH, 2.0)
    parts = [svg.line("grid", 0, _HIGH, _WIDE, _HIGH)]
    for tone, group in zip((1, 4), one.medians_by_session, strict=True):
        for day, value in group:
            parts.append(svg.dot(f"dot s{tone}", x(days.index(day)), y(value), title=f"{day}: {value:.4g}", size=3.4))
    return svg.drawing(_WIDE, _HIGH + 2, f"{one.name} by day", parts)
