"""The figures of the documentation are those of the records in docs/results, to the digits that the pages show."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from statistics import mean, stdev
from typing import Any

import pytest
from checkout import ROOT
from pages import agree, record, table, text_of

RESULTS, README = "docs/results.md", "README.md"
Checked = Iterator[tuple[str, Sequence[Any], float]]  # cell, the values that it shows, and 100 where it shows percent


def _stages(name: str) -> dict[str, Any]:
    of = record(name)
    return {stage["name"]: stage for stage in (*of["stages"], *of["controls"])}


def _deployed(name: str) -> float:
    return float(_stages(name)[record(name)["delivered"]]["dice"])


KVASIR = ["kvasir_cpu_3200_steps_seed0", "kvasir_cpu_seed1000", "kvasir_cpu_seed2000"]
ACDC = ["acdc_cpu_seed0", "acdc_cpu_seed1", "acdc_cpu_seed2"]
CONTROLLED = ("controls/student_supervised", "student", "int8/openvino")
RECIPES: list[tuple[str, int, str]] = [  # first cell, which of the rows that begin so, record
    ("`kvasir_cpu`, 256 x 256", 0, KVASIR[0]),
    ("the same with `--seed 1000`", 0, KVASIR[1]),
    ("the same with `--seed 2000`", 0, KVASIR[2]),
    ("seed 1000, `--student.resolution 0.5`", 0, "kvasir_cpu_resolution_0.5_seed1000"),
    ("seed 1000 with 400 steps", 0, "kvasir_cpu_lite0_teacher_seed1000"),
    ("`kvasir_cpu` as it was", 0, "kvasir_cpu_controls_seed0"),
    ("that, `--student.resolution 0.5`", 0, "kvasir_cpu_resolution_0.5_seed0"),
    ("`acdc_cpu`, 160 x 160", 0, ACDC[0]),
    ("the same with `--seed 1`", 0, ACDC[1]),
    ("the same with `--seed 2`", 0, ACDC[2]),
    ("`acdc_cpu` as it was", 0, "acdc_cpu_two_members_seed0"),
    ("that with one member", 0, "acdc_cpu_one_member_seed0"),
    ("`la_cpu`, 160 x 128", 0, "la_cpu_seed0"),
    ("`la_cpu` as it was", 0, "la_cpu_400_steps_seed0"),
]


def recipes() -> Checked:
    page = table(RESULTS, "recipe")
    for first, nth, name in RECIPES:
        stages, row = _stages(name), page.row(first, nth)
        for column, stage in (("teacher", "teacher"), ("student", "student"), ("pruned", "slim")):
            if row[column]:
                yield row[column], [stages[stage]["dice"]], 1
        yield row["INT8, OpenVINO"], [stages["int8/openvino"]["dice"]], 1
        yield row["parameters"], [stages["slim"]["params"]], 1e-6
    average = page.row("mean of the three seeds")
    for column, stage in (("teacher", "teacher"), ("student", "student"), ("pruned", "slim")):
        yield average[column], [mean(_stages(name)[stage]["dice"] for name in KVASIR)], 1
    yield average["INT8, OpenVINO"], [mean(map(_deployed, KVASIR))], 1
    refused = page.row("that, `--tolerance 0.01`")
    yield refused["pruned"].split(",")[0], [record("kvasir_cpu_seed0")["given_up"][0]["tried"][0]["dice"]], 1
    yield refused["INT8, OpenVINO"], [_deployed("kvasir_cpu_seed0")], 1


def teachers() -> Checked:
    kvasir, acdc = table(RESULTS, "Kvasir-SEG, 80 labels"), table(RESULTS, "ACDC, two teachers")
    for page, seed, name in (
        (kvasir, 1000, KVASIR[1]),
        (kvasir, 2000, KVASIR[2]),
        (acdc, 1, ACDC[1]),
        (acdc, 2, ACDC[2]),
    ):
        members, stages = record(name)["members"], _stages(name)
        shown = [mean(members), max(members), stages["teacher"]["dice"], stages["student"]["dice"]]
        for cell, value in zip(page.cells(f"seed {seed}"), shown, strict=True):
            yield cell, [value], 1


def unlabelled_frames() -> Checked:
    page, rows = table(RESULTS, "Kvasir-SEG, 80 labels, Lite0 at 0.75"), record("kvasir_unlabelled_frames")["rows"]
    for first, nth, key in (
        ("the same, twice as long", 0, "supervised 2,000 vs 3 sup"),
        ("mean teacher on all images", 0, "mean teacher"),
        ("distilled: from three Lite2", 0, "distilled, 1,000 steps (seeds 0, 1000)"),
        ("the second without strong", 0, "without strong views and CutMix"),
        ("soft Dice with the teacher", 0, "2,000 steps, overlap 1 (seeds 0, 1000)"),
        ("the first of these pruned", 0, "pruned by 0.12, 1,200 steps at 2e-3 (seed 0)"),
        ("the first with 400 steps", 0, "pruned by 0.12, 400 steps at 1e-3 (seed 0)"),
        ("second round, soft Dice", 0, "second round, overlap, 1,000"),
        ("the same, twice as long", 1, "second round, overlap, 2,000"),
    ):
        cells = page.cells(first, nth)
        for place, part in ((2, "unlabelled 720"), (4, "validation 100")):
            of = rows[key][part]
            yield cells[place], of["models"], 1
            interval = of["interval"] if "[" in cells[place + 1] else []
            yield cells[place + 1], [of["difference"], *interval], 100
    controls = rows["mean teacher"]
    yield page.cells("supervised")[2], controls["unlabelled 720"]["controls"], 1
    yield page.cells("supervised")[4], controls["validation 100"]["controls"], 1
    quick = record("kvasir_against_supervised")["rows"][-1]
    for place, part in ((2, "unlabelled 720"), (4, "validation 100")):
        cells = page.cells("`--student.resolution 0.5`, pruned")
        yield cells[place], quick[part], 1
        yield cells[place + 1], [quick[part][0] - mean(controls[part]["controls"])], 100


def against_supervised() -> Checked:
    page = table(RESULTS, "Kvasir-SEG, 80 labels", "Against supervised students of the same network")
    for cells, of in zip(page.rows, record("kvasir_against_supervised")["rows"], strict=False):
        yield cells[1], of["seeds"], 1
        for place, part, gap in ((2, "unlabelled 720", "difference 720"), (4, "validation 100", "difference 100")):
            yield cells[place], of[part], 1
            yield cells[place + 1], of.get(gap, []), 100
    page = table(RESULTS, "ACDC, 3 patients")
    for place, run in ((1, ACDC[1]), (4, ACDC[2])):
        stages, gaps = _stages(run), record(run)["against_supervised"]
        for cells, name in zip(page.rows, CONTROLLED, strict=True):
            yield cells[place], [stages[name]["dice"]], 1
            yield cells[place + 1], _interval(gaps.get(name)), 100
            yield cells[place + 2], [stages[name]["hd95_px"]], 1
    both = record(ACDC[2])["against_supervised"]["with seed 1"]
    for cells, name in zip(page.rows, CONTROLLED, strict=True):
        yield cells[7], _interval(both.get(name)), 100


def _interval(gap: dict[str, Any] | None) -> list[float]:
    return [] if gap is None else [gap["difference"], *gap["interval"]]


def headline() -> Checked:
    page = table(README, "trained on the processor, a few labels")
    for first, runs, other in (
        ("polyps", KVASIR, "smp_kvasir"),
        ("heart", ACDC, "smp_acdc"),
        ("left atrium", ["la_cpu_seed0"], "smp_la"),
    ):
        (ours, theirs), them = page.cells(first), record(other)
        yield ours, [mean(map(_deployed, runs)), them["ship_ms"]], 1
        yield theirs, [them["dice"], them["smp_ms"]], 1


def latency() -> Checked:
    page, rows = table(RESULTS, "network"), record("students_latency")["rows"]
    for cells in page.rows:
        small, large = (next(r for r in rows if r["network"] == cells[0] and r["size"] == size) for size in (256, 512))
        yield cells[1], [small["params"]], 1e-6
        yield cells[2], [small["macs"]], 1e-6
        for name, cell in zip(page.head[3:9], cells[3:9], strict=True):
            yield cell, [small["p50_ms"][name], large["p50_ms"][name]], 1
        yield cells[9], [small["times_first"], large["times_first"]], 1
        yield cells[10], [small["dice_float"], small["dice_int8"]], 1


def temporal() -> Checked:
    page, of = table(RESULTS, "seed 2000, INT8"), record("kvasir_temporal")
    for cells, ship, name in zip(page.rows, of["ships"], ("without", "with"), strict=False):
        of_all = [ship["flicker"], ship["area_jitter"], ship["dice"], of["val_dice"][name], of["unlabelled_720"][name]]
        for cell, value in zip(cells[1:], of_all, strict=True):
            yield cell, [value], 1
    gaps = of["ships"][1]["against_first"]
    for cell, name in zip(page.cells("difference"), ("flicker", "area_jitter", "dice"), strict=False):
        yield cell, [gaps[name][key] for key in ("mean", "low", "high")], 1
    yield page.cells("difference")[4], [of["unlabelled_720"]["difference"], *of["unlabelled_720"]["interval"]], 1


def drift() -> Checked:
    of = record("drift_of_sites")["drift"]
    for cells in table(RESULTS, "sessions in each group").rows:
        for cell, name in zip(cells[1:], ("none", "lamp", "camera", "population"), strict=True):
            yield cell, [of[name][cells[0]]["found"]], 1


def corruptions() -> Checked:
    of = record("kvasir_three_seeds")["corruptions"].values()
    page, clean = table(RESULTS, "corruption"), mean(seed["clean"] for seed in of)
    for first, *cells in page.rows:
        dice = [mean(values) for values in zip(*(s[re.sub(r",? ", "_", first)] for s in of), strict=True)]
        for cell, value in zip(cells, dice, strict=True):
            assert cell
            shown = [value, value / clean - 1] if "(" in cell else [value]
            yield from _dice_and_loss(cell, shown)
    heart = record("corruptions_heart_int8")
    for first, *cells in table(RESULTS, "corruption", "`zoo/heart` (ACDC, 20 volumes").rows:
        rows = heart["mean"] if first == "mean" else heart["corruptions"][first.replace(" ", "_")]
        for cell, severity in zip(cells, rows.values(), strict=True):
            yield from _dice_and_loss(cell, [severity["dice"], -severity["loss"]])
    page, of = (
        table(RESULTS, "student", "Trained with corruptions"),
        record("kvasir_corruptions_and_uncertainty_trained"),
    )
    for cells, name in zip(page.rows, ("plain", "corruptions_and_uncertainty"), strict=True):
        severities = of[name]["mean"]
        yield cells[1], [of[name]["clean"]["dice"]], 1
        yield cells[2], [severities["1"]["dice"]], 1
        for cell, key in zip(cells[3:], ("3", "5"), strict=True):
            yield from _dice_and_loss(cell, [severities[key]["dice"], -severities[key]["loss"]])


def _dice_and_loss(cell: str, values: Sequence[float]) -> Checked:
    dice, _, loss = cell.partition("(")
    yield dice, values[:1], 1
    yield loss, values[1:], 100


def label_noise() -> Checked:
    page, rows = table(RESULTS, "method"), record("label_noise_kvasir")["rows"]
    for cells, name in zip(page.rows, ("supervised", "cople", "label_correction", "ensemble"), strict=True):
        for cell, share in zip(cells[1:], (0.0, 0.2, 0.4), strict=True):
            yield cell, [next(r["dice"] for r in rows if r["method"] == name and r["share"] == share)], 1


def uncertainty() -> Checked:
    one, three = record("kvasir_uncertainty_without_head"), record("kvasir_three_seeds")["uncertainty"]
    names = ("entropy", "ensemble entropy", "ensemble variance", "ensemble mutual information")
    here, there = table(RESULTS, "score"), table(RESULTS, "score", "The recipe as it is now, seeds 1000 and 2000")
    training = table("docs/training.md", 'AUROC of "this pixel is wrong", Kvasir-SEG, 100 validation frames, one seed')
    for row, name in enumerate(names):
        scores = [one[kind]["scores"].get(name, {}) for kind in ("float", "int8", "ensemble")]
        interval = scores[0]["interval"]
        first = here.rows[row][1].split(", calibration error")
        yield first[0], [scores[0]["auroc"], *(interval if row == 0 else [])], 1
        yield here.rows[row][2], [scores[1]["auroc"]], 1
        yield training.rows[row][1], [scores[0]["auroc"], *interval], 1
        yield training.rows[row][2], [scores[1]["auroc"]], 1
        yield training.rows[row][3], [scores[2].get("auroc")], 1
        seeds = [three[seed]["float"][name]["auroc"] for seed in ("1000", "2000")]
        for cell, value in zip(there.rows[row][1:], [*seeds, mean([scores[0]["auroc"], *seeds])], strict=True):
            yield cell, [value], 1
    errors = [three[seed]["float"]["entropy"] for seed in ("1000", "2000")]
    for cell, of in zip(there.rows[4][1:], errors, strict=False):
        yield cell, [of["ece"], of["brier"]], 1
    yield there.rows[4][3], [mean([one["float"]["scores"]["entropy"]["ece"], *(of["ece"] for of in errors)])], 1
    for cell, seed in zip(there.rows[5][1:], ("1000", "2000"), strict=False):
        yield cell, [three[seed]["ensemble"]["ensemble entropy"]["auroc"]], 1


def contours() -> Checked:
    rows = [
        *record("contours_kvasir")["rows"],
        *(row for row in record("contours_acdc")["rows"] if row["tolerance"] == 0.01),
    ]
    for cells, of in zip(table(RESULTS, "structure, file, tolerance").rows, rows, strict=True):
        assert of["class"] in cells[0] and ("INT8" in cells[0]) == ("int8" in of["file"])
        assert cells[0].endswith(f"{of['tolerance']:g}")
        yield cells[1], [of["calibration"], of["test"]], 1
        yield cells[2], [of["expected"]], 100
        yield from _coverage(cells[3:], of)
    of_seeds = record("kvasir_three_seeds")["contours"].values()
    for cells, of in zip(table(RESULTS, "student", "## Contours").rows, of_seeds, strict=True):
        yield from _coverage(cells[1:], next(row for row in of if row["tolerance"] == 0.01))
    for seed, of in record("acdc_two_seeds")["contours"].items():
        for row in of:
            yield from _coverage(table(RESULTS, "ACDC student").cells(f"seed {seed}, {row['class']}"), row)


def _coverage(cells: Sequence[str], of: dict[str, Any]) -> Checked:
    for cell, line in zip(cells, ("outer", "inner"), strict=False):
        shares, _, margin = cell.rpartition(",")
        yield shares, [of[f"{line}_coverage"], of[f"{line}_in_band"]], 100
        yield margin, [of[f"{line}_margin"]], 1
    yield cells[2], [of["both_coverage"]], 100


def patient_head() -> Checked:
    of = record("patient_head")
    page = table(RESULTS, "patients, style")
    for first, corrections, took, dice, removed, where, odd, harmed, unguarded in page.rows:
        key = {"ACDC": "heart", "Kvasir-SEG": "polyp"}[first.split(",")[0]] + "," + first.split(",")[1]
        now, odds = of["sets"][key]["corrections"][corrections], of["sets"][key]["odd"][corrections]
        before = of["before"].get(key, {}).get("corrections", {}).get(corrections, {})
        yield took, [before.get("took_over"), now["took_over"], now["sessions"]], 1
        yield dice, [now["before"], before.get("after"), now["after"]], 1
        yield removed, [before.get("error_removed"), now["error_removed"]], 100
        yield where, [now["error_removed_where_taken_over"]], 100
        gain = [odds["error_removed"]] if "%" in odd else []
        yield odd.split(",")[0], [odds["took_over"], odds["sessions"]], 1
        yield odd.partition(",")[2], gain, 100
        yield harmed, [odds["harmed"]], 1
        share, _, sessions = unguarded.rpartition(",")
        yield share, [(now["unguarded"] - now["before"]) / (1 - now["before"])], 100
        yield sessions, [now["unguarded_harmed"]], 1
    page, rows = table(RESULTS, "inputs of the head"), {row["inputs"]: row for row in of["richer_heads"]["rows"]}
    for first, *cells in page.rows:
        row = (
            rows[first.replace("the same,", "last three maps of the decoder,").removesuffix(" hidden units")]
            if first in rows
            else rows["last three maps of the decoder, 32 hidden units"]
        )
        for cell, value in zip(cells, list(row.values())[1:], strict=True):
            yield cell, [value], 100


def unsupervised_adaptation() -> Checked:
    runs = record("unsupervised_adaptation")["runs"].values()
    for (_, sessions, *cells), of in zip(table(RESULTS, "patients, style", "unsupervised").rows, runs, strict=True):
        yield sessions, [of["sessions"]], 1
        for cell, method in zip(cells, of["methods"].values(), strict=True):
            dice, _, rest = cell.partition(",")
            harmed, _, worst = rest.partition(",")
            yield dice, [method["dice"]], 1
            if rest:
                yield harmed, [method["harmed"]], 1
                yield worst, [method["worst"]], 100


def selection() -> Checked:
    for name, after, budgets in (("kvasir", "Kvasir, 800", (20, 40, 80)), ("acdc", "ACDC, 140", (2, 6, 14))):
        rows, page = record(f"select_{name}")["rows"], table("docs/selecting.md", "list", after)
        for place, budget in enumerate(budgets, start=1):
            of = {row["list"]: row["dice"] for row in rows if row["budget"] == budget}
            random = [dice for name, dice in of.items() if name.startswith("random")]
            assert len(random) == 5
            shown = [of["typical"], of["k-centre"], mean(random), stdev(random)]
            for cells, value in zip(page.rows, shown, strict=True):
                yield cells[place], [value], 1


TABLES: list[Callable[[], Checked]] = [
    recipes, teachers, unlabelled_frames, against_supervised, headline, latency, temporal, drift, corruptions,
    label_noise, uncertainty, contours, patient_head, unsupervised_adaptation, selection,
]  # fmt: skip


@pytest.mark.parametrize("of", TABLES, ids=lambda of: of.__name__)
def test_every_cell_of_a_table_is_its_record(of: Callable[[], Checked]) -> None:
    cells = list(of())
    wrong = [(cell, list(values)) for cell, values, times in cells if not agree(cell, values, times=times)]
    assert len(cells) >= 6 and not wrong


def test_the_headline_is_the_same_on_every_page() -> None:
    """Dice of the deployed students: README, results, zoo, changelog, reasons of the defaults."""
    pages = {name: text_of(name) for name in (RESULTS, "CHANGELOG.md", "docs/training.md")}
    for name in (KVASIR[0], ACDC[0], "la_cpu_seed0"):
        shown = f"{_deployed(name):.3f}"
        assert all(shown in text for text in pages.values()), (name, shown)
    for entry in ("polyp", "heart", "atrium", "polyp_quick"):
        card = json.loads((ROOT / "students" / "zoo" / entry / "card.json").read_text(encoding="utf-8"))
        dice = card["measured"]["model.int8.onnx"]["dice_on"]["openvino"]
        fastest = min(card["latency"], key=lambda call: call["p50_ms"])
        text = rf"`{entry}`[^`]*?\((?:INT8 Dice )?([\d.]+)\)\s+\**([\d.]+) ms\**, 90 % below ([\d.]*\d)"
        found = re.search(text, pages[RESULTS])
        assert found and agree(found[1], dice) and agree(found[2], fastest["p50_ms"]), entry
        assert 0 <= float(found[3]) - fastest["p90_ms"] < 0.1, entry
