"""Error text for an unknown name, with the closest known one."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def unknown_name_message(what: str, name: str, known: Iterable[str]) -> str:
    """`unknown recipe 'phantm'; nearest: phantom (of phantom, kvasir, ...)`."""
    names = sorted(known)
    near = get_close_matches(name, names, n=1, cutoff=0.0)
    hint = f"; nearest: {near[0]}" if near else ""
    shown = ", ".join(names) if len(names) <= 12 else f"{len(names)} names"
    return f"unknown {what} {name!r}{hint} (of {shown})"
