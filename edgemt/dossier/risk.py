"""The skeleton of the risk file and of the technical documentation, by clause.

ISO 14971:2019, IEC 62304:2006+A1:2015, FDA's predetermined change control plan, Regulation (EU) 2024/1689, annex IV.
The titles are short descriptions, not the text of the standards. What a person must write is an item to be written,
with what it is about and where the facts are; facts alone never make a clause fulfilled.
"""

from __future__ import annotations

from deploy.package.package import card_hash
from edgemt.dossier.items import NOT_MEASURED, TO_WRITE, Item, Section, Table, filled
from edgemt.dossier.model import number
from edgemt.dossier.sources import Sources

# clause, title, what is to be written, where facts are
_ISO_14971 = (
    ("4", "Risk management process and plan", "Scope, responsible persons, criteria for acceptable risk.", ""),
    ("5.3", "Characteristics related to safety", "Questions of ISO/TR 24971 annex A, answered for the product.", ""),
    ("5.5", "Risk estimation", "Severity and probability of harm for each row of the table.", "table below"),
    ("6", "Risk evaluation", "Is each risk acceptable by the criteria of the plan?", "table below"),
    ("7.1", "Options of risk control", "Controls outside this software: screen, training of users, labelling.", ""),
    ("7.3", "Residual risk of each control", "Is it acceptable by the criteria of the plan?", "table below"),
    ("7.4", "Benefit and risk", "For risks that stay above the criteria.", ""),
    ("7.5", "Risks that controls cause", "For example: masks withdrawn too often are switched off.", ""),
    ("7.6", "Completeness", "Every situation of the product is in the table, also those without software.", ""),
    ("8", "Overall residual risk", "Evaluation of all residual risks together.", ""),
    ("9", "Risk management review", "Review before release, with date and names.", ""),
    ("10", "Production and after", "How complaints, logs and statistics are collected and reviewed.",
     "event log, edgemt site report"),
)  # fmt: skip
_IEC_62304 = (
    ("4.3", "Software safety class", "A, B or C, with the reasoning.", ""),
    ("5.1", "Development plan", "Life cycle, deliverables, tools, responsible persons.", "CONTRIBUTING.md"),
    ("5.2", "Requirements", "Requirements of the product, with those of risk control.", ""),
    ("5.3", "Architecture", "Software items of the product, segregation for risk control.", "docs/architecture.md"),
    ("5.4-5.6", "Design, units, integration", "Evidence for the items of the product, by its safety class.", "tests/"),
    ("5.7", "System testing", "Test records on the device as it is sold.", "Measured accuracy, Latency, Faults"),
    ("5.8", "Release", "Known anomalies, and why they are acceptable.", "Limits"),
    ("6", "Maintenance", "How problems and updates are handled after release.", "change plan"),
    ("7.1", "Software that contributes to hazards", "For each software item of the product.", "risk table"),
    ("9", "Problem resolution", "How reports are recorded, investigated and closed.", ""),
)
_PCCP = (
    ("protocol", "Data of a new training", "How cases are collected, labelled and kept separate.", "Data and labels"),
    ("protocol", "New training", "What is trained again, when, and by which recipe.", "report.json"),
    ("protocol", "Allowed loss", "The allowed loss for each limit of the plan.", "change_plan in dossier.json"),
    ("protocol", "Information of users", "How users learn what changed.", ""),
    ("impact", "Impact assessment", "Benefits and risks of each change, and of several together.", "risk table"),
)
_ANNEX_IV = (
    ("1(a)", "Purpose, provider, version", "Name of the provider, purpose, relation to earlier versions.", "Identity"),
    ("1(b)", "Interaction with other hardware and software", "Camera, screen, PACS, network.", "deploy/README.md"),
    ("1(d)", "Forms in which it is sold", "Package, embedded in hardware, service.", ""),
    ("1(e)", "Hardware", "Devices on which it may run.", "Latency"),
    ("1(f)", "Pictures of the product", "Outside, marking, inside.", ""),
    ("1(g)", "User interface", "Description for the deployer.", "docs/guides/streaming.md"),
    ("1(h)", "Instructions for use", "For the deployer.", "docs/guides/field-manual.md"),
    ("2(a)", "Development, pretrained parts", "Steps of development, use of parts of others.", "Identity, report.json"),
    ("2(b)", "Design", "Logic, main choices, what is optimised, trade-offs.", "docs/methods.md"),
    ("2(c)", "Architecture and computing resources", "For development, training, testing.", "docs/architecture.md"),
    ("2(d)", "Data", "Data sheets: origin, selection, labelling, cleaning.", "Data and labels"),
    ("2(e)", "Human oversight", "Measures of articles 13 and 14; how a mask is checked and hidden.", ""),
    ("2(f)", "Changes decided in advance", "See the change plan; its open parts.", "change_plan in dossier.json"),
    ("2(g)", "Validation and testing", "Test logs and reports, dated and signed.", "Measured accuracy, Populations"),
    ("2(h)", "Cybersecurity", "Threats of the product in its network.", "Signature, sbom.cdx.json, SECURITY.md"),
    ("3", "Monitoring and control", "Accuracy for the groups of use, unintended outcomes.", "Populations, Limits"),
    ("4", "Suitability of the metrics", "Why these metrics.", "Measured accuracy"),
    ("5", "Risk management", "The risk management file.", "Risk management"),
    ("6", "Changes through the life cycle", "List of changes made by the provider.", "CHANGELOG.md, event log"),
    ("7", "Standards applied", "List, and solutions where none was applied.", ""),
    ("8", "Declaration of conformity", "Copy of the EU declaration.", ""),
    ("9", "Monitoring after sale", "Plan of article 72.", "edgemt site report, edgemt log verify"),
)
_HAZARDS = (  # situation, control of the software, verification
    (
        "a mask is older than the image",
        "age limit; the mask is removed",
        "test_slow_masks_are_stale_and_video_continues",
    ),
    (
        "the image is unlike those of training",
        "likeness, banner, dashed lines",
        "tests/deploy/package/test_input_drift.py",
    ),
    ("files of the model were changed", "hash of every file", "test_edited_package_is_invalid_until_restored"),
    ("a model of someone else is installed", "signature, policy file", "tests/deploy/package/test_signing.py"),
    ("an old model is installed again", "version on the card", "tests/deploy/package/test_versions.py"),
)


