"""Run the contract suite on the methods of another package: `edgemt check PACKAGE`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from edgemt.errors import unknown_name_message
from edgemt.methods import METHODS, Method, entry_points
from edgemt.testing.method_checks import CHECKS, MethodCheck


@dataclass(frozen=True)
class CheckResult:
    """The result of one check on one method: the configurations that passed, and the failure, if there is one."""

    method: str
    check: str
    configurations: tuple[str, ...] = ()
    failure: str = ""


def check(target: str) -> Iterator[CheckResult]:
    """Result of every check on every method that `target` names, as the checks run.

    `target` is an installed package (its name for `pip`, or for `import`), or the name of one method, built in or not.
    The checks of a method end at a prerequisite that fails. Raises ValueError if neither is known, and if a package
    offers no methods.
    """
    for name, method in methods_of(target):
        if isinstance(method, ValueError):
            yield CheckResult(name, "it can be loaded", failure=_line(method))
            continue
        if name in METHODS and method is not METHODS[name]:
            message = f"{name} is a built-in method; choose another name"
            yield CheckResult(name, "its name is its own", failure=message)
        for one in CHECKS:
            if one.applies_to(method):
                result = run_check(name, method, one)
                yield result
                if one.is_prerequisite and result.failure:
                    break


def methods_of(target: str) -> list[tuple[str, Method | ValueError]]:
    """(name, method) of every method of a package, or of the one named; a ValueError for one that cannot be loaded."""
    if target in METHODS:
        return [(target, METHODS[target])]
    points = entry_points.offered()
    own = [
        p
        for p in points
        if _normalised(target) in (_normalised(entry_points.package_of(p)), _normalised(p.module.split(".")[0]))
    ]
    own = own or [p for p in points if p.name == target]
    if not own:
        packages = {entry_points.package_of(p) for p in points}
        known = unknown_name_message("package", target, [*packages, *METHODS])
        raise ValueError(f"{known}; an installed package offers methods by entry points of the group edgemt.methods")
    found: list[tuple[str, Method | ValueError]] = []
    for point in own:
        try:
            found.append((point.name, entry_points.load(point)))
        except ValueError as error:
            found.append((point.name, error))
    return found


def run_check(name: str, method: Method, check: MethodCheck) -> CheckResult:
    """Result of one check, in every configuration up to the first failure."""
    passed: tuple[str, ...] = ()
    for dims, classes in check.configurations or ((0, 0),):
        where = f"{dims}-D with {classes} classes" if dims else ""
        failure = ""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                check.run(method, dims=dims, classes=classes)
        except AssertionError as error:
            failure = _line(error)
        except Exception as error:  # any error of a package that is not ours
            failure = f"{type(error).__name__}: {_line(error)}"
        else:
            passed += (where,) if where else ()
            continue
        return CheckResult(name, check.description, passed, ": ".join(text for text in (where, failure) if text))
    return CheckResult(name, check.description, passed)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _normalised(name: str) -> str:
    """Name of a distribution or module without regard to case, dashes and dots."""
    return name.lower().replace("-", "_").replace(".", "_")
