"""Which file on which runtime a device takes, where the card of a ship does not tell: timed here, once.

All candidates of the card take turns for about a second. The answer stays with this process, and goes to the cache
folder for the next ones where the machine was quiet. It changes speed alone: every file passed its gate, is checked
against the card when it is opened, and has to give the golden masks.

Shapes: H W size in pixels, K channels.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import numpy as np

from deploy.benchmark.timing import BenchOptions
from deploy.benchmark.variants import BUSY, latency_records
from deploy.hardware import machine
from deploy.package.package import Ship, card_hash, golden
from deploy.runtimes.tensorrt_engine_cache import cache_folder
from edgemt.io.atomic import write_text

QUICK = BenchOptions(warmup=4, warmup_seconds=0.3, iterations=60, seconds=0.4, rounds=3, block_ms=40, settle=1)
_decided: dict[str, Decision | None] = {}


class Decision(NamedTuple):
    runtime: str
    file: str
    asked: str | None  # precision, None for the runtime's own
    p50_ms: float
    foreign_cores: float | None  # that other processes took meanwhile


def decide(ship: Ship, *, runtime: str = "auto") -> Decision | None:
    """The quickest of the files that the card lists in `latency`, of those that work here; None when none does."""
    key = f"{card_hash(ship.card)} {runtime} {machine.describe().get('cpu', '')} {machine.physical_cores()}"
    if key not in _decided:
        _decided[key] = _noted(ship, key) or _timed(ship, key, runtime)
    return _decided[key]


def _timed(ship: Ship, key: str, runtime: str) -> Decision | None:
    from deploy.runtimes.load import runner

    calls: dict[tuple[str, str, str | None], Any] = {}
    for name, file, asked in _candidates(ship, runtime):
        try:
            calls[name, file, asked] = runner(ship, runtime=name, file=file, precision=asked, tested=False)
        except ValueError:  # not installed here, or refused
            continue
    if not calls:
        return None
    pairs = golden(ship)
    frames = [pair.frame[0] for pair in pairs] or [np.zeros((*ship.card.size, ship.card.channels), np.uint8)]
    best = latency_records(calls, frames, QUICK, tries=2)[0]
    found = Decision(best["runtime"], best["file"], best["asked"], best["p50_ms"], best["foreign_cores"])
    if (found.foreign_cores or 0.0) <= BUSY:
        _note(key, found)
    return found


def _candidates(ship: Ship, runtime: str) -> list[tuple[str, str, str | None]]:
    found = []
    for record in ship.card.latency:
        name, file, asked = str(record.get("runtime")), str(record.get("file")), record.get("asked")
        if file in ship.card.files and runtime in ("auto", name):
            found.append((name, file, asked if isinstance(asked, str) else None))
    return list(dict.fromkeys(found))


def _noted(ship: Ship, key: str) -> Decision | None:
    """What this machine decided before, if it is a candidate of this card still."""
    try:
        text = (cache_folder() / "decided.json").read_text(encoding="utf-8")
        found = Decision(*json.loads(text)[key])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if (found.runtime, found.file, found.asked) in _candidates(ship, "auto") else None


def _note(key: str, found: Decision) -> None:
    try:
        path = cache_folder() / "decided.json"
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            known = {}
        latest = dict(list(known.items())[-63:]) if isinstance(known, dict) else {}
        write_text(path, json.dumps({**latest, key: list(found)}, indent=1) + "\n")
    except (OSError, ValueError):  # without a place for it, the next process decides again
        return
