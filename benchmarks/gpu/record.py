"""The record of a part: WORK/records/PART.json, with its state, what it measured, and on which device."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from edgemt.io.atomic import make_folder, write_text

FORMAT = 1
DONE, CUT, FAILED = 0, 3, 1  # exit status of a part
DRY_FOLDER = "dry"  # of WORK: what a dry run writes is never where the table of a real run reads
VERSIONS = ("torch", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx-cu13-bindings", "openvino", "numpy")


@dataclass
class Record:
    """What is known of one part. `rows` are the cells of the table."""

    part: str
    dry: bool
    state: Literal["done", "cut", "failed"] = "failed"
    why: str = ""  # one line, of a part that failed or was cut
    date: str = ""  # when it ended, UTC
    calls: int = 0
    seconds: float = 0.0  # of all calls
    device: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    steps: dict[str, list[int]] = field(default_factory=dict)  # stage -> [steps done, steps in all]
    rows: list[dict[str, Any]] = field(default_factory=list)  # each: what, value, unit, note
    facts: dict[str, Any] = field(default_factory=dict)  # whatever else the part keeps
    format: int = FORMAT

    def row(self, what: str, value: float | str | None, unit: str = "", note: str = "") -> None:
        """Add a row, or replace the one of the same name."""
        self.rows = [row for row in self.rows if row["what"] != what]
        self.rows.append({"what": what, "value": value, "unit": unit, "note": note})


def options(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options that every part has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", required=True, help="name of the record that is written")
    parser.add_argument("--work", type=Path, required=True, help="folder of records, runs and engines")
    parser.add_argument("--data", type=Path, default=None, help="folder with acdc/ and la2018/")
    parser.add_argument("--dry", action="store_true", help="toy size on the processor: only to find errors")
    return parser


def folder_of(work: Path, *, dry: bool) -> Path:
    """WORK, or WORK/dry for a dry run."""
    return work / DRY_FOLDER if dry else work


def file_of(work: Path, part: str) -> Path:
    """The record of a part in `folder_of(...)`."""
    return work / "records" / f"{part}.json"


def read(work: Path, part: str) -> Record | None:
    """The record, or None where there is none. Raises ValueError, naming the file, for one that cannot be read."""
    file = file_of(work, part)
    if not file.exists():
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if found["format"] != FORMAT:
            raise ValueError(f"format {found['format']}, this version reads {FORMAT}")
        return Record(**found)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file}: not a readable record ({error}); delete it to run the part again") from None


def write(work: Path, record: Record) -> None:
    """Write the record atomically."""
    make_folder(file_of(work, record.part).parent)
    write_text(file_of(work, record.part), json.dumps(asdict(record), indent=1) + "\n")


@contextmanager
def recorded(given: argparse.Namespace) -> Iterator[tuple[Record, Path]]:
    """(record, folder) of the part that runs in this block; the record is written however the block ends.

    SIGTERM and Ctrl-C make the state "cut"; an error makes it "failed". Ends with SystemExit: 0, 3 or 1.
    """
    work = make_folder(folder_of(given.work, dry=given.dry).resolve())
    before = read(work, given.part)
    same = before is not None and before.state != "done"
    record = before if before is not None and same else Record(given.part, given.dry)
    record.state, record.why, record.calls = "failed", "", record.calls + 1
    if given.dry:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch is imported
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    began, earlier, status = time.monotonic(), record.seconds, FAILED
    try:
        yield record, work
        record.state, status = "done", DONE
    except KeyboardInterrupt:
        record.state, record.why, status = "cut", "the budget of seconds was used up", CUT
    except Exception as error:
        record.why = f"{'' if isinstance(error, ValueError) else type(error).__name__ + ': '}{first_line(error)}"
        traceback.print_exc()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the record is written whole
        record.seconds = round(earlier + time.monotonic() - began, 1)
        record.date = now()
        record.device, record.versions = device_name(), versions()
        write(work, record)
    raise SystemExit(status)


def now() -> str:
    """The time in UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def first_line(error: BaseException) -> str:
    """The text of an error in one line of at most 200 characters."""
    return (" ".join(str(error).split()) or type(error).__name__)[:200]


def versions() -> dict[str, str]:
    """Installed versions of the packages that a time depends on."""
    from deploy.hardware.machine import version

    return {name: found for name in VERSIONS if (found := version(name))}


def device_name() -> str:
    """The GPU of this process, or its processor; torch is not imported for it."""
    from deploy.hardware.machine import describe
    from deploy.runtimes.cuda_driver import gpu

    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    found = gpu()
    return found.name if found is not None else str(describe()["cpu"])
