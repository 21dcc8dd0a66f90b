"""A finding of the data report: one line with a file and a remedy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class Example:
    """A file with what was found in it; `image`, `mask` and `slice` name what the page draws, where it draws."""

    file: str
    detail: str = ""
    image: str = ""
    mask: str = ""
    slice: int | None = None
    other: str = ""  # a second image that is drawn beside the first
    axes: str = ""
    prediction: np.ndarray | None = field(default=None, repr=False, compare=False)  # classes [H, W] of a teacher


@dataclass(frozen=True)
class Finding:
    """`kind` is a stable key. An error stops a training or spoils its figures; a warning needs a look."""

    kind: str
    severity: Severity
    text: str  # without the first file
    remedy: str
    examples: tuple[Example, ...] = ()

    @property
    def line(self) -> str:
        """`2 images cannot be read, first a.png: cut short; replace them`."""
        if not self.examples:
            return f"{self.text}; {self.remedy}"
        first = self.examples[0]
        detail = f": {first.detail}" if first.detail else ""
        name = f" {first.file}" if len(self.examples) == 1 else f", first {first.file}"
        return f"{self.text}{name}{detail}; {self.remedy}"

    def to_json(self) -> dict[str, Any]:
        """Plain values; every file, not only the first."""
        return {
            "kind": self.kind,
            "severity": self.severity,
            "line": self.line,
            "count": len(self.examples),
            "files": [{"file": e.file, "detail": e.detail, "slice": e.slice} for e in self.examples],
        }


def finding(
    kind: str, severity: Severity, examples: Sequence[Example], *, one: str, several: str, remedy: str
) -> list[Finding]:
    """A finding of all `examples`, or none; `several` has a place {n} for their number."""
    if not examples:
        return []
    text = one if len(examples) == 1 else several.format(n=len(examples))
    return [Finding(kind, severity, text, remedy, tuple(examples))]


def below(findings: Sequence[Finding], root: str) -> list[Finding]:
    """The same with the names of files below `root`."""
    start = root.rstrip("/") + "/"

    def short(text: str) -> str:
        return text.replace(start, "")

    return [replace(f, text=short(f.text), examples=tuple(_shortened(e, short) for e in f.examples)) for f in findings]


def _shortened(one: Example, short: Callable[[str], str]) -> Example:
    return replace(one, file=short(one.file), detail=short(one.detail))


def ordered(findings: Sequence[Finding]) -> list[Finding]:
    """Errors first, then warnings, then notes; otherwise in the given order."""
    return sorted(findings, key=lambda f: SEVERITIES.index(f.severity))
