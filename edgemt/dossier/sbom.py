"""A bill of materials in CycloneDX 1.6 JSON: the files of a ship and the Python environment of this device.

Format: https://cyclonedx.org/docs/1.6/json. Package URLs: https://github.com/package-url/purl-spec.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import uuid
from collections.abc import Iterable
from datetime import datetime, timezone
from importlib import metadata
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from deploy.package.files import CARD
from deploy.package.package import Package
from deploy.package.signing import SIGNATURE
from edgemt import __version__
from edgemt.io.plain_files import read_regular

EPOCH = "SOURCE_DATE_EPOCH"  # seconds since 1970: with it the file is the same, byte for byte, at every run
_SHIP, _PYTHON, _SYSTEM = "ship", "python", "operating-system"
_REQUIREMENT = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)")
_EXTRA = re.compile(r"\bextra\s*==")
_SPDX = {  # classifiers that name one licence
    "License :: OSI Approved :: MIT License": "MIT",
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
    "License :: OSI Approved :: Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "License :: OSI Approved :: ISC License (ISCL)": "ISC",
    "License :: OSI Approved :: The Unlicense (Unlicense)": "Unlicense",
}
_LICENCE_LENGTH = 120  # of a licence in words; some packages put its whole text there


def make_sbom(package: Package, *, distributions: Iterable[metadata.Distribution] | None = None) -> dict[str, Any]:
    """The bill of materials of a verified ship on this device. `distributions`: by default the installed ones.

    With SOURCE_DATE_EPOCH the time is that one and the serial number follows from the content. Raises ValueError if the
    variable is no number.
    """
    files = _files(package)
    libraries, edges = _libraries(metadata.distributions() if distributions is None else distributions)
    own = [edge["ref"] for edge in edges if edge["ref"].startswith("pkg:pypi/edgemt@")]
    body: dict[str, Any] = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "lifecycles": [{"phase": "operations"}],
            "tools": {"components": [{"type": "application", "name": "edgemt", "version": __version__}]},
            "component": _ship(package),
        },
        "components": [*files, *libraries, *_platform()],
        "dependencies": [
            {"ref": _SHIP, "dependsOn": [*(file["bom-ref"] for file in files), *own]},
            *edges,
            {"ref": _PYTHON, "dependsOn": [_SYSTEM]},
        ],
    }
    seconds = os.environ.get(EPOCH, "")
    if seconds and not re.fullmatch(r"\d{1,11}", seconds):
        raise ValueError(f"{EPOCH}: {seconds!r} is no number of seconds; unset it, or give one such as 1764374400")
    made = datetime.fromtimestamp(int(seconds), timezone.utc) if seconds else datetime.now(timezone.utc)
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    serial = uuid.uuid5(uuid.NAMESPACE_OID, digest + seconds) if seconds else uuid.uuid4()
    body["metadata"]["timestamp"] = made.isoformat(timespec="seconds")
    return {**body, "serialNumber": f"urn:uuid:{serial}"}


def _ship(package: Package) -> dict[str, Any]:
    card = package.card
    properties = {
        "edgemt:classes": ", ".join(card.classes),
        "edgemt:input": f"{card.size[0]} x {card.size[1]} x {card.channels}",
        "edgemt:expires": card.expires,
        "edgemt:parents": ", ".join(card.parents),
    }
    weights = card.network.get("encoder_weights")
    if isinstance(weights, dict):
        properties |= {f"edgemt:encoder_weights.{key}": str(value) for key, value in sorted(weights.items())}
    record: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": _SHIP,
        "name": card.name or "ship",
        "hashes": [_sha256(read_regular(package.folder / CARD))],
        "properties": [{"name": name, "value": value} for name, value in properties.items() if value],
    }
    return record | ({"version": str(card.version)} if card.version else {})


def _files(package: Package) -> list[dict[str, Any]]:
    """The files of the ship, with the hashes that were verified when it was opened."""
    found = []
    for name, digest in sorted(package.card.files.items()):
        found.append(_file(name, {"alg": "SHA-256", "content": digest}))
    for name in (CARD, SIGNATURE):
        if (package.folder / name).is_file():
            found.append(_file(name, _sha256(read_regular(package.folder / name))))
    return found


def _file(name: str, digest: dict[str, str]) -> dict[str, Any]:
    kinds = {".onnx": "application/onnx", ".json": "application/json", ".png": "image/png", ".xml": "application/xml"}
    mime = kinds.get(PurePosixPath(name).suffix)
    record = {"type": "file", "bom-ref": f"file:{name}", "name": name, "hashes": [digest]}
    return record | ({"mime-type": mime} if mime else {})


def _sha256(data: bytes) -> dict[str, str]:
    return {"alg": "SHA-256", "content": hashlib.sha256(data).hexdigest()}


def _libraries(distributions: Iterable[metadata.Distribution]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Components and dependency edges of distributions, each name once: the first on the path is the one in use."""
    by_name: dict[str, metadata.Distribution] = {}
    for found in distributions:
        if name := _field(found, "Name"):
            by_name.setdefault(_normalised(name), found)
    refs = {name: f"pkg:pypi/{quote(name)}@{quote(found.version)}" for name, found in by_name.items()}
    components = [_library(refs[name], by_name[name]) for name in sorted(by_name)]
    edges = []
    for name in sorted(by_name):
        required = {_normalised(each) for each in _required(by_name[name])}
        edges.append({"ref": refs[name], "dependsOn": sorted(refs[each] for each in required - {name} if each in refs)})
    return components, edges


def _library(ref: str, found: metadata.Distribution) -> dict[str, Any]:
    record: dict[str, Any] = {
        "type": "library", "bom-ref": ref, "name": _field(found, "Name"), "version": found.version, "purl": ref,
    }  # fmt: skip
    licences = _licences(found)
    return record | ({"licenses": licences} if licences else {})


def _licences(found: metadata.Distribution) -> list[dict[str, Any]]:
    """As the distribution declares it: an SPDX expression, an SPDX id, or words; empty if it declares nothing."""
    if expression := _field(found, "License-Expression"):
        return [{"expression": expression}]
    classifiers = [c for c in found.metadata.get_all("Classifier") or [] if c.startswith("License ::")]
    if len(classifiers) == 1 and classifiers[0] in _SPDX:
        return [{"license": {"id": _SPDX[classifiers[0]]}}]
    names = [classifier.rpartition(" :: ")[2] for classifier in classifiers]
    if not names:
        lines = _field(found, "License").strip().splitlines()
        names = [lines[0][:_LICENCE_LENGTH]] if lines and lines[0] != "UNKNOWN" else []
    return [{"license": {"name": name}} for name in dict.fromkeys(names)]


def _field(found: metadata.Distribution, name: str) -> str:
    """A field of the metadata; empty where it is missing."""
    return str((found.metadata.get_all(name) or [""])[0])


def _required(found: metadata.Distribution) -> list[str]:
    """Names that a distribution requires without an extra.

    Other markers are not evaluated: of what they name, only what is installed becomes an edge.
    """
    lines = [line for line in found.requires or [] if not _EXTRA.search(line.partition(";")[2])]
    return [match[1] for line in lines if (match := _REQUIREMENT.match(line.strip()))]


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _platform() -> list[dict[str, Any]]:
    return [
        {
            "type": "platform",
            "bom-ref": _PYTHON,
            "name": platform.python_implementation(),
            "version": platform.python_version(),
        },
        {
            "type": "operating-system",
            "bom-ref": _SYSTEM,
            "name": platform.system() or "unknown",
            "version": f"{platform.release()} {platform.machine()}".strip(),
        },
    ]
