"""The tables of comparisons in the documentation, from the results that are committed beside it.

A folder of `docs/results/compare` is a table; its place in `docs/methods.md` is between two marks with its name.

    python -m edgemt.comparison.docs     writes every table into the page, and docs/compare_NAME.svg
"""

from __future__ import annotations

import re
from pathlib import Path

from edgemt.comparison import results
from edgemt.comparison.record import record_of
from edgemt.io.atomic import write_text
from edgemt.report.comparison_page import comparison_picture, comparison_table

PAGE = Path("docs/methods.md")  # of a checkout; the command runs in its root
STORE = Path("docs/results/compare")
BEGIN = "<!-- comparison {name}: written by python -m edgemt.comparison.docs -->"
END = "<!-- end of comparison {name} -->"
_MARKS = re.compile(
    r"(?P<begin><!-- comparison (?P<name>\w+): [^>]*-->\n)(?P<inside>.*?)(?P<end><!-- end of comparison (?P=name) -->)",
    re.S,
)


def written(page: Path = PAGE, store: Path = STORE) -> str:
    """The page with every table as its results have it; a table without results is empty.

    Raises ValueError where the page has no place for a table, and where results do not belong together.
    """
    text = page.read_text(encoding="utf-8")
    places = {match["name"] for match in _MARKS.finditer(text)}
    for name in sorted(_tables(store) - places):
        begin, end = BEGIN.format(name=name), END.format(name=name)
        raise ValueError(f"{page}: has no place for the table {name}; put the lines {begin} and {end} into it")
    return _MARKS.sub(lambda match: match["begin"] + _inside(match["name"], store) + match["end"], text)


def pictures(store: Path = STORE) -> dict[str, str]:
    """File name -> SVG of each table that has results."""
    return {f"compare_{name}.svg": comparison_picture(record_of(_results(name, store))) for name in _tables(store)}


def write(page: Path = PAGE, store: Path = STORE) -> None:
    """Page and pictures, which lie in the folder `docs` that holds the results."""
    write_text(page, written(page, store))
    for name, picture in pictures(store).items():
        write_text(store.parents[1] / name, picture)


def _tables(store: Path) -> set[str]:
    folders = store.iterdir() if store.is_dir() else ()
    return {folder.name for folder in folders if folder.is_dir() and any(folder.glob("*.json"))}


def _results(name: str, store: Path) -> list[results.Result]:
    return results.read_all(store / name)


def _inside(name: str, store: Path) -> str:
    found = _results(name, store)
    if not found:
        return ""
    image = f"![Dice of each method and seed, and the difference to its control](compare_{name}.svg)"
    return f"{comparison_table(record_of(found))}\n{image}\n"


if __name__ == "__main__":
    write()
