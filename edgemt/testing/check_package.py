"""Holding the methods of another package to the contract: what `edgemt check PACKAGE` does."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from edgemt.errors import unknown_name_message
from edgemt.methods import METHODS, Method, entry_points
from edgemt.testing.method_checks import PROMISES, Promise


@dataclass(frozen=True)
class Verdict:
    """One promise of one method: where it was tried, and how it was broken, if it was."""

    method: str
    promise: str
    corners: tuple[str, ...] = ()
    broken: str = ""


def check(target: str) -> Iterator[Verdict]:
    """Every promise of every method that `target` names, as they are tried; of one that cannot step, the first ones.

    `target` is an installed package (`pip`'s name of it, or the name it is imported by), or the name of one method,
    built in or not. Raises ValueError where neither is known, and where a package offers no methods.
    """
    for name, method in methods_of(target):
        if isinstance(method, ValueError):
            yield Verdict(name, "it can be loaded", broken=_line(method))
            continue
        if name in METHODS and method is not METHODS[name]:
            yield Verdict(name, "its name is its own", broken=f"{name} is a built-in method; choose another name")
        for promise in PROMISES:
            if promise.concerns(method):
                verdict = held(name, method, promise)
                yield verdict
                if promise.first and verdict.broken:
                    break


def methods_of(target: str) -> list[tuple[str, Method | ValueError]]:
    """The methods that a package offers, or the one of that name; one that cannot be loaded is its error."""
    if target in METHODS:
        return [(target, METHODS[target])]
    points = entry_points.offered()
    mine = [p for p in points if _plain(target) in (_plain(entry_points.package_of(p)), _plain(p.module.split(".")[0]))]
    mine = mine or [p for p in points if p.name == target]
    if not mine:
        packages = {entry_points.package_of(p) for p in points}
        known = unknown_name_message("package", target, [*packages, *METHODS])
        raise ValueError(f"{known}; an installed package offers methods by entry points of the group edgemt.methods")
    found: list[tuple[str, Method | ValueError]] = []
    for point in mine:
        try:
            found.append((point.name, entry_points.load(point)))
        except ValueError as error:
            found.append((point.name, error))
    return found


def held(name: str, method: Method, promise: Promise) -> Verdict:
    """One promise, in every corner until one breaks."""
    tried: tuple[str, ...] = ()
    for dims, classes in promise.corners or ((0, 0),):
        where = f"{dims}-D with {classes} classes" if dims else ""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                promise.hold(method, dims=dims, classes=classes)
        except AssertionError as error:
            return Verdict(name, promise.says, tried, ": ".join(part for part in (where, _line(error)) if part))
        except Exception as error:  # whatever a package that is not ours raises
            said = f"{type(error).__name__}: {_line(error)}"
            return Verdict(name, promise.says, tried, ": ".join(part for part in (where, said) if part))
        tried += (where,) if where else ()
    return Verdict(name, promise.says, tried)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _plain(name: str) -> str:
    """Distributions and modules are named alike but for case and dashes."""
    return name.lower().replace("-", "_").replace(".", "_")
