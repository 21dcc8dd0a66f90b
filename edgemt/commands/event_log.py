"""`edgemt log`: check the event log of a device."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from edgemt.commands.console import log, write_json


@dataclass(frozen=True)
class Log:
    """Check the event log that edgemt stream --log wrote: is the chain whole, what ran, and when.

    Exit status 2 where a line was changed, removed or inserted. A clock that was set, a session without an end and a
    line cut short by a power cut are warnings.
    """

    action: Positional[Literal["verify"]]
    """verify: follow the chain from the first line to the last."""
    file: Positional[Path]
    head: str = ""
    """A hash that edgemt stream printed at its end and that you noted: the log must contain this event. Without it, a
    log that was written anew as a whole, or cut at the end, is not noticed."""
    json: Path | None = None


def check_log(command: Log) -> None:
    """Print what the log holds; raises ValueError for one that was changed."""
    from deploy.event_log.verify import verify_log

    check = verify_log(command.file, head=command.head)
    write_json(command.json, asdict(check))
    for line in check.warnings:
        log(f"warning: {command.file}: {line}")
    if check.error:
        raise ValueError(f"log {command.file}: {check.error}; {check.events} events before it are as they were written")
    counts = ", ".join(f"{count} {name}" for name, count in sorted(check.counts.items()))
    print(
        f"{command.file}: {check.events} events of {check.sessions} sessions, {check.first_time} to {check.last_time}"
    )
    print(f"events: {counts}")
    for name, values in (("devices", check.devices), ("models", check.models)):
        print(f"{name}: {', '.join(values) or 'none named'}")
    print(f"head: {check.head}")
    if not command.head:
        log("the chain is whole; compare the head with one that you noted to rule out a log written anew")
