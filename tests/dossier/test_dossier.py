"""The dossier of a ship: what is filled in, what is marked, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnx")

from checkout import ROOT  # noqa: E402
from hidden_packages import TRAINING_PACKAGES, run_without  # noqa: E402
from tiny_package import make_ship  # noqa: E402

from deploy.package.package import Package, card_hash, finalize, open_package  # noqa: E402
from edgemt import cli  # noqa: E402
from edgemt.contour_margins import ContourMargins  # noqa: E402
from edgemt.dossier import risk, sbom, sources  # noqa: E402
from edgemt.dossier.items import NOT_MEASURED, STATES, TO_WRITE  # noqa: E402
from edgemt.dossier.write import write_dossier  # noqa: E402
from edgemt.model_card import FileMetrics  # noqa: E402

ORGAN = {"dice": 0.9, "hd95": 3.25, "missed": 0.02, "invented": 0.01, "counted": 7.0}
MEASURED = {
    "model.onnx": FileMetrics(dice=0.91, drop=0.0, runtime="onnxruntime", unit="px"),
    "model.int8.onnx": FileMetrics(
        dice=0.9, drop=0.01, runtime="onnxruntime", unit="px", per_class={"organ": ORGAN}, list_key="ab" * 32,
        quantization={"rung": "calibrated", "kept": ["conv"]},
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def ship(tmp_path_factory: pytest.TempPathFactory) -> Package:
    folder = tmp_path_factory.mktemp("dossier") / "ship"
    package = make_ship(folder, name="<b>tiny", measured=MEASURED, data={"layout": "pairs", "labelled": "l.txt"})
    margins = ContourMargins(
        0.1, 0.01, "px", {"organ": 2.0}, {"organ": 1.0}, 30, 40, "cd" * 32,
        graph=package.card.files["model.int8.onnx"], created="2026-11-20",
    )  # fmt: skip
    finalize(folder, replace(package.card, contours={"model.int8.onnx": margins}))
    return open_package(folder)


@pytest.fixture(autouse=True)
def few_distributions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The installed environment is read in test_sbom.py; here it would take most of the time."""
    few = [metadata.distribution("numpy")]
    monkeypatch.setattr(sbom.metadata, "distributions", lambda: few)


