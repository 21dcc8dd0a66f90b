"""The contact sheet of `edgemt select`: one HTML file without a reference to anything outside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from edgemt.report.css import STYLE
from edgemt.report.data_page import jpeg
from edgemt.report.formatting import figure, fixed
from edgemt.report.html import section

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_CSS = """
.sheet{display:grid;grid-template-columns:repeat(auto-fill,minmax(170px,1fr));gap:16px;margin:0;padding:0;list-style:none}
.sheet img{display:block;width:100%;height:auto;background:#000}
.sheet li{font-size:13px;color:var(--soft);overflow-wrap:anywhere}.sheet b{color:var(--ink);font-weight:560}
"""


def selection_page(
    rows: Sequence[Mapping[str, Any]],
    pictures: Sequence[np.ndarray],
    *,
    root: str,
    method: str,
    candidates: int,
    labelled: int,
    by: str = "entropy",
) -> str:
    """The whole document. rows: name, patient and uncertainty of each image, in order; pictures: uint8 RGB.

    by: what the uncertainty is, `entropy` or the `variance` between teachers.
    """
    score = {"entropy": "uncertainty", "variance": "variance between the teachers"}[by]
    method += f" by {score}" if by != "entropy" else ""
    items = []
    for number, row in enumerate(rows):
        image = f'<img alt="" src="{jpeg(pictures[number])}">' if number < len(pictures) else ""
        patient = f", patient {escape(str(row['patient']))}" if row["patient"] != row["name"] else ""
        value = row["uncertainty"]
        shown = figure(value) if by == "variance" else fixed(value)
        unsure = f", {score} {shown}" if value is not None else ""
        items.append(f"<li>{image}<b>{number + 1}. {escape(str(row['name']))}</b>{patient}{unsure}</li>")
    lede = f"{len(rows)} of {candidates} unlabelled images, method {escape(method)}; {labelled} are labelled already."
    name = escape(root.rstrip("/").rpartition("/")[2] or root)
    sheet = section("In this order", f'<ol class="sheet">{"".join(items)}</ol>', css="long")
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width,initial-scale=1">
<title>{name}: images to label next</title><style>{STYLE}{_CSS}</style></head>
<body><header><p class="over">EdgeMT selection</p><h1>{name}: images to label next</h1><p class="lede">{lede}</p>
</header>
<main>{sheet}</main><footer>One file, readable without a network. It shows images of the data set: treat it as the data
set itself.</footer></body></html>
"""
