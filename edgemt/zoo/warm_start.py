"""Initialise a student from a zoo entry: the same encoder and decoder, with the pruning plan of the entry."""

from __future__ import annotations

from typing import Any

from torch import nn

import students
from edgemt.artefacts import network_folder
from edgemt.zoo.entry import input_description, open_entry

HEADS = ("head", "sdf", "scales", "further", "further_heads", "uncertainty")  # modules that may start anew
ADDED = ("sdf", "scales", "decoder2", "decoder3", "uncertainty")  # heads whose weights an entry may lack


def warm_start_spec(target: str, network: dict[str, Any]) -> dict[str, Any]:
    """The description of a student that starts from an entry: the same, with the entry's pruning plan and origin.

    Raises ValueError in one line where encoder, decoder or input channels are not the entry's, and for a head that a
    pruned entry has no place for.
    """
    entry = open_entry(target)
    own = entry.card.network
    for what, wanted, available in (
        ("student.network", _encoder(network), _encoder(own)),
        ("student.decoder", _decoder(network), _decoder(own)),
    ):
        if wanted != available:
            raise ValueError(
                f"student.weights: {entry.name} is {own['name']} with decoder {_decoder(own)}, the recipe's student is "
                f"{network['name']} with decoder {_decoder(network)}; set --{what} {_spelled(what, own)}"
            )
    if network["channels"] != own["channels"]:
        description = input_description(entry.card)
        raise ValueError(
            f"student.weights: {entry.name} takes {description}, {own['channels']} input channels, the recipe's frames "
            f"have {network['channels']}; change data.channels or data.slices, or take other weights"
        )
    lacking = [head for head in network["heads"] if head in ADDED and head not in own["heads"]]
    if lacking and own["plan"]:
        raise ValueError(
            f"student.weights: {entry.name} was pruned without the head {lacking[0]!r} that student.method trains; "
            "choose another method, or other weights"
        )
    origin = {"name": entry.name, "identity": entry.identity, "terms": entry.facts["terms"]}
    return network_folder.without_pretrained(
        {**network, "plan": _adapt_plan_to_heads(own["plan"], network), "begun": origin}
    )


def load_warm_start(target: str, network: dict[str, Any]) -> nn.Module:
    """The network of a `warm_start_spec`, with every weight of the entry whose name and shape fit it.

    Raises ValueError where a weight other than those of the heads does not fit.
    """
    fresh, learned = (
        network_folder.build_network(network),
        network_folder.load_network(open_entry(target).folder).state_dict(),
    )
    own = fresh.state_dict()
    fitting = {name: value for name, value in learned.items() if name in own and value.shape == own[name].shape}
    strange = [name for name in own if name not in fitting and name.partition(".")[0] not in HEADS]
    if strange:
        raise ValueError(f"student.weights: {target}: {strange[0]} does not fit the recipe's student")
    fresh.load_state_dict({**own, **fitting})
    return fresh


def describe_warm_start(target: str, network: dict[str, Any]) -> str:
    """One line: where a student starts, and what of it starts anew."""
    card = open_entry(target).card
    line = f"starts from {target}" + (", pruned as it was" if network["plan"] else "")
    if len(card.classes) == network["classes"]:
        return line
    return f"{line}; its head starts anew: {network['classes']} classes instead of {len(card.classes)}"


def compose_plans(before: dict[str, Any] | None, plan: dict[str, Any]) -> dict[str, Any]:
    """The plan of two prunings in a row: the sizes of both, the second's where both touched them."""
    if not before:
        return plan
    joined = {key: [before[key][0], plan[key][1]] for key in ("params", "macs")}
    return {**joined, **{key: {**before[key], **plan[key]} for key in ("sizes", "tensors")}}


def _adapt_plan_to_heads(plan: dict[str, Any] | None, network: dict[str, Any]) -> dict[str, Any] | None:
    """An entry's plan for a student whose heads may be others: what they give is the new student's own."""
    if not plan:
        return None
    classes = network["classes"]
    outputs = {"head": classes, "sdf": classes - 1, "scales": classes, "further_heads": classes}
    decoders = len({"decoder2", "decoder3"} & set(network["heads"]))

    def there(name: str) -> bool:
        module, _, place = name.partition(".")
        if module in ("further", "further_heads"):
            return int(place.partition(".")[0]) < decoders
        return module not in ("sdf", "scales", "uncertainty") or module in network["heads"]

    sizes, tensors = {}, {}
    for name, values in plan["sizes"].items():
        gives = outputs.get(name.partition(".")[0])
        if there(name):
            sizes[name] = values if gives is None else {**values, "out_channels": gives}
    for name, shape in plan["tensors"].items():
        gives = outputs.get(name.partition(".")[0])
        if there(name):
            tensors[name] = shape if gives is None else [gives, *shape[1:]]
    return {**plan, "sizes": sizes, "tensors": tensors}


def _encoder(network: dict[str, Any]) -> str:
    """The name of the encoder in timm; for a row of the student table, the name in that row."""
    name = network["name"]
    return students.STUDENTS[name].encoder if name in students.STUDENTS else name


def _decoder(network: dict[str, Any]) -> str:
    return network["options"].get("decoder", students.DECODER)


def _spelled(what: str, network: dict[str, Any]) -> str:
    return network["name"] if what == "student.network" else _decoder(network)