def items_of(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {f"{s['key']}.{i['key']}": i for s in record["sections"] for i in s["items"]}


def tables_of(record: dict[str, Any]) -> dict[str, list[dict[str, str]]]:
    return {table["title"]: table["rows"] for section in record["sections"] for table in section["tables"]}


def test_the_card_fills_in_what_it_has_and_the_rest_is_marked(ship: Package, tmp_path: Path) -> None:
    record = write_dossier(ship.folder, tmp_path)
    items, tables = items_of(record), tables_of(record)
    assert items["identity.card"]["text"] == card_hash(ship.card) == record["card"]
    assert items["identity.signature"]["text"] == "not signed"
    assert items["figures.int8"]["text"] == "Dice lost: model.int8.onnx 0.0100"
    (row,) = tables["Before and after INT8"]
    assert (row["Dice before"], row["Dice after"], row["by"]) == ("0.9100", "0.9000", "calibrated, 1 layers in float")
    assert tables["model.int8.onnx"] == [
        {"class": "organ", "Dice": "0.9000", "HD95": "3.25", "missed": "0.0200", "invented": "0.0100", "cases": "7"}
    ]
    assert items["limits.classes"]["text"] == "tool"
    assert items["uncertainty.contours"]["text"].startswith("in at least 90 of 100 patients like the 30 calibrated")
    assert [row["date"] for row in tables["Calibration"]] == ["2026-11-20"]
    for key in ("data.unlabelled", "groups.groups", "uncertainty.uncertainty", "latency.delay", "limits.likeness"):
        assert (items[key]["state"], items[key]["text"]) == ("not measured", NOT_MEASURED), key
        assert items[key]["source"], f"{key} names no way to measure it"
    for key in ("intended_use.purpose", "risk.iso_14971_8_10", "annex_iv.annex_iv_2(e)_12"):
        assert items[key]["state"] == "to be written", key
    risks = {row["situation"]: row for row in tables["Hazardous situations"]}
    assert risks["organ is missed"]["control or figure"] == "share of cases: 0.0200"
    assert risks["tool is missed"]["control or figure"] == f"share of cases: {NOT_MEASURED}"
    assert {row["harm"] for row in risks.values()} == {TO_WRITE}


def test_counts_are_those_of_the_page(ship: Package, tmp_path: Path) -> None:
    record = write_dossier(ship.folder, tmp_path)
    states = [item["state"] for item in items_of(record).values()]
    assert record["counts"] == {"items": len(states), **{state: states.count(state) for state in STATES}}
    assert len(states) == sum(len(section["items"]) for section in record["sections"])  # no key twice
    html = (tmp_path / "dossier.html").read_text(encoding="utf-8")
    assert f"{record['counts']['to be written']} of {len(states)} items are to be written" in html
    assert html.count('<td class="state">to be written</td>') == record["counts"]["to be written"]
    assert json.loads((tmp_path / "dossier.json").read_text()) == json.loads(json.dumps(record))


def test_the_page_is_one_offline_file(ship: Package, tmp_path: Path) -> None:
    write_dossier(ship.folder, tmp_path)
    references: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            assert tag not in ("b", "script", "link", "img")
            references.extend(value or "" for name, value in attrs if name in ("src", "href"))

    Reader().feed((tmp_path / "dossier.html").read_text(encoding="utf-8"))
    assert references and all(reference.startswith("#") for reference in references)


def test_named_tests_and_commands_exist(ship: Package, tmp_path: Path) -> None:
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    for *_, verified in risk._HAZARDS:
        assert (ROOT / verified).exists() if "/" in verified else f"def {verified}(" in tests, verified
    faults = sources.read_faults()
    assert len(faults) > 25 and all(f"def {fault.test}(" in tests for fault in faults)
    plan = write_dossier(ship.folder, tmp_path)["change_plan"]
    commands = [test["command"] for change in plan["description_of_modifications"] for test in change["tests"]]
    assert {command.split()[1] for command in commands} <= set(cli.NAMES)
    limits = plan["description_of_modifications"][0]["limits"]
    assert limits == [
        {"file": "model.int8.onnx", "class": "organ", "metric": "dice", "today": 0.9, "allowed_loss": TO_WRITE}
    ]


def test_records_of_a_run_of_eval_and_of_a_stream_are_used(ship: Package, tmp_path: Path) -> None:
    run, metrics, evidence = tmp_path / "run", tmp_path / "eval.json", tmp_path / "evidence"
    for folder in (run / "report", run / "ship", evidence):
        folder.mkdir(parents=True)
    (run / "report" / "report.json").write_text('{"counts": {"labelled": 80, "unlabelled": 720, "val": 100}}')
    (run / "ship" / "card.json").write_bytes((ship.folder / "card.json").read_bytes())
    group = {"n": 20, "patients": 12, "dice": 0.88, "low": 0.8, "high": 0.93}
    measured = {
        "name": ship.card.name, "file": "model.int8.onnx", "runtime": "openvino", "counted": 20, "unit": "px",
        "per_class": {"organ": {"dice": 0.875, "hd95": None}},
        "by": {"centre": {"groups": {"oslo": group, "bern": {**group, "low": None}}}},
    }  # fmt: skip
    metrics.write_text(json.dumps(measured))
    series = {"n": 900, "p50_ms": 3.3, "p90_ms": 5, "p99_ms": 7.1, "max_ms": 11.8}
    delays = {
        "model": f"tiny@{card_hash(ship.card)[:12]} model.int8.onnx openvino int8", "created": "2026-11-23",
        "machine": {"cpu": "a processor"}, "source": "synthetic", "budget_ms": 100,
        "rates": [{"hz": 30, "with_masks": {"video": series, "annotation": series}}],
    }  # fmt: skip
    (evidence / "evidence.json").write_text(json.dumps(delays))
    record = write_dossier(ship.folder, tmp_path / "out", run=run, metrics=metrics, evidence=evidence)
    items, tables = items_of(record), tables_of(record)
    assert [items[f"data.{key}"]["text"] for key in ("labelled", "unlabelled")] == ["80", "720"]
    assert items["data.validation"]["text"].startswith("100; hash of the list abab")
    assert [row["95 % interval"] for row in tables["By group"]] == ["0.8000 to 0.9300", NOT_MEASURED]
    rows = tables["Measured by edgemt eval: model.int8.onnx on openvino, 20 cases"]
    assert rows == [{"class": "organ", "Dice": "0.8750", "HD95": NOT_MEASURED}]
    assert [row["p99 ms"] for row in tables["Delays with masks"]] == ["7.10", "7.10"]
    assert "without screen and cable" in items["latency.delay"]["text"]


BAD = [
    (["--run", "."], "report/report.json: no such file; edgemt run writes it"),
    (["--metrics", "other.json"], "metrics other.json: of x None, not of a file of"),
    (["--metrics", "broken.json"], "broken.json: cannot be read"),
    (["--metrics", "list.json"], "list.json: no JSON object"),
    (["--evidence", "."], "evidence.json: of 'x@000000000000 a b c', which is another card"),
    (["--out", "list.json"], "out list.json: a file is in its way"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_input_is_one_line_and_status_2(
    arguments: list[str], message: str, ship: Package, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("other.json").write_text('{"per_class": {}, "name": "x"}')
    Path("broken.json").write_text("{")
    Path("list.json").write_text("[]")
    Path("evidence.json").write_text('{"rates": [], "model": "x@000000000000 a b c"}')
    with pytest.raises(SystemExit) as status:
        cli.main(["dossier", str(ship.folder), *arguments])
    error = capsys.readouterr().err
    assert status.value.code == 2 and message in error and error.count("\n") == 1


def test_a_run_of_another_ship_is_refused(ship: Package, tmp_path: Path) -> None:
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.json").write_text("{}")
    (tmp_path / "ship").mkdir()
    (tmp_path / "ship" / "card.json").write_text('{"files": {"model.onnx": "00"}}')
    with pytest.raises(ValueError, match="name the run that made the ship"):
        write_dossier(ship.folder, tmp_path / "out", run=tmp_path)
    assert not (tmp_path / "out").exists()


def test_a_fault_table_that_is_not_installed_is_stated(ship: Package, tmp_path: Path, monkeypatch) -> None:
    assert sources.parse_faults("# deploy\n\n| fault | shown |\n") == ()
    monkeypatch.setattr(sources, "read_faults", lambda: ())
    item = items_of(write_dossier(ship.folder, tmp_path))["faults.faults"]
    assert item["state"] == "not measured" and "not installed" in item["text"]


def test_it_runs_without_torch_and_without_a_runtime(ship: Package, tmp_path: Path) -> None:
    program = """
from edgemt import cli
cli.main(["dossier", sys.argv[2], "--out", sys.argv[3]])
assert "torch" not in sys.modules
"""
    hide = [*TRAINING_PACKAGES, "openvino", "onnxruntime"]
    printed = run_without(program, hide=hide, arguments=[str(ship.folder), str(tmp_path / "out")])
    assert "items are to be written" in printed
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "dossier.html", "dossier.json", "sbom.cdx.json",
    ]  # fmt: skip
