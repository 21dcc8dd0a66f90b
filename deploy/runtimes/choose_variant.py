"""Which file of a package, on which runtime, is the quickest on this machine: measured here, once.

It is measured where the card of the package leaves it undecided: all variants of the card are timed alternately for
about a second. The result is cached in this process, and in the cache folder for later processes where the machine was
quiet. It affects speed only: every file passed its accuracy gate, is checked against the card when it is opened, and
has to reproduce the golden masks.

Shapes: H W size in pixels, K channels.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from deploy.hardware import machine
from deploy.measurement.timing import BenchOptions
from deploy.measurement.variants import BUSY, latency_records
from deploy.package.golden import golden_pairs
from deploy.package.package import Package, card_hash
from deploy.runtimes.tensorrt_engine_cache import cache_folder
from edgemt.io.atomic import write_text

QUICK = BenchOptions(warmup=4, warmup_seconds=0.3, iterations=60, seconds=0.4, rounds=3, block_ms=40, settle=1)
_FILE, _MOST = "decided.json", 64  # name in the cache folder, entries in it
_chosen: dict[str, FastestVariant | None] = {}


class FastestVariant(NamedTuple):
    """The file, runtime and precision that were measured as the quickest, with the median time of a call."""

    runtime: str
    file: str
    precision: str | None  # to request from the runtime; None for its default
    p50_ms: float
    foreign_cores: float | None  # that other processes used during the measurement


def fastest_here(package: Package, *, runtime: str = "auto", load: Callable[..., Any]) -> FastestVariant | None:
    """The quickest of the variants that the card lists in `latency`; None where none of them works here.

    load(package, runtime=, file=, precision=, tested=False) -> runner; it raises ValueError for a variant that does not
    run here.
    """
    key = f"{card_hash(package.card)} {runtime} {machine.describe().get('cpu', '')} {machine.physical_cores()}"
    if key not in _chosen:
        _chosen[key] = _stored(package, key) or _measured(package, key, runtime, load)
    return _chosen[key]


def _measured(package: Package, key: str, runtime: str, load: Callable[..., Any]) -> FastestVariant | None:
    calls: dict[tuple[str, str, str | None], Any] = {}
    for name, file, precision in _variants(package, runtime):
        try:
            calls[name, file, precision] = load(package, runtime=name, file=file, precision=precision, tested=False)
        except ValueError:  # not installed here, or refused
            continue
    if not calls:
        return None
    pairs = golden_pairs(package)
    frames = [pair.frame[0] for pair in pairs] or [np.zeros((*package.card.size, package.card.channels), np.uint8)]
    best = latency_records(calls, frames, QUICK, tries=2)[0]
    variant = FastestVariant(best["runtime"], best["file"], best["asked"], best["p50_ms"], best["foreign_cores"])
    if (variant.foreign_cores or 0.0) <= BUSY:
        _store(key, variant)
    return variant


def _variants(package: Package, runtime: str) -> list[tuple[str, str, str | None]]:
    """(runtime, file, precision) of each latency record of the card."""
    variants = []
    for record in package.card.latency:
        name, file, precision = str(record.get("runtime")), str(record.get("file")), record.get("asked")
        if file in package.card.files and runtime in ("auto", name):
            variants.append((name, file, precision if isinstance(precision, str) else None))
    return list(dict.fromkeys(variants))


def _stored(package: Package, key: str) -> FastestVariant | None:
    """What this machine measured before, if the card still lists that variant."""
    try:
        text = (cache_folder() / _FILE).read_text(encoding="utf-8")
        variant = FastestVariant(*json.loads(text)[key])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return variant if (variant.runtime, variant.file, variant.precision) in _variants(package, "auto") else None


def _store(key: str, variant: FastestVariant) -> None:
    try:
        path = cache_folder() / _FILE
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            stored = {}
        latest = dict(list(stored.items())[1 - _MOST :]) if isinstance(stored, dict) else {}
        write_text(path, json.dumps({**latest, key: list(variant)}, indent=1) + "\n")
    except (OSError, ValueError):  # without a writable folder the next process measures again
        return
