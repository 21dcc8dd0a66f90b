"""The content of a dossier: sections with items and tables. An item is filled in, not measured, or to be written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

State = Literal["filled in", "not measured", "to be written"]
STATES: tuple[State, ...] = ("filled in", "not measured", "to be written")
NOT_MEASURED = "not measured"
TO_WRITE = "to be written"


@dataclass(frozen=True)
class Item:
    """One statement. `text`: the statement; of an item to be written, what a person has to write there.

    `references`: clauses that require it. `source`: where the statement comes from, or how it can be measured.
    """

    key: str
    title: str
    state: State
    text: str
    references: tuple[str, ...] = ()
    source: str = ""


@dataclass(frozen=True)
class Table:
    """Figures. A cell that was not measured has the text NOT_MEASURED, one for a person TO_WRITE."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


@dataclass(frozen=True)
class Section:
    """A part of the dossier."""

    key: str
    title: str
    items: tuple[Item, ...] = ()
    tables: tuple[Table, ...] = ()
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The record in dossier.json; rows of tables by head."""
        record = asdict(self)
        record["tables"] = [
            {"title": t.title, "note": t.note, "rows": [dict(zip(t.heads, row, strict=True)) for row in t.rows]}
            for t in self.tables
        ]
        return record


def filled(key: str, title: str, text: str, *, source: str = "card.json", refs: Sequence[str] = ()) -> Item:
    """An item that the tool fills in."""
    return Item(key, title, "filled in", text, tuple(refs), source)


def not_measured(key: str, title: str, *, remedy: str, refs: Sequence[str] = ()) -> Item:
    """An item that a measurement would fill in. `remedy`: how to measure it."""
    return Item(key, title, "not measured", NOT_MEASURED, tuple(refs), remedy)


def to_write(key: str, title: str, hint: str, *, refs: Sequence[str] = ()) -> Item:
    """An item that a person must write. `hint`: what belongs there."""
    return Item(key, title, "to be written", hint, tuple(refs))


def count_states(sections: Iterable[Section]) -> dict[str, int]:
    """State -> number of items, and "items": all of them."""
    found = Counter(item.state for section in sections for item in section.items)
    return {"items": sum(found.values()), **{state: found[state] for state in STATES}}


def count_sentence(counts: dict[str, int]) -> str:
    """How much is open, as `14 of 37 items are to be written, 5 are not measured.`."""
    return (
        f"{counts['to be written']} of {counts['items']} items are to be written, {counts['not measured']} are not "
        "measured."
    )
