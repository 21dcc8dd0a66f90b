"""The zoo on disk: trained students that travel with the package, opened only when they are what their card says.

    students/zoo/NAME/  weights.safetensors (float16)  card.json
    students/zoo/README.md, its table written from the cards

Loads no torch, so that a list of names costs nothing.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import students
from edgemt.contract import Card
from edgemt.files import sha256
from edgemt.names import unknown

HOME = Path(students.__file__).parent / "zoo"
PREFIX = "zoo/"
CARD, WEIGHTS = "card.json", "weights.safetensors"
LARGEST = 6_000_000  # bytes of weights that may travel with a package
TERMS = "research use: trained on data with its own terms"
BEGIN, END = "<!-- entries, written by `edgemt pack` -->", "<!-- end of entries -->"
_NETWORK = {"room", "name", "channels", "classes", "heads", "options", "plan"}
_OPTIONS = {"decoder", "pretrained"}  # others would reach timm, some of which open files
_FACTS = {"labels", "note", "recipe", "seeds", "terms"}


@dataclass(frozen=True)
class Entry:
    """A folder whose weights had the hash of its card."""

    name: str  # zoo/NAME, or the folder's own name where it lies elsewhere
    folder: Path
    card: Card

    @property
    def facts(self) -> dict[str, Any]:
        """Terms, labels, seeds, recipe and note: what the card has no field for."""
        return self.card.network["zoo"]

    @property
    def measured(self) -> dict[str, Any]:
        return self.card.measured[WEIGHTS]

    @property
    def identity(self) -> str:
        """What a student that starts from it depends on: weights and the network they fit."""
        said = [self.card.files, {key: value for key, value in self.card.network.items() if key != "zoo"}]
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def names(home: Path | None = None) -> list[str]:
    """The entries of the package, without their prefix."""
    home = home or HOME
    return sorted(path.parent.name for path in home.glob(f"*/{CARD}"))


def is_entry(target: str) -> bool:
    """Whether a command means an entry: zoo/NAME, or a folder with weights and no graph."""
    return target.startswith(PREFIX) or Path(target, WEIGHTS).exists()


def open_entry(target: str | Path) -> Entry:
    """The entry of `zoo/NAME`, or of a folder packed alike.

    Raises ValueError in one line for an unknown name (with the nearest), a damaged card, and weights that are missing,
    too large, or not those of the card.
    """
    name = str(target)
    folder = Path(name)
    if name.startswith(PREFIX):
        short = name.removeprefix(PREFIX)
        if short not in names():
            raise ValueError(unknown("zoo entry", short, names()) if names() else f"{name}: the zoo is empty here")
        folder = HOME / short
    elif not folder.is_dir():
        raise ValueError(f"{name}: no such folder; write zoo/NAME (edgemt list zoo) or a folder that edgemt pack wrote")
    else:
        name = folder.resolve().name
    card = read_card(folder)
    weights = folder / WEIGHTS
    if not weights.is_file() or weights.is_symlink():
        raise ValueError(f"{weights}: missing; the zoo reads weights as safetensors alone, install or pack it again")
    if weights.stat().st_size > LARGEST:
        raise ValueError(f"{weights}: {weights.stat().st_size / 1e6:.1f} MB, an entry has {LARGEST / 1e6:g} at most")
    if sha256(weights) != card.files[WEIGHTS]:
        raise ValueError(
            f"{weights}: changed since the card was written (sha256 differs); install or pack the entry again"
        )
    return Entry(name, folder, card)


def read_card(folder: Path) -> Card:
    """The card of an entry. Raises ValueError, naming it, when it does not say all that an entry's card says."""
    file = folder / CARD
    try:
        card = Card.from_json(file.read_text(encoding="utf-8"), source=file)
    except FileNotFoundError:
        raise ValueError(f"{folder}: holds no {CARD}, so it is no zoo entry; edgemt pack writes one") from None
    except UnicodeDecodeError:
        raise ValueError(f"{file}: not text; install or pack the entry again") from None
    network, facts = card.network, card.network.get("zoo")
    if facts is None and "room" in network:
        raise ValueError(f"{folder}: a stage of a run, not a zoo entry; edgemt pack {folder} NAME makes one of it")
    for field, fine in (
        ("network", set(network) >= _NETWORK and network.get("room") == "students"),
        ("network.options", set(network.get("options", {"": ""})) <= _OPTIONS),
        ("network.zoo", isinstance(facts, dict) and set(facts) >= _FACTS),
        ("files", set(card.files) == {WEIGHTS}),
        ("size", len(card.size) == 2 and all(isinstance(n, int) and n > 0 for n in card.size)),
        ("channels", card.channels == network.get("channels")),
        ("classes", len(card.classes) == network.get("classes")),
        ("measured", isinstance(card.measured.get(WEIGHTS, {}).get("dice"), float)),
    ):
        if not fine:
            raise ValueError(f"{file}: its {field} is cut short or makes no sense; install or pack the entry again")
    return card


def about(card: Card) -> str:
    """One line: what it segments, from what, how well."""
    facts, organs = card.network["zoo"], ", ".join(card.classes[1:])
    return (
        f"{organs}: {card.network['name']}, {taken(card)}, Dice {card.measured[WEIGHTS]['dice']:.3f} "
        f"({card.name}, labels: {facts['labels']})"
    )


def taken(card: Card) -> str:
    """The input in words: `160 x 128, 3 slices`."""
    kind = f"{card.channels} slices" if card.channel_order == "slices" else card.channel_order
    return f"{card.size[0]} x {card.size[1]}, {kind}"


def table(home: Path | None = None) -> str:
    """Every entry as a row of Markdown, from the cards."""
    home = home or HOME
    cards = {name: read_card(home / name) for name in names(home)}
    if not cards:
        return "No entry yet."
    head = ["name", "finds", "input", "student", "params (M)", "MMAC", "MB", "recipe", "labels", "Dice", "terms"]
    rows = [head, ["---"] * len(head)]
    for name, card in cards.items():
        network, facts = card.network, card.network["zoo"]
        decoder, plan = network["options"].get("decoder", students.DECODER), network["plan"]
        rows.append([
            f"`{PREFIX}{name}`", ", ".join(card.classes[1:]), taken(card),
            f"{network['name']}, {decoder}{', pruned' if plan else ''}",
            f"{card.params / 1e6:.2f}", f"{card.macs / 1e6:.0f}", f"{(home / name / WEIGHTS).stat().st_size / 1e6:.1f}",
            card.name, str(facts["labels"]), f"{card.measured[WEIGHTS]['dice']:.4f}", facts["terms"],
        ])  # fmt: skip
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in row) + " |" for row in rows)


def with_table(readme: str, home: Path | None = None) -> str:
    """The text of the README with its table written anew. Raises ValueError where its marks are gone."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{(home or HOME) / 'README.md'}: needs the lines {BEGIN} and {END}, the table goes between")
    return f"{before}{BEGIN}\n\n{table(home)}\n\n{END}{after}"
