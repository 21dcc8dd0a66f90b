"""A stable name of this device for the event log that does not reveal the machine's own identifier."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

_MACHINE_IDS = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))
_APPLICATION = b"edgemt event log"


def device_id() -> str:
    """12 hexadecimal digits; empty without a machine id of the system. Clones of one disk image have the same."""
    for path in _MACHINE_IDS:
        try:
            machine = path.read_text(encoding="ascii", errors="replace").strip()
        except OSError:
            continue
        if machine:
            return hmac.new(machine.encode(), _APPLICATION, hashlib.sha256).hexdigest()[:12]
    return ""
