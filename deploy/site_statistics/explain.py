"""A comparison of two groups of sessions in sentences, and as a record for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deploy.site_statistics.compare import FeatureChange, SiteComparison

_ADVICE = {
    "picture": (
        "the pictures changed: look for another camera, lens, lamp, white balance or processor setting, and measure "
        "Dice on labelled frames of these days (edgemt eval --data.root DIR)"
    ),
    "mask": (
        "the masks changed while the pictures did not: look for another population of patients or another kind of "
        "procedure, and have some of these frames labelled"
    ),
    "machine": (
        "the machine changed: look for another program on it, heat, a driver or a runtime, and run edgemt bench"
    ),
}


def in_words(comparison: SiteComparison, names: tuple[str, str]) -> list[str]:
    """What changed, one sentence for each feature, then what to look for; or that nothing was found."""
    if comparison.reason:
        return [f"not tested: {comparison.reason}"]
    if not comparison.changed:
        a, b = comparison.sessions
        return [
            f"no change found between {a} sessions of {names[0]} and {b} of {names[1]} (alpha {comparison.alpha:g} for "
            f"all {len(comparison.features)} features together; small changes need more sessions)"
        ]
    lines = [
        f"{one.name} {'rose' if one.medians[1] > one.medians[0] else 'fell'} from {amount(one, 0)} to {amount(one, 1)} "
        f"({one.unit}; PSI {one.psi:.2f}, adjusted p {one.p:.4f})"
        for one in comparison.changed
    ]
    about = {one.about for one in comparison.changed}
    if "picture" in about:
        about.discard("mask")  # masks follow the pictures
    return [*lines, *(_ADVICE[name] for name in ("picture", "mask", "machine") if name in about)]


def amount(one: FeatureChange, group: int) -> str:
    """The median of a group, with the digits that its bins allow."""
    value = one.medians[group]
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def to_record(comparison: SiteComparison, names: tuple[str, str]) -> dict[str, Any]:
    """The comparison for --json."""
    return {
        "groups": list(names),
        "sessions": list(comparison.sessions),
        "too_short": list(comparison.too_short),
        "alpha": comparison.alpha,
        "not_tested": comparison.reason,
        "notes": list(comparison.notes),
        "words": in_words(comparison, names),
        "features": [_feature(one) for one in comparison.features],
    }


def _feature(one: FeatureChange) -> dict[str, Any]:
    return {
        "name": one.name,
        "about": one.about,
        "unit": one.unit,
        "changed": one.changed,
        "medians": [round(x, 6) for x in one.medians],
        "ks": round(one.ks, 4),
        "psi": round(one.psi, 4),
        "adjusted_p": round(one.p, 5),
        "sessions": list(one.sessions),
        "edges": list(one.edges),
        "shares": [[round(float(x), 6) for x in row] for row in one.shares],
    }


def too_short_text(comparisons: Sequence[SiteComparison]) -> str:
    """How many sessions were left out; empty if none was."""
    count = max((sum(one.too_short) for one in comparisons), default=0)
    return f"{count} sessions with fewer than 20 samples (ten seconds) are left out" if count else ""
