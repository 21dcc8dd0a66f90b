"""Networks on disk: built from the description on a card, loaded from and saved to an artefact folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from deploy.pruning.plan import Plan, apply_plan
from edgemt.artefacts.stage_folder import WEIGHTS, read_card, write_card
from edgemt.learning.ensemble import ROOM, Ensemble
from edgemt.model_card import ModelCard
from edgemt.training import checkpoint

PROMPTABLE = "promptable"  # folder and network name of the small promptable network that a run trains


def save_network(folder: Path, network: nn.Module, card: ModelCard) -> ModelCard:
    """Write the weights and then the card of a network; returns the card with the hashes of the folder's files."""
    checkpoint.save_weights(folder / WEIGHTS, network)
    return write_card(folder, card)


def build_network(network: dict[str, Any]) -> nn.Module:
    """A fresh network from a card's `network`: room, name, options and, if it was pruned, the plan.

    Raises ValueError for a description that lacks a field or that no builder takes; nothing of it is executed, and
    options that would load a file are refused (`edgemt.io.network_options`).
    """
    try:
        return _build(network)
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"network of a card: cannot be built ({error!r}); train or export it again") from error


def _build(network: dict[str, Any]) -> nn.Module:
    import students
    import teachers

    if network["room"] == ROOM:
        return Ensemble([_build(member) for member in network["members"]], flips=network["options"]["flips"])
    rooms: dict[str, Any] = {"teachers": teachers, "students": students}
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in network["options"].items()}
    overlapping = bool(network.get("overlapping"))
    if overlapping and network["room"] == "students":
        options["overlapping"] = True
    fresh = rooms[network["room"]].build(
        network["name"],
        channels=network["channels"],
        classes=network["classes"],
        heads=tuple(network["heads"]),
        **options,
    )
    fresh.overlapping = overlapping
    if network.get("plan"):
        apply_plan(fresh, Plan.from_dict(network["plan"]))
    return fresh


def load_network(folder: Path) -> nn.Module:
    """The trained network of an artefact folder, in eval mode."""
    try:
        network = without_pretrained(read_card(folder).network)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / 'card.json'}: describes no network ({error!r}); train it again") from error
    fresh = build_network(network)
    return checkpoint.load_weights(folder / WEIGHTS, fresh).eval()


def without_pretrained(network: dict[str, Any]) -> dict[str, Any]:
    """The same network, all its weights to come from the artefact's own file."""
    options = {key: value for key, value in network["options"].items() if key not in ("weights_file", "first_conv")}
    members = {"members": [without_pretrained(member) for member in network["members"]]} if "members" in network else {}
    return {
        **network,
        **members,
        "options": {**options, **({"pretrained": "never"} if "pretrained" in options else {})},
    }


def encoder_identity(folder: Path) -> str:
    """`EncoderWeights.identity` of the weights that a finished stage began with; empty where it began without."""
    if not (folder / "card.json").is_file():
        return ""
    record = read_card(folder).network.get("encoder_weights")
    return f"{record.get('encoder')} {record.get('sha256')}" if isinstance(record, dict) else ""


def load_promptable(folder: Path) -> nn.Module:
    """The small promptable network that a run left. Raises ValueError for a folder of another kind."""
    card = read_card(folder)
    if card.network.get("name") != PROMPTABLE:
        raise ValueError(f"{folder}: holds {card.network.get('name', 'no network')!r}, not a promptable network")
    from teachers.promptable import Promptable

    network = Promptable(channels=card.network["channels"])
    return checkpoint.load_weights(folder / WEIGHTS, network).eval()
