"""Write docs/layers.svg: the folders of edgemt and deploy, each above those that it imports.

    python .ci/draw_layers.py

Rows of edgemt are LAYERS of tests/test_import_layers.py; those of deploy follow from the imports themselves.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "support")]
from test_import_layers import LAYERS, folder_graph  # noqa: E402

DRAWING = ROOT / "docs" / "layers.svg"
HIDDEN = {"__main__"}
STEP, HEIGHT, TOP, GAP = 35, 28, 36, 8  # of the rows, pixels
LEFT, RIGHT = (20, 460), (656, 500)  # edge and width of the two columns
STYLE = (
    "<style>:root{color-scheme:light dark;--b:#fff;--f:#eef3f7;--g:#e6f4ef;--l:#9fb0bf;--t:#16212c;--s:#5a6876}\n"
    "@media (prefers-color-scheme:dark){:root{--b:#0f151b;--f:#1b2630;--g:#16302a;--l:#4a5b6a;--t:#e4eaf0;"
    "--s:#93a2b1}}\n"
    "svg{background:var(--b)}rect{fill:var(--f);stroke:var(--l)}rect.d{fill:var(--g)}"
    "text{font:13px system-ui,sans-serif;fill:var(--t)}\n"
    ".s{font-size:11px;fill:var(--s)}.h{font-weight:600}path{stroke:var(--s);fill:none;marker-end:url(#a)}"
    "marker path{fill:var(--s);stroke:none;marker-end:none}</style>\n"
    '<defs><marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path d="M0 0 8 4 0 8z"/></marker></defs>'
)
NOTE = "A row imports rows below it, never one above; teachers and students are used from artefacts upwards."


def edgemt_rows() -> list[list[str]]:
    """Folders and loose files of edgemt, the highest row first; the ground takes two rows."""
    rows: list[list[str]] = []
    for layer in LAYERS["edgemt"]:
        names = {name.split(".")[1] for name in layer if "." in name} - {name for row in rows for name in row} - HIDDEN
        if names:
            rows.append(sorted(names))
    ground = rows.pop(0)
    upper = [name for name in ("contract", "model_card", "errors") if name in ground]
    return [*reversed(rows), upper, [name for name in ground if name not in upper]]


def deploy_rows() -> list[list[str]]:
    """Folders and files of deploy, the highest row first: each as low as its imports allow."""
    graph: dict[str, set[str]] = {}
    for folder, others in folder_graph().items():
        if folder.startswith("deploy."):
            name = folder.split(".")[1]
            inside = {other.split(".")[1] for other in others if other.startswith("deploy.")}
            graph.setdefault(name, set()).update(inside - {name})

    @cache
    def depth(name: str) -> int:
        return 1 + max((depth(other) for other in graph.get(name, ())), default=-1)

    rows: list[list[str]] = [[] for _ in range(1 + max(map(depth, graph)))]
    for name in sorted(graph):
        rows[-1 - depth(name)].append(name)
    return rows


def boxes(names: Sequence[str], *, y: int, column: tuple[int, int], kind: str = "") -> list[str]:
    """Boxes of equal width with their names."""
    left, width = column
    each = (width - GAP * (len(names) - 1)) / len(names)
    style = f' class="{kind}"' if kind else ""
    lines = []
    for number, name in enumerate(names):
        x = left + number * (each + GAP)
        lines.append(f'<rect x="{x:.1f}" y="{y}" width="{each:.1f}" height="{HEIGHT}" rx="5"{style}/>')
        lines.append(f'<text x="{x + each / 2:.1f}" y="{y + 19}" text-anchor="middle">{name}</text>')
    return lines


def drawing() -> str:
    """The SVG."""
    left, right = edgemt_rows(), deploy_rows()
    place = {name: TOP + STEP * number for number, row in enumerate(left) for name in row}
    first = place["io"] - STEP * len(right)  # deploy ends above the row of edgemt.io
    bottom, end = TOP + STEP * len(left), LEFT[0] + LEFT[1]
    middle, centre = (end + RIGHT[0]) // 2, RIGHT[0] + RIGHT[1] // 2
    user, used = place["pipeline"] + HEIGHT // 2, place["io"] + HEIGHT // 2
    head = "The folders of edgemt and deploy in layers"
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {RIGHT[0] + RIGHT[1] + 20} {bottom + 30}" role="img" '
        f'aria-label="{head}">{STYLE}',
        f'<text x="{LEFT[0]}" y="24" class="h">edgemt</text>',
        f'<text x="{RIGHT[0]}" y="{first - 12}" class="h">deploy</text>',
    ]
    for number, row in enumerate(left):
        lines += boxes(row, y=TOP + STEP * number, column=LEFT)
    for number, row in enumerate(right):
        lines += boxes(row, y=first + STEP * number, column=RIGHT, kind="d")
    lines += boxes(["teachers, students"], y=place["data"], column=(end + 20, RIGHT[0] - end - 40))
    lines += [
        f'<path d="M{end} {user}H{middle}V{first + HEIGHT // 2}H{RIGHT[0] - 4}"/>',
        f'<text x="{middle}" y="{user - 6}" text-anchor="middle" class="s">edgemt uses deploy</text>',
        f'<path d="M{centre} {first + STEP * len(right) - GAP + 2}V{used}H{end + 6}"/>',
        f'<path d="M{middle} {place["data"] + HEIGHT}V{used - 2}"/>',
        f'<text x="{middle + 30}" y="{used + 18}" class="s">io, contract, model_card, errors, contour_margins, '
        "telemetry and no more</text>",
        f'<text x="{LEFT[0]}" y="{bottom + 14}" class="s">{NOTE}</text></svg>',
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    DRAWING.write_text(drawing(), encoding="utf-8")
