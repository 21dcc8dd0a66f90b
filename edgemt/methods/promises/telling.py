"""Promises about what a method says of itself."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

from edgemt.methods.method import Method
from edgemt.methods.promises.kept import must
from edgemt.roles import Ema, Trainable


def check_it_is_a_value(method: Method) -> None:
    """A frozen dataclass of plain fields: it compares, prints, and can be written into recipe.json."""
    settings = getattr(type(method), "__dataclass_params__", None)
    must(isinstance(method, Method), f"{type(method).__name__} is no edgemt.Method")
    must(settings is not None and settings.frozen, f"{type(method).__name__} is no frozen dataclass")
    must(replace(method) == method, "a copy of it is not equal to it")
    must(bool(json.dumps(asdict(method))), "its fields cannot be written as JSON")


def check_it_says_what_it_is(method: Method) -> None:
    """A docstring of its own and a citation, and it delivers a player that learns or an average of one."""
    must(bool((type(method).__doc__ or "").strip()), "it has no docstring")
    must(bool(method.citation.strip()), "it has no citation")
    role = method.roles().get(method.delivers)
    must(role is not None, f"it delivers {method.delivers!r}, who does not play")
    must(isinstance(role, Trainable | Ema), f"{method.delivers} is delivered, but nothing is learnt there")
