"""The sections that describe a ship: intended use, identity, data, groups, figures, limits, latency, faults."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from deploy.package.files import GOLDEN
from deploy.package.input_drift import INPUTS, LIKENESS_LIMIT
from deploy.package.package import card_hash
from edgemt.dossier.figures import accuracy_section, latency_section, number, uncertainty_section, whole
from edgemt.dossier.items import NOT_MEASURED, Item, Section, Table, filled, not_measured, to_write
from edgemt.dossier.sources import Sources
from edgemt.report.formatting import finite

_READING = (
    "layout",
    "channels",
    "size",
    "slices",
    "axes",
    "slice_axis",
    "depth",
    "window",
    "mask_threshold",
    "affines",
)


def model_sections(sources: Sources) -> tuple[Section, ...]:
    """The sections on the model, in the order of the page."""
    makers: tuple[Callable[[Sources], Section], ...] = (
        _intended_use, _identity, _data, _groups, accuracy_section, uncertainty_section, _limits, latency_section,
        _faults,
    )  # fmt: skip
    return tuple(make(sources) for make in makers)


def _intended_use(sources: Sources) -> Section:
    card = sources.card
    does = (
        f"{card.task} of {', '.join(card.classes[1:])} in {_input(sources)}: "
        f"{'none, one or several classes' if card.overlapping else 'a class'} for each pixel. No diagnosis and no "
        "advice is computed."
    )
    return Section(
        "intended_use",
        "Intended use",
        (
            filled("function", "What the software computes", does, refs=("ISO 14971 5.2", "Annex IV 1(a)")),
            to_write(
                "purpose", "Intended purpose", "Medical purpose, indication, and the decision that a mask serves."
            ),
            to_write("patients", "Patients", "Age, anatomy, condition; who is excluded."),
            to_write("users", "Users and place of use", "Profession, training, room, device that shows the mask."),
            to_write("misuse", "Reasonably foreseeable misuse", "For example other organs, devices, or patients."),
        ),
        note="The tool cannot know what the product is for: the manufacturer writes this section.",  # words: ok
    )


def _input(sources: Sources) -> str:
    card = sources.card
    return f"images of {card.size[0]} x {card.size[1]} pixels, {card.channel_order}, {card.channels} channels"


def _identity(sources: Sources) -> Section:
    card = sources.card
    made = f"{card.created or 'date unknown'}, stage {card.stage or 'unknown'}, stage key {card.recipe_hash or 'none'}"
    version = str(card.version) if card.version else "none given; edgemt sign --version gives one"
    network = f"{card.network.get('name', 'unknown')}: {card.params:,} parameters, {card.macs:,} multiply-accumulates"
    items = [
        filled("name", "Name", card.name or "none"),
        filled("version", "Version", version, refs=("IEC 62304 8.1", "Annex IV 1(a)")),
        filled("expires", "Last day of use", card.expires or "none given; edgemt sign --expires gives one"),
        filled("card", "Hash of the card", card_hash(card), refs=("IEC 62304 8.1.1",)),
        filled("signature", "Signature", sources.signature, source="card.json.sig"),
        filled("made", "Made", made),
        filled("parents", "Made from (hashes of cards)", ", ".join(card.parents) or "none listed"),
        filled("network", "Network", network),
    ]
    if isinstance(weights := card.network.get("encoder_weights"), dict):
        text = ", ".join(f"{key} {value}" for key, value in weights.items() if value)
        items.append(filled("pretrained", "Pretrained weights of others", text, refs=("Annex IV 2(a)",)))
    rows = tuple(
        (name, digest, "reference frame" if name.startswith(f"{GOLDEN}/") else "")
        for name, digest in sorted(card.files.items())
    )
    note = "Every hash was verified when this dossier was made."
    return Section(
        "identity", "Identity of the model", tuple(items), (Table("Files", ("file", "SHA-256", ""), rows, note),)
    )


def _data(sources: Sources) -> Section:
    card, counts = sources.card, (sources.report or {}).get("counts", {})
    entry = card.network.get("zoo")
    zoo: dict[str, Any] = entry if isinstance(entry, dict) else {}
    items = [
        _count("labelled", "Labelled cases", counts, zoo.get("labels") or card.data.get("labelled")),
        _count("unlabelled", "Unlabelled cases", counts, card.data.get("unlabelled")),
        _validation(sources, counts),
        to_write("origin", "Origin of the data", "Centres, devices, years, consent, selection of patients.",
                 refs=("Annex IV 2(d)",)),
        to_write("labels", "Origin of the labels", "Who drew them, with which training, how disagreement was settled.",
                 refs=("Annex IV 2(d)",)),
        to_write("independence", "Independence of the validation", "Why no patient is in training and validation; the "
                 "split by patients follows the pattern of names below."),
    ]  # fmt: skip
    if zoo.get("note"):
        items.append(filled("note", "Note of the zoo entry", str(zoo["note"])))
    if zoo.get("terms"):
        items.append(filled("terms", "Terms of the data", str(zoo["terms"])))
    rules = [(name, _plain(card.data[name])) for name in (*_READING, "patient_pattern") if name in card.data]
    rules += [
        ("normalise", f"mean {card.normalise.mean}, std {card.normalise.std}, per image {card.normalise.per_image}")
    ]
    table = Table(
        "How images and masks are read", ("rule", "value"), tuple(rules), "docs/reading.md explains each rule."
    )
    return Section("data", "Data and labels", tuple(items), (table,))


def _count(key: str, title: str, counts: Mapping[str, Any], listed: Any) -> Item:
    refs = ("Annex IV 2(d)",)
    if key in counts:
        return filled(key, title, str(counts[key]), source="report.json of the run", refs=refs)
    if listed:
        return filled(key, title, f"list on the card: {listed}; --run RUN adds the number", refs=refs)
    return not_measured(key, title, remedy="edgemt dossier SHIP --run RUN reads it from the run", refs=refs)


def _validation(sources: Sources, counts: Mapping[str, Any]) -> Item:
    refs, title = ("Annex IV 2(g)",), "Validation cases"
    lists = sorted({m.list_key[:12] for m in sources.card.measured.values() if m.list_key})
    suffix = f"; hash of the list {', '.join(lists)}" if lists else ""
    if "val" in counts:
        return filled("validation", title, f"{counts['val']}{suffix}", source="report.json of the run", refs=refs)
    measured = [m for m in sources.card.measured.values() if m.per_class]
    found = {int(n) for m in measured for row in m.per_class.values() if (n := finite(row.get("counted"))) is not None}
    if found:
        return filled("validation", title, f"{max(found)} with a figure in at least one class{suffix}", refs=refs)
    return not_measured("validation", title, remedy="edgemt dossier SHIP --run RUN reads it from the run", refs=refs)


def _plain(value: Any) -> str:
    if value is None or value == "":
        return "none"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _groups(sources: Sources) -> Section:
    refs = ("Annex IV 3",)
    hint = "Why these groups cover the patients of the intended use, and which groups are missing."
    represent = to_write("coverage", "Are the groups those of the intended use", hint, refs=refs)
    groups = (sources.metrics or {}).get("by")
    if not isinstance(groups, dict) or not groups:
        remedy = (
            "edgemt eval SHIP --data.by centre.csv --json FILE (centre, device, sex, age), then --metrics FILE here"
        )
        missing = not_measured("groups", "Figures by centre, device or subgroup", remedy=remedy, refs=refs)
        return Section("groups", "Populations and subgroups", (missing, represent))
    rows = [
        (column, str(group), whole(row.get("n")), whole(row.get("patients")), number(row.get("dice")), _interval(row))
        for column, found in groups.items()
        for group, row in found.get("groups", {}).items()
    ]
    heads = ("column", "group", "cases", "patients", "Dice", "95 % interval")
    text = f"{len(rows)} groups, of {(sources.metrics or {}).get('file')}"
    item = filled("groups", "Figures by centre, device or subgroup", text, source="--metrics", refs=refs)
    return Section("groups", "Populations and subgroups", (item, represent), (Table("By group", heads, tuple(rows)),))


def _interval(row: Mapping[str, Any]) -> str:
    low, high = finite(row.get("low")), finite(row.get("high"))
    return NOT_MEASURED if low is None or high is None else f"{low:.4f} to {high:.4f}"


def _limits(sources: Sources) -> Section:
    card = sources.card
    given_up = [f"{row.get('stage', '')}: wanted {row.get('wanted')}, ships {row.get('shipped')}; {row.get('why')}"
                for row in card.given_up]  # fmt: skip
    seen = {name for found in card.measured.values() for name, row in found.per_class.items()
            if finite(row.get("dice")) is not None}  # fmt: skip
    missing = [name for name in card.classes[1:] if name not in seen]
    likeness = (
        f"Images with a likeness below {LIKENESS_LIMIT:g} are marked as unlike training; 99 % of the training images "
        "are above it. A mask is still drawn."
    )
    title = "Images unlike those of training"
    remedy = "the ship has no inputs.json; edgemt export RECIPE makes one"
    return Section(
        "limits",
        "Limits",
        (
            filled("given_up", "What was given up", "; ".join(given_up) or "nothing is listed on the card"),
            filled("classes", "Classes without a figure", ", ".join(missing) or "none: every class was measured"),
            filled("likeness", title, likeness, source=INPUTS)
            if INPUTS in card.files
            else not_measured("likeness", title, remedy=remedy),
            to_write("conditions", "Conditions that were not tested", "Devices, settings, artefacts, anatomies.",
                     refs=("Annex IV 3",)),
        ),
    )  # fmt: skip


def _faults(sources: Sources) -> Section:
    rows = tuple((f.fault, f.shown, f.detected, f.recovered, f.test) for f in sources.faults)
    refs = ("ISO 14971 7.2", "IEC 62304 7.3")
    title = "Faults, what is shown, and the test"
    installed, absent = (
        "deploy/README.md of the installed package",
        "not available here: deploy/README.md is not installed",
    )
    if rows:
        item = filled("faults", title, f"{len(rows)} faults, in the table", source=installed, refs=refs)
    else:
        item = Item("faults", title, "not measured", absent, refs, "the table is in deploy/README.md of the source")
    heads = ("fault", "what is shown", "detected after", "recovered after", "test")
    note = "Times are those of the machine named in deploy/README.md, not of this device."
    return Section("faults", "Faults of a live stream", (item,), (Table("Faults", heads, rows, note),) if rows else ())
