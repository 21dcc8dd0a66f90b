"""Figures in sentences of the documentation: those of the records, and means and goals that follow from them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

import pytest
from pages import PAGES, agree, numbers, record, tables, text_of

from edgemt.convert.datasets.registry import DATASETS

RESULTS, TRAINING = "docs/results.md", "docs/training.md"
ROWS = record("kvasir_unlabelled_frames")["rows"]
TERM = record("kvasir_temporal")
THREE = record("kvasir_three_seeds")
ADAPTED = record("unsupervised_adaptation")["runs"]
HEAD = record("patient_head")["sets"]
SMP = [record(f"smp_{name}") for name in ("acdc", "la", "kvasir")]
PRUNED = [record(f"kvasir_cpu_{name}")["stages"] for name in ("3200_steps_seed0", "seed1000", "seed2000")]


def _gap(key: str, part: str = "unlabelled 720") -> list[float]:
    of = ROWS[key][part]
    return [100 * of["difference"], *(100 * value for value in of["interval"])]


def _gain(style: str, key: str) -> float:
    methods = ADAPTED[style]["methods"]
    return float(methods["mean_teacher"][key] - methods["none"][key])


FALL = [100 * TERM["flicker_fall"]["mean"], *(100 * value for value in TERM["flicker_fall"]["interval"])]
ABOVE_TRUTH = TERM["ships"][0]["flicker"] - TERM["truth"]["flicker"]
LONGER = "2,000 steps, overlap 1 (seeds 0, 1000), against supervised 2,000"
SECOND = "second round, overlap, 2,000 against supervised 2,000"
FLICKER = [THREE["flicker"][seed] for seed in ("0", "1000", "2000")]
STATED: list[tuple[str, str, Sequence[Any]]] = [  # page, text with # for each number, the numbers
    (
        RESULTS,
        "it is above the student that it was cut from (by #, # and # points",
        [100 * (of[2]["dice"] - of[1]["dice"]) for of in PRUNED],
    ),
    (RESULTS, "student gains # points [#, #] on the 720 frames", _gap(LONGER)),
    (RESULTS, "and # [#, #] on the validation list; with a second", _gap(LONGER, "validation 100")),
    (RESULTS, "with a second round # [#, #] and # [#, #].", [*_gap(SECOND), *_gap(SECOND, "validation 100")]),
    (TRAINING, "the distilled student is # points [#, #] above", _gap("distilled, 1,000 steps (seeds 0, 1000)")),
    (TRAINING, "and # [#, #] after 2,000 with `overlap 1`", _gap(LONGER)),
    (TRAINING, "with a second round of teachers # [#, #]", _gap(SECOND)),
    (RESULTS, "Flicker falls by # % [#, #] at equal Dice", FALL),
    (
        RESULTS,
        "or # % of what is above the true masks' own #:",
        [100 * (TERM["ships"][0]["flicker"] - TERM["ships"][1]["flicker"]) / ABOVE_TRUTH, TERM["truth"]["flicker"]],
    ),
    ("docs/guides/training.md", "falls by # % [#, #] at equal Dice", FALL),
    (
        RESULTS,
        "flicker #, #, # (mean #), area jitter #, #, #, Dice of a frame #, #, #.",
        [
            *(of["flicker"] for of in FLICKER),
            mean(of["flicker"] for of in FLICKER),
            *(of[key] for key in ("area_jitter", "dice") for of in FLICKER),
        ],
    ),
    (
        RESULTS,
        "AUROC #, calibration error #, Brier #, AURC #",
        [next(iter(THREE["uncertainty"]["0"].values()))[key] for key in ("auroc", "ece", "brier", "aurc")],
    ),
    (
        RESULTS,
        "1,000 steps (# minutes of processor time), ACDC with 3 patients, seed 0: Dice **#**, its float graph # ms",
        [SMP[0]["cpu_seconds"] / 60, SMP[0]["dice"], SMP[0]["smp_ms"]],
    ),
    (
        RESULTS,
        "800 steps (# minutes): **#** and # ms against `zoo/atrium` **0.884** and # ms",
        [SMP[1]["cpu_seconds"] / 60, *(SMP[1][key] for key in ("dice", "smp_ms", "ship_ms"))],
    ),
    (
        RESULTS,
        "(# minutes): **#** and # ms against `zoo/polyp` **0.862** and # ms",
        [SMP[2]["cpu_seconds"] / 60, *(SMP[2][key] for key in ("dice", "smp_ms", "ship_ms"))],
    ),
    (
        RESULTS,
        "all three gain (a mean teacher # and # points",
        [100 * _gain(f"acdc_{style}", "dice") for style in ("mild", "strong")],
    ),
    (
        RESULTS,
        "removes # % (mild) and # % (strong) on the last third",
        [100 * HEAD[f"heart, {style}"]["bound"]["error_removed"] for style in ("mild", "strong")],
    ),
    (
        RESULTS,
        "and adds # and # % on the groups of Kvasir-SEG",
        [-100 * HEAD[f"polyp, {style}"]["bound"]["error_removed"] for style in ("mild", "strong")],
    ),
    *(
        (page, text, [len(DATASETS)])
        for page, text in (
            ("README.md", "[# public data sets](docs/datasets.md)"),
            ("docs/guides/importing.md", "# data sets are known by name"),
            ("CHANGELOG.md", "# public data sets by name"),
        )
    ),
]


@pytest.mark.parametrize(("page", "text", "values"), STATED, ids=lambda value: value if isinstance(value, str) else "")
def test_figures_in_a_sentence_are_those_of_the_record(page: str, text: str, values: Sequence[float]) -> None:
    pattern = re.escape(" ".join(text.split())).replace("\\ ", r"\s+").replace("\\#", r"([+−-]?\d[\d.,]*\d|\d)")
    found = re.search(pattern, text_of(page))
    assert found, f"{page} does not have the sentence {text!r}; change it here, too"
    wrong = [(shown, value) for shown, value in zip(found.groups(), values, strict=True) if not agree(shown, value)]
    assert not wrong


MEAN_OF_SEEDS = [
    (page.name, head, row[column])
    for page in PAGES
    for of in tables(str(page))
    for row in of.rows
    for column, head in enumerate(of.head)
    if head.endswith("mean (each seed)")
]


@pytest.mark.parametrize(("page", "head", "cell"), MEAN_OF_SEEDS, ids=lambda value: value)
def test_a_mean_is_that_of_the_seeds_in_brackets(page: str, head: str, cell: str) -> None:
    (shown, _), *seeds = numbers(cell)
    assert len(seeds) > 1 and abs(shown - mean(value for value, _ in seeds)) <= 0.001, cell


def test_means_and_deviations_of_methods_are_those_of_their_seeds() -> None:
    """The older table of methods: Dice with its deviation, each seed, and the difference to the control."""
    page = next(of for of in tables("docs/methods.md") if of.head[0] == "method" and "each seed" in of.head)
    controls = {row[1]: row[0] for row in page.rows if row[0].startswith("supervised")}
    dice = {row[0]: mean(value for value, _ in numbers(row[page.head.index("each seed")])) for row in page.rows}
    for row in page.rows:
        of = dict(zip(page.head, row, strict=True))
        seeds = [value for value, _ in numbers(of["each seed"])]
        shown = [value for value, _ in numbers(of["Dice"])]
        assert abs(shown[0] - mean(seeds)) <= 0.001 and abs(shown[1] - stdev(seeds)) <= 0.00125, row
        if row[0] not in controls.values():
            (gap, _), (low, _), (high, _) = numbers(of["difference [95 %]"])
            assert low < gap < high and abs(gap - dice[row[0]] + dice[controls[row[1]]]) <= 0.0011, row


def test_a_cell_that_differs_in_its_last_digit_does_not_agree() -> None:
    assert agree("**0.857**", 0.8574) and agree("+2.1 [-0.4, +3.6]", [0.0205, -0.0043, 0.0364], times=100)
    assert not agree("0.857", 0.8583) and not agree("+2.1 [-0.4, +3.6]", [0.0205, 0.0043, 0.0364], times=100)
    assert not agree("0.857", [0.857, 0.9]) and not agree("", 0.857)
    assert numbers("1,200 steps, −5 %, `x2`") == [(1200.0, 0), (-5.0, 0)]
