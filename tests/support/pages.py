"""The pages of the documentation as tests read them: commands, and tables whose cells are compared with records."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkout import ROOT

PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted(ROOT.glob("[a-z]*/README.md")),
    *sorted(ROOT.glob("[a-z]*/zoo/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
_NUMBER = re.compile(r"(?<![\w.])([+\-−]?)(\d[\d,]*(?:\.\d+)?)")


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def anchors(page: Path) -> set[str]:
    """What links to headings of the page may name, by the rule of Git hosts and of the site."""
    found: set[str] = set()
    for heading in re.findall(
        r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S), re.M
    ):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        found.add(re.sub(r"[^\w\- ]", "", plain).replace(" ", "-"))
    return found


def record(name: str) -> Any:
    """A JSON file of docs/results."""
    return json.loads((ROOT / "docs" / "results" / f"{name}.json").read_text(encoding="utf-8"))


def command_lines(text: str) -> Iterator[list[str]]:
    """The words of every command in fenced blocks (without a language, or sh, or text) and indented lines of a page.

    Output of programs, which fenced blocks have too, has no line that begins with a program of this repository.
    """
    blocks = [block for kind, block in re.findall(r"```(\w*)\n(.*?)```", text, re.S) if kind in ("", "sh", "text")]
    outside = re.sub(r"```.*?```", "", text, flags=re.S)
    blocks += re.findall(r"^ {4,}(?:.*\\\n)*.*$", outside, re.M)
    for block in blocks:
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r"&&|;| \|\|? ", line):
                words = _words(part)
                if words:
                    yield words


def _words(line: str) -> list[str]:
    """[`edgemt`, ...] or [`python`, `benchmarks/NAME.py`, ...]; nothing for another program, or for output."""
    line = re.sub(r"^\s*(?:[A-Z_]+=\S* +)*", "", line)  # variables of the environment
    if not re.match(r"(?:edgemt [a-z]|edgemt$|python benchmarks/|benchmarks/)", line):
        return []
    return [word for word in shlex.split(line, comments=True) if word != "..."]


@dataclass(frozen=True)
class Table:
    """A table of a page: the cells of its head, and those of each row; bold marks are left out."""

    head: list[str]
    rows: list[list[str]]

    def cells(self, first: str, nth: int = 0) -> list[str]:
        """Those to the right of the first cell, of the row that begins so."""
        found = [row[1:] for row in self.rows if row[0].startswith(first)]
        assert len(found) > nth, f"no row {first!r} below {self.head}"
        return found[nth]

    def row(self, first: str, nth: int = 0) -> dict[str, str]:
        """Head -> cell, without the first one."""
        return dict(zip(self.head[1:], self.cells(first, nth), strict=True))


def tables(page: str) -> list[Table]:
    found: list[Table] = []
    last: list[list[str]] = []
    for line in [*text_of(page).splitlines(), ""]:
        if line.startswith("|"):
            last.append([cell.strip().replace("**", "") for cell in line.strip().strip("|").split("|")])
        elif last:
            found.append(Table(last[0], last[2:]))
            last = []
    return found


def table(page: str, first: str, after: str = "") -> Table:
    """The first table whose head begins with this cell, below the text `after`."""
    start = text_of(page).index(after)
    skipped = len(re.findall(r"(?:^\|.*\n)+", text_of(page)[:start], re.M))
    for candidate in tables(page)[skipped:]:
        if candidate.head[0] == first:
            return candidate
    raise AssertionError(f"{page}: no table whose first cell is {first!r}")


def agree(cell: str, values: Sequence[float | None] | float, *, times: float = 1.0) -> bool:
    """Are the numbers of the cell these values, times `times`, rounded to the digits that the cell shows?

    Records are rounded themselves (0.8475 of 0.84747), so half a unit of the last digit of the cell is allowed in full.
    """
    wanted = [v for v in ([values] if isinstance(values, int | float) else values) if v is not None]
    shown = numbers(cell)
    return len(shown) == len(wanted) and all(
        abs(number - times * value) <= 0.5 * 10.0**-digits * (1 + 1e-6) + 1e-9
        for (number, digits), value in zip(shown, wanted, strict=True)
    )


def numbers(cell: str) -> list[tuple[float, int]]:
    """(value, digits behind the point) of each number of a cell; thousands may have commas."""
    found = []
    for sign, digits in _NUMBER.findall(cell):
        text = re.sub(r",(?=\d{3})", "", digits).rstrip(",")
        found.append((float(("-" if sign in "-−" and sign else "") + text), len(text.partition(".")[2])))
    return found