def risk_sections(sources: Sources, components: int) -> tuple[Section, ...]:
    """The sections by clause. `components`: number of components in sbom.cdx.json."""
    card = sources.card
    table = _risk_table(sources)
    hazards = filled(
        "hazards", "Hazardous situations and controls", f"{len(table.rows)} situations, in the table",
        source="card.json, deploy/README.md", refs=("ISO 14971 5.4", "ISO 14971 7.2"),
    )  # fmt: skip
    soup = filled(
        "soup", "Software of unknown provenance", f"{components} components with versions, in sbom.cdx.json",
        source="installed distributions", refs=("IEC 62304 8.1.2",),
    )  # fmt: skip
    identified = filled("configuration", "Configuration item", card_hash(card), refs=("IEC 62304 8.1.1",))
    changes = filled(
        "modifications", "Description of modifications", "four modifications, change_plan in dossier.json",
        source="card.json", refs=("FDA PCCP modifications",),
    )  # fmt: skip
    procedure = filled(
        "update", "Procedure of an update", "edgemt sign, edgemt install, edgemt install --back",
        source="docs/guides/field-manual.md", refs=("FDA PCCP protocol",),
    )  # fmt: skip
    versions = filled(
        "annex_iv_1(c)", "Versions of software", f"{components} components, in sbom.cdx.json",
        source="installed distributions", refs=("Annex IV 1(c)",),
    )  # fmt: skip
    return (
        Section("risk", "Risk management", (hazards, *_clauses("iso_14971", "ISO 14971", _ISO_14971)), (table,)),
        Section(
            "life_cycle", "Software life cycle", (identified, soup, *_clauses("iec_62304", "IEC 62304", _IEC_62304))
        ),
        Section(
            "pccp", "Predetermined change control plan", (changes, procedure, *_clauses("pccp", "FDA PCCP", _PCCP))
        ),
        Section(
            "annex_iv",
            "EU AI Act, annex IV",
            (versions, *_clauses("annex_iv", "Annex IV", _ANNEX_IV)),
            note="Facts of this dossier are named; every point needs text of the provider.",
        ),
    )


def _clauses(key: str, standard: str, rows: tuple[tuple[str, str, str, str], ...]) -> list[Item]:
    return [
        Item(
            f"{key}_{clause}_{place}",
            title,
            "to be written",
            hint,
            (f"{standard} {clause}",),
            facts and f"facts: {facts}",
        )
        for place, (clause, title, hint, facts) in enumerate(rows, 1)
    ]


def _risk_table(sources: Sources) -> Table:
    """Situations from the figures of the card, from the controls of the software and from the fault table."""
    rows = [(*row, TO_WRITE, TO_WRITE, TO_WRITE) for row in (*_from_figures(sources), *_HAZARDS)]
    rows += [(f.fault, f"shown: {f.shown}", f.test, TO_WRITE, TO_WRITE, TO_WRITE) for f in sources.faults]
    heads = ("situation", "control or figure", "verified by", "harm", "severity, probability", "acceptable")
    return Table("Hazardous situations", heads, tuple(rows), "Harm, severity, probability: written by a person.")


def _from_figures(sources: Sources) -> list[tuple[str, str, str]]:
    """Three situations for each class: missed, invented, border misplaced; with the figures of the best file."""
    card = sources.card
    measured = {file: found for file, found in card.measured.items() if found.per_class}
    file = next((name for name in measured if "int8" in name), next(iter(measured), ""))
    rows = []
    for name in card.classes[1:]:
        row = measured[file].per_class.get(name, {}) if file else {}
        unit = f" {measured[file].unit}" if file and row.get("hd95") is not None else ""
        source = file if row else NOT_MEASURED
        rows.append((f"{name} is missed", f"share of cases: {number(row.get('missed'))}", source))
        rows.append((f"{name} is drawn where none is", f"share of cases: {number(row.get('invented'))}", source))
        rows.append((f"the border of {name} is wrong", f"HD95: {number(row.get('hd95'), 2)}{unit}", source))
    return rows
