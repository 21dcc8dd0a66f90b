"""Checks of a method as a value: dataclass, docstring, citation, and what one step yields."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

from torch import Tensor

from edgemt.contract import HEADS
from edgemt.learning.ema import Ema
from edgemt.learning.method import LossTerms, Method
from edgemt.learning.roles import Trainable, trainable_names
from edgemt.testing.require import MethodCheckError, require
from edgemt.testing.tiny_training import TinyTrainer, random_batch


def check_frozen_dataclass(method: Method) -> None:
    """A frozen dataclass of plain fields: it compares, prints, and can be written into recipe.json."""
    settings = getattr(type(method), "__dataclass_params__", None)
    require(isinstance(method, Method), f"{type(method).__name__} is no edgemt.Method")
    require(settings is not None and settings.frozen, f"{type(method).__name__} is no frozen dataclass")
    require(replace(method) == method, "a copy of it is not equal to it")
    require(bool(json.dumps(asdict(method))), "its fields cannot be written as JSON")


def check_docstring_and_citation(method: Method) -> None:
    """It has a docstring and a citation, and delivers a network that is trained, or an average of one."""
    require(bool((type(method).__doc__ or "").strip()), "it has no docstring")
    require(bool(method.citation.strip()), "it has no citation")
    role = method.roles().get(method.delivers)
    require(role is not None, f"delivers names {method.delivers!r}, and roles() has no such player")
    require(isinstance(role, Trainable | Ema), f"delivers names {method.delivers!r}, which is not trained")


def check_step_output(method: Method, *, dims: int = 2, classes: int = 2) -> None:
    """One step runs, and yields pairs of trainable names and LossTerms of scalars."""
    unknown = [head for head in method.heads if head not in HEADS]
    require(not unknown, f"heads: {', '.join(unknown)} is not known; use {', '.join(HEADS)}")
    trainer = TinyTrainer(method, dims=dims, classes=classes)
    allowed = trainable_names(trainer.roles)
    try:
        optimiser_steps = list(trainer.optimiser_steps(random_batch(dims=dims, classes=classes)))
    except (AttributeError, TypeError) as error:
        if "NoneType" not in str(error):
            raise
        named = ", ".join(method.heads) or "none"
        raise MethodCheckError(f"{error}; an output that heads does not name is None, and it names {named}") from error
    require(bool(optimiser_steps), "a step yields nothing")
    for one in optimiser_steps:
        pair = isinstance(one, tuple) and len(one) == 2 and isinstance(one[0], tuple)
        require(pair, 'a step yields no pair of players and losses, such as ("student",), LossTerms(supervised=...)')
        names, terms = one
        trains = bool(names) and set(names) <= set(allowed)
        require(trains, f"{names} cannot all learn; {', '.join(allowed)} can")
        kind = type(terms).__name__
        require(isinstance(terms, LossTerms), f"its losses are a {kind}; give edgemt.methods.LossTerms(supervised=...)")
        for name, term in terms.items():
            require(isinstance(term, Tensor) and term.ndim == 0, f"{name}: is no tensor of a single number")
