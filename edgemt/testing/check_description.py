"""Promises about what a method says of itself."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

from torch import Tensor

from edgemt.contract import HEADS
from edgemt.learning.method import LossTerms, Method
from edgemt.learning.roles import Ema, Trainable, trainable
from edgemt.testing.require import MethodCheckError, must
from edgemt.testing.tiny_training import TinyTrainer, batch_of


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


def check_its_turns_are_players_and_losses(method: Method, *, dims: int = 2, classes: int = 2) -> None:
    """A step can be made at all, and what it yields is what an engine takes."""
    unknown = [head for head in method.heads if head not in HEADS]
    must(not unknown, f"heads: {', '.join(unknown)} is not known; use {', '.join(HEADS)}")
    stage = TinyTrainer(method, dims=dims, classes=classes)
    learning = trainable(stage.roles)
    try:
        turns = list(stage.turns(batch_of(dims=dims, classes=classes)))
    except (AttributeError, TypeError) as error:
        if "NoneType" not in str(error):
            raise
        named = ", ".join(method.heads) or "none"
        raise MethodCheckError(f"{error}; an output that heads does not name is None, and it names {named}") from error
    must(bool(turns), "a step yields nothing")
    for turn in turns:
        pair = isinstance(turn, tuple) and len(turn) == 2 and isinstance(turn[0], tuple)
        must(pair, 'a step yields no pair of players and losses, such as ("student",), LossTerms(supervised=...)')
        who, terms = turn
        must(bool(who) and set(who) <= set(learning), f"{who} cannot all learn; {', '.join(learning)} can")
        kind = type(terms).__name__
        must(isinstance(terms, LossTerms), f"its losses are a {kind}; give edgemt.methods.LossTerms(supervised=...)")
        for name, term in terms.items():
            must(isinstance(term, Tensor) and term.ndim == 0, f"{name}: is no tensor of a single number")
