"""Zoo entries on disk: trained students that come with the package, verified against their card when opened.

    students/zoo/NAME/  card.json   weights.safetensors, float16: for training on and for float graphs, with torch
                        model.int8.onnx, or model.fp16.onnx where INT8 costs too much: what a device runs
                        inputs.json, statistics of the training frames   golden/, synthetic frames and their masks
    students/zoo/README.md, its table written from the cards

An entry is a ship: `edgemt.open_ship("zoo/NAME")` checks every file of it.

Loads no torch, so that a list of names costs nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import students
from deploy.package.files import ONNX_FP16, ONNX_INT8
from edgemt.io import zoo_paths
from edgemt.io.atomic import sha256
from edgemt.io.channels import card_names, card_slices
from edgemt.io.zoo_paths import CARD, PREFIX, names
from edgemt.model_card import FileMetrics, ModelCard

__all__ = ["CARD", "GRAPHS", "LARGEST", "PREFIX", "WEIGHTS", "Entry", "is_entry", "names", "open_entry", "read_card"]

WEIGHTS = "weights.safetensors"
GRAPHS = {ONNX_INT8: "INT8", ONNX_FP16: "float16"}  # what an entry may run, first choice first
LARGEST = 8_000_000  # bytes of an entry: weights, graph and golden frames
TERMS = "research use: trained on data with its own terms"
BEGIN, END = "<!-- entries, written by `edgemt pack` -->", "<!-- end of entries -->"
_FILES = re.compile(r"weights\.safetensors|model\.(int8|fp16)\.onnx|inputs\.json|golden/synthetic\d+(\.mask)?\.png")
BUSY = 0.5  # CPU cores in use by other processes above which a measured time is not reported
_CLASSES_MS = (0.5, 1, 2, 4, 8, 16, 32, 64)
_NETWORK = {"room", "name", "channels", "classes", "heads", "options", "plan"}
_OPTIONS = {"decoder", "pretrained", "resolution"}  # others would reach timm, some of which open files
_FACTS = {"labels", "note", "recipe", "seeds", "terms"}


@dataclass(frozen=True)
class Entry:
    """A folder whose weights had the hash of its card."""

    name: str  # zoo/NAME, or the folder's own name where it lies elsewhere
    folder: Path
    card: ModelCard

    @property
    def facts(self) -> dict[str, Any]:
        """Terms, labels, seeds, recipe and note: what the card has no field for."""
        return self.card.network["zoo"]

    @property
    def measured(self) -> FileMetrics:
        return self.card.measured[WEIGHTS]

    @property
    def identity(self) -> str:
        """What a student that starts from it depends on: weights and the network they fit."""
        weights = {WEIGHTS: self.card.files[WEIGHTS]}
        content = [weights, {key: value for key, value in self.card.network.items() if key != "zoo"}]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def is_entry(target: str) -> bool:
    """Whether a command means an entry: zoo/NAME, or a folder with an entry's weights."""
    return target.startswith(PREFIX) or Path(target, WEIGHTS).exists()


def open_entry(target: str | Path) -> Entry:
    """The entry of `zoo/NAME`, or of a folder that `edgemt pack` wrote.

    Raises ValueError in one line for an unknown name (with the nearest), a damaged card, and weights that are missing,
    too large, or not those of the card.
    """
    folder = zoo_paths.located(target)
    if not folder.is_dir():
        raise ValueError(
            f"{target}: no such folder; write zoo/NAME (edgemt list zoo) or a folder that edgemt pack wrote"
        )
    name = str(target) if folder.parent == zoo_paths.HOME else folder.resolve().name
    card = read_card(folder)
    weights = folder / WEIGHTS
    if not weights.is_file() or weights.is_symlink():
        raise ValueError(f"{weights}: missing; the zoo reads weights as safetensors alone, install or pack it again")
    if (heavy := num_bytes(folder, card)) > LARGEST:
        raise ValueError(f"{folder}: {heavy / 1e6:.1f} MB, an entry has {LARGEST / 1e6:g} at most")
    if sha256(weights) != card.files[WEIGHTS]:
        raise ValueError(
            f"{weights}: changed since the card was written (sha256 differs); install or pack the entry again"
        )
    return Entry(name, folder, card)


def read_card(folder: Path) -> ModelCard:
    """The card of an entry. Raises ValueError, naming it, where it lacks a field of an entry."""
    file = folder / CARD
    try:
        card = ModelCard.from_json(file.read_text(encoding="utf-8"), source=file)
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
        ("files", WEIGHTS in card.files and all(map(_FILES.fullmatch, card.files))),
        ("size", len(card.size) == 2 and all(isinstance(n, int) and n > 0 for n in card.size)),
        ("channels", card.channels == network.get("channels")),
        ("classes", len(card.classes) == network.get("classes")),
        ("measured", WEIGHTS in card.measured and card.measured[WEIGHTS].dice is not None),
    ):
        if not fine:
            raise ValueError(f"{file}: its {field} is cut short or makes no sense; install or pack the entry again")
    return card


