"""benchmarks/gpu: parts end within a budget and go on, a dry run fills no cell, each part is tried without a GPU."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tomllib
from checkout import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
from gpu import __main__ as day  # noqa: E402
from gpu import environment, facts, gpu_tests, latency, plan, record, step, table, training  # noqa: E402

RUN = ROOT / "benchmarks" / "gpu" / "run.sh"
MODULES = sorted({part.module for part in plan.PARTS})


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """`recorded` and `run` set handlers of their own process."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


# the plan


@pytest.mark.parametrize("module", MODULES)
def test_every_part_has_help(module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    with pytest.raises(SystemExit) as stopped:
        importlib.import_module(f"gpu.{module}").main()
    assert stopped.value.code == 0 and "--dry" in capsys.readouterr().out


def test_the_script_lists_the_parts_and_refuses_an_unknown_one(tmp_path: Path) -> None:
    def run(*args: str) -> subprocess.CompletedProcess[str]:
        command = [str(RUN), *args]
        environ = {**os.environ, "PYTHON": sys.executable}
        return subprocess.run(command, capture_output=True, text=True, env=environ, cwd=tmp_path, check=False)

    listed = run("--list")
    assert listed.returncode == 0 and all(name in listed.stdout for name in plan.NAMES)
    refused = run("--part", "ua_mt_stepp")
    assert refused.returncode == 2 and "nearest: ua_mt_step" in refused.stderr
    assert not list(tmp_path.iterdir())


def test_wheels_have_the_bounds_of_the_project_and_name_known_parts() -> None:
    wheels = environment.wheels()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [line for lines in extras["optional-dependencies"].values() for line in lines] + extras["dependencies"]
    known = {line.partition(";")[0].strip() for line in lines}
    assert {line for line in wheels if not line.startswith("onnxruntime-gpu")} <= known
    assert len({re.split("[>=]", line)[0] for line in wheels}) == len(wheels)


def test_one_line_names_what_is_missing_and_what_is_skipped() -> None:
    parts = plan.chosen(["ua_mt_step", "tensorrt_latency", "la"])
    found = environment.Environment({"DATA/la2018": "no la2018", "trtexec": "no trtexec"}, {"gpu": "GPU"}, {})
    assert found.line(parts, dry=False) == "found GPU; missing: no la2018; skipped: la; fewer rows: no trtexec"
    assert environment.Environment({}, {"gpu": "GPU"}, {}).line(parts, dry=False) == "found GPU; nothing is missing"
    lacking = environment.Environment({}, {}, {"ua_mt_step": ["timm"]})
    assert lacking.reasons(parts[0], dry=False) == ["not installed: timm"] and not lacking.reasons(parts[0], dry=True)


# budgets

PART = """
import os, signal, sys, time
from pathlib import Path
from gpu import record
given = record.options("").parse_args(sys.argv[2:])
with record.recorded(given) as (found, work):
    found.steps = {"teacher": [found.calls, 2]}
    found.row("figure", 1.5, "ms")
    if sys.argv[1] == "slow" and found.calls == 1:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Call it with the program of the part `facts`, in Python or for bash; returns the exit status."""
    monkeypatch.setattr(environment, "check", lambda **_: environment.Environment())
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")]))

    def called(program: str, *args: str, kind: str = "quick") -> int:
        own = ["--part", "facts", "--work", str(tmp_path)]
        interpreter = "bash" if kind == "bash" else sys.executable
        monkeypatch.setattr(day, "command_of", lambda part, given: [interpreter, "-c", program, kind, *own])
        return day.main([*own, *args])

    return called


def test_a_part_that_is_cut_goes_on_and_a_finished_one_is_not_run_again(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(PART, kind="slow") == record.CUT
    found = record.read(tmp_path, "facts")
    assert found is not None and (found.state, found.calls, found.steps) == ("cut", 1, {"teacher": [1, 2]})
    page = (tmp_path / "table.md").read_text()
    assert "| steps of teacher | 1 of 2 | not finished |" in page and "cut: the budget" in page
    assert run(PART, kind="slow") == record.DONE
    found = record.read(tmp_path, "facts")
    assert found is not None and (found.state, found.calls) == ("done", 2)
    assert run("raise SystemExit(9)") == record.DONE
    assert "facts: done, not run again" in capsys.readouterr().out
    assert "| figure | 1.500 ms |" in (tmp_path / "table.md").read_text()


@pytest.mark.parametrize(
    ("program", "status", "reason"),
    [
        ("trap '' TERM; sleep 60 & wait; sleep 60", record.CUT, "did not end within 0 s"),
        ("trap 'exit 7' TERM; sleep 60 & wait", record.FAILED, "ended with status 7"),
        ("kill -SEGV $$", record.FAILED, "ended with status -11"),
    ],
)
def test_a_part_that_leaves_no_record_gets_one(
    run: Callable[..., int], tmp_path: Path, program: str, status: int, reason: str
) -> None:
    assert run(program, "--budget", "1.3", "--grace", "0.3", kind="bash") == status
    found = record.read(tmp_path, "facts")
    assert found is not None and reason in found.why and found.calls == 1


def test_no_part_is_started_without_time_left(run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("raise SystemExit(9)", "--total", "30") == record.CUT
    assert "not started" in capsys.readouterr().out
    assert run("raise SystemExit(9)", "--budget", "10", "--grace", "45") == 2


def test_an_error_of_a_part_is_its_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = argparse.Namespace(part="la", work=tmp_path, dry=False)
    with pytest.raises(SystemExit) as stopped, record.recorded(given):
        raise ValueError("--data: name the\nfolder")
    found = record.read(tmp_path, "la")
    assert stopped.value.code == 1 and found is not None and found.why == "--data: name the folder"
    (tmp_path / "records" / "la.json").write_text("{")
    with pytest.raises(ValueError, match="la.json: not a readable record"):
        record.read(tmp_path, "la")


def test_a_dry_record_fills_no_cell_of_the_real_table() -> None:
    found = record.Record("facts", dry=True, state="done", date="2026-11-29", device="CPU")
    found.row("copy", 12345.678, "GB/s")
    part = plan.chosen(["facts"])
    real = table.page(part, {"facts": found}, {}, dry=False)
    assert "not run yet" in real and "12,346" not in real
    dry = table.page(part, {"facts": found}, {}, dry=True)
    assert "| facts (dry) | copy | 12,346 GB/s |" in dry and "not a measurement" in dry


# the parts


def test_the_marked_tests_are_found_and_counted(tmp_path: Path) -> None:
    names = {path.name for path in gpu_tests.marked_files()}
    assert {"test_tensorrt.py", "test_engine.py"} <= names and Path(__file__).name not in names
    report = tmp_path / "report.xml"
    report.write_text(
        '<testsuites><testsuite><testcase name="a"/><testcase name="b"><failure message="not equal&#10;more"/>'
        '</testcase><testcase name="c"><skipped message="no TensorRT"/></testcase></testsuite></testsuites>'
    )
    found = record.Record("gpu_tests", dry=False)
    assert gpu_tests.fill(found, report) == 1
    assert [(row["what"], row["value"], row["note"]) for row in found.rows] == [
        ("tests marked gpu", "1 passed, 1 failed, 1 skipped", ""),
        ("b", "failure", "not equal"),
        ("c", "skipped", "no TensorRT"),
    ]


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_fields_of_nvidia_smi_are_read_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "nvidia-smi", 'case "$1" in *=clocks.sm) echo "1980 MHz";; *=name) echo GPU;; *) exit 2;; esac')
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    smi = facts.nvidia_smi()
    assert smi == {"name": "GPU", "clocks.sm": "1980 MHz"}
    found = record.Record("facts", dry=False)
    machine = {"memory_bytes": 2**30, "cpu": "CPU", "cores_allowed": 2}
    found.facts = {"machine": machine, "at_rest": smi, "under_load": smi, "dtype": "bfloat16", "side": 8192}
    found.facts |= {"tflops": 788.0, "gb_per_s": 4300.0}
    facts.fill(found)
    assert {"clocks.sm under load", "matrix product"} <= {row["what"] for row in found.rows}


def test_the_ratio_of_the_step_is_taken_round_by_round() -> None:
    found = record.Record("ua_mt_step", dry=False)
    names = ("ours", "ours, fp32", "published")
    found.facts = {"patch": [112, 112, 80], "filters": 16, "precision": "bf16-mixed", "tf32_in_convolutions": True}
    found.facts |= {"ms": dict(zip(names, ([10, 20, 10], [20, 20, 20], [30, 60, 20]), strict=True))}
    found.facts |= {"gib": dict.fromkeys(names, 3.0)}
    step.fill(found)
    rows = {row["what"]: row for row in found.rows}
    assert rows["published / ours"]["value"] == 3 and rows["published / ours, fp32"]["value"] == 1.5
    assert "TF32" in rows["UA-MT step, published"]["note"] and rows["memory of a step, ours"]["unit"] == "GiB"


TRTEXEC = 'echo "$@" >> "$0.log"; echo "[I] Latency: min = 1.2 ms, max = 2.1 ms, mean = 1.3 ms, median = 1.29 ms"'


@pytest.fixture
def timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., record.Record]:
    """Call it to time the tiny ship with the arguments of the part."""
    pytest.importorskip("onnx")
    from tiny_package import make_ship

    ship = make_ship(tmp_path / "ship").folder
    monkeypatch.setattr(latency, "BENCH", latency.DRY_BENCH)
    monkeypatch.setattr(latency, "SECONDS", 0.02)
    monkeypatch.setattr(latency, "ROUNDS", 1)
    monkeypatch.setenv("EDGEMT_CACHE", str(tmp_path / "cache"))
    found = record.Record("tensorrt_latency", dry=False)

    def measure(runtime: str, tool: str = "", *, dry: bool = False) -> record.Record:
        given = argparse.Namespace(part=found.part, runtime=runtime, ship=str(ship), tool=tool, dry=dry)
        latency.measure(found, tmp_path, given)
        return found

    return measure


def test_latency_on_a_pretended_gpu_beside_trtexec_on_the_same_engine(
    timed: Callable[..., record.Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fake_gpu import Library, TensorRT

    from deploy.runtimes import cuda_driver

    device = Library()
    driver = cuda_driver.Cuda(device)
    monkeypatch.setattr(cuda_driver, "cuda", lambda: driver)
    monkeypatch.setitem(sys.modules, "tensorrt", TensorRT(device))  # type: ignore[arg-type]
    tool = program(tmp_path / "bin" / "trtexec", TRTEXEC)
    found = timed("tensorrt", str(tool))
    rows = {row["what"]: row for row in found.rows}
    for kind in ("int8", "fp32"):
        assert rows[f"{kind}, frame in, mask out, p50"]["value"] > 0
        assert "gives the golden masks" in rows[f"{kind}, engine"]["note"]
        assert rows[f"{kind}, trtexec, median"]["value"] == 1.29 and rows[f"{kind}, ours / trtexec"]["value"] > 0
    calls = (tmp_path / "bin" / "trtexec.log").read_text().splitlines()
    assert len(calls) == 2 and all(re.search(r"--loadEngine=\S+\.engine --useCudaGraph", call) for call in calls)
    timed("tensorrt", str(tool))
    assert len((tmp_path / "bin" / "trtexec.log").read_text().splitlines()) == 2  # nothing is timed twice
    program(tool, "echo broken >&2; exit 3")
    found.facts["files"].pop("int8")
    note = next(row["note"] for row in timed("tensorrt", str(tool)).rows if row["what"] == "int8, trtexec")
    assert note == "trtexec ended with status 3: broken"
    assert "earlier call" in next(row["note"] for row in found.rows if row["what"] == "int8, engine")


def test_a_runtime_that_takes_no_file_fails_with_its_reason(timed: Callable[..., record.Record]) -> None:
    with pytest.raises(ValueError, match="no file runs: .*'CUDA'"):
        timed("cuda")
    assert {row["value"] for row in timed("cuda", dry=True).rows if row["what"] in ("int8", "fp32")} == set()


def card(folder: Path, measured: dict[str, Any], network: dict[str, Any]) -> None:
    folder.mkdir(parents=True)
    (folder / "card.json").write_text(json.dumps({"measured": measured, "network": network}))


def test_rows_and_steps_of_a_training_that_was_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgemt.training import checkpoint

    recipe = training.the_recipe("la", tmp_path, controls=True, dry=False)
    metrics = {"dice": 0.9, "unit": "voxels", "per_class": {"a": {"hd95": 8.0}, "b": {"hd95": 4.0}}, "cases": [{}] * 10}
    card(tmp_path / "teacher", {"weights.safetensors": metrics}, {"room": "teachers"})
    (tmp_path / "student.partial").mkdir()
    (tmp_path / "student.partial" / checkpoint.CHECKPOINT).touch()
    monkeypatch.setattr(checkpoint, "read_state", lambda file: {"index": 1234})
    assert training.steps_of(tmp_path, recipe) == {
        "teacher": [6000, 6000],
        "student": [1234, 20_000],
        "slim": [0, 5000],
        "controls/teacher_supervised": [0, 6000],
        "controls/student_supervised": [0, 20_000],
    }
    found = record.Record("la", dry=False)
    training.fill(found, tmp_path, recipe)
    rows = {row["what"]: row for row in found.rows}
    assert rows["teacher, Dice"]["value"] == 0.9 and "10 validation volumes" in rows["teacher, Dice"]["note"]
    assert (rows["teacher, HD95"]["value"], rows["teacher, HD95"]["unit"]) == (6, "voxels")


@pytest.mark.slow
def test_the_time_of_a_step_is_read_from_the_events(tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        for index, time in enumerate((0.0, 5.0, 10.0, 90.0, 95.0)):  # a validation between the third and the fourth
            writer.add_scalar("loss/supervised", 1.0, 10 * (index + 1), walltime=1000 + time)
    assert training.step_seconds(tmp_path) == pytest.approx(0.5)
    assert training.step_seconds(tmp_path / "none") is None


@pytest.mark.slow
def test_every_part_runs_dry(tmp_path: Path) -> None:
    command = [str(RUN), "--dry", "--work", str(tmp_path), "--budget", "3000"]  # of a part, on a busy machine
    environ = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(command, capture_output=True, text=True, env=environ, check=False)
    logs = {path.name: path.read_text()[-800:] for path in (tmp_path / "dry" / "logs").glob("*.log")}
    assert done.returncode == 0, (done.stdout, done.stderr, logs)
    states = {name: record.read(tmp_path / "dry", name) for name in plan.NAMES}
    assert all(found is not None and found.dry and found.state == "done" and found.rows for found in states.values())
    page = (tmp_path / "dry" / "table.md").read_text().splitlines()[4:]
    assert all(line.split("|")[1].endswith("(dry) ") for line in page if line)
    assert not (tmp_path / "table.md").exists() and not (tmp_path / "records").exists()
    again = subprocess.run(command, capture_output=True, text=True, env=environ, check=False)
    assert again.returncode == 0 and again.stdout.count("not run again") == len(plan.NAMES)
