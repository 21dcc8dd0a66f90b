"""`edgemt site`: do the streams of two weeks, devices or centres differ?"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from edgemt.commands.console import log, write_json

if TYPE_CHECKING:
    from deploy.site_statistics.compare import SiteComparison
    from deploy.site_statistics.session_file import SessionStatistics

Group = tuple[str, "list[SessionStatistics]"]


@dataclass(frozen=True)
class Site:
    """Compare the statistics of streams between days, devices or centres, and state what changed.

    edgemt stream SHIP --statistics DIR writes them. The test is over whole sessions, as the frames of one operation
    resemble each other: with alpha 0.01, five sessions in each group are the fewest that can show a change. The exit
    status is 0 also if something changed; "changed" in --json lists what.
    """

    action: Positional[Literal["report"]]
    """report: print what changed, and write a page with the distributions."""
    folders: Positional[tuple[Path, ...]]
    """Folders with statistics. The first is compared with each of the others; one folder needs --since."""
    since: str = ""
    """YYYY-MM-DD: compare the sessions before this day with those from it on, in all folders together."""
    out: Path = Path("site.html")
    alpha: float = 0.01
    """Probability of a false alarm, over all features and groups together."""
    json: Path | None = None


def site(command: Site) -> None:
    """Print the comparison and write the page."""
    from deploy.site_statistics.compare import compare_sessions
    from deploy.site_statistics.explain import in_words, to_record, too_short_text
    from edgemt.io.atomic import write_text
    from edgemt.report.site_page import site_page

    _check_arguments(command)
    groups = _groups(command)
    first, others = groups[0], groups[1:]
    alpha = command.alpha / len(others)
    pairs: list[tuple[tuple[str, str], SiteComparison]] = []
    for other in others:
        pairs.append(((first[0], other[0]), compare_sessions(first[1], other[1], alpha=alpha)))
    write_text(command.out, site_page(pairs))
    records: list[dict[str, Any]] = []
    for names, comparison in pairs:
        if len(pairs) > 1:
            print(f"{names[0]} and {names[1]}:")
        print("\n".join((*in_words(comparison, names), *comparison.notes)))
        records.append(to_record(comparison, names) | {"changed": [one.name for one in comparison.changed]})
    if short := too_short_text([comparison for _, comparison in pairs]):
        log(short)
    write_json(command.json, {"comparisons": records})
    log(f"page: {command.out}")


def _check_arguments(command: Site) -> None:
    """Raises ValueError for arguments that cannot be compared."""
    if not 0 < command.alpha < 0.5:
        raise ValueError(f"alpha: must be between 0 and 0.5, not {command.alpha:g}")
    if command.since and not re.fullmatch(r"\d{4}-\d\d-\d\d", command.since):
        raise ValueError(f"since: {command.since!r} is no day; write it as 2026-11-30")
    if not command.since and len(command.folders) < 2:
        raise ValueError("folders: name two folders to compare, or one with --since DAY")
    if command.out.is_dir():
        raise ValueError(f"out {command.out}: is a folder; name a file")


def _groups(command: Site) -> list[Group]:
    from deploy.site_statistics.session_file import read_folder

    found = [(_name(folder, command.folders), read_folder(folder)) for folder in command.folders]
    if not command.since:
        return found
    sessions = [one for _, group in found for one in group]
    before = [one for one in sessions if one.day < command.since]
    after = [one for one in sessions if one.day >= command.since]
    if not before or not after:
        side = "before" if not before else "from"
        raise ValueError(f"since {command.since}: no session {side} that day; they are of {_span(sessions)}")
    return [(f"before {command.since}", before), (f"since {command.since}", after)]


def _name(folder: Path, folders: tuple[Path, ...]) -> str:
    """The last part of a path, or all of it where two folders share the last part."""
    names = [one.resolve().name for one in folders]
    return folder.resolve().name if names.count(folder.resolve().name) == 1 else str(folder)


def _span(sessions: list[SessionStatistics]) -> str:
    days = sorted(one.day for one in sessions)
    return days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"
