"""Engine files and their keys: an engine is loaded only on the machine it was built for, and only if it is unchanged.

    CACHE/tensorrt/model.int8.3f2a...c1.engine   the serialised engine
    CACHE/tensorrt/model.int8.3f2a...c1.json     its key, its sha256, how it was built, a MAC (`cache_seal`)

An engine holds code for one GPU. Engines are stored in the cache folder of the user and not in the package: the card
lists no file that was built after it was written, and a package may be read-only or copied to another machine.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from deploy.runtimes.cache_seal import genuine, key_file, mac, private_folder
from deploy.runtimes.cuda_driver import Gpu
from edgemt.io.atomic import sha256, write_bytes, write_text
from edgemt.io.plain_files import TEXT_LIMIT, parse_json, read_regular

FORMAT = 1
_RECORD = "engine record"
SUFFIX = ".engine"


class EngineNotBuiltError(ValueError):
    """No engine that fits this machine has been built yet."""


@dataclass(frozen=True)
class EngineKey:
    """Everything that must be the same as when the engine was built."""

    onnx_sha256: str
    runtime: str  # tensorrt or tensorrt_rtx
    version: str  # of that runtime
    gpu: str | None = None  # None: built to run on more than one kind of GPU
    capability: str | None = None
    driver: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def here(
        cls, *, onnx_sha256: str, runtime: str, version: str, gpu: Gpu | None, options: Mapping[str, Any]
    ) -> EngineKey:
        """The key for this machine. `gpu` None: for every GPU that the runtime can build for ahead of time."""
        key = cls(onnx_sha256, runtime, version, options=dict(options))
        return key if gpu is None else replace(key, gpu=gpu.name, capability=gpu.capability, driver=gpu.driver)

    def digest(self) -> str:
        """16 hexadecimal digits of the SHA-256 of the key, for the file name."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    def mismatch(self, here: EngineKey) -> str | None:
        """Why an engine with this key does not run on machine `here`; None where it runs.

        An empty `onnx_sha256` of `here` matches every graph.
        """
        if here.onnx_sha256 and self.onnx_sha256 != here.onnx_sha256:
            return "it was built from another ONNX file"
        for name in ("runtime", "version", "gpu", "capability", "driver"):
            was, now = getattr(self, name), getattr(here, name)
            if was is None and name in ("gpu", "capability", "driver"):
                continue
            if was != now:
                return f"it was built for {name} {was!r}, here is {now!r}"
        return None


@dataclass(frozen=True)
class Engine:
    """An engine file with its key and its record."""

    path: Path
    key: EngineKey
    record: dict[str, Any]

    def read(self) -> bytes:
        """The bytes of the engine. Raises ValueError for a file that changed since it was written."""
        try:
            data = read_regular(self.path)
        except OSError as error:
            raise ValueError(f"{self.path}: cannot be read ({error.strerror}); build it again") from None
        wanted = self.record["bytes"]
        if len(data) != wanted:
            raise ValueError(f"{self.path}: holds {len(data)} bytes of {wanted}; it is cut short, build it again")
        if hashlib.sha256(data).hexdigest() != self.record["engine_sha256"]:
            raise ValueError(f"{self.path}: changed since it was built (sha256 differs); build it again")
        return data


def cache_folder() -> Path:
    """$EDGEMT_CACHE, else edgemt in the user's cache folder. Raises ValueError where there is no home folder."""
    if os.environ.get("EDGEMT_CACHE"):
        return Path(os.environ["EDGEMT_CACHE"])
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgemt"
    except RuntimeError:
        raise ValueError("no home folder here for the cache; set EDGEMT_CACHE to a folder of your own") from None


def write_engine(folder: Path, source: Path, *, key: EngineKey, data: bytes, facts: Mapping[str, Any]) -> Engine:
    """Write the engine, then its JSON record: an engine without one is never loaded. `facts` go into the record."""
    path = private_folder(folder) / f"{source.stem}.{key.digest()}{SUFFIX}"
    record = {
        "format": FORMAT,
        "key": asdict(key),
        "source": source.name,
        "engine_sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **facts,
    }
    record["mac"] = mac(_RECORD, _canonical(record)).hex()
    path.with_suffix(".json").unlink(missing_ok=True)
    write_bytes(path, data)
    write_text(path.with_suffix(".json"), json.dumps(record, indent=1) + "\n")
    return Engine(path, key, record)


def open_engine(path: Path, here: EngineKey) -> Engine:
    """One named engine file. Raises ValueError, one line, unless it was built for `here`."""
    engine = _described(path)
    why = engine.key.mismatch(here)
    if why is not None:
        raise ValueError(f"{path}: does not run here: {why}; build it again with `edgemt build SHIP`")
    return engine


def find_engine(folder: Path, source: Path, here: EngineKey) -> Engine:
    """The newest engine built from `source` for `here`. Raises EngineNotBuiltError, with the command to run."""
    here = replace(here, onnx_sha256=here.onnx_sha256 or sha256(source))
    reasons, fitting, refused = [], [], []
    if folder.is_dir():
        private_folder(folder)
    for path in sorted(folder.glob(f"{source.stem}.*{SUFFIX}")) if folder.is_dir() else []:
        try:
            engine = _described(path)
        except ValueError as error:
            refused.append(str(error))
            continue
        if engine.key.onnx_sha256 != here.onnx_sha256 or engine.key.runtime != here.runtime:
            continue
        why = engine.key.mismatch(here)
        if why is None and all(engine.key.options.get(name) == value for name, value in here.options.items()):
            fitting.append(engine)
        else:
            reasons.append(why or f"it was built with {dict(engine.key.options)}")
    if fitting:  # an engine for exactly this GPU before a portable one
        return max(fitting, key=lambda engine: (engine.key.gpu is not None, engine.record["created"]))
    command = f"edgemt build {source.parent} --runtime {here.runtime}"
    if reasons:
        raise EngineNotBuiltError(f"{source}: its engine does not run here: {reasons[-1]}; run: {command}")
    if refused:
        raise EngineNotBuiltError(f"{source}: its engine is not used: {refused[-1]}; run: {command}")
    raise EngineNotBuiltError(f"{source}: no engine in {folder}; engines are built on the device, run: {command}")


def _canonical(record: Mapping[str, Any]) -> bytes:
    return json.dumps({name: value for name, value in record.items() if name != "mac"}, sort_keys=True).encode()


def _unhexed(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""


def _described(path: Path) -> Engine:
    record_file = path.with_suffix(".json")
    try:
        record = parse_json(read_regular(record_file, limit=TEXT_LIMIT).decode("utf-8"))
        if record["format"] != FORMAT:
            raise ValueError(f"format {record['format']!r}, this version reads {FORMAT}")
        key = EngineKey(**record["key"])
        if not isinstance(record["bytes"], int) or not isinstance(record["engine_sha256"], str):
            raise TypeError("bytes or engine_sha256 has the wrong type")
    except FileNotFoundError:
        raise ValueError(f"{path}: its record {record_file.name} is missing; build it again") from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{record_file}: not a readable engine record ({error}); build it again") from None
    seal = record.get("mac")
    if not isinstance(seal, str) or not genuine(_RECORD, _canonical(record), _unhexed(seal)):
        raise ValueError(
            f"{record_file}: was not written with this user's key ({key_file()}); build it again, or copy that key "
            "from the machine that built it"
        )
    return Engine(path, key, record)
