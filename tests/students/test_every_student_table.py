"""The table of benchmarks/every_student.py: who is on the front, what share of the peak, what an empty cell says."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
from checkout import ROOT

FILE = ROOT / "benchmarks" / "every_student_table.py"


@pytest.fixture(scope="module")
def table() -> Any:
    spec = importlib.util.spec_from_file_location("every_student_table", FILE)
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module


def call(name: str, *, ratio: float, p50: float = 2.0, anecdotal: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "name": name,
        "ratio": {"median": ratio},
        "p50_ms": p50,
        "p99_ms": 1.5 * p50,
        "anecdotal": list(anecdotal),
        "threads": 2,
        "stages": {"overhead": 0.05},
    }


def row(network: str, *, ratio: float, dice: float | None = None, size: int = 256, **changed: Any) -> dict[str, Any]:
    made = {
        "network": network,
        "size": size,
        "params": 1_500_000,
        "macs": 300_000_000,
        "peak_macs": 3_000_000_000,
        "bytes": {"model.onnx": 6_000_000, "model.int8.onnx": 2_000_000},
        "agreement": 0.95,
        "dice": {} if dice is None else {"float": dice + 0.01, "int8": dice},
        "missing": {},
        "created": "2026-01-01T00:00:00",
        "machine": {"cpu": "a processor"},
        "foreign_cores": 0.1,
        "calls": [call("first", ratio=1.0), call("peak", ratio=4.0), call("OpenVINO INT8", ratio=ratio)],
    }
    return {**made, **changed}


def test_a_network_that_is_slower_and_worse_is_not_on_the_front(table: Any) -> None:
    rows = [row("quick", ratio=1.0, dice=0.5), row("good", ratio=2.0, dice=0.6), row("bad", ratio=2.1, dice=0.55)]
    assert table.accuracy_front(rows) == {"quick", "good"}


def test_a_network_without_dice_is_neither_on_the_front_nor_pushes_one_off(table: Any) -> None:
    assert table.accuracy_front([row("unknown", ratio=0.1), row("known", ratio=1.0, dice=0.5)]) == {"known"}


def test_two_equal_networks_are_both_on_the_front(table: Any) -> None:
    assert table.accuracy_front([row("a", ratio=1.0, dice=0.5), row("b", ratio=1.0, dice=0.5)]) == {"a", "b"}


def test_the_share_of_the_peak_is_work_over_time_against_the_dense_pile(table: Any) -> None:
    """A tenth of the work in half the time of the pile: a fifth of its speed."""
    assert table.share_of_peak(row("a", ratio=2.0)) == pytest.approx(0.2)
    assert table.share_of_peak(row("a", ratio=2.0, calls=[call("OpenVINO INT8", ratio=2.0)])) is None


def test_a_table_a_size_with_a_cell_a_column_and_reasons_for_empty_ones(table: Any) -> None:
    rows = [
        row("small", ratio=1.0, dice=0.5, missing={"torch.compile": "no compiler"}),
        row("small", ratio=5, size=512),
    ]
    text = table.report(rows, columns=("torch.compile", "OpenVINO INT8"))
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(lines) == 6 and len({line.count("|") for line in lines}) == 1
    assert text.index("### 256 x 256") < text.index("- no torch.compile: no compiler") < text.index("### 512 x 512")
    assert (
        "| **small** | 1.50 | 300 | - | 2.00 / 3.00 | 1.00 | 1.50 | 5% | 40% | 6.00 / 2.00 | 95.0 | 0.510 / 0.500 |"
        in text
    )


def test_an_anecdotal_p99_has_a_tilde(table: Any) -> None:
    few = row("a", ratio=1.0, calls=[call("OpenVINO INT8", ratio=1.0, anecdotal=("p99",))])
    assert "2.00 / ~3.00" in table.report([few], columns=("OpenVINO INT8",))