def num_bytes(folder: Path, card: ModelCard) -> int:
    """Bytes of an entry's files that are there."""
    return sum(path.stat().st_size for name in card.files if (path := folder / name).is_file())


def graph_file(card: ModelCard) -> str | None:
    """The file that an entry runs; None for one that was packed without any."""
    return next((file for file in GRAPHS if file in card.files), None)


def summary(card: ModelCard) -> str:
    """One line: classes, input, Dice of the graph and of the weights, latency class, labels, terms."""
    facts = card.network["zoo"]
    return (
        f"{', '.join(card.classes[1:])}: {input_description(card)}; {dice_text(card)}; {latency_class(card)}; "
        f"{card.network['name']} ({card.name}); labels: {facts['labels']}; {facts['terms']}"
    )


def dice_text(card: ModelCard) -> str:
    """`Dice 0.865 in INT8, 0.864 in float`, both on the validation list that the card names."""
    whole, file = card.measured[WEIGHTS].dice, graph_file(card)
    if file is None:
        return f"Dice {whole:.3f} in float, no graph"
    metrics = card.measured[file]
    if metrics.measured_in:  # its masks were compared with those of the weights, not scored
        return f"Dice {whole:.3f} in float, runs in {GRAPHS[file]}"
    elsewhere = f" ({metrics.cases_of})" if metrics.cases_of else ""
    return f"Dice {metrics.dice:.3f} in {GRAPHS[file]}{elsewhere}, {whole:.3f} in float"


def latency_class(card: ModelCard) -> str:
    """`<= 2 ms on openvino`: the power of two above a frame's median time, on the machine that packed the entry."""
    timed = [record for record in card.latency if record.get("file") == graph_file(card)]
    if not timed or timed[0].get("foreign_cores", 0) > BUSY:
        return "not timed"
    best = min(timed, key=lambda record: record["p50_ms"])
    within = next((f"<= {limit:g} ms" for limit in _CLASSES_MS if best["p50_ms"] <= limit), f"> {_CLASSES_MS[-1]:g} ms")
    return f"{within} on {best['runtime']}"


def input_description(card: ModelCard) -> str:
    """The input in words: `160 x 128, 3 slices`."""
    kind = f"{card.channels} slices" if card.channel_order == "slices" else card.channel_order
    kind = ", ".join(card_names(card)) or kind
    kind += f", {slices} slices of each" if (slices := card_slices(card)) > 1 else ""
    return f"{card.size[0]} x {card.size[1]}, {kind}"


def table(home: Path | None = None) -> str:
    """Every entry as a row of Markdown, from the cards."""
    home = home or zoo_paths.HOME
    cards = {name: read_card(home / name) for name in names(home)}
    if not cards:
        return "No entry yet."
    head = ["name", "finds", "input", "student", "params (M)", "MMAC", "MB", "recipe", "labels"]
    head += ["Dice", "Dice, its graph", "a frame", "terms"]
    rows = [head, ["---"] * len(head)]
    for name, card in cards.items():
        network, facts = card.network, card.network["zoo"]
        decoder, plan = network["options"].get("decoder", students.DECODER), network["plan"]
        rows.append([
            f"`{PREFIX}{name}`", ", ".join(card.classes[1:]), input_description(card),
            f"{network['name']}, {decoder}{_at(network)}{', pruned' if plan else ''}",
            f"{card.params / 1e6:.2f}", f"{card.macs / 1e6:.0f}", f"{num_bytes(home / name, card) / 1e6:.1f}",
            card.name, str(facts["labels"]), f"{card.measured[WEIGHTS].dice:.4f}", _graph_dice(card),
            latency_class(card), facts["terms"],
        ])  # fmt: skip
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in row) + " |" for row in rows)


def _at(network: dict[str, Any]) -> str:
    resolution = network["options"].get("resolution", 1)
    return "" if resolution == 1 else f", at {resolution:g} of the sides"


def _graph_dice(card: ModelCard) -> str:
    file = graph_file(card)
    if file is None:
        return "no graph"
    metrics = card.measured[file]
    return GRAPHS[file] if metrics.measured_in else f"{metrics.dice:.4f} {GRAPHS[file]}"


def with_table(readme: str, home: Path | None = None) -> str:
    """The text of the README with its table written anew. Raises ValueError where its marks are gone."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(
            f"{(home or zoo_paths.HOME) / 'README.md'}: needs the lines {BEGIN} and {END}, the table goes between"
        )
    return f"{before}{BEGIN}\n\n{table(home)}\n\n{END}{after}"
