"""The policy of a device: a file of the administrator that no environment variable and no argument lifts.

`/etc/edgemt/policy.json`, for example:

    {"signed_only": true, "trusted_key": "/etc/edgemt/maker.pub.pem", "state": "/var/lib/edgemt"}

With `signed_only`, every ship must be signed by a key of that file, whatever EDGEMT_TRUSTED_KEY or `trusted` is.
"""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from edgemt.io.plain_files import TEXT_LIMIT, read_regular

POLICY = Path("/etc/edgemt/policy.json" if os.name == "posix" else "C:/ProgramData/edgemt/policy.json")
_FIELDS = {"signed_only": bool, "trusted_key": str, "state": str}


@dataclass(frozen=True)
class Policy:
    """`trusted_key`: PEM file of the public keys, empty unless `signed_only`. `state`: folder of the version record."""

    trusted_key: str = ""
    state: str = ""


def read_policy(path: Path | None = None) -> Policy:
    """The policy of this device; an empty one where there is no file.

    Raises ValueError, so that nothing opens, for a file that is damaged or that others than its owner may change.
    """
    path = path or POLICY
    try:
        text = read_regular(path, limit=TEXT_LIMIT).decode("utf-8")
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return Policy()
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise ValueError(
            f"{path}: the policy of this device cannot be read ({error}); its administrator must mend it"
        ) from None
    if os.name == "posix" and (status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or status.st_uid not in (0, os.getuid())):
        raise ValueError(f"{path}: others may change this policy; chown root and chmod 644 it")
    return _parse(path, text)


def _parse(path: Path, text: str) -> Policy:
    try:
        raw = json.loads(text)
        if not isinstance(raw, dict):
            raise ValueError("no object")
        for name, value in raw.items():
            if name not in _FIELDS or not isinstance(value, _FIELDS[name]):
                raise ValueError(f"{name!r}: {value!r}; the fields are {', '.join(_FIELDS)}")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: no policy ({error}); mend it as administrator") from None
    key, state = raw.get("trusted_key", ""), raw.get("state", "")
    if raw.get("signed_only") and not key:
        raise ValueError(f"{path}: signed_only needs trusted_key, the PEM file of the public keys")
    return Policy(key if raw.get("signed_only") else "", state)
