"""What a sender offers in its association and this service does not take, in words."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

_NO_SYNTAX = 4  # result of a presentation context: its transfer syntaxes are not supported


@dataclass(frozen=True)
class Refused:
    """What is not taken of an offer.

    `others`: the number of kinds of objects that are no images. Lines on images in transfer syntaxes that are not read:
    `unread` of kinds that are not taken at all, `partly` of kinds that are taken in another syntax.
    """

    others: int
    unread: tuple[str, ...]
    partly: tuple[str, ...]


def refused_offers(association: Any) -> Refused:
    """Many senders offer everything that they could send, so each kind of reason is one line."""
    taken = {context.abstract_syntax for context in association.accepted_contexts}
    others, unread, partly = set[str](), dict[str, set[str]](), dict[str, set[str]]()
    for context in association.rejected_contexts:
        if context.result != _NO_SYNTAX:
            others.add(context.abstract_syntax)
            continue
        names = ", ".join(shown_name(syntax) for syntax in context.transfer_syntax[:3])
        kinds = partly if context.abstract_syntax in taken else unread
        kinds.setdefault(names, set()).add(shown_name(context.abstract_syntax))
    return Refused(len(others), _lines(unread), _lines(partly))


def _lines(kinds: dict[str, set[str]]) -> tuple[str, ...]:
    return tuple(
        f"{next(iter(named)) if len(named) == 1 else f'{len(named)} kinds of images'} in {syntaxes}, for which no "
        "decoder is installed"
        for syntaxes, named in kinds.items()
    )


def shown_name(uid: Any) -> str:
    """The name of a SOP class or transfer syntax that the standard has; "a private one" for others."""
    name = str(getattr(uid, "name", uid))
    return "a private one" if re.fullmatch(r"[\d.]+", name) else name
