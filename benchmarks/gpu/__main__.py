"""Everything that is measured on a GPU machine, in parts that each end within a budget of seconds.

  benchmarks/gpu/run.sh --list                          the parts, and what each needs
  benchmarks/gpu/run.sh --dry --work WORK               every part at toy size on the processor, to find errors before
  benchmarks/gpu/run.sh --work WORK --data DATA         every part that is not finished, in the order of the list
  benchmarks/gpu/run.sh --work WORK --part la --data DATA
  PYTHON=.venv/bin/python benchmarks/gpu/run.sh ...     with another Python than python3

DATA holds acdc/ and la2018/ (images/, labels/, splits/, train.txt; docs/reading.md). WORK holds everything that is
written: records/PART.json, logs/PART.log, runs/, engines, and table.md, which is written anew after each part.

A part that is finished is not run again (--again does). A part that reaches its budget gets SIGTERM, writes a
checkpoint, and goes on in the next call of the same command. A part that the machine cannot run is skipped, and one
line at the start gives the reason. Copy WORK to go on with another machine of the same kind.

Exit status: 0 all that can run here is finished, 1 a part failed, 2 wrong arguments, 3 a part was cut: call again.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from edgemt.io.atomic import make_folder
from gpu import environment, plan, record, table

BUDGET, GRACE = 460, 45  # seconds: of a part with its end, and between SIGTERM and SIGKILL
LEAST = 60  # no part is started with fewer seconds left of --total


def main(argv: Sequence[str] | None = None) -> int:
    given = arguments(argv)
    if given.list:
        print(plan.listing())
        return 0
    try:
        return run(given)
    except ValueError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="run.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--list", action="store_true", help="print the parts and end")
    parser.add_argument("--part", action="append", default=[], metavar="NAME", help="this part alone; may be repeated")
    parser.add_argument("--work", type=Path, default=Path("runs/gpu"), help="folder of all results (runs/gpu)")
    parser.add_argument("--data", type=Path, default=None, help="folder with acdc/ and la2018/")
    parser.add_argument("--budget", type=float, default=BUDGET, metavar="SECONDS", help=f"of each part ({BUDGET})")
    parser.add_argument("--grace", type=float, default=GRACE, metavar="SECONDS", help=f"of it for the end ({GRACE})")
    parser.add_argument("--total", type=float, default=None, metavar="SECONDS", help="start no part that ends later")
    parser.add_argument("--again", action="store_true", help="run finished parts, too; trainings keep their stages")
    parser.add_argument(
        "--dry", action="store_true", help="toy sizes on the processor, in WORK/dry; no cell of table.md"
    )
    parser.add_argument("--ship", default="", help="for the latencies: a ship folder or zoo/NAME (zoo/polyp)")
    parser.add_argument(
        "--trtexec", default="trtexec", metavar="FILE", help="NVIDIA's trtexec, if it is not on the PATH"
    )
    parser.add_argument("--rtx-tool", default="tensorrt_rtx", metavar="FILE", help="the tensorrt_rtx program, likewise")
    return parser.parse_args(argv)


def run(given: argparse.Namespace) -> int:
    """Run the chosen parts. Returns the exit status."""
    parts = plan.chosen(given.part)
    if given.budget <= given.grace or given.grace <= 0:
        raise ValueError(f"--budget {given.budget:g}: must be more than --grace {given.grace:g}, and that more than 0")
    work = make_folder(record.folder_of(given.work, dry=given.dry)).resolve()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    found = environment.check(data=given.data, work=work, trtexec=given.trtexec, rtx_tool=given.rtx_tool)
    print(found.line(parts, dry=given.dry), flush=True)
    ends = time.monotonic() + given.total if given.total is not None else float("inf")
    reasons = {part.name: "; ".join(found.reasons(part, dry=given.dry)) for part in plan.PARTS}
    states = []
    for part in parts:
        before = record.read(work, part.name)
        finished = before is not None and before.state == "done" and not given.again
        if not finished and reasons[part.name]:
            continue
        if not finished and ends - time.monotonic() < max(LEAST, given.grace + 1):
            print(f"{part.name}: not started, --total is used up", flush=True)
            states.append("cut")
            continue
        if not finished:
            start(part, given, work, seconds=min(given.budget, ends - time.monotonic()))
        states.append(summary(part, work, ran=not finished))
        table.write_table(work, plan.PARTS, reasons, dry=given.dry)
    print(table.write_table(work, plan.PARTS, reasons, dry=given.dry))
    return record.FAILED if "failed" in states else record.CUT if "cut" in states else record.DONE


def command_of(part: plan.Part, given: argparse.Namespace) -> list[str]:
    """The command of a part's own process."""
    command = [sys.executable, "-P", "-m", f"gpu.{part.module}", "--part", part.name, "--work", str(given.work)]
    command += part.arguments
    command += ["--data", str(given.data)] if given.data is not None else []
    command += ["--dry"] if given.dry else []
    if part.module == "latency":
        tools = {"tensorrt_latency": given.trtexec, "rtx_latency": given.rtx_tool}
        tool = environment.find_tool(tools.get(part.name, "")) if part.name in tools else ""
        command += ["--ship", given.ship] if given.ship else []
        command += ["--tool", tool] if tool else []
    return command


def start(part: plan.Part, given: argparse.Namespace, work: Path, *, seconds: float) -> None:
    """Run a part for at most so many seconds; its output goes to logs/PART.log. Leaves a record in any case."""
    log, file = make_folder(work / "logs") / f"{part.name}.log", record.file_of(work, part.name)
    before, began = _stamp(file), time.monotonic()
    print(f"{part.name}: at most {seconds:.0f} s ...", flush=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            command_of(part, given), stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True
        )
        try:
            process.wait(seconds - given.grace)
        except subprocess.TimeoutExpired:
            pass
        finally:
            killed = _end(process, given.grace)
    if killed or _stamp(file) == before:
        why = f"did not end within {given.grace:.0f} s" if killed else f"ended with status {process.returncode}"
        _record_for(part, given, work, why=f"{why}; see {log}", cut=killed, seconds=time.monotonic() - began)


def _stamp(file: Path) -> int:
    return file.stat().st_mtime_ns if file.exists() else 0


def _end(process: subprocess.Popen[bytes], grace: float) -> bool:
    """SIGTERM to the part, then SIGKILL to its whole session. Returns True where it had to be killed."""
    killed = False
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(grace)
        except subprocess.TimeoutExpired:
            killed = True
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # programs that it started
    process.wait()
    return killed


def _record_for(part: plan.Part, given: argparse.Namespace, work: Path, *, why: str, cut: bool, seconds: float) -> None:
    """The record of a part that was killed or crashed before it wrote its own."""
    before = record.read(work, part.name)
    found = before if before is not None and before.state != "done" else record.Record(part.name, given.dry)
    found.state, found.why = "cut" if cut else "failed", why
    found.calls, found.seconds = found.calls + 1, round(found.seconds + seconds, 1)
    found.date = record.now()
    record.write(work, found)


def summary(part: plan.Part, work: Path, *, ran: bool) -> str:
    """Print one line about the part; returns its state."""
    found = record.read(work, part.name)
    assert found is not None
    steps = ", ".join(f"{stage} {done:,} of {of:,}" for stage, (done, of) in found.steps.items())
    detail = "; ".join(filter(None, (found.why, steps)))
    note = "" if ran else ", not run again"
    calls = f"{found.seconds:.0f} s in {found.calls} calls"
    print(f"{part.name}: {found.state}{note} ({calls}){': ' * bool(detail)}{detail}", flush=True)
    return found.state


if __name__ == "__main__":
    sys.exit(main())
